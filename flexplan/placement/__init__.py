"""Where every tensor of a block lives: on which tier, then at which byte.

apportion  Largest remainder: whole grains to tiers, what rounding took being carried on.
cache      KV percents to grains (sequence and KV head) on tiers, and who attends over them.
layout     `Layout`: all buffers of a placement, one behind the other in the arenas of the tiers.
placement  `Placement`: which part of every tensor of a block is on which tier.
prefetch   How many layers ahead weights may be sent for, whose slots are the same in every pass.
weights    Weight percents to rows of tensors on tiers, at a byte of their layer's blob.
workspace  What the kernels of a task allocate beside the arenas.
"""

from flexplan.placement.cache import Segment, place_cache, values_read, vector_bytes
from flexplan.placement.layout import BUFFER_ALIGN, PASSES_IN_FLIGHT, Layout
from flexplan.placement.placement import ID_BYTES, PROB_BYTES, Placement, splits
from flexplan.placement.prefetch import fewer_layers, lookahead, unpacked_slots
from flexplan.placement.weights import DISK_ALIGN, PIECE_ALIGN, LayerWeights, Piece, awaited, bytes_unpacked
from flexplan.placement.workspace import captured_bytes, mask_bytes, rows_at_once, workspace_bytes

__all__ = [
    "BUFFER_ALIGN",
    "DISK_ALIGN",
    "ID_BYTES",
    "PASSES_IN_FLIGHT",
    "PIECE_ALIGN",
    "PROB_BYTES",
    "LayerWeights",
    "Layout",
    "Piece",
    "Placement",
    "Segment",
    "awaited",
    "bytes_unpacked",
    "captured_bytes",
    "fewer_layers",
    "lookahead",
    "mask_bytes",
    "place_cache",
    "rows_at_once",
    "splits",
    "unpacked_slots",
    "values_read",
    "vector_bytes",
    "workspace_bytes",
]
