"""A timeline as a picture: a row a lane, a bar a task; tasks too short to be told apart share a bar."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import floor, log10

from flexplan.drawing.elements import Html, element
from flexplan.drawing.picture import Picture
from flexplan.units import format_duration

LANE_COLOURS = {  # what crosses the link is warm, the host green, the disk violet
    "gpu": "#3b82f6",
    "h2d_weights": "#c2560c",
    "h2d_cache": "#f08c1a",
    "h2d_small": "#f5c542",
    "d2h": "#ec4899",
    "cpu": "#0f9d6b",
    "host_copy": "#84b817",
    "disk_read": "#7c4dde",
    "disk_write": "#b794f6",
    "inline": "#64748b",
}
STRANGER = "#64748b"
_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 960, 110, 26, 22, 6
_LEAST = 0.6  # units: what lies nearer is one bar
_TICKS = 6

Bar = tuple[str, str, float, float]  # name, lane, start and end in seconds


def draw_lanes(bars: Iterable[Bar], lanes: Sequence[str], end_s: float, title: str) -> Picture:
    """The bars in the rows of their lanes, from 0 to ``end_s``."""
    scale = (_WIDTH - _LEFT - _RIGHT) / (end_s or 1.0)
    rows = {lane: _TOP + n * _ROW for n, lane in enumerate(lanes)}
    bottom = _TOP + len(lanes) * _ROW
    shapes = list(_axis(end_s, scale, bottom))
    for lane, top in rows.items():
        shapes.append(element("text", lane, x=_LEFT - 8, y=top + 15, text_anchor="end"))
    for lane, top in rows.items():
        shapes += _row(sorted(bar for bar in bars if bar[1] == lane), top, scale)
    return Picture(_WIDTH, bottom + 22, shapes, title)


def _row(bars: Sequence[Bar], top: float, scale: float) -> list[Html]:
    groups: list[tuple[str, str, float, float, int]] = []
    for name, lane, start_s, end_s in sorted(bars, key=lambda bar: bar[2]):
        if groups and (start_s - groups[-1][3]) * scale < _LEAST and (end_s - start_s) * scale < 4:
            last = groups[-1]
            groups[-1] = (last[0], lane, last[2], max(last[3], end_s), last[4] + 1)
        else:
            groups.append((name, lane, start_s, end_s, 1))
    return [_bar(*group, top, scale) for group in groups]


def _bar(name: str, lane: str, start_s: float, end_s: float, count: int, top: float, scale: float) -> Html:
    more = f" and {count - 1:,} more" if count > 1 else ""
    return element(
        "rect",
        element("title", f"{name}{more}: {format_duration(end_s - start_s)}"),
        x=f"{_LEFT + start_s * scale:.2f}",
        y=top + 3,
        width=f"{max(0.4, (end_s - start_s) * scale):.2f}",
        height=_ROW - 6,
        fill=LANE_COLOURS.get(lane, STRANGER),
    )


def _axis(end_s: float, scale: float, bottom: float) -> Iterable[Html]:
    step_s = _step(end_s / _TICKS)
    n = 0
    while step_s and n * step_s <= end_s:
        x = f"{_LEFT + n * step_s * scale:.1f}"
        yield element("line", x1=x, x2=x, y1=_TOP, y2=bottom, class_="grid")
        yield element("text", format_duration(n * step_s) if n else "0", x=x, y=bottom + 14, text_anchor="middle")
        n += 1


def _step(about: float) -> float:
    """A round number at least so large: 1, 2 or 5 times a power of ten.

    >>> _step(0.03), _step(130)
    (0.05, 200.0)
    """
    if about <= 0:
        return 0.0
    power = 10.0 ** floor(log10(about))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= about)
