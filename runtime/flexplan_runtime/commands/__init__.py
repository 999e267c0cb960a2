"""What the command line calls: requests checked, run, measured; the demo.

answers  What the engine gives, made into completions.
demo     `flexplan demo`.
entry    The runtime `torch` as the command line sees it.
examine  What this runtime finds on a machine, for `flexplan doctor`: devices and compilers.
identity What the answers of a job depend on, in short.
job      A job: each completion to its listener as it ends.
prepare  A request made ready: all that can be refused is refused here.
recorder A run recorded for a report.
refused  Prompts of a job that cannot be run, kept small.
requests Requests of a job, kept small.
run      A request that was found right, run: its prompts completed, or one block measured.
"""
