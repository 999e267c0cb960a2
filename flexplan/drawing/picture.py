"""Picture: an SVG drawing that a notebook shows, and a file can hold."""

from __future__ import annotations

from pathlib import Path

from flexplan.drawing.elements import Html, element, joined
from flexplan.files import write_whole

# readable on a white page and on a black one
_STYLE = (
    ".flexplan text{font:11px system-ui,sans-serif;fill:currentColor}"
    ".flexplan .grid{stroke:currentColor;stroke-opacity:.15}"
)


class Picture:
    """A drawing of ``width`` x ``height`` units; it scales with the page that it stands on."""

    def __init__(self, width: float, height: float, shapes: list[Html], title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self._shapes = shapes

    def __repr__(self) -> str:
        return f"Picture({self.title!r})"

    @property
    def svg(self) -> Html:
        """The picture as text."""
        return element(
            "svg",
            element("title", self.title),
            element("style", Html(_STYLE)),
            joined(self._shapes),
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {self.width:g} {self.height:g}",
            class_="flexplan",
            role="img",
            style=f"width:100%;max-width:{self.width:g}px;height:auto;color:inherit",
        )

    def save(self, path: str | Path) -> None:
        """Write an SVG file."""
        write_whole(path, self.svg + "\n")

    def _repr_html_(self) -> str:
        return self.svg
