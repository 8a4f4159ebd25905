"""The tables of the arena: every solver's distance to the exact posterior, over the same cells.

A solver that cannot run in every cell would otherwise be averaged over easier ones. So there are
two tables: solvers that ran everywhere, over all cells, and all solvers, over the cells that they
share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from posterior_bench.bench.analysis.cell_records import read_cells
from posterior_bench.bench.analysis.columns import labels
from posterior_bench.bench.analysis.statistics import Array
from posterior_bench.bench.analysis.study_summary import image_means
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.store.row_store import RowStore

HEADLINE = "energy_distance_rel"


BESIDE = {"mean_error": "mean error", "cov_error": "covariance error", "c2st": "C2ST"}


RESAMPLES = 2000


Values = Mapping[tuple[str, str], pd.Series]
"""The values of a metric by image id, for every solver and cell ``(solver, cell)`` in which no row
failed."""


@dataclass(frozen=True)
class ArenaMeans:
    """Means over cells of means over images, per solver, with 95 % intervals over images.

    Parameters
    ----------
    mean, lo, hi : Series
        The mean and its interval, by solver.
    difference, difference_lo, difference_hi : Series
        The same of the difference to the reference solver, on the same resamples; NaN without it.
    """

    mean: pd.Series
    lo: pd.Series
    hi: pd.Series
    difference: pd.Series
    difference_lo: pd.Series
    difference_hi: pd.Series


def common_cells(values: Values, solvers: Sequence[str]) -> list[str]:
    """Return the cells in which each of ``solvers`` has values."""
    cells = list(dict.fromkeys(cell for _, cell in values))
    return [cell for cell in cells if all((solver, cell) in values for solver in solvers)]


def arena_means(
    values: Values, solvers: Sequence[str], cells: Sequence[str], reference: str = "exact"
) -> ArenaMeans:
    """Average ``solvers`` over ``cells``.

    Images are resampled within each cell, alike for all solvers. Images without a value for one of
    the solvers are left out for all.

    Raises
    ------
    ValueError
        If no image of a cell is left.
    """
    rng = np.random.default_rng(0)
    total, resampled = np.zeros(len(solvers)), np.zeros((RESAMPLES, len(solvers)))
    for cell in cells:
        table = (
            pd.concat({solver: values[solver, cell] for solver in solvers}, axis=1)
            .dropna()
            .sort_index()
        )
        if table.empty:
            raise ValueError(f"no image of the cell '{cell}' has a value for every solver")
        counts = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), size=RESAMPLES)
        total += table.to_numpy().mean(axis=0) / len(cells)
        resampled += counts @ table.to_numpy() / (len(table) * len(cells))
    base = list(solvers).index(reference) if reference in solvers else None
    nothing = np.full(len(solvers), np.nan)
    apart = resampled - resampled[:, [base]] if base is not None else resampled * np.nan
    columns = [
        total,
        *_ends(resampled),
        total - total[base] if base is not None else nothing,
        *(_ends(apart) if base is not None else (nothing, nothing)),
    ]
    return ArenaMeans(*(pd.Series(column, index=list(solvers)) for column in columns))


def _ends(resampled: Array) -> tuple[Array, Array]:
    lo, hi = np.quantile(resampled, [0.025, 0.975], axis=0)
    return lo, hi


def arena_markdown(study: Path | str, metric: str = HEADLINE, reference: str = "exact") -> str:
    """Return both tables of a study.

    Raises
    ------
    UserError
        If no cell of the study has the metric.
    """
    values = arena_values(study, [metric, *BESIDE])
    if not values[metric]:
        raise UserError(f"no cell of {study} has '{metric}'; run it with metrics=[arena]")
    main = values[metric]
    solvers = sorted({solver for solver, _ in main})
    most = max(sum(name == solver for name, _ in main) for solver in solvers)
    everywhere = [s for s in solvers if sum(name == s for name, _ in main) == most]
    groups = [("Solvers that ran in every cell", everywhere)]
    if len(everywhere) < len(solvers):
        groups.append(("All solvers, on the cells that they have in common", solvers))
    return (
        "\n\n".join(_table(title, values, metric, group, reference) for title, group in groups)
        + "\n"
    )


def _table(
    title: str, values: Mapping[str, Values], metric: str, solvers: Sequence[str], reference: str
) -> str:
    cells = common_cells(values[metric], solvers)
    if not cells:
        return f"{title}: there is no such cell."
    found = arena_means(values[metric], solvers, cells, reference)
    beside = {
        head: arena_means(values[name], solvers, cells, reference).mean
        for name, head in BESIDE.items()
        if set(cells) <= set(common_cells(values[name], solvers))
    }
    heads = ["solver", metric, "95 %", f"minus {reference}", "95 %", *beside]
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    for solver in found.mean.sort_values(kind="stable").index:
        ends = f"[{found.lo[solver]:.3f}, {found.hi[solver]:.3f}]"
        apart = f"[{found.difference_lo[solver]:.3f}, {found.difference_hi[solver]:.3f}]"
        row = [solver, f"{found.mean[solver]:.3f}", ends, f"{found.difference[solver]:.3f}", apart]
        lines.append(
            f"| {' | '.join([*row, *(f'{column[solver]:.3f}' for column in beside.values())])} |"
        )
    return "\n".join([f"{title} ({len(cells)}: {', '.join(cells)}):", "", *lines])


def arena_values(study: Path | str, metrics: Sequence[str]) -> dict[str, Values]:
    """Return per metric the values by image of every complete cell; draws are averaged."""
    values: dict[str, dict[tuple[str, str], pd.Series]] = {metric: {} for metric in metrics}
    cells = read_cells(study)
    names = pd.DataFrame([{"variant": "", **cell.identity, "cell": cell.name} for cell in cells])
    solvers = labels(names)
    for cell, solver in zip(cells, solvers, strict=True):
        rows = RowStore(cell.folder).read()
        if len(rows) < len(cell.planned) * cell.draws or (rows["status"] != "ok").any():
            continue
        for metric in metrics:
            if metric in rows:
                means = image_means(rows, [metric])[metric].droplevel("cell")
                if means.notna().any():
                    values[metric][solver, _cell_name(cell.identity)] = means
    return dict(values)


def _cell_name(identity: Mapping[str, object]) -> str:
    data = str(identity["data"]).removeprefix("arena/")
    mask, operator = (str(identity[name]).split()[0] for name in ("mask", "operator"))
    return f"{data} {operator}" if operator != "inpainting" else f"{data} {mask}"
