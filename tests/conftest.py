"""What every test runs under: one thread, no network, no progress bars; GPU tests skip themselves."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

# Read when torch and transformers are imported, so set before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TQDM_DISABLE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

HAS_TORCH = find_spec("torch") is not None  # planning is tested without it, too

if HAS_TORCH:
    import torch

    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if HAS_TORCH and torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def tiny_opt() -> Path:
    """The directory of the embedded model."""
    pytest.importorskip("torch")
    from flexplan_runtime.embedded import tiny_opt_path

    return tiny_opt_path()
