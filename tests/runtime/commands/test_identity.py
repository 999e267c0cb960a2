"""What a job's answers depend on, in short: any tensor that someone trained on changes the digest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from flexplan_runtime.commands import identity
from safetensors.torch import load_file, save_file


@pytest.mark.parametrize("whole", [True, False], ids=["small files", "large files"])
def test_a_tensor_that_was_trained_on_changes_the_digest(
    whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not whole:
        monkeypatch.setattr(identity, "_READ_WHOLE", 0)
    file = tmp_path / "model.safetensors"
    save_file({f"{n}": torch.randn(3000 if n % 2 else 7) for n in range(64)}, file)
    before = identity.digests_of(tmp_path)
    tensors = load_file(file)
    for name, tensor in tensors.items():
        save_file(tensors | {name: tensor + 1}, file)
        assert identity.digests_of(tmp_path)["weights"] != before["weights"], name
    save_file(tensors, file)
    assert identity.digests_of(tmp_path) == before
