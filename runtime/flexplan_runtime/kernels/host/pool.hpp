// Threads that wait for work.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr auto kSpin = std::chrono::microseconds(50);

inline void pause() {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

template <class F>
bool spin_until(F ready) {
    const auto end = std::chrono::steady_clock::now() + kSpin;
    do {
        for (int i = 0; i < 16; ++i) {
            if (ready()) return true;
            pause();
        }
    } while (std::chrono::steady_clock::now() < end);
    return false;
}

// Threads that wait for work; calls from several callers run one after the other.  Never destroyed.
class Pool {
  public:
    void run(int64_t threads, const std::function<void()>& job) {
        std::lock_guard<std::mutex> one_at_a_time(turn_);
        hire(threads - 1);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            job_ = &job;
            wanted_ = std::min<int64_t>(threads - 1, hired_);
            busy_ = wanted_;
            ++round_;
        }
        work_.notify_all();
        job();
        if (spin_until([this] { return busy_ == 0; })) return;
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return busy_ == 0; });
    }

  private:
    void hire(int64_t workers) {
        try {
            for (; hired_ < workers; ++hired_) std::thread(&Pool::serve, this, hired_, round_.load()).detach();
        } catch (const std::system_error&) {
            // Fewer threads do the same work.
        }
    }

    void serve(int64_t me, int64_t seen) {
        for (;;) {
            spin_until([&] { return round_ != seen; });
            const std::function<void()>* job;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                work_.wait(lock, [&] { return round_ != seen; });
                seen = round_;
                if (me >= wanted_) continue;
                job = job_;
            }
            (*job)();
            if (--busy_ == 0) {
                std::lock_guard<std::mutex> lock(mutex_);
                done_.notify_one();
            }
        }
    }

    std::mutex turn_, mutex_;
    std::condition_variable work_, done_;
    std::atomic<int64_t> round_{0}, busy_{0};
    const std::function<void()>* job_ = nullptr;
    int64_t hired_ = 0, wanted_ = 0;
};

Pool& pool() {  // a forked child has no threads of its parent's, so it gets a pool of its own
    static std::mutex mutex;
    static Pool* current = nullptr;
    static pid_t owner = 0;
    std::lock_guard<std::mutex> lock(mutex);
    if (owner != getpid()) current = new Pool, owner = getpid();
    return *current;
}

}  // namespace
