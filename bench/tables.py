"""The leaderboard as people read it: Markdown, LaTeX and the terminal, one ranking for all three."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

import pandas as pd
from rich.table import Table
from rich.text import Text

GROUP = ["data", "mask", "operator", "images", "seed"]
"""Cells that agree in these saw the same images and measurements; only they are ranked against each other."""

INCOMPLETE = "†"
_ARROW = {"up": "↑", "down": "↓", "none": ""}
_MARKDOWN = re.compile(r"([\\|*`\[\]])")
_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: "\\" + c for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    INCOMPLETE: r"\dag{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


def markdown(frame: pd.DataFrame) -> str:
    """GitHub Markdown: a table per group, best mean bold, second underlined, notes below."""
    marks = {"best": "**{}**", "second": "<u>{}</u>", "": "{}"}
    parts = ["# Leaderboard", ""]
    for heading, lines in _groups(frame):
        table = _grid(frame, lines, escape_markdown, lambda value, mark, ends: f"{marks[mark].format(value)} {ends}")
        width = len(table[0])
        rule = ["---"] + ["---:"] * (width - 1)
        parts += [f"## {escape_markdown(heading)}", "", *(f"| {' | '.join(row)} |" for row in [table[0], rule, *table[1:]]), ""]
    return "\n".join([*parts, *(f"{escape_markdown(note)}  " for note in _notes(frame)), ""])
