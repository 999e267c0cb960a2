"""Formats of quantised checkpoints: what a `quantization_config` asks for, every key of it.

compressed  The `quantization_config` of compressed-tensors: FP8, and whole numbers packed into 32 bits.
given       `Given`: a `quantization_config` of which every key is honoured, or refused by its name.
integers    The `quantization_config` of GPTQ and of AWQ.
kept        Which matrices a `quantization_config` leaves as plain floats.
reading     A `quantization_config` read into a `StoredFormat`.
small       The `quantization_config` of small floats: FP8, and the MXFP4 of gpt-oss.
"""

from flexplan.model.formats.given import FORMATS, UNPACKED
from flexplan.model.formats.kept import with_kept
from flexplan.model.formats.reading import PACKED_BESIDE, read_format

__all__ = ["FORMATS", "PACKED_BESIDE", "UNPACKED", "read_format", "with_kept"]
