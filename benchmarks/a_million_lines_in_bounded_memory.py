"""A job of a million lines takes little more memory than one of a few: all of `flexplan run` but the model's passes.

    python benchmarks/a_million_lines_in_bounded_memory.py [--lines 1000000] [--characters 200] [--rolling]

Lines are read, tokenized, "answered" at once with eight tokens each, written and journaled; then the job is gone on
with.  Every tenth line is bad.  What the process holds at most is printed beside what it holds before it begins.  Exit
code 1 where that is more than 500 bytes a line.  With --rolling the embedded model makes the first passes of a rolling
schedule of 512 seats, and is stopped then: there are the plan of all lines and who waits, and the bytes are 1,000.
"""

from __future__ import annotations

import json
import resource
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import common
from flexplan_runtime.commands.entry import TorchRuntime  # noqa: F401 - before memory is looked at
from flexplan_runtime.embedded import tiny_opt_path, tiny_opt_prompts
from flexplan_runtime.generate import Done, OffloadedLM

from flexplan import Plan, Problem
from flexplan.cli import launch
from flexplan.cli.results import Target
from flexplan.errors import RequestsFailed, Stopped
from flexplan.job import RunRequest
from flexplan.policy import Policy
from flexplan.testing import policy_with

LIMIT_BYTES, LIMIT_ROLLING_BYTES = 500, 1000  # a line
PASSES = 4  # of a rolling schedule, and no more


def answered(lm: OffloadedLM, requests: Any, *args: Any, numbers: Any, progress: Any, **options: Any) -> Iterator[Done]:
    """Every request at once, in the place of the model."""
    for n, number in enumerate(numbers):
        if n % 256 == 0:
            progress(8 * n, 8 * len(numbers))
        yield Done(number, tuple(requests[n].token_ids[-8:]), "length")


def write_lines(path: Path, lines: int, characters: int, tokens: int) -> None:
    texts = tiny_opt_prompts()
    with path.open("w") as file:
        for n in range(lines):
            text = f"{n} " + " ".join(texts[(n + k) % len(texts)] for k in range(characters // 20 + 1))
            bad = {"colour": "red"} if n % 10 == 9 else {}
            file.write(json.dumps({"id": f"r{n}", "prompt": text[:characters], "max_tokens": tokens, **bad}) + "\n")


def rolling_plan(model: str) -> Plan:
    policy = policy_with(256, 2, w=(0, 100), cache=(0, 100), act=(100, 0), cpu_cache_compute=True)
    machine = {"hardware": "cpu-host", "prompt_len": 64, "gen_len": 1, "num_prompts": policy.block_size}
    return Plan.of(Problem.of(model, **machine), policy, schedule="rolling", planner="manual")


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--characters", type=int, default=200)
    parser.add_argument("--rolling", action="store_true")
    given = parser.parse_args()
    most_bytes = LIMIT_ROLLING_BYTES if given.rolling else LIMIT_BYTES
    if not given.rolling:
        OffloadedLM.stream = answered  # type: ignore[method-assign,assignment]
    passes = count()
    launch._Job.stopping = lambda job: given.rolling and next(passes) % PASSES == PASSES - 1  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)

        def run(lines: int, **how: bool) -> None:
            write_lines(place / "in.jsonl", lines, given.characters, 1 if given.rolling else 8)
            model = str(tiny_opt_path())
            policy = rolling_plan(model) if given.rolling else Policy(64, 4)
            request = RunRequest(policy=policy, model=model, offload_dir=place / "off", device="cpu")
            with suppress(RequestsFailed, Stopped):
                launch.run_to_file(request, str(place / "in.jsonl"), Target(place / "out.jsonl", **how))

        run(1000)
        before = peak_bytes()
        for what, how in (("anew", {"overwrite": True}), ("gone on with", {"resume": True, "ordered": True})):
            took_s = common.seconds(partial(run, given.lines, **how))
            used = peak_bytes() - before
            print(f"{given.lines:,} lines {what}: {took_s:.0f} s, {used / 2**20:.0f} MiB and {before / 2**20:.0f}")
        nbytes = sum(path.stat().st_size for path in place.glob("*.jsonl*"))
        print(f"{used / given.lines:.0f} bytes a line, at most {most_bytes} wanted; files of {nbytes / 2**20:.0f} MiB")
    raise SystemExit(used > most_bytes * given.lines)


if __name__ == "__main__":
    main()
