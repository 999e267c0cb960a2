"""Plug-ins: what is installed is found, also while a process lives."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexplan.plugins import PLANNERS, available


def test_a_package_that_comes_later_is_found_and_one_that_goes_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    before = set(available(PLANNERS))
    info = tmp_path / "late-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: late\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[flexplan.planners]\nlate = late:Planner\n")
    assert set(available(PLANNERS)) == before | {"late"}
    info.rename(tmp_path / "gone")
    assert set(available(PLANNERS)) == before
