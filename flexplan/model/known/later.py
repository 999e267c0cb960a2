"""The models known by name whose families came later: Gemma, Phi, OLMo, Granite, and mixtures of many experts."""

from __future__ import annotations

from flexplan.model.known.first import QWEN_3
from flexplan.model.known.series import BF16, FP8_BLOCKS, TIED, Config, Series


def _yarn(factor: float, mscale: float) -> Config:
    return {
        "type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": mscale,
        "mscale_all_dim": mscale,
    }


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
GEMMA_3_SEEING = GEMMA_3 | {
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "sliding_window": 1024,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    "eos_token_id": [1, 106],
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
QWEN_3_MOE = QWEN_3 | {"model_type": "qwen3_moe", "norm_topk_prob": True, "num_experts": 128, "num_experts_per_tok": 8}
QWEN_2507 = {"max_position_embeddings": 262144, "rope_theta": 5e6}
QWEN_480B = {"moe_intermediate_size": 2560, "num_experts": 160, "rope_theta": 1e7}
GLM_45 = BF16 | {
    "model_type": "glm4_moe",
    "vocab_size": 151552,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "head_dim": 128,
    "attention_bias": True,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "eos_token_id": [151329, 151336, 151338],
    "pad_token_id": 151329,
}
GLM_AIR = {
    "n_routed_experts": 128,
    "moe_intermediate_size": 1408,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.0,
    "use_qk_norm": False,
}
GLM_FULL = {
    "n_routed_experts": 160,
    "moe_intermediate_size": 1536,
    "first_k_dense_replace": 3,
    "routed_scaling_factor": 2.5,
    "use_qk_norm": True,
}
GPT_OSS = BF16 | {
    "model_type": "gpt_oss",
    "vocab_size": 201088,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "head_dim": 64,
    "rope_theta": 150_000,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
    "sliding_window": 128,
    "num_experts_per_tok": 4,
    "eos_token_id": 200002,
    "pad_token_id": 199999,
    "quantization_config": {"quant_method": "mxfp4"},
}
DEEPSEEK = BF16 | {
    "rms_norm_eps": 1e-6,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
}
DEEPSEEK_2 = DEEPSEEK | {
    "model_type": "deepseek_v2",
    "vocab_size": 102400,
    "max_position_embeddings": 163840,
    "rope_scaling": _yarn(40, 0.707),
    "bos_token_id": 100000,
    "eos_token_id": 100001,
    "num_experts_per_tok": 6,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
}
DEEPSEEK_2_LITE = {
    "q_lora_rank": None,
    "n_routed_experts": 64,
    "moe_intermediate_size": 1408,
    "topk_method": "greedy",
}
DEEPSEEK_2_FULL = {
    "q_lora_rank": 1536,
    "n_routed_experts": 160,
    "moe_intermediate_size": 1536,
    "topk_method": "group_limited_greedy",
    "n_group": 8,
    "topk_group": 3,
    "routed_scaling_factor": 16.0,
}
DEEPSEEK_3 = DEEPSEEK | {
    "model_type": "deepseek_v3",
    "quantization_config": FP8_BLOCKS,
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
    "rope_scaling": _yarn(40, 1.0),
    "q_lora_rank": 1536,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 3,
}
KIMI_K2 = DEEPSEEK_3 | {
    "vocab_size": 163840,
    "max_position_embeddings": 131072,
    "rope_theta": 50_000.0,
    "rope_scaling": _yarn(32, 1.0) | {"beta_fast": 1.0},
    "rms_norm_eps": 1e-5,
    "bos_token_id": 163584,
    "eos_token_id": 163585,
    "n_routed_experts": 384,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 2.827,
    "first_k_dense_replace": 1,
}
KIMI_0905 = {"max_position_embeddings": 262144, "rope_scaling": _yarn(64, 1.0) | {"beta_fast": 1.0}}
MOONLIGHT = KIMI_K2 | {
    "quantization_config": None,
    "max_position_embeddings": 8192,
    "rope_scaling": None,
    "q_lora_rank": None,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "routed_scaling_factor": 2.446,
}
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
    Series(  # the models of text of what also sees images
        "google/gemma-3-",
        GEMMA_3_SEEING,
        (
            ("4b", 34, 2560, 8, 4, 10240),
            ("12b", 48, 3840, 16, 8, 15360),
            ("27b", 62, 5376, 32, 16, 21504, {"head_dim": 128, "query_pre_attn_scalar": 168}),
        ),
        {"-pt": {}, "-it": {}},
    ),
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
    Series(
        "Qwen/Qwen3-",
        QWEN_3_MOE,
        (
            ("30B-A3B", 48, 2048, 32, 4, 6144, {"moe_intermediate_size": 768}),
            ("235B-A22B", 94, 4096, 64, 4, 12288, {"moe_intermediate_size": 1536}),
        ),
        {"": {}, "-Instruct-2507": QWEN_2507, "-Thinking-2507": QWEN_2507},
    ),
    Series(
        "Qwen/Qwen3-Coder-",
        QWEN_3_MOE | QWEN_2507,
        (
            ("30B-A3B", 48, 2048, 32, 4, 6144, {"moe_intermediate_size": 768, "rope_theta": 1e7}),
            ("480B-A35B", 62, 6144, 96, 8, 8192, QWEN_480B),
        ),
        {"-Instruct": {}},
    ),
    Series("zai-org/GLM-4.5-", GLM_45, (("Air", 46, 4096, 96, 8, 10944, GLM_AIR),)),
    Series(
        "zai-org/GLM-",
        GLM_45,
        (
            ("4.5", 92, 5120, 96, 8, 12288, GLM_FULL),
            ("4.6", 92, 5120, 96, 8, 12288, GLM_FULL | {"max_position_embeddings": 202752}),
        ),
    ),
    Series(
        "openai/gpt-oss-",
        GPT_OSS,
        (
            ("20b", 24, 2880, 64, 8, 2880, {"num_local_experts": 32}),
            ("120b", 36, 2880, 64, 8, 2880, {"num_local_experts": 128}),
        ),
    ),
    Series(
        "deepseek-ai/DeepSeek-",
        DEEPSEEK_2,
        (
            ("V2-Lite", 27, 2048, 16, 16, 10944, DEEPSEEK_2_LITE),
            ("V2", 60, 5120, 128, 128, 12288, DEEPSEEK_2_FULL),
            ("Coder-V2-Lite-Base", 27, 2048, 16, 16, 10944, DEEPSEEK_2_LITE),
            ("Coder-V2-Lite-Instruct", 27, 2048, 16, 16, 10944, DEEPSEEK_2_LITE),
        ),
    ),
    Series(
        "deepseek-ai/DeepSeek-V2-",
        DEEPSEEK_2,
        (("Lite-Chat", 27, 2048, 16, 16, 10944, DEEPSEEK_2_LITE), ("Chat", 60, 5120, 128, 128, 12288, DEEPSEEK_2_FULL)),
    ),
    Series(
        "deepseek-ai/DeepSeek-",
        DEEPSEEK_3,
        tuple(
            (name, 61, 7168, 128, 128, 18432)
            for name in ("V3", "V3-Base", "V3-0324", "V3.1", "V3.1-Base", "R1", "R1-Zero", "R1-0528")
        ),
    ),
    Series(
        "moonshotai/Kimi-K2-",
        KIMI_K2,
        (
            ("Base", 61, 7168, 64, 64, 18432),
            ("Instruct", 61, 7168, 64, 64, 18432, {"eos_token_id": 163586}),
            ("Instruct-0905", 61, 7168, 64, 64, 18432, {"eos_token_id": 163586} | KIMI_0905),
        ),
    ),
    Series(
        "moonshotai/Moonlight-16B-A3B",
        MOONLIGHT,
        (("", 27, 2048, 16, 16, 11264),),
        {"": {}, "-Instruct": {"eos_token_id": 163586}},
    ),
)
