"""How busy each lane is in the last decode pass of a Chrome trace, predicted and measured, and what fills the rest.

python benchmarks/predicted_and_measured.py --hardware hardware.json --trace traces ROW
python benchmarks/busy_in_a_pass.py traces/0.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

Event = dict[str, Any]


def main() -> None:
    events: list[Event] = json.loads(Path(sys.argv[1]).read_text())["traceEvents"]
    named = [e for e in events if e["ph"] == "M"]
    lanes = {(e["pid"], e["tid"]): e["args"]["name"] for e in named if e["name"] == "thread_name"}
    for process in (e for e in named if e["name"] == "process_name"):
        tasks = [e for e in events if e["ph"] == "X" and e["pid"] == process["pid"]]
        last = max(token_of(e) for e in tasks)
        computes = [e for e in tasks if e["name"].startswith("compute@") and token_of(e) == last]
        lo, hi = min(e["ts"] for e in computes), max(map(end_of, computes))
        print(f"{process['args']['name']}: the pass of token {last} takes {(hi - lo) / 1e3:.1f} ms")
        for (pid, tid), lane in lanes.items():
            if pid == process["pid"]:
                busy = sum(max(0.0, min(hi, end_of(e)) - max(lo, e["ts"])) for e in tasks if e["tid"] == tid)
                print(f"  {lane:12} busy {100 * busy / (hi - lo):5.1f} %")
        gathers, attends = (
            sorted((e for e in tasks if e["name"].startswith(kind) and token_of(e) == last), key=start_of)
            for kind in ("gather@", "attend@")
        )
        if gathers:
            tell("gather", [e["dur"] for e in gathers])
        if len(attends) > 1:
            tell("attend", [e["dur"] for e in attends])
            tell("between two", [b["ts"] - end_of(a) for a, b in pairwise(attends)])


def tell(what: str, microseconds: Sequence[float]) -> None:
    """A line of milliseconds."""
    least, middle, most = (x / 1e3 for x in (min(microseconds), median(microseconds), max(microseconds)))
    times, total = len(microseconds), sum(microseconds) / 1e3
    print(f"  {what}: {times} times, {middle:.2f} ms (median; {least:.2f} to {most:.2f}), {total:.1f} ms in all")


def token_of(event: Event) -> int:
    return int(event["name"].split("i=")[1].split()[0])


def start_of(event: Event) -> float:
    return float(event["ts"])


def end_of(event: Event) -> float:
    return float(event["ts"] + event["dur"])


if __name__ == "__main__":
    main()
