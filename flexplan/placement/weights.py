"""Weight percents -> which rows of which tensor on which tier, at which byte of its layer's blob.

Every layer is cut by itself, so each pass moves the same share of every layer; rounding is carried to the
next layer.  At most two tensors of a layer are cut, by output rows, on quantisation-group boundaries.
With experts on demand, what every token computes with goes to the faster tiers before any expert does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, chain

from flexplan.graph import TIERS
from flexplan.model import ModelShape, Packing, WeightTensor, layer_tensors, schedule_layers, weight_tensors
from flexplan.model.layers import is_gathered
from flexplan.model.tensors import expert_of
from flexplan.policy import Policy
from flexplan.units import round_up

UNPACKED_ALIGN = 256
PIECE_ALIGN = 64  # a vector load never straddles two pieces
DISK_ALIGN = 4096  # direct I/O

Shares = tuple[float, float, float]  # of the gpu, the cpu and the disk


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows ``row_lo .. row_hi`` of a tensor at byte ``offset`` of its layer's part on ``tier``."""

    tensor: WeightTensor
    row_lo: int
    row_hi: int
    tier: str
    offset: int

    @property
    def rows(self) -> int:
        return self.row_hi - self.row_lo

    @property
    def nbytes(self) -> int:
        return self.tensor.rows_bytes(self.rows)


@dataclass(frozen=True)
class LayerWeights:
    """The pieces of one layer and the bytes of its part on each tier, padding included."""

    j: int
    pieces: tuple[Piece, ...]
    part_bytes: dict[str, int] = field(compare=False)

    @property
    def blob_bytes(self) -> int:
        """Bytes that a pass streams: the cpu part, then the disk part."""
        return self.part_bytes["cpu"] + self.part_bytes["disk"]

    @cached_property
    def expert_spans(self) -> dict[int, tuple[int, int]]:
        """Of each expert that has a part on the host, where in the cpu part that lies; they are the end of it."""
        spans: dict[int, tuple[int, int]] = {}
        for piece in self.pieces:
            expert = expert_of(piece.tensor.name)
            if piece.tier == "cpu" and expert is not None:
                end = round_up(piece.offset + piece.nbytes, PIECE_ALIGN)
                spans[expert] = (spans.get(expert, (piece.offset, end))[0], end)
        return spans

    @cached_property
    def experts_at(self) -> int:
        """Where in the cpu part experts begin: its end where it has none."""
        return min((lo for lo, _ in self.expert_spans.values()), default=self.part_bytes["cpu"])

    def ring_offset(self, piece: Piece) -> int:
        """Where a streamed piece lies in the layer's slot of the weight ring."""
        return piece.offset + (self.part_bytes["cpu"] if piece.tier == "disk" else 0)

    @cached_property
    def unpacked(self) -> dict[WeightTensor, int]:
        """Where each tensor of the layer lies, whole and unpacked, in a slot of the unpacked weights."""
        tensors = dict.fromkeys(piece.tensor for piece in self.pieces)
        ends = accumulate(round_up(tensor.unpacked_bytes, UNPACKED_ALIGN) for tensor in tensors)
        return dict(zip(tensors, chain((0,), ends), strict=False))

    @cached_property
    def unpacked_bytes(self) -> int:
        """Bytes of the layer unpacked, 0 where nothing is packed and it computes from where it is stored."""
        return bytes_unpacked(self.unpacked)

    def payload(self, tier: str) -> int:
        """Bytes of weights on a tier, padding apart."""
        return sum(piece.nbytes for piece in self.pieces if piece.tier == tier)


def bytes_unpacked(tensors: Iterable[WeightTensor]) -> int:
    """Bytes of a layer's tensors unpacked, 0 where none of them is packed."""
    tensors = list(tensors)
    return sum(round_up(t.unpacked_bytes, UNPACKED_ALIGN) for t in tensors) if any(t.packing for t in tensors) else 0


def place_weights(shape: ModelShape, policy: Policy) -> tuple[LayerWeights, ...]:
    """The placement of every layer; a gathered token table comes last, as a layer of its own."""
    packing = policy.weight_packing(shape.bytes_per_element)
    shares = policy.shares("w")
    cutter = _Cutter(shares, *(_in_turn(shares, shape, packing) if policy.experts_on_demand else (shares, shares)))
    placed = [
        cutter.place(layer.j, layer_tensors(shape, layer, packing))
        for layer in schedule_layers(shape, policy.sep_layer)
    ]
    table = tuple(t for t in weight_tensors(shape) if is_gathered(t))
    if table:
        placed.append(cutter.place(len(placed), table))
    return tuple(placed)


