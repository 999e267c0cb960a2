"""Machines: their capacities and rates.

machine  `Hardware`: capacities and rates of one machine, from a profile or a preset.
presets  The rates of machines known by name, all of them guesses.
"""

from flexplan.hardware.machine import DEFAULT_PRESET, DISK_REQUEST_BYTES, Hardware, hardware_from, preset_names

__all__ = [
    "DEFAULT_PRESET",
    "DISK_REQUEST_BYTES",
    "Hardware",
    "hardware_from",
    "preset_names",
]
