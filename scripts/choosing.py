"""Write docs/choosing.md: which solver for which need, from the committed rows of the leaderboard.

    python -m scripts.choosing

Every verdict is that of the paired test over all pairs of the leaderboard's table. The text around
the tables is ``docs/leaderboard/choosing.txt``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scripts import leaderboard
from scripts.leaderboard import STUDIES, Published, Table, tables_of

from posterior_bench.bench.analysis.families import Family, family
from posterior_bench.bench.analysis.statistics import means_over_images
from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.conformance.reference_pages import prior_kinds
from posterior_bench.bench.conformance.reference_pages.markdown import codes, table
from posterior_bench.bench.store.atomic import write_atomic

PAGE = leaderboard.ROOT / "docs" / "choosing.md"
COVERAGE = "coverage_90"

Needs = Callable[[pd.DataFrame], bool]
"""Whether a solver will do, told from its cells."""


def _runs(operator: str, kind: str) -> Needs:
    """Return whether a solver runs with an operator and a kind of prior."""

    def will_do(cells: pd.DataFrame) -> bool:
        solver = options("solver").get(str(cells["solver"].iloc[0]))
        chosen = options("operator")[operator]
        return solver is not None and not prior_kinds.missing_capabilities(solver, chosen, kind)

    return will_do


NEEDS: Mapping[str, Needs] = {
    "any method": lambda cells: True,
    "no gradient through the network": lambda cells: cells["nge"].max() == 0,
    "runs on latent priors too": _runs("inpainting", prior_kinds.LATENT),
    "takes blurs and super-resolution too": _runs("super_resolution", prior_kinds.VP),
    "takes operators that are not linear too": _runs("nonlinear_blur", prior_kinds.VP),
}


@dataclass(frozen=True)
class Choice:
    """The best of some solvers.

    Parameters
    ----------
    best : int
        Its place among the solvers of the table.
    alike : sequence of int
        Those that cannot be told apart from it, best first.
    next : int or None
        The best one that is told apart from it.
    """

    best: int
    alike: Sequence[int]
    next: int | None

    @classmethod
    def among(cls, tested: Family, places: Sequence[int]) -> Choice:
        """Choose from places in the order of the means, best first."""
        best, *others = places
        worse = [k for k in others if tested.differ[best, k]]
        return cls(best, [k for k in others if k not in worse], worse[0] if worse else None)


def by_need(study: Published) -> Iterator[str]:
    """Yield the table of a study: a line per need, for the solvers that ran every problem."""
    found = tables_of(study, study.metric)[0]
    names, tested = found.solvers, _family(found)
    means = means_over_images(list(tested.values), study.name)
    lines = []
    for need, will_do in NEEDS.items():
        places = [k for k, name in enumerate(names) if will_do(_cells(found, name))]
        if not places:
            continue
        choice = Choice.among(tested, places)
        k = choice.best
        value = f"{means.mean[k]:.4f} [{means.lo[k]:.4f}, {means.hi[k]:.4f}]"
        lines.append([need, f"`{names[k]}`", value, *_others(choice, tested, names)])
    head = ["need", "lowest mean", f"`{study.metric}` [95 %]", "not told apart", "told apart"]
    yield _heading(found)
    yield from ("", table(head, lines))


def by_problem(study: Published) -> Iterator[str]:
    """Yield the table of a study: a line per problem, each a family of its own."""
    lines = []
    found = tables_of(study, study.metric)[0]
    for problem in found.problems:
        one = _of_problem(found, problem)
        names, tested = one.solvers, _family(one)
        choice = Choice.among(tested, range(len(names)))
        mean = float(tested.values[choice.best].mean())
        others = _others(choice, tested, names)
        lines.append([problem, f"`{names[choice.best]}`", f"{mean:.4f}", *others])
    head = ["problem", "lowest mean", f"`{study.metric}`", "not told apart", "told apart"]
    yield table(head, lines)


def by_coverage(study: Published) -> Iterator[str]:
    """Yield the solvers whose 90 % intervals hold the truth as often as they say."""
    found = tables_of(study, COVERAGE)[0]
    names = [name for name in found.values if name not in study.reference]
    means = means_over_images([found.values[name].to_numpy(float) for name in names], study.name)
    lines = [
        [f"`{names[k]}`", f"{means.mean[k]:.3f} [{means.lo[k]:.3f}, {means.hi[k]:.3f}]"]
        for k in np.argsort(names)
        if means.lo[k] <= 0.9 <= means.hi[k]
    ]
    yield table(["solver", f"`{COVERAGE}` [95 %]"], lines)


def _of_problem(found: Table, problem: str) -> Table:
    """Return the table of one problem."""
    images, metric = leaderboard.read("images"), found.study.metric
    assert images is not None
    cells = found.cells[found.cells["problem"] == problem]
    long = images[["cell", "image_id", metric]].merge(cells[["cell", "label"]], on="cell")
    values = long.pivot(index="image_id", columns="label", values=metric).dropna()
    return Table(found.study, cells, values, [problem])


def _family(found: Table) -> Family:
    values = found.values[found.solvers].to_numpy(float).T
    return family(values, found.study.name)


def _cells(found: Table, solver: str) -> pd.DataFrame:
    return found.cells[found.cells["label"] == solver]


def _others(choice: Choice, tested: Family, names: Sequence[str]) -> tuple[str, str]:
    """Return who is not told apart, and the first who is, with the interval of the difference."""
    alike = ", ".join(f"`{names[k]}`" for k in choice.alike) or "none"
    if choice.next is None:
        return alike, "none"
    lo, hi = tested.interval(choice.next, choice.best)
    difference = float((tested.values[choice.next] - tested.values[choice.best]).mean())
    return alike, f"`{names[choice.next]}`, by {difference:.4f} [{lo:.4f}, {hi:.4f}]"


def _heading(found: Table) -> str:
    passes = found.cells["passes"].median()
    return (
        f"`{found.study.command}`: {len(found.solvers)} methods, {len(found.values)} images of "
        f"each of {codes(found.problems)}; lower is better; {passes:.0f} passes a draw (median)."
    )


def page() -> str:
    """Return the page; a study without committed rows has no section."""
    cells = leaderboard.read("cells")
    assert cells is not None
    needs: list[str] = []
    for study in STUDIES:
        if study.name in set(cells["study"]):
            needs += [f"### Study `{study.name}`", "", *by_need(study), ""]
    arena = STUDIES[0]
    parts = {"needs": needs, "problems": by_problem(arena), "coverage": by_coverage(arena)}
    return leaderboard.filled("choosing.txt", parts)


if __name__ == "__main__":
    write_atomic(PAGE, page().encode())
