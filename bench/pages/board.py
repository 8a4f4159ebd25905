"""The page of the leaderboard of many people: one file that opens from disk without a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

ASSETS = Path(__file__).parent / "assets"


def board_page(
    tasks: Sequence[dict[str, Any]], refused: Sequence[tuple[str, str]], bundles: int, version: str
) -> bytes:
    """Return the page.

    Parameters
    ----------
    tasks : sequence of dict
        The tables of :func:`bench.pages.board_tables.task_tables`.
    refused : sequence of (str, str)
        Bundles that are not shown, and why.
    bundles : int
        How many bundles are shown.
    version : str
        The version of this product.
    """
    jinja = Environment(
        loader=FileSystemLoader([ASSETS / "board", ASSETS / "report"]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    lines = [line for task in tasks for part in task["versions"] for line in part["lines"]]
    choices = {
        "data": sorted({task["data"] for task in tasks}),
        "mask": sorted({task["mask"] for task in tasks}),
        "prior": sorted({line["prior"] for line in lines}),
    }
    page = jinja.get_template("board.html").render(
        tasks=tasks,
        refused=refused,
        bundles=bundles,
        version=version,
        lines=len(lines),
        choices=choices,
        people=len({line["entry"].by for line in lines}),
    )
    return page.encode()
