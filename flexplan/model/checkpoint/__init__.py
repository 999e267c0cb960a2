"""A checkpoint's tensors: which of them fill which weights, and whether a directory holds them all.

codes    Which tensors of a quantised checkpoint hold the codes, scales and zeros of a matrix, and of which shapes.
files    The tensors of a safetensors file, with the file as it was when its header was read.
layouts  Which tensors of a checkpoint fill which weights: the names of a family over the tensors of a shape.
lock     The lock of a model directory: SHA-256 and size of each of its files.
source   `Source`: rows of a checkpoint's tensor that are rows of one of ours.
weights  The weights of a model directory, checked whole by their headers.
"""

from flexplan.model.checkpoint.codes import StoredCodes
from flexplan.model.checkpoint.files import OPEN_FLAGS, StoredTensor, WeightFile, read_safetensors, read_with
from flexplan.model.checkpoint.layouts import parameter_sources
from flexplan.model.checkpoint.lock import LOCK, verify_lock, write_lock
from flexplan.model.checkpoint.source import Source
from flexplan.model.checkpoint.weights import Parts, find_weights, refuse_unusable_weights

__all__ = [
    "LOCK",
    "OPEN_FLAGS",
    "Parts",
    "Source",
    "StoredCodes",
    "StoredTensor",
    "WeightFile",
    "find_weights",
    "parameter_sources",
    "read_safetensors",
    "read_with",
    "refuse_unusable_weights",
    "verify_lock",
    "write_lock",
]
