"""``bench plan pilot=STUDY``: how many images a study needs, from the rows of a pilot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posterior_bench.bench.cli.parser import Parser, positive
from posterior_bench.bench.core.errors import UserError

if TYPE_CHECKING:  # pandas takes long to load, and help does without
    import pandas as pd
    from rich.table import Table

SETTINGS = ("pilot", "metric", "resolve", "margin", "power")
_NARROWING = ("solver", "data", "mask", "operator")


def add_settings(parser: Parser) -> None:
    """Declare the settings of the question how many images are needed."""
    parser.add_setting(
        "pilot",
        "STUDY",
        "a study folder with a few images: says how many images the new study needs, and nothing "
        "else",
        Path,
    )
    parser.add_setting("metric", "NAME", "with pilot=: the metric that ranks")
    parser.add_setting(
        "resolve",
        "DIFFERENCE",
        "with pilot=: the difference to be found (default: that which the pilot observed)",
        positive,
    )
    parser.add_setting(
        "margin", "DIFFERENCE", "with pilot=: the largest difference that counts as none", positive
    )
    parser.add_setting(
        "power", "SHARE", "with pilot=: the share of studies that find it (default: 0.8)", share
    )


def share(text: str) -> float:
    """Return a number between 0 and 1."""
    number = positive(text)
    if number >= 1:
        raise ValueError("takes a number between 0 and 1, such as 0.8")
    return number


def print_images(cells: Sequence[Sequence[str]], asked: Mapping[str, Any]) -> None:
    """Print how many images the cells of a study need.

    Parameters
    ----------
    cells : sequence of sequence of str
        The settings of every cell.
    asked : mapping
        The values of :data:`SETTINGS`; None where one is left out.

    Raises
    ------
    UserError
        Without pilot= or metric=, and for a pilot that does not tell.
    """
    pilot, metric = asked["pilot"], asked["metric"]
    if pilot is None:
        given = " ".join(f"{key}=" for key in SETTINGS if asked[key] is not None)
        raise UserError(f"{given} asks how many images are needed; give pilot=STUDY, a small study")
    if metric is None:
        raise UserError("pilot= needs metric=NAME, the metric that ranks, such as metric=psnr_hole")
    # these load pandas and Hydra: a mistake in the settings is answered before
    from posterior_bench.bench.analysis.families import POWER
    from posterior_bench.bench.analysis.pilot import Wish, answer, images_of_pilot
    from posterior_bench.bench.core.terminal import out
    from posterior_bench.bench.store.study_files import check_study

    check_study(pilot)
    images, draws = _size(cells[0])
    power = asked["power"] or POWER
    wish = Wish(metric, asked["resolve"], asked["margin"], power, draws)
    frame = images_of_pilot(pilot, wish, _chosen(cells))
    _print_tables(frame, wish.margin is not None, draws)
    out.print(answer(frame, wish, images), markup=False, highlight=False)


def _size(cell: Sequence[str]) -> tuple[int | None, int]:
    """Return how many images and draws a cell has; None where the data decide."""
    # loads Hydra
    from posterior_bench.bench.config.compose import compose
    from posterior_bench.bench.config.overrides import check

    cfg, _ = compose(check(cell, study_sweep=True))
    images = cfg.data.get("images")
    return images if isinstance(images, int) else None, int(cfg.draws)


def _chosen(cells: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """Return the names of the options that all cells name, by group."""
    words = [dict(word.partition("=")[::2] for word in cell) for cell in cells]
    groups = (group for group in _NARROWING if all(group in cell for cell in words))
    return {group: list(dict.fromkeys(cell[group] for cell in words)) for group in groups}


def _print_tables(frame: pd.DataFrame, margin: bool, draws: int) -> None:
    """Print a table for every line-up, with a line for every pair."""
    # loads pandas
    from posterior_bench.bench.analysis.adjacent import lineups
    from posterior_bench.bench.core.terminal import out

    names = {
        "needed": "images",
        "cautious": "cautious",
        "with_twice": f"{2 * draws} draws",
        "with_many": "many draws",
        **({"equal": "equality"} if margin else {}),
    }
    for title, part in lineups(frame):
        pairs = f"{part['pairs'].iloc[0]} pairs in the table"
        out.print(f"{title} · {pairs}", markup=False, highlight=False)
        out.print(_table(part, names), "")


def _table(part: pd.DataFrame, names: Mapping[str, str]) -> Table:
    """Return a table with a line for every pair; ``names`` are the columns with counts."""
    # both load slowly
    from rich.table import Table

    from posterior_bench.bench.analysis.pilot import count_text

    table = Table(box=None, pad_edge=False)
    for name in ("better", "worse"):
        table.add_column(name, overflow="fold")
    for name in ("difference", "spread", *names.values()):
        table.add_column(name, justify="right", no_wrap=True)
    for _, line in part.iterrows():
        numbers = [count_text(line[name]) for name in names]
        moments = [f"{line['difference']:+.3g}", f"{line['spread']:.3g}"]
        table.add_row(line["better"], line["worse"], *moments, *numbers)
    return table