def awaited(tensor: WeightTensor) -> bool:
    """True for what not every token computes with: experts, and rows of a token table."""
    return expert_of(tensor.name) is not None or is_gathered(tensor)


def _in_turn(shares: Shares, shape: ModelShape, packing: Packing | None) -> tuple[Shares, Shares]:
    """Shares of what every token computes with, which is placed first, and of what is `awaited`."""
    tensors = weight_tensors(shape, packing)
    size = sum(t.nbytes for t in tensors)
    rest = sum(t.nbytes for t in tensors if awaited(t))
    gpu, cpu = shares[0] * size, shares[1] * size
    first_gpu = min(gpu, size - rest)
    first_cpu = min(cpu, size - rest - first_gpu)
    return _whole(first_gpu, first_cpu, size - rest), _whole(gpu - first_gpu, cpu - first_cpu, rest)


def _whole(gpu: float, cpu: float, size: float) -> Shares:
    return gpu / size, cpu / size, max(0.0, (size - gpu - cpu) / size)


class _Cutter:
    """Cuts layers at the running shares: what rounding to rows took from a tier, the next layer gives back."""

    def __init__(self, shares: Shares, always: Shares, late: Shares) -> None:
        self.shares = shares
        self.always = always
        self.late = late
        self.owed = [0.0, 0.0, 0.0]

    def place(self, j: int, tensors: tuple[WeightTensor, ...]) -> LayerWeights:
        size, late = sum(t.nbytes for t in tensors), sum(t.nbytes for t in tensors if awaited(t))
        self.fine_bytes = size / 1000
        shares = zip(self.owed, self.always, self.late, strict=True)
        due = [owed + first * (size - late) + then * late for owed, first, then in shares]
        spans = self._spans(tensors, due)
        self.owed = [d - sum(t.rows_bytes(hi - lo) for t, lo, hi, at in spans if at == n) for n, d in enumerate(due)]
        return _lay_out(j, spans)

    def _spans(self, tensors: tuple[WeightTensor, ...], due: list[float]) -> list[tuple[WeightTensor, int, int, int]]:
        """(tensor, first row, last row, tier) in order: the gpu takes its bytes first, then the cpu, then the disk."""
        spans: list[tuple[WeightTensor, int, int, int]] = []
        left = list(due)
        tier, last = 0, max(n for n, share in enumerate(self.shares) if share)
        for tensor in tensors:
            row = 0
            while row < tensor.rows:
                while tier < last and (not self.shares[tier] or not self._fit(tensor, row, left[tier])):
                    tier += 1
                take = tensor.rows - row if tier == last else self._fit(tensor, row, left[tier])
                spans.append((tensor, row, row + take, tier))
                left[tier] -= tensor.rows_bytes(take)
                row += take
        return spans

    def _fit(self, tensor: WeightTensor, row: int, nbytes: float) -> int:
        """Rows from ``row`` on that come nearest to ``nbytes``; vectors are never cut."""
        rest = tensor.rows - row
        if tensor.cols == 1:
            return rest if nbytes >= tensor.rows_bytes(rest) / 2 else 0
        grain = self._grain_rows(tensor)
        return max(0, min(rest, int(nbytes / tensor.rows_bytes(grain) + 0.5) * grain))

    def _grain_rows(self, tensor: WeightTensor) -> int:
        """Rows that stay together: 64 where that is under a thousandth of the layer, else fewer.

        Matrix products with an odd number of outputs take a path five times slower on a GPU.
        """
        grain = 64
        while grain > 1 and tensor.rows_bytes(grain) > self.fine_bytes:
            grain //= 2
        return round_up(grain, tensor.grain_rows)


def _lay_out(j: int, spans: list[tuple[WeightTensor, int, int, int]]) -> LayerWeights:
    ends = dict.fromkeys(TIERS, 0)
    pieces = []
    for tensor, low, high, n in spans:
        tier = TIERS[n]
        piece = Piece(tensor, low, high, tier, ends[tier])
        ends[tier] = round_up(piece.offset + piece.nbytes, PIECE_ALIGN)
        pieces.append(piece)
    ends["disk"] = round_up(ends["disk"], DISK_ALIGN)
    return LayerWeights(j, tuple(pieces), ends)
