"""The command line: what is typed, what is shown meanwhile, and how a command ends.

app           The commands, put together.
doctor        What an installation has and lacks, and what that costs: the part that needs no tensor library.
exhausted     A machine at its limits of memory, threads or files, or whose disk fails, told apart from bugs.
launch        What `run`, `bench` and `demo` do around a runtime.
options       The flags of the command line, one alias each.
outcome       How a command ends: error text and exit code.
output        Output files, refused before the work where they cannot be written, rescued where they fail.
plan          The commands that plan; everything heavy is imported inside them.
problem_file  The TOML problem file, and the flags over it.
progress      Notes and progress on standard error.
results       A job's results: into a file as they come, or to a stream at the end.
run           The commands that work on this machine, likewise.
serve         The command that takes batches over HTTP.
streams       Standard streams: closed ones are held, a full or broken one is the error that it is.
"""
