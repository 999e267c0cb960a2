"""Models as numbers: sizes, tensors, layers, and the constants of their mathematics.

catalog      Models known by name, as the `config.json` each of them has.
coding       `Coding`: a matrix in the codes that its checkpoint stores; `StoredFormat`: which matrices are.
config       A Hugging Face `config.json`, read as data into a `ModelShape` and the constants of the mathematics.
constants    `ModelConstants`: what the mathematics of a model needs beyond its sizes.
header       The header of a safetensors file, its sizes bounded before anything is computed with them.
layers       The layers of the schedule: embedding, N transformer layers (or N pairs of attention and MLP), head.
packing      `Packing`: group-wise quantised numbers, the bytes they take, where codes and scales lie.
places       Where a model lies that is given by name: flexplan's downloads, the cache of the Hugging Face hub.
shape        `ModelShape`: the numbers of a model that planning needs.
stored       What the headers of safetensors files say, without a tensor library: dtypes, and tensors that are the
             same.
tensors      The weight tensors of a shape, layer by layer, under flexplan's own names.
token_rules  `TokenRules`: what a model's generation config asks of the tokens that follow.
"""

from flexplan.model.catalog import model_names, model_shape, read_model, shape_to_run
from flexplan.model.checkpoint import Source, StoredTensor, WeightFile, parameter_sources
from flexplan.model.coding import Coding, StoredFormat
from flexplan.model.config import read_config
from flexplan.model.constants import ModelConstants, RopeScaling, Routing
from flexplan.model.header import read_header, what_it_is
from flexplan.model.layers import TRANSFORMER, Layer, is_gathered, layer_tensors, schedule_layers, separates
from flexplan.model.packing import Packing
from flexplan.model.places import (
    cached,
    directory_of,
    downloads,
    gguf_place,
    has_config,
    here,
    hub_cache,
    hub_name,
    is_gguf,
    refuse_other_formats,
    snapshot_within,
)
from flexplan.model.shape import Latent, ModelShape
from flexplan.model.stored import INDEX, SINGLE, read_index, weight_files
from flexplan.model.tensors import (
    ATTENTION,
    CORRECTION,
    EMBED,
    HEAD,
    MLP,
    ROUTER,
    SINKS,
    TOKENS,
    WeightTensor,
    weight_bytes,
    weight_tensors,
)
from flexplan.model.token_rules import Ids, TokenRules

__all__ = [
    "ATTENTION",
    "CORRECTION",
    "EMBED",
    "HEAD",
    "INDEX",
    "MLP",
    "ROUTER",
    "SINGLE",
    "SINKS",
    "TOKENS",
    "TRANSFORMER",
    "Coding",
    "Ids",
    "Latent",
    "Layer",
    "ModelConstants",
    "ModelShape",
    "Packing",
    "RopeScaling",
    "Routing",
    "Source",
    "StoredFormat",
    "StoredTensor",
    "TokenRules",
    "WeightFile",
    "WeightTensor",
    "cached",
    "directory_of",
    "downloads",
    "gguf_place",
    "has_config",
    "here",
    "hub_cache",
    "hub_name",
    "is_gathered",
    "is_gguf",
    "layer_tensors",
    "model_names",
    "model_shape",
    "parameter_sources",
    "read_config",
    "read_header",
    "read_index",
    "read_model",
    "refuse_other_formats",
    "schedule_layers",
    "separates",
    "shape_to_run",
    "snapshot_within",
    "weight_bytes",
    "weight_files",
    "weight_tensors",
    "what_it_is",
]
