"""What a notebook shows of a plan, an explanation and a timeline: the numbers of their plain data."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from flexplan import Plan, Problem, explain, simulate
from flexplan.errors import UsageError
from flexplan.graph import Timeline
from flexplan.testing import policy_with

POLICY = policy_with(2, 2, w=(30, 70), cache=(100, 0), act=(100, 0))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan.of(Problem.of("facebook/opt-125m", prompt_len=8, gen_len=4), POLICY)


def test_a_plan_and_its_explanation_show_their_numbers(plan: Plan) -> None:
    shown, found = plan._repr_html_(), explain(plan)
    assert f"{plan.prediction.tokens_per_s:.4g} tokens per second" in shown
    for shares in plan.realised.values():
        assert all(f">{share:.1f} %<" in shown for share in shares)
    explained = found._repr_html_()
    assert shown in explained
    assert all(f">{gain.percent:+.1f} %<" in explained for gain in found.gains)
    for text in (shown, explained):
        ElementTree.fromstring(text)  # well-formed


def test_a_timeline_is_a_picture_of_all_its_lanes_or_of_a_token(plan: Plan) -> None:
    timeline = plan.timeline()
    assert timeline.end_s == simulate(plan).end_s
    assert plan.timeline()._repr_html_() == timeline.plot().svg
    texts = {one.text for one in ElementTree.fromstring(timeline.plot().svg).iter()}
    assert set(timeline.lane_busy_s) <= texts
    one = timeline.plot(2)
    assert one.title.startswith(f"{sum(span.i == 2 for span in timeline.spans)} tasks")
    with pytest.raises(UsageError, match="token 4"):
        timeline.plot(4)
    assert Timeline()._repr_html_() is None
    with pytest.raises(UsageError, match="only the sums"):
        simulate(plan, keep=False).plot()
