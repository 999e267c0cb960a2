"""Hardware: what a machine holds and how fast each part of it moves or computes, measured or guessed."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flexplan.errors import UsageError, did_you_mean
from flexplan.files import is_file, parse_json, write_whole
from flexplan.hardware.presets import DEFAULT_PRESET, PRESETS
from flexplan.limits import MOST_FILE_BYTES, Bytes, FixedSeconds, PlainText, Rate, first_refused, read_limited
from flexplan.units import MiB, parse_size

__all__ = ["DEFAULT_PRESET", "DISK_REQUEST_BYTES", "Hardware", "hardware_from", "preset_names"]

Spread = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
DISK_REQUEST_BYTES = 8 * MiB  # of a longer transfer; several are in flight
_PACKED_RATE = 0.5  # of one core, attention over 4-bit keys reads half the bytes and attends to twice the tokens


class Hardware(BaseModel):
    """One machine: three tiers, the links between them, and the fixed time of each kind of work.

    ``preset`` is True where the numbers are a guess and False where `flexplan profile` measured them.
    ``fingerprint`` names the machine they hold for.  ``spread_percent`` tells how far the measurements of a figure lay
    apart: half the distance between their quartiles.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: PlainText
    fingerprint: PlainText
    preset: bool
    measured_on: PlainText = ""
    spread_percent: Annotated[dict[PlainText, Spread], Field(max_length=100)] = {}

    # capacities
    gpu_bytes: Bytes
    cpu_bytes: Bytes
    disk_bytes: Bytes
    cores: Annotated[int, Field(ge=1, le=1 << 20)]
    host_only: bool = False  # the host computes, too: the "gpu" is its cores, the "link" their copies
    # device memory that is nobody's tensor: library workspaces, captured steps, what the allocator rounds
    gpu_overhead_bytes: Bytes = 0

    # the GPU: 16-bit dense products at prefill shapes, and its own memory
    gpu_flops_per_s: Rate
    gpu_bytes_per_s: Rate

    # the link, pinned: host to device, device to host, the sum of both at once; and unpinned
    link_up_bytes_per_s: Rate
    link_down_bytes_per_s: Rate
    link_duplex_bytes_per_s: Rate
    pageable_up_bytes_per_s: Rate

    # the host: the roof that attention and all copies share, attention in a model whose weights arrive meanwhile, of
    # 16-bit numbers, and its arithmetic
    host_bytes_per_s: Rate
    host_attention_bytes_per_s: Rate
    host_flops_per_s: Rate
    host_attention_packed_bytes_per_s: Rate | None = None  # over 4-bit keys and values; None where not measured
    # of attention, what each further query of the same keys and values adds; not measured, like other arithmetic
    host_attention_flops_per_s: Rate | None = None

    # the disk, past the page cache
    disk_read_bytes_per_s: Rate
    disk_write_bytes_per_s: Rate
    # and of a transfer that is one request; None where not measured, then like longer ones
    disk_one_read_bytes_per_s: Rate | None = None

    # the GPU's attention over 4-bit keys and values; None where not measured, then like other memory
    gpu_packed_attention_bytes_per_s: Rate | None = None
    # the kernels between two products, norms and activations; None likewise
    gpu_between_bytes_per_s: Rate | None = None
    # where the host computes: its library lays a matrix out anew before several rows are multiplied with it; likewise
    gpu_matrix_bytes_per_s: Rate | None = None

    # the fixed time of a layer task on the GPU, of each of its products and other kernels, of choosing a micro-batch's
    # next tokens, of a copy, of one of hidden states or queries (None where not measured, then like others), a task on
    # the host and a disk request
    kernel_s: FixedSeconds
    product_s: FixedSeconds = 1e-9
    launch_s: FixedSeconds = 1e-9
    sample_s: FixedSeconds = 1e-9
    copy_s: FixedSeconds
    small_copy_s: FixedSeconds | None = None
    host_task_s: FixedSeconds
    disk_request_s: FixedSeconds

    @classmethod
    def load(cls, path: str | Path) -> Hardware:
        """The hardware a file describes; an unknown, missing, doubled or wrong field is a UsageError that names it."""
        try:
            text = read_limited(path, MOST_FILE_BYTES)
        except (OSError, ValueError) as error:
            message = f"hardware file {path} cannot be read: {getattr(error, 'strerror', None) or error}"
            raise UsageError("FP121", message, fix="write one with: flexplan profile -o FILE") from error
        try:
            found = parse_json(text)
        except ValueError as error:
            message = f"hardware file {path} is not JSON: {error}"
            raise UsageError("FP121", message, fix="write it again with: flexplan profile -o FILE") from error
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            first = first_refused(error)
            message = f"hardware file {path}: {first.where or 'the file'}: {first.says}"
            raise UsageError("FP122", message, fix="correct the field") from error

    def save(self, path: str | Path) -> None:
        """Write the file that `load` reads, whole or not at all."""
        try:
            write_whole(path, self.model_dump_json(indent=2) + "\n")
        except OSError as error:
            message = f"hardware file {path} cannot be written: {error.strerror or error}"
            raise UsageError("FP125", message, fix="choose another path") from error

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in _HASHED))

    def __repr__(self) -> str:
        return f"Hardware({self.name!r}, {self.gpu_bytes=}, {self.cpu_bytes=}, {self.disk_bytes=})".replace("self.", "")

    @property
    def disk_one_read_rate(self) -> float:
        """Bytes a second of a transfer that is one request."""
        return self.disk_one_read_bytes_per_s or self.disk_read_bytes_per_s

    @property
    def attention_flops_per_s(self) -> float:
        """Of host attention, for each further query of the same keys and values."""
        return self.host_attention_flops_per_s or self.host_flops_per_s

    @property
    def packed_attention_bytes_per_s(self) -> float:
        """Of host attention over packed keys and values; not measured, it is taken for half as many bytes."""
        return self.host_attention_packed_bytes_per_s or self.host_attention_bytes_per_s * _PACKED_RATE

    @property
    def gpu_packed_rate(self) -> float:
        """Bytes a second of the gpu's attention over packed keys and values."""
        return self.gpu_packed_attention_bytes_per_s or self.gpu_bytes_per_s

    @property
    def gpu_between_rate(self) -> float:
        """Bytes a second that the kernels between two products read and write."""
        return self.gpu_between_bytes_per_s or self.gpu_bytes_per_s

    @property
    def gpu_matrix_rate(self) -> float:
        """Bytes a second at which a host's library lays matrices out anew."""
        return self.gpu_matrix_bytes_per_s or self.gpu_bytes_per_s

    def with_budget(
        self, gpu: str | int | None = None, cpu: str | int | None = None, disk: str | int | None = None
    ) -> Hardware:
        """The same machine with other capacities, as sizes (``16G``) or bytes; None leaves one as it is."""
        asked = {"gpu_bytes": gpu, "cpu_bytes": cpu, "disk_bytes": disk}
        return self.model_copy(update={key: parse_size(size) for key, size in asked.items() if size is not None})


_HASHED = tuple(name for name in Hardware.model_fields if name != "spread_percent")  # which is a dict


def preset_names() -> tuple[str, ...]:
    """The machines that need no file."""
    return tuple(PRESETS)


def hardware_from(source: str | Path | Hardware = DEFAULT_PRESET) -> Hardware:
    """The hardware of a file, or of a preset by name; a file comes first, and a Hardware is itself.

    >>> hardware_from("t4-gcp").preset
    True
    """
    if isinstance(source, Hardware):
        return source
    if is_file(source):
        return Hardware.load(source)
    name = str(source).lower()
    if name in PRESETS:
        return _preset(name)
    hint = did_you_mean(name, PRESETS, f"presets are {', '.join(PRESETS)}", most=2, cutoff=0.4)
    raise UsageError("FP123", f"hardware {str(source)!r} is neither a file nor a preset", fix=hint)


@cache
def _preset(name: str) -> Hardware:
    named = {"name": name, "fingerprint": f"preset:{name}", "preset": True}
    return Hardware.model_validate(named | dict(PRESETS[name]))
