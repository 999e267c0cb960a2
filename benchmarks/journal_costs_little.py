"""What the journal costs a job of short requests: the embedded model, an answer a line, synced every second.

    python benchmarks/journal_costs_little.py [--requests 2000] [--gen-len 8] [--block 32x2] [--device cpu]

Wall seconds inside of the journal's calls, of all that a job takes behind the loading of its weights, and the same of
processor seconds, which other programs on the machine change little.  Exit code 1 where the first are more than 2 %.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
from flexplan_runtime.embedded import tiny_opt_path, tiny_opt_prompts

from flexplan.cli import launch
from flexplan.cli.results import Target
from flexplan.job import JobReport, RunRequest
from flexplan.journal import Journal
from flexplan.policy import Policy

LIMIT_PERCENT = 2
CALLS = ("begin", "finish", "tick", "sync", "close")


class Clock:
    """Seconds inside of the calls, one inside of another counted once."""

    def __init__(self) -> None:
        self.spent_s = dict.fromkeys(CALLS, 0.0)
        self.cpu_s = 0.0
        self._inside = False

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            if self._inside:
                return call(*args)
            self._inside, began_s, began_cpu_s = True, time.perf_counter(), time.thread_time()
            try:
                return call(*args)
            finally:
                self.spent_s[call.__name__] += time.perf_counter() - began_s
                self.cpu_s += time.thread_time() - began_cpu_s
                self._inside = False

        return timed


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--gen-len", type=int, default=8)
    parser.add_argument("--block", default="32x2")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    rows, batches = map(int, given.block.split("x"))
    clock, reports = Clock(), list[JobReport]()
    for name in CALLS:
        setattr(Journal, name, clock.around(getattr(Journal, name)))
    said = launch._say_end
    launch._say_end = lambda report, *rest: (reports.append(report), said(report, *rest))[1]  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as scratch:
        place, texts = Path(scratch), tiny_opt_prompts()
        lines = [json.dumps({"id": n, "prompt": texts[n % len(texts)]}) for n in range(given.requests)]
        (place / "in.jsonl").write_text("\n".join(lines))
        request = RunRequest(
            policy=Policy(rows, batches),
            model=str(tiny_opt_path()),
            offload_dir=place / "off",
            device=given.device,
            dtype="float32",
            max_new_tokens=given.gen_len,
        )
        began_cpu_s = time.process_time()
        launch.run_to_file(request, str(place / "in.jsonl"), Target(place / "out.jsonl"))
        cpu_s = time.process_time() - began_cpu_s
        nbytes = sum((place / name).stat().st_size for name in ("out.jsonl", "out.jsonl.job"))
    (report,) = reports
    cost = 100 * sum(clock.spent_s.values()) / report.run_s
    print(f"{given.requests} requests in {report.run_s:.2f} s, {nbytes:,} bytes of output and log")
    parts = ", ".join(f"{name} {spent_s:.4f}" for name, spent_s in clock.spent_s.items())
    print(f"seconds in the journal: {parts}; {cost:.2f} %, at most {LIMIT_PERCENT} % wanted")
    print(f"processor seconds: {clock.cpu_s:.3f} of the job's {cpu_s:.1f}, {100 * clock.cpu_s / cpu_s:.2f} %")
    raise SystemExit(cost > LIMIT_PERCENT)


if __name__ == "__main__":
    main()
