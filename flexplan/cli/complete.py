"""What a shell offers where a flag takes a name; where none of these fits, it offers files."""

from __future__ import annotations

from collections.abc import Callable, Iterable

Complete = Callable[[str], list[str]]


def models(incomplete: str) -> list[str]:
    """The models known by name."""
    from flexplan.model import model_names

    return _beginning(incomplete, model_names())


def machines(incomplete: str) -> list[str]:
    """The presets."""
    from flexplan.hardware import preset_names

    return _beginning(incomplete, preset_names())


def planners(incomplete: str) -> list[str]:
    """Those that are installed."""
    from flexplan.plugins import PLANNERS, available

    return _beginning(incomplete, available(PLANNERS))


def schedules(incomplete: str) -> list[str]:
    """Those that are installed."""
    from flexplan.plugins import SCHEDULES, available

    return _beginning(incomplete, available(SCHEDULES))


def one_of(*names: str) -> Complete:
    """One of a few words."""
    return lambda incomplete: _beginning(incomplete, names)  # typer goes by this name


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))
