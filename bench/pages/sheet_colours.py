"""Colours of the contact sheet and the report."""

from __future__ import annotations

from matplotlib import colormaps

PAPER, INK, FAINT, RULE = "#ffffff", "#1b1b1b", "#757575", "#c4c4c4"


HOLE, STRIPE = "#f7e3bd", "#ecc987"


FAILED, CROSS = "#e4e4e4", "#9a9a9a"


SPREAD = colormaps["cividis"]
