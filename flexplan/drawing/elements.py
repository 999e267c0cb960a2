"""Elements of HTML: what is given as text is escaped, what is `Html` stands as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from flexplan.errors import visible

_NUMBER = re.compile(r"(\+- |[-+])?[\d.,]+( \S+)?( \([^)]*\))?|-?")  # with its unit, and perhaps in another one
_EMPTY = frozenset(("br", "img", "meta"))


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(name: str, *inside: object, **attributes: object) -> Html:
    """An element; ``class_`` is its class, and an underscore in an attribute's name is a hyphen.

    >>> element("td", "a < b", class_="number")
    '<td class="number">a &lt; b</td>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{given}>" if name in _EMPTY else f"<{name}{given}>{joined(inside)}</{name}>")


def joined(parts: Iterable[object]) -> Html:
    """Parts one behind the other."""
    return Html("".join(part if isinstance(part, Html) else _escaped(part) for part in parts))


def html_table(head: Sequence[object], rows: Iterable[Sequence[object]], class_: str | None = None) -> Html:
    """A table, in a frame that scrolls where a screen is narrow; columns of numbers stand to the right."""
    listed = list(rows)
    classes = [_class_of([row[n] for row in listed]) for n in range(len(head))]
    body = joined(element("tr", *map(_cell, row, classes)) for row in listed)
    names = (element("th", name, scope="col", class_=kind) for name, kind in zip(head, classes, strict=True))
    table = element("table", element("thead", element("tr", *names)), element("tbody", body), class_=class_)
    return element("div", table, class_="scroll")


def bar(percent: float, colour: str | None = None, label: str = "") -> Html:
    """A bar of so many percent of its cell."""
    style = f"width:{min(100.0, max(0.0, percent)):.2f}%" + (f";background:{colour}" if colour else "")
    return element("div", element("i", style=style, title=label or None), class_="bar")


def _class_of(column: Sequence[object]) -> str | None:
    words = [cell for cell in column if cell]
    numbers = all(isinstance(cell, str) and not isinstance(cell, Html) and _NUMBER.fullmatch(cell) for cell in words)
    return "number" if words and numbers else None


def _cell(inside: object, class_: str | None) -> Html:
    return element("td", inside, class_=class_)


def _escaped(value: object) -> str:
    from html import escape  # with a table of two thousand names, which an import of flexplan has no use for

    return escape(visible(str(value)))
