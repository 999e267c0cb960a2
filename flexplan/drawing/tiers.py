"""A map of layers and tiers: a column a layer, a row a tier, the darker the more of the layer is there."""

from __future__ import annotations

from collections.abc import Sequence

from flexplan.drawing.elements import Html, element
from flexplan.drawing.picture import Picture
from flexplan.units import format_size

TIER_COLOURS = {"gpu": "#3b82f6", "cpu": "#0f9d6b", "disk": "#7c4dde"}
_WIDTH, _LEFT, _ROW = 960, 110, 18
_GAP = 8  # between the parts

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
    width = (_WIDTH - _LEFT) / max(1, max(len(columns) for _, columns in parts))
    for n in range(0, max(len(columns) for _, columns in parts), 10):
        shapes.append(element("text", n, x=f"{_LEFT + (n + 0.5) * width:.1f}", y=top + 6, text_anchor="middle"))
    return Picture(_WIDTH, top + 12, shapes, title)


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
