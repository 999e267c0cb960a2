"""Drawings: HTML and SVG by small builders of our own, for notebooks and reports.

elements  HTML elements and tables: what is text stays text.
lanes     A timeline as a picture: a row a lane, a bar a task.
picture   `Picture`: what a notebook shows, and a file can hold.
tiers     A map of layers and tiers.
"""

from flexplan.drawing.elements import Html, bar, element, html_table, joined
from flexplan.drawing.lanes import LANE_COLOURS, draw_lanes
from flexplan.drawing.picture import Picture
from flexplan.drawing.tiers import TIER_COLOURS, draw_tiers

__all__ = [
    "LANE_COLOURS",
    "TIER_COLOURS",
    "Html",
    "Picture",
    "bar",
    "draw_lanes",
    "draw_tiers",
    "element",
    "html_table",
    "joined",
]
