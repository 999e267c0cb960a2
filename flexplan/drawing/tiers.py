"""A map of layers and tiers: a column a layer, a row a tier, the darker the more of the layer is there."""

from __future__ import annotations

from collections.abc import Sequence

from flexplan.drawing.elements import Html, element
from flexplan.drawing.picture import Picture
from flexplan.units import format_size

TIER_COLOURS = {"gpu": "#3b82f6", "cpu": "#0f9d6b", "disk": "#7c4dde"}
_WIDTH, _LEFT, _ROW = 960, 110, 18
_GAP = 8  # between the parts

_NARROW = 24  # a column that has no room for its number
_EVERY = 10  # narrow columns of which one is numbered

Columns = Sequence[tuple[str, Sequence[int]]]  # a layer's name, and its bytes by tier


def draw_tiers(parts: Sequence[tuple[str, Columns]], title: str) -> Picture:
    """One part below the other, each with a row a tier: ``("weights", [("layer 0", (10, 90, 0)), ...])``."""
    shapes: list[Html] = []
    top = 2.0
    for what, columns in parts:
        for n, (tier, colour) in enumerate(TIER_COLOURS.items()):
            shapes.append(element("text", f"{what}, {tier}", x=_LEFT - 8, y=top + 13, text_anchor="end"))
            shapes += _row(columns, n, top, colour)
            top += _ROW
        top += _GAP
    longest = max((columns for _, columns in parts), key=len, default=())
    shapes += _numbers(longest, top + 6)
    return Picture(_WIDTH, top + 12, shapes, title)


def _numbers(columns: Columns, y: float) -> list[Html]:
    """Under the first column of a layer, the number in its name: of many layers, of each tenth; others have none."""
    width = (_WIDTH - _LEFT) / max(1, len(columns))
    first: dict[int, int] = {}
    for at, (name, _) in enumerate(columns):
        if (number := name.rpartition(" ")[2]).isdecimal():
            first.setdefault(int(number), at)
    step = 1 if width >= _NARROW else _EVERY
    return [
        element("text", number, x=f"{_LEFT + (at + 0.5) * width:.1f}", y=y, text_anchor="middle")
        for number, at in first.items()
        if number % step == 0
    ]


def _row(columns: Columns, n: int, top: float, colour: str) -> list[Html]:
    width = (_WIDTH - _LEFT) / max(1, len(columns))
    return [
        _cell(
            f"{name}: {format_size(nbytes[n])}, {100 * nbytes[n] / (sum(nbytes) or 1):.0f} %",
            _LEFT + at * width,
            top,
            width,
            colour,
            nbytes[n] / (sum(nbytes) or 1),
        )
        for at, (name, nbytes) in enumerate(columns)
    ]


def _cell(says: str, x: float, top: float, width: float, colour: str, share: float) -> Html:
    shape = {"x": f"{x:.2f}", "y": top, "width": f"{max(0.5, width - 0.6):.2f}", "height": _ROW - 2}
    opacity = f"{0.12 + 0.88 * share:.2f}" if share else "0.05"
    fill = colour if share else "currentColor"
    return element("rect", element("title", says), **shape, fill=fill, fill_opacity=opacity)
