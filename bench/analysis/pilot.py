"""How many images a study needs, from the rows of a pilot.

The neighbours in every table of the pilot are looked at: how much the differences of their images
vary, and how many images a difference would take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from posterior_bench.bench.analysis.adjacent import (
    Ranking,
    adjacent_of_family,
    demand_margin,
    ranking,
    with_heading,
)
from posterior_bench.bench.analysis.families import POWER
from posterior_bench.bench.analysis.power import (
    cautious_spread,
    components,
    images_for_equality,
    images_needed,
)
from posterior_bench.bench.analysis.ranked_groups import RankedGroup
from posterior_bench.bench.analysis.statistics import Array
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.store.row_store import RowStore

COUNTS = ("needed", "cautious", "with_twice", "with_many", "equal")
COLUMNS = ("better", "worse", "difference", "spread", "pairs", *COUNTS)
SHOWN = 100_000
"""A number of images above this is printed as ``> 100000``."""


@dataclass(frozen=True)
class Wish:
    """What a study shall be able to say.

    Parameters
    ----------
    metric : str
        The metric.
    resolve : float, optional
        The difference to be found; without it, that which the pilot observed of each pair.
    margin : float, optional
        The largest difference that counts as none.
    power : float, default POWER
        The share of studies that shall say it.
    draws : int, optional
        Draws of an image in the study; without it, those of the pilot.
    """

    metric: str
    resolve: float | None = None
    margin: float | None = None
    power: float = POWER
    draws: int | None = None


def images_of_pilot(
    study: Path, wish: Wish, keep: Mapping[str, Sequence[str]] | None = None
) -> pd.DataFrame:
    """Return how many images the study needs for every two neighbours in the tables of a pilot.

    Parameters
    ----------
    study : Path
        The folder of the pilot.
    wish : Wish
        What the study shall be able to say.
    keep : mapping of str to sequence of str, optional
        Columns of the leaderboard and the names that cells may have there: the pilot may have more
        cells than the study.

    Returns
    -------
    DataFrame
        :data:`bench.analysis.adjacent.HEADING` of the table; ``better``, ``worse`` and their
        ``difference``; the standard deviation ``spread`` of the differences of images; the number
        of ``pairs`` of the table; the number of images ``needed``, the number that is ``cautious``
        (:func:`bench.analysis.power.cautious_spread`), ``with_twice`` the draws, ``with_many``
        draws, and the number that shows two equal solvers ``equal``. Infinity: out of reach. NaN:
        not asked for, or the pilot does not tell.

    Raises
    ------
    UserError
        If there is no such study or metric, or the pilot ranks nothing.
    """
    demand_margin(wish.margin)
    found = ranking(study, wish.metric, lambda lines: _kept(lines, keep or {}, study))
    tables = [
        with_heading(_table(study, found, group, wish), found, group) for group in found.groups
    ]
    return pd.concat(tables, ignore_index=True)


def _kept(lines: pd.DataFrame, keep: Mapping[str, Sequence[str]], study: Path) -> pd.DataFrame:
    """Return the cells of the pilot that the study has too."""
    for key, names in keep.items():
        lines = lines[lines[key].astype(str).str.partition(" ")[0].isin([*names])]
        if lines.empty:
            raise UserError(f"{study} has no cells with {key}={','.join(names)} as the study has")
    return lines


def _table(study: Path, found: Ranking, group: RankedGroup, wish: Wish) -> pd.DataFrame:
    """Return a line for every two neighbours of one table."""
    pairs = len(group.cells) * (len(group.cells) - 1) // 2
    names = {cell: str(found.lines.at[cell, "label"]) for cell in group.cells}
    means = dict(zip(group.cells, group.family.values, strict=True))
    draws = {cell: _draws(study, cell, group.metric) for cell in group.cells}
    neighbours = adjacent_of_family(group.family, group.cells, found.direction)
    rows = []
    for a, b in neighbours[["better", "worse"]].to_numpy():
        d = means[a] - means[b]
        spreads = _spreads(d, draws[a] - draws[b], wish.draws)
        numbers = _images(float(d.mean()), spreads, len(d), pairs, wish)
        rows.append([names[a], names[b], d.mean(), spreads[0], pairs, *numbers])
    return pd.DataFrame(rows, columns=[*COLUMNS])


def _draws(study: Path, cell: str, metric: str) -> Array:
    """Return the values of a metric ``(images, draws)``, images in the order of their ids."""
    rows = RowStore(study / "cells" / cell).read([metric])
    return rows.pivot(index="image_id", columns="draw", values=metric).to_numpy(float)


def _spreads(means: Array, draws: Array, wanted: int | None) -> tuple[float, float, float]:
    """Return the standard deviation of a difference with the wanted draws, twice them, and many.

    Parameters
    ----------
    means : array (n,)
        Differences of images, draws averaged.
    draws : array (images, draws)
        Differences of draws.
    wanted : int or None
        Draws of an image in the study; None for those of the pilot.
    """
    parts, there = components(draws), draws.shape[1]
    wanted = wanted or there
    told = wanted != there and np.isfinite(parts.draw)
    now = parts.spread(wanted) if told else float(means.std(ddof=1))
    return now, parts.spread(2 * wanted), parts.spread(np.inf)


def _images(
    observed: float, spreads: tuple[float, float, float], n: int, pairs: int, wish: Wish
) -> list[float]:
    """Return the numbers of images that a pair needs: :data:`COLUMNS` from ``needed`` on."""
    now, twice, many = spreads
    difference = observed if wish.resolve is None else wish.resolve
    equal = wish.margin and images_for_equality(wish.margin, now, pairs, wish.power)
    return [
        *(
            images_needed(difference, spread, pairs, wish.power)
            for spread in (now, cautious_spread(now, n), twice, many)
        ),
        np.nan if equal is None else equal,
    ]


# --- in words ---


def answer(frame: pd.DataFrame, wish: Wish, images: int | None) -> str:
    """Return in a few sentences how many pairs so many ``images`` resolve, and how many all take.

    Parameters
    ----------
    frame : DataFrame
        From :func:`images_of_pilot`.
    wish : Wish
        What the study shall be able to say.
    images : int or None
        How many images the study has; None if that is not known.
    """
    what = (
        "the observed difference" if wish.resolve is None else f"a difference of {wish.resolve:g}"
    )
    lines = [_enough(frame["needed"], f"resolve {what} by {wish.metric}", images)]
    if wish.margin is not None:
        lines.append(
            _enough(frame["equal"], f"show equal solvers equal within {wish.margin:g}", images)
        )
    lines.append(
        f"Power {wish.power:.0%} at 5 %, shared by all pairs of a table (Bonferroni). Cautious: "
        "the spread of a pilot is a guess, and with 80 % confidence so many images are enough."
    )
    if wish.resolve is None:
        lines.append(
            "Observed differences of a small pilot are chance too: resolve=DIFFERENCE asks for one "
            "that matters."
        )
    if frame["with_many"].isna().all():
        lines.append(
            "The pilot does not tell what more draws would buy, and its own number is assumed: it "
            "has one draw an image, or one value for all draws."
        )
    return "\n".join(lines)


def _enough(needed: pd.Series, what: str, images: int | None) -> str:
    """Return how many pairs so many images are enough for, and how many half and all take."""
    half, every = (count_text(float(needed.quantile(q, "higher"))) for q in (0.5, 1.0))
    takes = f"half of them take at most {half} images, all {every}."
    if images is None:
        return f"To {what} in {len(needed)} adjacent pairs: {takes}"
    found = int((needed <= images).sum())
    return f"{images} images {what} in {found} of {len(needed)} adjacent pairs; {takes}"


def count_text(images: float) -> str:
    """Return a number of images for people."""
    if np.isnan(images):
        return "-"
    return str(int(images)) if images <= SHOWN else f"> {SHOWN}"
