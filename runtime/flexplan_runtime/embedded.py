"""The model that comes with flexplan: a tiny trained OPT, for the demo and for tests."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def tiny_opt_path() -> Path:
    """The Hugging Face directory of the embedded model."""
    return Path(str(files("flexplan_runtime") / "data" / "tiny-opt"))


def tiny_opt_prompts() -> list[str]:
    """Prompts whose continuation the embedded model knows by heart: no two tokens are ever nearly tied."""
    return (tiny_opt_path() / "prompts.txt").read_text(encoding="utf-8").splitlines()
