"""A report of 1,000 tokens of OPT-175B stays under 4 MB and opens in under 2 s, in a headless Chromium."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import common

from flexplan.explanation import explain
from flexplan.plan import Plan
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.report.html import html_report

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--dump-dom"),
)


def opened_s(page: Path) -> float:
    """Seconds from the navigation to the last chart, by the page's own clock."""
    browser = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, *FLAGS, f"--user-data-dir={profile}", page.as_uri()]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    found = re.search(r'data-ready-ms="(\d+)"', shown)
    assert found, "the page's script did not come to its end"
    return int(found[1]) / 1000


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--gen-len", type=int, default=1000)
    parser.add_argument("--times", type=int, default=3, help="Open it so often.")
    args = parser.parse_args()
    problem = Problem.of(
        "facebook/opt-175b", gpu_mem="80G", cpu_mem="900G", disk_mem="2000G", prompt_len=512, gen_len=args.gen_len
    )
    # 13 tasks a step and 8 micro-batches: more tasks in a pass than a report shows
    policy = Policy(32, 8, 0, 50, 0, 0, 0, 100, sep_layer=False, cpu_cache_compute=True)
    found = explain(Plan.of(problem, policy))
    began_s = time.perf_counter()
    text = html_report(found)
    made_s = time.perf_counter() - began_s
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        page.write_text(text)
        opened = sorted(opened_s(page) for _ in range(args.times))
    print(f"{page.name}: {len(text.encode()) / 1e6:.2f} MB, made in {made_s:.1f} s beside explaining")
    print(f"open after {opened[len(opened) // 2]:.2f} s (median of {args.times}, longest {opened[-1]:.2f} s)")


if __name__ == "__main__":
    main()
