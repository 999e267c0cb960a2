"""Families that flexplan does not compute, and files that it does not read, by what the names of models say."""

from __future__ import annotations

import re

# of a name without its owner, in lower case; the first that fits counts
_PACKED = re.compile(
    r"(?:^|[-_.])(gguf|awq|gptq|exl2|fp8|int4|int8|w4a16|w8a8|bnb|4bit|8bit|mlx|nvfp4|mxfp4)(?=[-_.]|$)"
)
_FAMILIES = {
    r"deepseek-(v3\.2|v4|moe|vl|ocr)": "DeepSeek of another kind",
    r"gemma-(3n|4)|(pali|shield|med|data|recurrent|t5|vault|embedding)-?gemma|t5gemma": (
        "gemma, with images or sound, or another of its kind"
    ),
    r"phi-?([12]|3-small|3-vision|3\.5-(moe|vision)|4-multimodal)|phi-moe": "phi, not Phi-3 or Phi-4",
    r"chatglm|glm-(4-|4\.1|4\.5v|4\.6v|4\.7-flash|5|edge|z1|image|asr|ocr)|cogvlm": "glm, not glm4_moe",
    r"(qwen[\d.]*|qvq)-?(vl|omni|audio)|qvq": "Qwen with images or sound",
    r"qwen(1\.5|2)-.*(a\d+(\.\d+)?b|moe)|qwen3-next|qwen3-coder-next|qwen3\.\d": "Qwen, of a kind of its own",
    r"qwen-\d": "qwen, the first",
    r"llama-4|llama-guard-4": "llama4",
    r"llama-3\.2-(11b|90b)": "mllama, with images",
    r"mistral-(small-4|medium|large-3)|pixtral|magistral|devstral-small-2|ministral-3": "mistral3, with images",
    r"mamba-codestral|mamba|falcon-mamba|zamba|jamba|recurrent|rwkv": "a recurrent family",
    r"falcon-?(3-mamba|h1|e-)": "falcon of another kind",
    r"mt0": "mt5",
    r"gpt-neo(?!x)|gpt-j|dolly-v1|stablelm-(2|3b|zephyr)|stable-code": "gpt-neo, gpt-j or stablelm",
    r"(mpt-|dbrx)": "mpt or dbrx",
    r"starcoder(?!2)|santacoder|codegen|incoder|polycoder": "code of an earlier kind",
    r"(c4ai-)?command|aya-|tiny-aya": "cohere",
    r"powergranite|granite-(3b|4|7b|8b|20b|34b|.*moe|.*a\d+m|vision|speech|code)": "granite, not Granite 3 dense",
    r"olmo-(1b|7b|3|hybrid)|olmoe|flexolmo": "olmo, not OLMo 2",
    r"internlm|baichuan|xverse|minicpm|kimi-(?!k2-)|minimax|ernie|hunyuan|step-?\d|seed-oss|exaone|solar-pro": (
        "another family"
    ),
    r"nemotron|minitron|.*-nemotron-(nano|super|ultra)": "nemotron",
    r"grok|arctic|openelm|smollm3|smolvlm|lfm|apertus|llava|idefics|persimmon|fuyu|biogpt|xglm": "another family",
    r"(flan-|m|by|ul2|long-?)?t5|bart|pegasus|(distil|ro|al|modern|de)?bert(a|-|$)|whisper|clip|bge-|e5-": (
        "one that is no decoder alone"
    ),
}


def why_not(name: str) -> str:
    """Why no model of this name runs; empty where nothing is known against it.

    >>> why_not("openai/gpt-oss-20b"), why_not("facebook/opt-30b")
    ('is of a family that flexplan does not compute: gpt_oss', '')
    """
    owner, _, tail = name.lower().rpartition("/")
    for pattern, family in _FAMILIES.items():
        if re.match(pattern, tail):
            return f"is of a family that flexplan does not compute: {family}"
    packed = _PACKED.search(tail)
    method = "MLX" if owner == "mlx-community" else packed[1] if packed else ""
    return f"holds packed weights ({method}), by its name" if method else ""
