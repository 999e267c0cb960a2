"""A report: one page that says what `explain --json` says, fetches nothing, and is drawn by a real browser."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from flexplan.cli.app import app
from flexplan.units import format_duration

SMALL = ("--model", "opt-125m", "--gpu-mem", "200M", "--cpu-mem", "1G", "--prompt-len", "16", "--gen-len", "4")
MOST_BYTES = 4_000_000
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HEADLESS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--virtual-time-budget=3000"),
)


class Page(HTMLParser):
    """The texts of elements by their id, and all that a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.fetched: list[str] = []
        self._id: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._id = given.get("id")
        self.fetched += [str(given[name]) for name in ("src", "href", "action", "data") if name in given]

    def handle_data(self, data: str) -> None:
        if self._id:
            self.texts[self._id] = self.texts.get(self._id, "") + data


def call(*args: str | Path) -> Result:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a plan and its report."""
    path = tmp_path_factory.mktemp("report")
    call("solve", *SMALL, "-o", path / "plan.json")
    call("report", path / "plan.json", "-o", path / "report.html")
    return path


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text())


def times_of_phases(text: str) -> list[str]:
    """Bound and prediction of each phase that the page names, and of all."""
    table = re.sub("<[^>]*>", "|", text[text.index("all blocks") :].partition("</table>")[0])
    return re.findall(r"(?:bound|predicted)\|+([\d.]+ \w+)", table)


def explained_times(explained: dict[str, Any]) -> list[str]:
    """The same by the object; passes of a rolling job are prefill and decoding at once."""
    pairs = [(explained["phase_bound_s"][phase], took) for phase, took in explained["phase_s"].items()]
    pairs.append((sum(bound for bound, _ in pairs), sum(took for _, took in pairs)))
    return [format_duration(took) for pair in pairs[0 if pairs[0][1] else -1 :] for took in pair]


def test_a_report_says_the_numbers_of_explain(folder: Path, page: Page) -> None:
    explained = json.loads(call("explain", folder / "plan.json", "--json").stdout)
    assert json.loads(page.texts["explanation"]) == explained
    text = (folder / "report.html").read_text()
    assert times_of_phases(text) == explained_times(explained)
    for gain in explained["more_brings"]:
        assert f">{gain['percent']:+z.1f} %<" in text
    mine = explained["plan"]["prediction"]["tokens_per_s"]
    faster = any((rival["tokens_per_s"] or 0) > mine for rival in explained["baselines"])
    assert ("fastest of them" in text, "fastest of those that do not change tokens" in text) == (not faster, faster)
    assert ">-0.0 %<" not in text
    for rival in explained["baselines"]:
        assert (rival["why_not"] if rival["tokens_per_s"] is None else f">{rival['tokens_per_s']:.2f}<") in text


def test_a_report_fetches_nothing_and_is_small(folder: Path, page: Page) -> None:
    assert not page.fetched
    assert "default-src 'none'" in (folder / "report.html").read_text()
    assert (folder / "report.html").stat().st_size < MOST_BYTES


def test_the_lanes_add_up_to_what_is_predicted(folder: Path, page: Page) -> None:
    charts = json.loads(page.texts["charts"])
    prefill, decoding = charts["passes"]
    prediction = json.loads(page.texts["explanation"])["plan"]["prediction"]
    assert prefill["took_s"]["predicted"] == pytest.approx(prediction["prefill_s"], rel=0.01)
    view = decoding["views"]["predicted"]
    for lane in range(len(view["lanes"])):
        inside = [(max(0, s[5]), min(view["took_s"], s[5] + s[6])) for s in view["spans"] if s[0] == lane]
        busy, idle = sum(b - a for a, b in inside), sum(g[3] for g in view["gaps"] if g[0] == lane)
        last = max(b for _, b in inside)
        assert busy + idle == pytest.approx(view["took_s"], rel=0.01) or last < view["took_s"]


def test_the_commands_in_a_report_make_the_same_plan(folder: Path, page: Page) -> None:
    program, *args = shlex.split(page.texts["commands"].splitlines()[0])
    assert program == "flexplan"
    again = folder / "again.json"
    call(*(str(again) if arg == "plan.json" else arg for arg in args))
    assert json.loads(again.read_text()) == json.loads((folder / "plan.json").read_text())


def test_lengths_of_their_own_are_a_table_in_the_report(folder: Path) -> None:
    """With a rolling plan: its passes are counted from 1."""
    (folder / "given.csv").write_text("prompt_tokens,new_tokens\n8,4\n12,10\n6,7\n")
    asked = ("--model", "opt-125m", "--lengths", folder / "given.csv", "--schedule", "rolling", "--planner", "manual")
    call("solve", *asked, "-o", folder / "rolling.json")
    call("report", folder / "rolling.json", "-o", folder / "rolling.html")
    found = Page((folder / "rolling.html").read_text())
    charts = json.loads(found.texts["charts"])
    assert charts["files"]["lengths.csv"] == (folder / "given.csv").read_text()
    assert [one["i"] for one in charts["passes"]] == [1, 6]
    assert "--lengths lengths.csv" in found.texts["commands"]
    explained = json.loads(call("explain", folder / "rolling.json", "--json").stdout)
    assert json.loads(found.texts["explanation"]) == explained
    text = (folder / "rolling.html").read_text()
    assert times_of_phases(text) == explained_times(explained)
    assert {part["name"] for part in explained["schedule_brings"]} >= {"refill", "mixing"}
    for part in explained["schedule_brings"]:
        assert f">{part['brings_percent']:+z.1f} %<" in text


def test_a_name_is_text_wherever_it_stands(folder: Path) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    plan["problem"]["hardware"]["name"] = "</script><img src=//evil>"
    (folder / "named.json").write_text(json.dumps(plan))
    call("report", folder / "named.json", "-o", folder / "named.html")
    found = Page((folder / "named.html").read_text())
    assert not found.fetched
    assert json.loads(found.texts["explanation"])["plan"]["problem"]["hardware"]["name"] == "</script><img src=//evil>"


CLICKS = """
<script>
const chart = echarts.getInstanceByDom(document.getElementById("pass-1"));
const zoom = () => { const { start, end } = chart.getOption().dataZoom[0]; return end - start; };
const [more, less, all] = document.querySelectorAll("#pass-1")[0].previousElementSibling.querySelectorAll("button");
const seen = [zoom()];
for (const button of [more, more, less, all]) { button.click(); seen.push(zoom()); }
document.getElementById("theme").click();
document.documentElement.dataset.zooms = seen.join(" ");
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_a_browser_draws_zooms_and_turns_dark_without_a_complaint(folder: Path, page: Page, tmp_path: Path) -> None:
    clicked = folder / "clicked.html"
    before, end, after = (folder / "report.html").read_text().rpartition("</body>")
    clicked.write_text(before + CLICKS + end + after)
    command = [CHROMIUM, *HEADLESS, f"--user-data-dir={tmp_path}", "--dump-dom", clicked.as_uri()]
    shown = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=True)
    assert "data-ready-ms=" in shown.stdout  # the script came to its end
    charts = json.loads(page.texts["charts"])
    assert shown.stdout.count("<canvas") == len(charts["passes"]) + 1  # memory
    assert 'data-zooms="100 50 25 50 100"' in shown.stdout
    assert 'data-theme="dark"' in shown.stdout
    assert not re.findall(r"CONSOLE.*", shown.stderr)
