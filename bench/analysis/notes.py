"""The notes below a leaderboard: what a reader must know before quoting a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from posterior_bench.bench.analysis import tables
from posterior_bench.bench.analysis.cell_records import Card, CellRecord
from posterior_bench.bench.analysis.columns import range_text
from posterior_bench.bench.analysis.statistics import FEWEST, RESAMPLES
from posterior_bench.bench.analysis.study_summary import CellSummary
from posterior_bench.bench.core import cost

NAMED = 6
"""More cells than these are counted in a note instead of named."""


SMALL_SET = 50
"""Distances between sets of features get a warning below so many images."""


def rank_notes(frame: pd.DataFrame, named: pd.DataFrame) -> list[str]:
    """Return how the letters came about, or why there are none."""
    notes = []
    if named.shape[1]:
        notes.append(
            "Rank: two solvers that share a letter cannot be told apart at 5 % (sign-flip "
            "permutation test of the paired differences of the same images, two-sided, adjusted "
            "over all pairs of a table with the same prior and draws: single-step max-T). No "
            "letters where rows failed or are missing, or where a value is infinite."
        )
    elif frame.groupby(tables.RANKED).size().max() > 1 and frame["images"].min() < FEWEST:
        notes.append(
            f"No rank letters: with fewer than {FEWEST} images no solver can be called better than "
            "another."
        )
    but_draws = [name for name in tables.RANKED if name != "draws"]
    if (frame.groupby(but_draws)["draws"].nunique() > 1).any():
        notes.append(
            f"Cells with different draws an image ({range_text(frame['draws'])}) are not ranked "
            "against each other: a mean over more draws varies less."
        )
    return notes


def main_notes(frame: pd.DataFrame, planned: int, metrics: Mapping[str, Card]) -> list[str]:
    """Return what a reader must know before quoting a number."""
    commits = sorted({commit for commit in frame["commit"] if commit}) or ["unknown"]
    dirty = frame[[value is True for value in frame["dirty"]]]
    failed, missing = int(frame["failed"].sum()), int(frame["missing"].sum())
    counts = frame[
        [name for name in frame if name.endswith("_n") and name[:-2] in metrics]
    ].to_numpy()
    means = (
        f"{range_text(frame['images'])} images x {range_text(frame['draws'])} draws. Means over "
        "images, draws averaged first"
    )
    few = (
        f"No interval where fewer than {FEWEST} images have a value: it would hold the true mean "
        "far too rarely."
    )
    if (counts >= FEWEST).any():
        means += (
            f", with 95 % bootstrap CI (BCa, tails expanded for few images, {RESAMPLES} resamples "
            "of images)"
        )
    few = few if ((counts > 0) & (counts < FEWEST)).any() else ""
    notes = [
        f"{means}. {few}".strip(),
        f"Costs are per draw, what was spent once per image shared by its draws. {cost.NOTE}",
        f"Prior: {', '.join(sorted({*frame['prior'].astype(str)}))}. Commit: {', '.join(commits)}.",
    ]
    if len(dirty):
        notes.append(
            f"WARNING: {len(dirty)} of {len(frame)} cells ran on a dirty tree: their code is in no "
            f"commit ({', '.join(dict.fromkeys(dirty['solver']))})."
        )
    notes.append(f"Rows: {planned} planned, {missing} missing, {failed} failed.")
    if failed or missing:
        notes.append(
            f"{tables.INCOMPLETE} Some rows failed or are missing. They are left out of the means, "
            "never counted as zero, so the means are over other images or draws, and these cells "
            "are not ranked."
        )
    pairs = zip(frame["solver"], frame["variant"], strict=True)
    changed = dict.fromkeys(
        f"{solver}: {variant}" for solver, variant in pairs if variant not in solver
    )
    if changed:
        notes.append(f"Settings other than the shipped ones: {'; '.join(changed)}.")
    return notes


def infinite_notes(frame: pd.DataFrame, metrics: Mapping[str, Card]) -> list[str]:
    """Return a note on the cells that have infinite values."""
    alike: dict[str, list[str]] = {}
    for m in metrics:
        infinite, images = frame[f"{m}_inf"], frame[f"{m}_inf"] + frame[f"{m}_n"]
        if infinite.any():
            lines = zip(frame["solver"], infinite, images, strict=True)
            each = dict.fromkeys(
                f"{solver} {some} of {every}" for solver, some, every in lines if some
            )
            words = ", ".join(each)
            if (infinite == images).all():
                words = "all images of all cells"
            elif len(each) > NAMED:
                words = f"{(infinite > 0).sum()} of {len(frame)} cells, counted in {m}_inf"
            alike.setdefault(words, []).append(m)
    if not alike:
        return []
    parts = "; ".join(f"{', '.join(names)}: {words}" for words, names in alike.items())
    return [
        "Infinite values, as perfect images have, are in no mean, and a cell is not ranked by a "
        f"metric that has them. {parts}."
    ]


def preset_notes(cells: Sequence[CellRecord]) -> list[str]:
    """Return which solvers ran with a preset that was chosen for other priors."""
    foreign = [
        cell.identity
        for cell in cells
        if cell.identity.get("preset") and not cell.identity.get("preset_from")
    ]
    runs = (
        f"{i['solver']} with {i['preset']} (for {i['preset_for']}) on {i['prior']}" for i in foreign
    )
    listed = "; ".join(dict.fromkeys(runs))
    return (
        [f"Presets chosen for another prior than the one they ran on: {listed}."] if foreign else []
    )


def auto_notes(cells: Sequence[CellRecord]) -> list[str]:
    """Return which cells added images until a mean was known well enough, and which did not."""
    rules: dict[tuple[object, ...], list[CellRecord]] = {}
    for cell in cells:
        if cell.auto:
            rule = [cell.auto[key] for key in ("metric", "half_width", "limit", "looks")]
            rules.setdefault(tuple(rule), []).append(cell)
    return [_auto_note(rule, found) for rule, found in rules.items()]


def _auto_note(rule: tuple[object, ...], cells: Sequence[CellRecord]) -> str:
    metric, wanted, limit, looks = rule
    short = [cell for cell in cells if not cell.auto["reached"]]
    ended = f"{len(cells) - len(short)} of {len(cells)} cells reached it"
    if short:
        each = (
            f"{c.identity['solver']} ± {c.auto['found']:.2g} with {c.identity['images']} images"
            for c in short
        )
        ended += f", others ended: {', '.join(dict.fromkeys(each))}"
    return (
        f"data.images=auto: images were added until the mean of {metric} was known within "
        f"± {wanted} at 95 %, or to {limit} images; {looks} looks planned (Bonferroni). {ended}. "
        "Cells with different numbers of images are not ranked against each other."
    )


def conditioning_notes(cells: Sequence[CellRecord]) -> list[str]:
    """Return which priors were given no class or prompt, or a part of one."""
    asked: dict[str, list[str]] = {}
    for i in (cell.identity for cell in cells if cell.identity.get("asked")):
        asked.setdefault(f"{i['prior']} on {i['data']} with {i['asked']}", []).append(
            str(i["solver"])
        )
    listed = "; ".join(
        f"{what} ({', '.join(dict.fromkeys(solvers))})" for what, solvers in asked.items()
    )
    cut = dict.fromkeys(
        f"{i['cut']} of {i['data']}" for i in (c.identity for c in cells) if i.get("cut")
    )
    lines = [f"Priors asked without a class or prompt of the image: {listed}."] if asked else []
    return lines + (
        [f"Prompts longer than the text encoder reads, cut by it: {'; '.join(cut)}."] if cut else []
    )


def batch_notes(parts: Sequence[CellSummary]) -> list[str]:
    """Return how many rows were computed in a smaller batch than planned.

    The padded batch is part of what fixes the bits of a row.
    """
    smaller, rows = sum(part.smaller for part in parts), sum(part.ok for part in parts)
    if not smaller:
        return []
    return [
        f"Memory ran out for {smaller} of {rows} rows: they are from smaller batches (column "
        "padded_batch). They agree with those of a machine with more memory within rounding, not "
        "bit for bit."
    ]


def small_set_notes(frame: pd.DataFrame, cells: Sequence[CellRecord]) -> list[str]:
    """Return which metrics of sets are biased, or mostly chance, because the sets are small."""
    cards = {m: card for cell in cells for m, card in cell.metrics.items()}
    limits = {m: int(card.get("small") or 0) for m, card in cards.items()}
    low = {
        m: limit
        for m, limit in limits.items()
        if limit and (frame[f"{m}_n"].between(1, limit)).any()
    }
    networks = {
        m
        for cell in cells
        for m, card in cell.metrics.items()
        if m in cell.sets and card.get("features")
    }
    chance = [
        m
        for m in limits
        if m in networks - {*low} and frame[f"{m}_n"].between(1, SMALL_SET - 1).any()
    ]
    notes = [
        f"WARNING: {m} is {cards[m].get('caution') or 'biased upward'} at N <= {limit} images "
        f"(here {range_text(frame[f'{m}_n'])}); compare it at equal N with the same originals only."
        for m, limit in low.items()
    ]
    if chance:
        notes.append(
            f"WARNING: {', '.join(chance)} of {range_text(frame[f'{chance[0]}_n'])} images: chance "
            "moves distances between so small sets by much of their value. Published ones are of "
            "thousands of images."
        )
    return notes
