"""Tune several solvers one after the other, and keep what was found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from posterior_bench.bench.analysis import leaderboard
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.core import terminal
from posterior_bench.bench.core.errors import Inapplicable
from posterior_bench.bench.store.atomic import write_atomic
from posterior_bench.bench.tuning.preset import TunedPreset, best_line
from posterior_bench.bench.tuning.search import (
    Problem,
    Search,
    Trial,
    search,
    standard_error,
)

TRIALS, PRESET, SUMMARY = "trials.csv", "preset.yaml", "tuned.csv"
"""Files of a search in the study of its solver, and the table of all searches beside them."""


def tune_solvers(
    cells: Sequence[Sequence[str]],
    out: Path,
    objective: str,
    trials: int,
    name: str | None,
    write: bool,
) -> int:
    """Tune the solvers of some cells; each solver has a study of its own, ``out/SOLVER``.

    Parameters
    ----------
    cells : sequence of sequence of str
        The settings of every cell: each names a solver and a problem.
    out : Path
        The folder of the studies.
    objective : str
        The column to optimise.
    trials : int
        Settings to try for each solver.
    name : str or None
        The name of the preset; None = a usual one.
    write : bool
        Put the preset into the YAML file of the solver.

    Returns
    -------
    int
        0 if every solver has a result, else 1.
    """
    problems: dict[str, list[Problem]] = {}
    for cell in cells:
        cfg, choices = compose(check(cell, study_sweep=True))
        solver = str(choices["solver"])
        cfg.out, cfg.quiet = str(out / solver), True
        # a larger batch would be padded with copies, which cost passes and change nothing
        if isinstance(cfg.batch, int):
            cfg.batch = min(cfg.batch, int(cfg.data.images) * int(cfg.draws))
        problems.setdefault(solver, []).append(Problem(cfg, choices))
    good = [
        _tune(solver, mine, out, objective, trials, name, write)
        for solver, mine in problems.items()
    ]
    return 0 if all(good) else 1


def _tune(
    solver: str,
    problems: Sequence[Problem],
    out: Path,
    objective: str,
    trials: int,
    name: str | None,
    write: bool,
) -> bool:
    """Tune one solver; return whether it can run any of the problems."""

    def tell(number: int, trial: Trial) -> None:
        terminal.out.print(f"{solver} {number + 1}/{trials}: {_told(trial)}", markup=False)

    seed = int(problems[0].cfg.seed)
    try:
        found = search(solver, problems, objective, trials, seed, tell)
    except Inapplicable as error:
        terminal.remark(f"bench: skipped {solver}: {error}")
        return False
    folder = out / solver
    leaderboard.write(folder)
    write_atomic(folder / TRIALS, _trials(found).to_csv(index=False).encode())
    preset = TunedPreset.of(found, seed, name)
    write_atomic(folder / PRESET, f"presets:\n{preset.text()}".encode())
    _add_to_summary(out, found, preset)
    terminal.out.print(best_line(found), markup=False)
    place = preset.write(solver) if write else folder / PRESET
    terminal.out.print(f"{place}: {preset.name}", style="dim")
    return True


def _told(trial: Trial) -> str:
    if trial.refused:
        return f"{trial.words}: {trial.refused}"
    result = f"{trial.value:.4g}" if trial.good else f"{trial.failed} failed rows"
    return f"{trial.words}: {result} ({trial.passes / trial.rows:.0f} passes)"


def _trials(found: Search) -> pd.DataFrame:
    """Return a line per trial."""
    best = found.ranked[0] if found.ranked else None
    return pd.DataFrame(
        {
            "trial": number,
            "setting": json.dumps(dict(trial.setting)),
            "work": json.dumps(dict(trial.work)),
            found.objective: trial.value,
            "difference_se": standard_error(best, trial) if best and trial.good else None,
            "passes": trial.passes / trial.rows if trial.rows else None,
            "rows": trial.rows,
            "failed": trial.failed,
            "refused": trial.refused,
        }
        for number, trial in enumerate(found.trials)
    )


def _add_to_summary(out: Path, found: Search, preset: TunedPreset) -> None:
    """Replace the line of a solver in the table of all searches."""
    said = preset.content["tuned"]
    line = {
        "solver": found.solver,
        "preset": preset.name,
        "objective": found.objective,
        **{key: said.get(key) for key in ("before", "value", "gain_se", "trials", "rows")},
        "refused": sum(bool(trial.refused) for trial in found.trials),
        "failed": sum(trial.failed for trial in found.trials),
        **{key: said.get(key) for key in ("passes", "flat", "seed", "date", "commit")},
        "setting": json.dumps(dict(found.ranked[0].setting)),
    }
    path = out / SUMMARY
    table = pd.read_csv(path) if path.exists() else pd.DataFrame()
    if "solver" in table:
        table = table[table["solver"] != found.solver]
    table = pd.concat([table, pd.DataFrame([line])]).sort_values("solver")
    write_atomic(path, table.to_csv(index=False).encode())
