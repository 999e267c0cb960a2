"""The models known by name whose families came later: Gemma, Phi, OLMo, Granite, and mixtures of many experts."""

from __future__ import annotations

from flexplan.model.published import BF16, TIED, Config, Series

GEMMA = BF16 | TIED | {"vocab_size": 256000, "max_position_embeddings": 8192, "head_dim": 256, "rms_norm_eps": 1e-6}
GEMMA |= {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
GEMMA_1 = GEMMA | {"model_type": "gemma", "hidden_act": "gelu_pytorch_tanh"}
GEMMA_2 = GEMMA | {"model_type": "gemma2", "query_pre_attn_scalar": 256, "sliding_window": 4096}
GEMMA_3 = GEMMA | {
    "model_type": "gemma3_text",
    "vocab_size": 262144,
    "max_position_embeddings": 32768,
    "query_pre_attn_scalar": 256,
    "sliding_window": 512,
    "rope_theta": 1e6,
    "rope_local_base_freq": 10_000,
}
PHI_3 = BF16 | {
    "model_type": "phi3",
    "vocab_size": 32064,
    "max_position_embeddings": 4096,
    "sliding_window": 2047,
    "bos_token_id": 1,
    "eos_token_id": 32000,
    "pad_token_id": 32000,
}
PHI_4 = PHI_3 | {
    "vocab_size": 100352,
    "max_position_embeddings": 16384,
    "original_max_position_embeddings": 16384,
    "rope_theta": 250_000,
    "sliding_window": None,
    "bos_token_id": 100257,
    "eos_token_id": 100265,
    "pad_token_id": 100349,
}
OLMO_2 = BF16 | {
    "model_type": "olmo2",
    "vocab_size": 100352,
    "max_position_embeddings": 4096,
    "rope_theta": 500_000,
    "rms_norm_eps": 1e-6,
    "eos_token_id": 100257,
    "pad_token_id": 100277,
}
GRANITE = (
    BF16
    | TIED
    | {
        "model_type": "granite",
        "vocab_size": 49155,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
)
GRANITE_2B = {"rope_theta": 5e6, "logits_scaling": 8.0, "attention_multiplier": 0.015625}
GRANITE_8B = {"rope_theta": 1e7, "logits_scaling": 16.0, "attention_multiplier": 0.0078125}
_BOTH: dict[str, Config] = {"": {}, "-it": {}}

LATER = (
    Series("google/gemma-", GEMMA_1, (("2b", 18, 2048, 8, 1, 16384), ("7b", 28, 3072, 16, 16, 24576)), _BOTH),
    Series(
        "google/gemma-2-",
        GEMMA_2,
        (
            ("2b", 26, 2304, 8, 4, 9216),
            ("9b", 42, 3584, 16, 8, 14336),
            ("27b", 46, 4608, 32, 16, 36864, {"head_dim": 128, "query_pre_attn_scalar": 144}),
        ),
        _BOTH,
    ),
    Series("google/gemma-3-", GEMMA_3, (("270m", 18, 640, 4, 1, 2048), ("1b", 26, 1152, 4, 1, 6912)), _BOTH),
    Series(
        "microsoft/Phi-3-",
        PHI_3,
        (("mini", 32, 3072, 32, 32, 8192), ("medium", 40, 5120, 40, 10, 17920)),
        {"-4k-instruct": {}},
    ),
    Series("microsoft/phi-", PHI_4, (("4", 40, 5120, 40, 10, 17920),)),
    Series(
        "allenai/OLMo-2-",
        OLMO_2,
        (
            ("0425-1B", 16, 2048, 16, 16, 8192),
            ("1124-7B", 32, 4096, 32, 32, 11008),
            ("1124-13B", 40, 5120, 40, 40, 13824),
            ("0325-32B", 64, 5120, 40, 8, 27648),
        ),
        {"": {}, "-Instruct": {}},
    ),
    Series(
        "ibm-granite/granite-3.1-",
        GRANITE,
        (("2b", 40, 2048, 32, 8, 8192, GRANITE_2B), ("8b", 40, 4096, 32, 8, 12800, GRANITE_8B)),
        {"-base": {}, "-instruct": {}},
    ),
)
