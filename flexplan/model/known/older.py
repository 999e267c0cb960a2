"""The models known by name of families that came before Llama, or beside it: GPT-2, GPT-NeoX, Bloom, Falcon,
StarCoder2."""

from __future__ import annotations

from flexplan.model.known.series import BF16, TIED, Config, Series

GPT_2 = TIED | {
    "model_type": "gpt2",
    "vocab_size": 50257,
    "n_positions": 1024,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
}
GPT_NEOX = {
    "model_type": "gpt_neox",
    "torch_dtype": "float16",
    "vocab_size": 50304,
    "max_position_embeddings": 2048,
    "rotary_pct": 0.25,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_ALL_TURNS: Config = {"vocab_size": 50432, "rotary_pct": 1.0, "use_parallel_residual": False}
# stored in 32 bits, to be computed in 16
STARCODER_2 = (
    BF16
    | TIED
    | {
        "model_type": "starcoder2",
        "vocab_size": 49152,
        "max_position_embeddings": 16384,
        "sliding_window": 4096,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
)

BLOOM = TIED | {
    "model_type": "bloom",
    "torch_dtype": "float16",
    "vocab_size": 250880,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}
_BLOOMS = (
    ("560m", 24, 1024, 16, 16, 4096),
    ("1b1", 24, 1536, 16, 16, 6144),
    ("1b7", 24, 2048, 16, 16, 8192),
    ("3b", 30, 2560, 32, 32, 10240),
    ("7b1", 30, 4096, 32, 32, 16384),
)
_BLOOM_176B = (("", 70, 14336, 112, 112, 57344),)

FALCON = BF16 | TIED | {"model_type": "falcon", "vocab_size": 65024, "bos_token_id": 11, "eos_token_id": 11}
FALCON_7B = FALCON | {"multi_query": True, "parallel_attn": True}
FALCON_40B = FALCON | {"new_decoder_architecture": True, "num_kv_heads": 8}
FALCON_11B = FALCON_40B | {
    "num_ln_in_parallel_attn": 1,
    "max_position_embeddings": 8192,
    "rope_theta": 500_042.0,
    "tie_word_embeddings": False,
}
FALCON_RW = FALCON | {"multi_query": False, "parallel_attn": False, "alibi": True, "bias": True}

OLDER = (
    Series(
        "openai-community/",
        GPT_2,
        (
            ("gpt2", 12, 768, 12, 12, 3072),
            ("gpt2-medium", 24, 1024, 16, 16, 4096),
            ("gpt2-large", 36, 1280, 20, 20, 5120),
            ("gpt2-xl", 48, 1600, 25, 25, 6400),
        ),
    ),
    Series("bigscience/bloom-", BLOOM, _BLOOMS),
    Series("bigscience/bloomz-", BLOOM, _BLOOMS),
    Series("bigscience/bloom", BLOOM | BF16, _BLOOM_176B, {"": {}, "z": {}}),
    Series("tiiuae/falcon-", FALCON_7B, (("7b", 32, 4544, 71, 1, 18176),), {"": {}, "-instruct": {}}),
    Series("tiiuae/falcon-", FALCON_40B, (("40b", 60, 8192, 128, 8, 32768),), {"": {}, "-instruct": {}}),
    Series("tiiuae/falcon-", FALCON_40B, (("180B", 80, 14848, 232, 8, 59392),), {"": {}, "-chat": {}}),
    Series("tiiuae/falcon-", FALCON_11B, (("11B", 60, 4096, 32, 8, 16384),)),
    Series(
        "tiiuae/falcon-rw-",
        FALCON_RW,
        (
            ("1b", 24, 2048, 32, 32, 8192, {"vocab_size": 50304, "bos_token_id": 1, "eos_token_id": 2}),
            ("7b", 36, 4096, 64, 64, 16384),
        ),
    ),
    Series("distilbert/", GPT_2, (("distilgpt2", 6, 768, 12, 12, 3072),)),
    Series(
        "EleutherAI/pythia-",
        GPT_NEOX,
        (
            ("70m", 6, 512, 8, 8, 2048),
            ("160m", 12, 768, 12, 12, 3072),
            ("410m", 24, 1024, 16, 16, 4096),
            ("1b", 16, 2048, 8, 8, 8192),
            ("1.4b", 24, 2048, 16, 16, 8192),
            ("2.8b", 32, 2560, 32, 32, 10240),
            ("6.9b", 32, 4096, 32, 32, 16384, {"vocab_size": 50432}),
            ("12b", 36, 5120, 40, 40, 20480, {"vocab_size": 50688}),
        ),
        {"": {}, "-deduped": {}},
    ),
    Series(
        "EleutherAI/gpt-neox-",
        GPT_NEOX | {"vocab_size": 50432, "hidden_act": "gelu_fast"},
        (("20b", 44, 6144, 64, 64, 24576),),
    ),
    Series(
        "togethercomputer/RedPajama-INCITE-",
        GPT_NEOX | _ALL_TURNS,
        (("7B", 32, 4096, 32, 32, 16384),),
        {"-Base": {}, "-Chat": {}, "-Instruct": {}},
    ),
    Series(
        "bigcode/starcoder2-",
        STARCODER_2,
        (
            ("3b", 30, 3072, 24, 2, 12288, {"rope_theta": 999999.4420358813}),
            ("7b", 32, 4608, 36, 4, 18432, {"rope_theta": 1e6}),
            ("15b", 40, 6144, 48, 4, 24576, {"rope_theta": 1e5, "tie_word_embeddings": False}),
        ),
    ),
)
