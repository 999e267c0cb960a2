"""Models that also see images: of a whole checkpoint the model of text is read, and goes on as transformers' does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from alone import by_flexplan
from tiny_models import GEMMA, ROTARY
from transformers import (
    AutoModelForImageTextToText,
    Gemma3Config,
    Mistral3Config,
    PixtralVisionConfig,
    PreTrainedConfig,
    SiglipVisionConfig,
)

from flexplan.errors import ModelFilesError
from flexplan.model import read_config

SEEN = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
IMAGES = {"image_size": 8, "patch_size": 4}
CONFIGS: dict[str, PreTrainedConfig] = {
    "gemma3": Gemma3Config(
        text_config=ROTARY | GEMMA | {"layer_types": ["sliding_attention", "full_attention"]},
        vision_config=SiglipVisionConfig(**SEEN, **IMAGES),
        mm_tokens_per_image=4,
        eos_token_id=[98],
    ),
    "mistral3": Mistral3Config(
        text_config={"model_type": "mistral", **ROTARY, "head_dim": 8},
        vision_config=PixtralVisionConfig(**SEEN, **IMAGES),
        spatial_merge_size=1,
        tie_word_embeddings=False,
    ),
}
PROMPTS = [[5, 9, 13, 2, 40], [7] * 8 + [3, 11, 4]]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_model_of_text_goes_on_as_transformers_whole_model_does(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(CONFIGS[name]).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    model.save_pretrained(tmp_path / "model")
    wanted = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        wanted.append(model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist())
    assert by_flexplan(tmp_path / "model", PROMPTS, 6, tmp_path) == wanted


def test_a_model_with_images_without_a_model_of_text_is_refused() -> None:
    with pytest.raises(ModelFilesError, match=r"FP535.*text_config"):
        read_config({"model_type": "gemma3"})
