"""The `quantization_config` of GPTQ and of AWQ: whole numbers of 4 (or 8) bits in groups down the input."""

from __future__ import annotations

from typing import cast

from flexplan.model.coding import Code, Coding, Scale, StoredFormat
from flexplan.model.formats.given import Given

_HOW_FOUND = (
    "damp_percent",
    "damp_auto_increment",
    "act_group_aware",
    "true_sequential",
    "static_groups",
    "dataset",
    "tokenizer",
    "meta",
    "quantizer",
    "model_name_or_path",
    "model_file_base_name",
    "model_seqlen",
    "batch_size",
    "pad_token_id",
    "block_name_to_quantize",
    "module_name_preceding_first_block",
    "cache_block_outputs",
    "mse",
    "backend",
    "use_cuda_fp16",
    "use_exllama",
    "disable_exllama",
    "exllama_config",
    "max_input_length",
    "do_fuse",
    "fuse_max_seq_len",
)


def read_gptq(given: Given) -> StoredFormat:
    """GPTQ in 4 or 8 bits, its groups in the order of the columns."""
    given.ignore(*_HOW_FOUND, "sym")  # zeros are stored either way
    bits = given.one_of("bits", (4, 8))
    given.one_of("desc_act", (False,), False)  # columns in another order than their groups
    given.one_of("pack_dtype", ("int32",), "int32")
    version = given.one_of(
        "checkpoint_format", ("gptq", "gptq_v2"), given.one_of("format", ("gptq", "gptq_v2"), "gptq")
    )
    coding = Coding(cast(Code, f"uint{bits}"), cast(Scale, given.scale), given.group("group_size", 128), zeros=True)
    return StoredFormat(name=f"gptq, {bits} bits", layout=version, coding=coding)


def read_awq(given: Given) -> StoredFormat:
    """AWQ in 4 bits, as its kernel "gemm" stores them."""
    given.ignore(*_HOW_FOUND)
    given.one_of("bits", (4,), 4)
    given.one_of("version", ("gemm", "GEMM"), given.one_of("format", ("gemm",), "gemm"))
    zeros = given.one_of("zero_point", (True,), True)
    coding = Coding("uint4", cast(Scale, given.scale), given.group("group_size", 128), zeros)
    return StoredFormat(name="awq, 4 bits", layout="awq", coding=coding)
