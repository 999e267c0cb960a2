"""The numbers of machines known by name, for planning without a profile; all of them are guesses.

The link, host and disk rates of ``h100-pcie5`` and ``h200-pcie5`` were measured once, on one 16-core host; the fixed
times of machines with a GPU are those of four profiles of an H200 with such a host, those of ``cpu-host`` of one with
two cores.  The others come from data sheets.  Keys are the fields of `flexplan.hardware.machine.Hardware`.
"""

from __future__ import annotations

from collections.abc import Mapping

from flexplan.units import GiB, MiB

Numbers = Mapping[str, int | float]

DEFAULT_PRESET = "h100-pcie5"

_H100 = {
    "gpu_bytes": 80 * GiB,
    "cpu_bytes": 200 * GiB,
    "disk_bytes": 1000 * GiB,
    "cores": 16,
    "gpu_overhead_bytes": 192 * MiB,
    "gpu_flops_per_s": 600e12,
    "gpu_bytes_per_s": 3.0e12,
    "link_up_bytes_per_s": 55e9,
    "link_down_bytes_per_s": 55e9,
    "link_duplex_bytes_per_s": 94e9,
    "pageable_up_bytes_per_s": 8.7e9,
    "host_bytes_per_s": 115e9,
    "host_attention_bytes_per_s": 84e9,
    "host_flops_per_s": 1.0e12,
    "disk_read_bytes_per_s": 1.6e9,
    "disk_write_bytes_per_s": 2.4e9,
    "disk_one_read_bytes_per_s": 1.3e9,
    "kernel_s": 6e-6,
    "product_s": 9e-6,
    "launch_s": 0.3e-6,
    "sample_s": 20e-6,
    "copy_s": 300e-6,
    "host_task_s": 330e-6,
    "disk_request_s": 200e-6,
}

_H200 = _H100 | {"gpu_bytes": 141 * 10**9, "gpu_bytes_per_s": 4.3e12}
_A100 = _H100 | {
    "gpu_bytes": 80 * GiB,
    "gpu_flops_per_s": 220e12,
    "gpu_bytes_per_s": 1.7e12,
    "link_up_bytes_per_s": 25e9,
    "link_down_bytes_per_s": 25e9,
    "link_duplex_bytes_per_s": 42e9,
    "pageable_up_bytes_per_s": 7e9,
    "host_bytes_per_s": 100e9,
    "host_attention_bytes_per_s": 60e9,
}
_RTX4090 = _A100 | {
    "disk_one_read_bytes_per_s": 3e9,
    "gpu_bytes": 24 * GiB,
    "cpu_bytes": 64 * GiB,
    "gpu_flops_per_s": 140e12,
    "gpu_bytes_per_s": 0.9e12,
    "host_bytes_per_s": 60e9,
    "host_attention_bytes_per_s": 45e9,
    "disk_read_bytes_per_s": 5e9,
    "disk_write_bytes_per_s": 4e9,
}
_RTX3090 = _RTX4090 | {
    "disk_one_read_bytes_per_s": 2e9,
    "gpu_flops_per_s": 60e12,
    "gpu_bytes_per_s": 0.8e12,
    "host_bytes_per_s": 45e9,
    "host_attention_bytes_per_s": 35e9,
    "disk_read_bytes_per_s": 3e9,
    "disk_write_bytes_per_s": 2.5e9,
}
_T4 = _A100 | {
    "gpu_bytes": 16 * GiB,
    "cpu_bytes": 208 * GiB,
    "disk_bytes": 1500 * GiB,
    "cores": 32,
    "gpu_flops_per_s": 21e12,
    "gpu_bytes_per_s": 0.27e12,
    "link_up_bytes_per_s": 12e9,
    "link_down_bytes_per_s": 12e9,
    "link_duplex_bytes_per_s": 20e9,
    "pageable_up_bytes_per_s": 5e9,
    "host_bytes_per_s": 80e9,
    "host_attention_bytes_per_s": 45e9,
    "host_flops_per_s": 0.8e12,
    "disk_read_bytes_per_s": 2e9,
    "disk_write_bytes_per_s": 1e9,
}
# no GPU: the host computes both tiers, and a copy between them is a copy within its memory
_CPU = _H100 | {
    "gpu_bytes": 8 * GiB,
    "gpu_overhead_bytes": 0,
    "cpu_bytes": 16 * GiB,
    "disk_bytes": 64 * GiB,
    "cores": 4,
    "host_only": True,
    "gpu_flops_per_s": 100e9,
    "gpu_bytes_per_s": 20e9,
    "link_up_bytes_per_s": 10e9,
    "link_down_bytes_per_s": 10e9,
    "link_duplex_bytes_per_s": 10e9,
    "pageable_up_bytes_per_s": 8e9,
    "host_bytes_per_s": 20e9,
    "host_attention_bytes_per_s": 10e9,
    "host_flops_per_s": 100e9,
    "disk_read_bytes_per_s": 1e9,
    "disk_one_read_bytes_per_s": 0.9e9,
    "disk_write_bytes_per_s": 0.5e9,
    "kernel_s": 55e-6,
    "product_s": 60e-6,
    "launch_s": 4e-6,
    "sample_s": 1e-3,
    "copy_s": 100e-6,
    "host_task_s": 0.8e-3,
}

PRESETS: Mapping[str, Numbers] = {
    "h100-pcie5": _H100,
    "h200-pcie5": _H200,
    "a100-pcie4": _A100,
    "rtx4090": _RTX4090,
    "rtx3090": _RTX3090,
    "t4-gcp": _T4,
    "cpu-host": _CPU,
}
