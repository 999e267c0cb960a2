"""Rows of docs/performance.md beside FlexLLMGen and Accelerate: all of them on this machine, one after the other.

    flexplan profile -o hardware.json
    python benchmarks/beside_others.py --hardware hardware.json "OPT-30B bfloat16" [ROW ...]

Each system runs in a process of its own and prints a JSON line; where its package is not installed it says so and
is skipped.  Without a ROW all are run, which takes an hour; ``--list`` names them, ``--only`` picks a system.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import common
from peer import NOT_INSTALLED

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """Arguments of predicted_and_measured.py, and of any number of runs of the others."""

    ours: str
    flexgen: tuple[str, ...] = ()
    accelerate: tuple[str, ...] = ()


RESIDENT = "--percent 100 0 100 0 100 0"
OPT_30B = (
    "--model opt-30b --block 16x4 --percent 20 80 0 100 0 100",
    "--model opt-30b --block 16x3 --percent 15 85 0 100 0 100",
)
ROWS = {
    "OPT-30B bfloat16": Row("facebook/opt-30b:bfloat16:16G:28x3:14,86,0,100,100,0:host", OPT_30B),
    "OPT-30B float16": Row(
        "facebook/opt-30b:float16:16G:28x3:14,86,0,100,100,0:host",
        OPT_30B,
        ("--model facebook/opt-30b --dtype float16 --batch 8",),
    ),
    "OPT-6.7B batch 32": Row(
        "facebook/opt-6.7b:float16:40G:32x1:100,0,100,0,100,0",
        (f"--model opt-6.7b --block 32x1 {RESIDENT} --gpu-gib 40",),
    ),
    "OPT-6.7B batch 2": Row(
        "facebook/opt-6.7b:float16:16G:2x1:100,0,100,0,100,0",
        (f"--model opt-6.7b --block 2x1 {RESIDENT}",),
    ),
    "Qwen2.5-32B": Row(
        "Qwen/Qwen2.5-32B:bfloat16:16G:search",
        (),
        (
            "--model Qwen/Qwen2.5-32B --batch 8 --weights-gib 10",
            "--model Qwen/Qwen2.5-32B --batch 64 48 40 32 24 --weights-gib 3.2 --steps 3",
        ),
    ),
    "OPT-13B": Row(
        "facebook/opt-13b:bfloat16:12G:48x3:0,100,0,100,100,0:host",
        ("--model opt-13b --block 16x4 --percent 20 80 0 100 0 100 --gpu-gib 12 --steps 12",),
    ),
    "OPT-30B 4 bits": Row(
        "facebook/opt-30b:bfloat16:16G:32x12:0,100,0,100,100,0:w4,kv4",
        ("--model opt-30b --block 32x4 --percent 20 80 0 100 0 100 --pack-weights --pack-cache --steps 8",),
    ),
    "OPT-6.7B 4 bits, batch 72": Row(
        "facebook/opt-6.7b:float16:16G:72x1:100,0,100,0,100,0:w4,kv4",
        (f"--model opt-6.7b --block 72x1 {RESIDENT} --pack-weights --pack-cache",),
    ),
    "OPT-30B, weights on disk": Row(
        "--gen-len 8 --cpu-mem 64G facebook/opt-30b:bfloat16:16G:14x3:10,60,0,100,100,0:host",
        ("--model opt-30b --block 14x3 --percent 10 60 0 100 0 100 --gen-len 8 --steps 4",),
    ),
    "OPT-175B 4 bits": Row("--gen-len 8 facebook/opt-175b:bfloat16:16G:4x5:2,98,0,100,100,0:w4,kv4"),
}


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", choices=[*ROWS, []])
    parser.add_argument("--hardware", default="h200-pcie5")
    parser.add_argument("--offload-dir", default="offload")
    parser.add_argument("--only", choices=("flexplan", "flexgen", "accelerate"))
    parser.add_argument("--json", help="file to which each line is added, too")
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args()
    if given.list:
        print(*ROWS, sep="\n")
        return
    for name in given.rows or ROWS:
        print(f"\n{name}", flush=True)
        row, place = ROWS[name], ["--offload-dir", given.offload_dir]
        kept = ["--json", given.json] if given.json else []
        if given.only in (None, "flexplan"):
            run("predicted_and_measured.py", row.ours, "--hardware", given.hardware, *place, *kept)
        for arguments in row.flexgen if given.only in (None, "flexgen") else ():
            run("with_flexgen.py", arguments, *place, *kept)
        for arguments in row.accelerate if given.only in (None, "accelerate") else ():
            run("with_accelerate.py", arguments, *kept)


def run(script: str, arguments: str, *more: str) -> None:
    """One system, in a process of its own; a failure is said and the next one runs."""
    done = subprocess.run([sys.executable, str(HERE / script), *arguments.split(), *more], check=False)
    if done.returncode not in (0, NOT_INSTALLED):
        print(f"{script} {arguments}: exit code {done.returncode}", flush=True)


if __name__ == "__main__":
    main()
