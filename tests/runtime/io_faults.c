/* Preloaded into a process: the system calls on files below one directory are counted, and fail from a chosen one on.

   fault_arm(directory, at, error, forever): call number `at` (from 0) fails with this errno, and all behind it with
   `forever`.  error -1: what is read or written falls short, to half.  EINTR and short calls "for ever" are every other
   call: Python repeats an interrupted call until it is not, and so would end never.  fault_count(): calls so far. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST 4096
static char below[PATH_MAX];
static _Atomic char watched[MOST];
static atomic_long calls;
static long fail_at = -1;
static int with_error, for_ever;

void fault_arm(const char *directory, long at, int error, int forever) {
    strncpy(below, directory, sizeof below - 1);
    with_error = error, for_ever = forever, fail_at = at;
    atomic_store(&calls, 0);
}
long fault_count(void) { return atomic_load(&calls); }

static int is_below(const char *path) {
    char here[PATH_MAX];
    if (!below[0] || !path) return 0;
    if (path[0] != '/') {
        if (!getcwd(here, sizeof here)) return 0;
        return !strncmp(here, below, strlen(below));
    }
    return !strncmp(path, below, strlen(below));
}
static int is_watched(int fd) { return fd >= 0 && fd < MOST && atomic_load(&watched[fd]); }
static void watch(int fd, int yes) { if (fd >= 0 && fd < MOST) atomic_store(&watched[fd], (char)yes); }

/* 0: as it is; 1: errno is set; 2: falls short */
static int faulty(int moves) {
    long n = atomic_fetch_add(&calls, 1);
    int every_other = with_error == EINTR || with_error == -1;
    if (fail_at < 0 || n < fail_at || (!for_ever && n > fail_at)) return 0;
    if (every_other && (n - fail_at) % 2) return 0;
    if (with_error == -1) return moves ? 2 : 0;
    errno = with_error;
    return 1;
}
#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)
static size_t half(size_t n) { return n > 1 ? n / 2 : n; }

#define OPENS(name, at_type, at_name, real_call)                                                                   \
    int name(at_type const char *path, int flags, ...) {                                                           \
        mode_t mode = 0;                                                                                           \
        if (flags & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); } \
        int ours = is_below(path), fd;                                                                             \
        if (ours && faulty(0) == 1) return -1;                                                                     \
        fd = real_call;                                                                                            \
        watch(fd, ours);                                                                                           \
        return fd;                                                                                                 \
    }
static int plain_open(const char *path, int flags, mode_t mode) {
    REAL(int, "open64", const char *, int, ...);
    return real(path, flags, mode);
}
static int plain_openat(int dir, const char *path, int flags, mode_t mode) {
    REAL(int, "openat64", int, const char *, int, ...);
    return real(dir, path, flags, mode);
}
OPENS(open, , , plain_open(path, flags, mode))
OPENS(open64, , , plain_open(path, flags, mode))
#define AT int dir,
OPENS(openat, AT, dir, plain_openat(dir, path, flags, mode))
OPENS(openat64, AT, dir, plain_openat(dir, path, flags, mode))

