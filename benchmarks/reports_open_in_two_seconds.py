"""A report of 1,000 tokens of OPT-175B stays under 4 MB and opens in under 2 s, in a headless Chromium.

So does that of a rolling job of answers of up to so many tokens, and of a run of one, whose recording is made up here:
a thousand passes, which is as many as one keeps.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import common

from flexplan.explanation import Explanation, explain, predicted_spans, surroundings
from flexplan.graph import Span
from flexplan.job import Recording
from flexplan.plan import Plan, passes_to_show
from flexplan.problem import Problem, Workload
from flexplan.report.html import html_report
from flexplan.testing import policy_with

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
    budgets = {"gpu_mem": "80G", "cpu_mem": "900G", "disk_mem": "2000G"}
    problem = Problem.of("facebook/opt-175b", **budgets, prompt_len=512, gen_len=args.gen_len)
    # 13 tasks a step and 8 micro-batches: more tasks in a pass than a report shows
    policy = policy_with(32, 8, w=(0, 50), cache=(0, 0), act=(0, 100), sep_layer=False, cpu_cache_compute=True)
    look("blocks", explain(Plan.of(problem, policy)), None, args.times)
    rolling = Plan.of(
        listed(problem, args.gen_len),
        policy_with(16, 4, w=(0, 100), cache=(0, 100), cpu_cache_compute=True),
        schedule="rolling",
    )
    found = explain(rolling)
    look("rolling", found, None, args.times)
    look("rolling, recorded", found, recorded(rolling), args.times)


def listed(problem: Problem, most: int) -> Problem:
    """The same for 1,000 requests of very different lengths."""
    dice = random.Random(1)
    lens = tuple(dice.randint(16, 1000) for _ in range(1000))
    gen_lens = tuple(min(most, 1 + int(dice.expovariate(1 / 200))) for _ in range(1000))
    work = Workload(prompt_len=max(lens), prompt_lens=lens, gen_lens=gen_lens, gen_len=max(gen_lens))
    return problem.model_copy(update={"workload": work})


def recorded(plan: Plan) -> Recording:
    """As large as that of a run becomes: the tasks of its passes as they are on paper."""
    spans = [span for i in passes_to_show(plan) for span in _spans(plan, i)]
    standing = tuple((0.5 * n, 200 * n, 64 - n % 9, 150_000 + n % 5000) for n in range(1000))
    memory = tuple((0.5 * n, n % 97, n % 89, 0) for n in range(1000))
    p = plan.prediction
    busy = p.lane_busy_s["decode"]
    return Recording(
        plan, "made up", "float16", 1, 200_000, 0.0, p.decode_s, busy, tuple(spans), memory, standing, 64, 200_000
    )


def _spans(plan: Plan, i: int) -> list[Span]:
    around = surroundings(plan, i)
    return predicted_spans(plan, around) if around else []


def look(name: str, found: Explanation, recording: Recording | None, times: int) -> None:
    """Print how large a page is, and how soon it is open."""
    text, made_s = common.timed(lambda: html_report(found, recording))
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        page.write_text(text)
        opened = sorted(opened_s(page) for _ in range(times))
    print(
        f"{name}: {len(text.encode()) / 1e6:.2f} MB, made in {made_s:.1f} s beside explaining, open after "
        f"{opened[len(opened) // 2]:.2f} s (median of {times}, longest {opened[-1]:.2f} s)"
    )


if __name__ == "__main__":
    main()
