"""The models known by name of families that came before Llama, or beside it: GPT-2, GPT-NeoX and Pythia, StarCoder2."""

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
