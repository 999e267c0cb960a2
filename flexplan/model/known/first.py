"""The models known by name of OPT, Llama, Mistral and Qwen, dense or with a few experts."""

from __future__ import annotations

from flexplan.model.known.series import BF16, TIED, Config, Row, Series


def _llama3_rope(factor: float) -> Config:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


OPT = {"model_type": "opt", "torch_dtype": "float16", "vocab_size": 50272, "max_position_embeddings": 2048}
GALACTICA = OPT | {"vocab_size": 50000, "activation_function": "gelu", "bos_token_id": 0}
NO_BIAS = {"enable_bias": False, "layer_norm_elementwise_affine": False}
LLAMA = BF16 | {"model_type": "llama", "rms_norm_eps": 1e-5}
LLAMA_2 = LLAMA | {"torch_dtype": "float16", "vocab_size": 32000, "max_position_embeddings": 4096}
LLAMA_3 = LLAMA | {"vocab_size": 128256, "rope_theta": 500_000.0, "bos_token_id": 128000, "eos_token_id": 128001}
LLAMA_31 = LLAMA_3 | {"max_position_embeddings": 131072, "rope_scaling": _llama3_rope(8.0)}
LLAMA_32 = LLAMA_31 | TIED | {"rope_scaling": _llama3_rope(32.0)}
QWEN = BF16 | {"rope_theta": 1e6, "rms_norm_eps": 1e-6, "vocab_size": 151936, "bos_token_id": 151643}
QWEN_25 = QWEN | {"model_type": "qwen2", "max_position_embeddings": 32768, "eos_token_id": 151643}
QWEN_25_LARGE = QWEN_25 | {"vocab_size": 152064, "max_position_embeddings": 131072}
QWEN_CHAT = {"eos_token_id": 151645, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6}
QWEN_CODER = {"max_position_embeddings": 32768}
QWEN_MATH = {"max_position_embeddings": 4096, "rope_theta": 10_000.0}
QWEN_MATH_CHAT = QWEN_MATH | {"eos_token_id": 151645, "rms_norm_eps": 1e-6}
QWEN_LARGE_EPS = {"rms_norm_eps": 1e-5}
QWEN_3 = QWEN | {"model_type": "qwen3", "head_dim": 128, "max_position_embeddings": 40960, "eos_token_id": 151645}
MISTRAL = BF16 | {
    "model_type": "mistral",
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "sliding_window": None,
}
MISTRAL_TEKKEN = MISTRAL | {"vocab_size": 131072, "head_dim": 128}
MISTRAL_LARGE = MISTRAL | {"vocab_size": 32768, "head_dim": 128, "max_position_embeddings": 131072}
MISTRAL_V1 = {"rope_theta": 10_000.0, "sliding_window": 4096}
MIXTRAL = MISTRAL | {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
SMOL = LLAMA | TIED | {"vocab_size": 49152, "max_position_embeddings": 8192, "bos_token_id": 0, "eos_token_id": 0}
LLAMA_3_CHAT = {"eos_token_id": [128001, 128009]}
LLAMA_31_CHAT = {"eos_token_id": [128001, 128008, 128009]}
LLAMA_1 = LLAMA_2 | {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6}
CODE_LLAMA = LLAMA | {"vocab_size": 32016, "max_position_embeddings": 16384, "rope_theta": 1e6}
CODE_LLAMA_SUFFIXES: dict[str, Config] = {"-hf": {}, "-Python-hf": {}, "-Instruct-hf": {}}
DEEPSEEK = LLAMA | {"rms_norm_eps": 1e-6, "bos_token_id": 100000, "eos_token_id": 100001}
DEEPSEEK_LLM = DEEPSEEK | {"vocab_size": 102400, "max_position_embeddings": 4096}
DEEPSEEK_CODER = DEEPSEEK | {
    "vocab_size": 32256,
    "max_position_embeddings": 16384,
    "rope_theta": 100_000.0,
    "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    "bos_token_id": 32013,
    "eos_token_id": 32014,
}
YI = LLAMA | {"vocab_size": 64000, "max_position_embeddings": 4096, "rope_theta": 5e6}
R1_QWEN = QWEN_25 | {"max_position_embeddings": 131072}

_7B = ("7b", 32, 4096, 32, 32, 11008)
_13B = ("13b", 40, 5120, 40, 40, 13824)
_YI_6B = ("6B", 32, 4096, 32, 4, 11008)
_YI_34B = ("34B", 60, 7168, 56, 8, 20480)
_8B = ("8B", 32, 4096, 32, 8, 14336)
_70B = ("70B", 80, 8192, 64, 8, 28672)
_405B = ("405B", 126, 16384, 128, 8, 53248)
_QWEN_SMALL: tuple[Row, ...] = (
    ("0.5B", 24, 896, 14, 2, 4864),
    ("1.5B", 28, 1536, 12, 2, 8960, {"max_position_embeddings": 131072}),
    ("3B", 36, 2048, 16, 2, 11008),
)
_QWEN_LARGE: tuple[Row, ...] = (
    ("7B", 28, 3584, 28, 4, 18944),
    ("14B", 48, 5120, 40, 8, 13824, QWEN_LARGE_EPS),
    ("32B", 64, 5120, 40, 8, 27648, QWEN_LARGE_EPS),
    ("72B", 80, 8192, 64, 8, 29568, QWEN_LARGE_EPS),
)
_QWEN_3_SMALL: tuple[Row, ...] = (
    ("0.6B", 28, 1024, 16, 8, 3072, TIED),
    ("1.7B", 28, 2048, 16, 8, 6144, TIED),
    ("4B", 36, 2560, 32, 8, 9728, TIED),
    ("8B", 36, 4096, 32, 8, 12288),
    ("14B", 40, 5120, 40, 8, 17408),
)

SERIES = (
    Series(
        "facebook/opt-",
        OPT,
        (
            ("125m", 12, 768, 12, 12, 3072),
            ("350m", 24, 1024, 16, 16, 4096, {"word_embed_proj_dim": 512, "do_layer_norm_before": False}),
            ("1.3b", 24, 2048, 32, 32, 8192),
            ("2.7b", 32, 2560, 32, 32, 10240),
            ("6.7b", 32, 4096, 32, 32, 16384),
            ("13b", 40, 5120, 40, 40, 20480),
            ("30b", 48, 7168, 56, 56, 28672),
            ("66b", 64, 9216, 72, 72, 36864),
            ("175b", 96, 12288, 96, 96, 49152),
            ("iml-1.3b", 24, 2048, 32, 32, 8192),
            ("iml-30b", 48, 7168, 56, 56, 28672),
            ("iml-max-1.3b", 24, 2048, 32, 32, 8192),
            ("iml-max-30b", 48, 7168, 56, 56, 28672),
        ),
    ),
    Series(
        "facebook/galactica-",
        GALACTICA,
        (
            ("125m", 12, 768, 12, 12, 3072),
            ("1.3b", 24, 2048, 32, 32, 8192),
            ("6.7b", 32, 4096, 32, 32, 16384),
            ("30b", 48, 7168, 56, 56, 28672, NO_BIAS),
            ("120b", 96, 10240, 80, 80, 40960, NO_BIAS),
        ),
    ),
    Series(
        "meta-llama/Llama-2-",
        LLAMA_2,
        (_7B, _13B, ("70b", 80, 8192, 64, 8, 28672)),
        {"-hf": {}, "-chat-hf": {}},
    ),
    Series(
        "meta-llama/Meta-Llama-3-",
        LLAMA_3 | {"max_position_embeddings": 8192},
        (_8B, _70B),
        {"": {}, "-Instruct": LLAMA_3_CHAT},
    ),
    Series(
        "meta-llama/Llama-3.1-",
        LLAMA_31,
        (_8B, _70B, _405B),
        {"": {}, "-Instruct": LLAMA_31_CHAT},
    ),
    Series("meta-llama/Llama-3.3-", LLAMA_31 | LLAMA_31_CHAT, (_70B,), {"-Instruct": {}}),
    Series("deepseek-ai/DeepSeek-R1-Distill-Llama-", LLAMA_31, (_8B, _70B)),
    Series("NousResearch/Hermes-3-Llama-3.1-", LLAMA_31 | {"eos_token_id": 128040}, (_8B, _70B, _405B)),
    Series(
        "meta-llama/Llama-3.2-",
        LLAMA_32,
        (("1B", 16, 2048, 32, 8, 8192), ("3B", 28, 3072, 24, 8, 8192)),
        {"": {}, "-Instruct": LLAMA_31_CHAT},
    ),
    Series(
        "Qwen/Qwen2.5-",
        QWEN_25 | TIED,
        _QWEN_SMALL,
        {"": {}, "-Instruct": QWEN_CHAT},
    ),
    Series(
        "Qwen/Qwen2.5-",
        QWEN_25_LARGE,
        _QWEN_LARGE,
        {"": {}, "-Instruct": QWEN_CHAT},
    ),
    Series("Qwen/Qwen2.5-Coder-", QWEN_25 | TIED, _QWEN_SMALL, {"": QWEN_CODER, "-Instruct": QWEN_CHAT}),
    Series("Qwen/Qwen2.5-Coder-", QWEN_25_LARGE, _QWEN_LARGE[:3], {"": QWEN_CODER, "-Instruct": QWEN_CHAT}),
    Series("Qwen/Qwen2.5-Math-", QWEN_25 | TIED, _QWEN_SMALL[1:2], {"": QWEN_MATH, "-Instruct": QWEN_MATH_CHAT}),
    Series(
        "Qwen/Qwen2.5-Math-",
        QWEN_25_LARGE,
        (_QWEN_LARGE[0], _QWEN_LARGE[3]),
        {"": QWEN_MATH, "-Instruct": QWEN_MATH_CHAT},
    ),
    Series(
        "Qwen/Qwen2-",
        QWEN_25 | TIED,
        _QWEN_SMALL[:2],
        {"": {"max_position_embeddings": 131072}, "-Instruct": QWEN_CHAT},
    ),
    Series("Qwen/Qwen2-", QWEN_25_LARGE, (_QWEN_LARGE[0], _QWEN_LARGE[3]), {"": {}, "-Instruct": QWEN_CHAT}),
    Series(
        "Qwen/QwQ-",
        QWEN_25_LARGE | QWEN_LARGE_EPS | {"eos_token_id": 151645},
        (_QWEN_LARGE[2],),
        {"": {"max_position_embeddings": 40960}, "-Preview": {"max_position_embeddings": 32768}},
    ),
    Series(
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-",
        R1_QWEN,
        (
            ("1.5B", 28, 1536, 12, 2, 8960, {"rope_theta": 10_000.0}),
            ("7B", 28, 3584, 28, 4, 18944, {"rope_theta": 10_000.0, "vocab_size": 152064}),
            ("14B", 48, 5120, 40, 8, 13824, QWEN_LARGE_EPS | {"vocab_size": 152064}),
            ("32B", 64, 5120, 40, 8, 27648, QWEN_LARGE_EPS | {"vocab_size": 152064}),
        ),
    ),
    Series(
        "Qwen/Qwen3-",
        QWEN_3,
        (*_QWEN_3_SMALL, ("32B", 64, 5120, 64, 8, 25600)),
    ),
    Series(
        "Qwen/Qwen3-",
        QWEN_3 | {"max_position_embeddings": 32768, "eos_token_id": 151643},
        _QWEN_3_SMALL,
        {"-Base": {}},
    ),
    Series(
        "Qwen/Qwen3-",
        QWEN_3 | {"max_position_embeddings": 262144, "rope_theta": 5e6},
        _QWEN_3_SMALL[2:3],
        {"-Instruct-2507": {}, "-Thinking-2507": {}},
    ),
    Series(
        "mistralai/Mistral-7B-",
        MISTRAL,
        (
            ("v0.1", 32, 4096, 32, 8, 14336, MISTRAL_V1),
            ("Instruct-v0.1", 32, 4096, 32, 8, 14336, MISTRAL_V1),
            ("Instruct-v0.2", 32, 4096, 32, 8, 14336),
            ("v0.3", 32, 4096, 32, 8, 14336, {"vocab_size": 32768}),
            ("Instruct-v0.3", 32, 4096, 32, 8, 14336, {"vocab_size": 32768}),
        ),
    ),
    Series(
        "HuggingFaceH4/zephyr-7b-",
        MISTRAL | MISTRAL_V1 | {"pad_token_id": 2},
        (("alpha", 32, 4096, 32, 8, 14336), ("beta", 32, 4096, 32, 8, 14336)),
    ),
    Series(
        "mistralai/Mistral-Nemo-",
        MISTRAL_TEKKEN,
        (
            ("Base-2407", 40, 5120, 32, 8, 14336, {"max_position_embeddings": 128000}),
            ("Instruct-2407", 40, 5120, 32, 8, 14336, {"max_position_embeddings": 131072}),
        ),
    ),
    Series(
        "mistralai/Mistral-Small-",
        MISTRAL_TEKKEN | {"rope_theta": 1e8},
        (("24B-Base-2501", 40, 5120, 32, 8, 32768), ("24B-Instruct-2501", 40, 5120, 32, 8, 32768)),
    ),
    Series(  # the models of text of what also sees images
        "mistralai/Mistral-Small-",
        MISTRAL_TEKKEN | {"rope_theta": 1e9, "max_position_embeddings": 131072},
        tuple(
            (name, 40, 5120, 32, 8, 32768)
            for name in ("3.1-24B-Base-2503", "3.1-24B-Instruct-2503", "3.2-24B-Instruct-2506")
        ),
    ),
    Series("mistralai/Mistral-Small-", MISTRAL_LARGE, (("Instruct-2409", 56, 6144, 48, 8, 16384),)),
    Series("mistralai/Codestral-", MISTRAL | {"vocab_size": 32768}, (("22B-v0.1", 56, 6144, 48, 8, 16384),)),
    Series(
        "mistralai/Mistral-Large-",
        MISTRAL_LARGE,
        (("Instruct-2407", 88, 12288, 96, 8, 28672), ("Instruct-2411", 88, 12288, 96, 8, 28672)),
    ),
    Series(
        "mistralai/Mixtral-",
        MIXTRAL,
        (
            ("8x7B-v0.1", 32, 4096, 32, 8, 14336),
            ("8x7B-Instruct-v0.1", 32, 4096, 32, 8, 14336),
            ("8x22B-v0.1", 56, 6144, 48, 8, 16384, {"max_position_embeddings": 65536}),
            ("8x22B-Instruct-v0.1", 56, 6144, 48, 8, 16384, {"max_position_embeddings": 65536, "vocab_size": 32768}),
        ),
    ),
    Series(
        "HuggingFaceTB/SmolLM2-",
        SMOL,
        (
            ("135M", 30, 576, 9, 3, 1536, {"rope_theta": 100_000.0}),
            ("360M", 32, 960, 15, 5, 2560, {"rope_theta": 100_000.0}),
            ("1.7B", 24, 2048, 32, 32, 8192, {"rope_theta": 130_000.0}),
        ),
        {"": {}, "-Instruct": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}},
    ),
    Series(
        "TinyLlama/TinyLlama",
        LLAMA_1 | BF16 | {"rms_norm_eps": 1e-5},
        (
            ("-1.1B-Chat-v1.0", 22, 2048, 32, 4, 5632),
            ("-1.1B-intermediate-step-1431k-3T", 22, 2048, 32, 4, 5632, {"torch_dtype": "float32"}),
            ("_v1.1", 22, 2048, 32, 4, 5632, {"torch_dtype": "float32"}),
        ),
    ),
    Series(
        "huggyllama/llama-",
        LLAMA_1,
        (_7B, _13B, ("30b", 60, 6656, 52, 52, 17920), ("65b", 80, 8192, 64, 64, 22016)),
    ),
    Series(
        "codellama/CodeLlama-",
        CODE_LLAMA,
        (_7B, _13B),
        CODE_LLAMA_SUFFIXES | {"-Python-hf": {"vocab_size": 32000}},
    ),
    Series(
        "codellama/CodeLlama-",
        CODE_LLAMA,
        (("34b", 48, 8192, 64, 8, 22016, {"vocab_size": 32000}), ("70b", 80, 8192, 64, 8, 28672)),
        CODE_LLAMA_SUFFIXES,
    ),
    Series(
        "lmsys/vicuna-",
        LLAMA_2 | {"pad_token_id": 0},
        (_7B, _13B),
        {"-v1.5": {}},
    ),
    Series(
        "lmsys/vicuna-",
        LLAMA_1 | {"pad_token_id": 0},
        (_7B, _13B, ("33b", 60, 6656, 52, 52, 17920)),
        {"-v1.3": {}},
    ),
    Series(
        "01-ai/Yi-",
        YI,
        (_YI_6B, ("9B", 48, 4096, 32, 4, 11008, {"rope_theta": 10_000.0, "rms_norm_eps": 1e-6}), _YI_34B),
    ),
    Series("01-ai/Yi-", YI, (_YI_6B, _YI_34B), {"-Chat": {}}),
    Series(
        "01-ai/Yi-1.5-",
        YI | {"rms_norm_eps": 1e-6},
        (_YI_6B, ("9B", 48, 4096, 32, 4, 11008), _YI_34B),
        {"": {}, "-Chat": {}},
    ),
    Series(
        "deepseek-ai/deepseek-llm-",
        DEEPSEEK_LLM,
        (("7b", 30, 4096, 32, 32, 11008), ("67b", 95, 8192, 64, 8, 22016)),
        {"-base": {}, "-chat": {}},
    ),
    Series(
        "deepseek-ai/deepseek-math-", DEEPSEEK_LLM, (("7b", 30, 4096, 32, 32, 11008),), {"-base": {}, "-instruct": {}}
    ),
    Series(
        "deepseek-ai/deepseek-coder-",
        DEEPSEEK_CODER,
        (
            ("1.3b", 24, 2048, 16, 16, 5504),
            ("6.7b", 32, 4096, 32, 32, 11008),
            ("33b", 62, 7168, 56, 8, 19200),
        ),
        {"-base": {}, "-instruct": {"eos_token_id": 32021}},
    ),
)
# the same files under other names: who renamed them, and who mirrors the 16-bit files of others
RENAMED = {
    "meta-llama/meta-llama-3.1-": "meta-llama/llama-3.1-",
    "meta-llama/llama-3-": "meta-llama/meta-llama-3-",
}
MIRRORS = ("unsloth", "nousresearch")
