"""A job of a million lines takes little more memory than one of a few: all of `flexplan run` but the model's passes.

    python benchmarks/a_million_lines_in_bounded_memory.py [--lines 1000000] [--characters 200]

Lines are read, tokenized, "answered" at once with eight tokens each, written and journaled; then the job is gone on
with.  What the process holds at most is printed beside what it holds before it begins.  Exit code 1 where that is more
than 500 bytes a line.
"""

from __future__ import annotations

import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
from flexplan_runtime.commands.entry import TorchRuntime  # noqa: F401 - before memory is looked at
from flexplan_runtime.embedded import tiny_opt_path, tiny_opt_prompts
from flexplan_runtime.generate import Done, OffloadedLM

from flexplan.cli import launch
from flexplan.cli.results import Target
from flexplan.job import RunRequest
from flexplan.policy import Policy

LIMIT_BYTES = 500  # a line


def answered(lm: OffloadedLM, requests: Any, *args: Any, numbers: Any, progress: Any, **options: Any) -> Iterator[Done]:
    """Every request at once, in the place of the model."""
    for n, number in enumerate(numbers):
        if n % 256 == 0:
            progress(8 * n, 8 * len(numbers))
        yield Done(number, tuple(requests[n].token_ids[-8:]), "length")


def write_lines(path: Path, count: int, characters: int) -> None:
    texts = tiny_opt_prompts()
    with path.open("w") as file:
        for n in range(count):
            text = f"{n} " + " ".join(texts[(n + k) % len(texts)] for k in range(characters // 20 + 1))
            file.write(json.dumps({"id": f"r{n}", "prompt": text[:characters], "max_tokens": 8}) + "\n")


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--characters", type=int, default=200)
    given = parser.parse_args()
    OffloadedLM.stream = answered  # type: ignore[method-assign,assignment]
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)

        def run(count: int, **how: bool) -> None:
            write_lines(place / "in.jsonl", count, given.characters)
            policy, model = Policy(64, 4), str(tiny_opt_path())
            request = RunRequest(policy=policy, model=model, offload_dir=place / "off", device="cpu")
            launch.run_to_file(request, str(place / "in.jsonl"), Target(place / "out.jsonl", **how))

        run(1000)
        before = peak_bytes()
        for what, how in (("anew", {"overwrite": True}), ("gone on with", {"resume": True, "ordered": True})):
            began_s = time.perf_counter()
            run(given.lines, **how)
            used, took_s = peak_bytes() - before, time.perf_counter() - began_s
            print(f"{given.lines:,} lines {what}: {took_s:.0f} s, {used / 2**20:.0f} MiB and {before / 2**20:.0f}")
        nbytes = sum(path.stat().st_size for path in place.glob("*.jsonl*"))
        print(f"{used / given.lines:.0f} bytes a line, at most {LIMIT_BYTES} wanted; files of {nbytes / 2**20:.0f} MiB")
    raise SystemExit(used > LIMIT_BYTES * given.lines)


if __name__ == "__main__":
    main()
