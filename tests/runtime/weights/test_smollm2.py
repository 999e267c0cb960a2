"""Real weights: the converted SmolLM2 is the model it came from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.real_weights


def test_converted_model_knows_the_capital_of_france(smollm2: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert ids.shape[1] == 5
    output = model.generate(ids, max_new_tokens=2, do_sample=False)
    assert tokenizer.decode(output[0, 5:]).startswith(" Paris")


def test_converted_weights_equal_the_ones_transformers_reads_from_gguf(smollm2: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers reads GGUF through it")
    from smollm2 import gguf_path
    from transformers import AutoModelForCausalLM, GgufConfig

    source = gguf_path()
    assert source is not None
    ours = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    expected = theirs.state_dict()
    for name, weight in ours.state_dict().items():
        # float16 keeps 11 bits
        torch.testing.assert_close(weight, expected[name].float(), rtol=2**-10, atol=1e-6)
