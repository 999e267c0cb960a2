"""This machine: its name, and what its tiers hold."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from flexplan.units import GiB
from flexplan_runtime.memory import in_memory, room

_PROC_CPU, _PROC_MEMORY = Path("/proc/cpuinfo"), Path("/proc/meminfo")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_model() -> str:
    """The processor's name."""
    try:
        for line in _PROC_CPU.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory_bytes(which: str = "MemTotal") -> int:
    """Host memory: ``MemTotal``, or ``MemAvailable`` for what is not in use."""
    for line in _PROC_MEMORY.read_text().splitlines():
        if line.startswith(f"{which}:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_bytes() -> int:
    """Host memory that may still be taken: what is not in use, within the limits of containers and of this process."""
    limited = room()
    free_bytes = memory_bytes("MemAvailable")
    return free_bytes if limited is None else min(free_bytes, limited.left_bytes)


def device_name(device: torch.device) -> str:
    """The accelerator's name; empty where the host computes."""
    return "" if device.type == "cpu" else str(torch.cuda.get_device_name(device))


def fingerprint(device: torch.device) -> str:
    """What a measurement holds for: processor, cores, memory and accelerator."""
    parts = [f"{cpu_model()} x{cores()}", f"{round(memory_bytes() / GiB)} GiB", device_name(device)]
    return ", ".join(part for part in parts if part)


def capacities(device: torch.device, scratch: Path) -> dict[str, int]:
    """Bytes that the three tiers may use here; where the host computes, both memory tiers share its memory.

    A ``scratch`` in host memory is no third tier: its bytes would be counted twice.
    """
    free_disk = os.statvfs(scratch)
    disk = 0 if in_memory(scratch) else free_disk.f_bavail * free_disk.f_frsize * 9 // 10
    available = available_bytes()
    if device.type == "cpu":
        return {"gpu_bytes": available // 4, "cpu_bytes": available // 2, "disk_bytes": disk}
    return {"gpu_bytes": int(torch.cuda.mem_get_info(device)[0]), "cpu_bytes": available * 9 // 10, "disk_bytes": disk}
