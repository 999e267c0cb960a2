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
text_part    Models that also see images: of their `config.json`, the model that reads and writes text.
token_rules  `TokenRules`: what a model's generation config asks of the tokens that follow.
"""

from flexplan.model.catalog import model_shape, read_model
from flexplan.model.coding import Coding
from flexplan.model.config import read_config
from flexplan.model.constants import ModelConstants
from flexplan.model.layers import Layer, layer_tensors, schedule_layers
from flexplan.model.packing import Packing
from flexplan.model.shape import ModelShape
from flexplan.model.tensors import EMBED, HEAD, MLP, TOKENS, WeightTensor, weight_bytes, weight_tensors
from flexplan.model.token_rules import Ids, TokenRules

__all__ = [
    "EMBED",
    "HEAD",
    "MLP",
    "TOKENS",
    "Coding",
    "Ids",
    "Layer",
    "ModelConstants",
    "ModelShape",
    "Packing",
    "TokenRules",
    "WeightTensor",
    "layer_tensors",
    "model_shape",
    "read_config",
    "read_model",
    "schedule_layers",
    "weight_bytes",
    "weight_tensors",
]