#define MOVES(name, parameters, types, short_args, args)                                                           \
    ssize_t name parameters {                                                                                      \
        static ssize_t (*real) types;                                                                              \
        if (!real) real = (ssize_t (*) types)dlsym(RTLD_NEXT, #name);                                              \
        int found = is_watched(fd) ? faulty(1) : 0;                                                                \
        if (found == 1) return -1;                                                                                 \
        if (found == 2) return real short_args;                                                                    \
        return real args;                                                                                          \
    }
MOVES(read, (int fd, void *to, size_t n), (int, void *, size_t), (fd, to, half(n)), (fd, to, n))
MOVES(write, (int fd, const void *from, size_t n), (int, const void *, size_t), (fd, from, half(n)), (fd, from, n))
MOVES(pread64, (int fd, void *to, size_t n, off64_t at), (int, void *, size_t, off64_t), (fd, to, half(n), at), (fd, to, n, at))
MOVES(pread, (int fd, void *to, size_t n, off_t at), (int, void *, size_t, off_t), (fd, to, half(n), at), (fd, to, n, at))
MOVES(pwrite64, (int fd, const void *from, size_t n, off64_t at), (int, const void *, size_t, off64_t), (fd, from, half(n), at), (fd, from, n, at))

/* of several pieces the first alone is moved; of one, whole blocks of half of it, as O_DIRECT asks */
static ssize_t fewer(ssize_t (*real)(int, const struct iovec *, int, off64_t), int fd, const struct iovec *v, int n, off64_t at) {
    struct iovec one = v[0];
    size_t blocks = one.iov_len / 2 / 4096 * 4096;
    (void)n;
    if (blocks) one.iov_len = blocks;
    return real(fd, &one, 1, at);
}
#define VECTORS(name)                                                                                              \
    ssize_t name(int fd, const struct iovec *v, int n, off64_t at) {                                               \
        static ssize_t (*real)(int, const struct iovec *, int, off64_t);                                           \
        if (!real) real = (ssize_t (*)(int, const struct iovec *, int, off64_t))dlsym(RTLD_NEXT, #name);           \
        int found = is_watched(fd) ? faulty(1) : 0;                                                                \
        if (found == 1) return -1;                                                                                 \
        return found == 2 ? fewer(real, fd, v, n, at) : real(fd, v, n, at);                                        \
    }
VECTORS(preadv64)
VECTORS(preadv)
VECTORS(pwritev64)
VECTORS(pwritev)

#define OF_FILE(name, parameters, types, args)                                                                     \
    int name parameters {                                                                                          \
        static int (*real) types;                                                                                  \
        if (!real) real = (int (*) types)dlsym(RTLD_NEXT, #name);                                                  \
        if (is_watched(fd) && faulty(0) == 1) return -1;                                                           \
        return real args;                                                                                          \
    }
OF_FILE(fsync, (int fd), (int), (fd))
OF_FILE(fdatasync, (int fd), (int), (fd))
OF_FILE(ftruncate, (int fd, off_t n), (int, off_t), (fd, n))
OF_FILE(ftruncate64, (int fd, off64_t n), (int, off64_t), (fd, n))
OF_FILE(fchmod, (int fd, mode_t mode), (int, mode_t), (fd, mode))
OF_FILE(flock, (int fd, int how), (int, int), (fd, how))

#define ALLOCATES(name)                                                                                            \
    int name(int fd, off64_t at, off64_t n) {                                                                      \
        static int (*real)(int, off64_t, off64_t);                                                                 \
        if (!real) real = (int (*)(int, off64_t, off64_t))dlsym(RTLD_NEXT, #name);                                 \
        if (is_watched(fd) && faulty(0) == 1) return errno;                                                        \
        return real(fd, at, n);                                                                                    \
    }
ALLOCATES(posix_fallocate64)
ALLOCATES(posix_fallocate)

int close(int fd) { /* the descriptor is gone, whatever is said of it */
    REAL(int, "close", int);
    int ours = is_watched(fd);
    watch(fd, 0);
    int found = real(fd);
    return ours && faulty(0) == 1 && errno != EINTR ? -1 : found;
}

#define OF_PATHS(name, parameters, types, args)                                                                    \
    int name parameters {                                                                                          \
        static int (*real) types;                                                                                  \
        if (!real) real = (int (*) types)dlsym(RTLD_NEXT, #name);                                                  \
        if (is_below(path) && faulty(0) == 1 && errno != EINTR) return -1;                                         \
        return real args;                                                                                          \
    }
OF_PATHS(rename, (const char *path, const char *to), (const char *, const char *), (path, to))
OF_PATHS(unlink, (const char *path), (const char *), (path))
OF_PATHS(mkdir, (const char *path, mode_t mode), (const char *, mode_t), (path, mode))
OF_PATHS(stat64, (const char *path, struct stat64 *to), (const char *, struct stat64 *), (path, to))
OF_PATHS(stat, (const char *path, struct stat *to), (const char *, struct stat *), (path, to))
