"""Choose the presets ``fast_small`` on problems that the arena never scores.

    python -m scripts.tune_arena [SOLVER ...]

Every solver of ``study=arena`` tries equally many settings on the same problems: priors and
masks of the arena, but truths of another data name, and masks and noise of another seed.
:data:`GRIDS` lists the settings. The rows are stored in ``runs/tune_arena`` like those of any run,
so an interrupted sweep continues.

The objective of a setting is the energy distance to the exact posterior, relative to the spread of
the posterior, averaged over problems. The best setting that costs no more network passes than
``fast`` is chosen if it is better than ``fast`` by more than two standard errors; otherwise the
solver keeps ``fast``. The script prints two tables for ``docs/tuning.md``. The chosen settings are
copied to ``conf/solver`` by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf, sqrt
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from posterior_bench.bench.analysis import leaderboard
from posterior_bench.bench.config.build import arguments
from posterior_bench.bench.config.catalog import option
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.presets import effective_settings
from posterior_bench.bench.core.cost import total_passes
from posterior_bench.bench.engine.run import run_job
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.bench.store.study_files import read_yaml

STUDY = Path("runs/tune_arena")
NAME, SEED = "arena-tune", 101  # the arena's truths are named arena-g2 and so on, its seed is 0
IMAGES, DRAWS = 12, 8
PROBLEMS = tuple(  # arena and operator: few and many pixels, one mode and several
    product(("g2", "gauss8", "gauss64", "modes2", "modes16"), ("inpainting", "projection"))
)
# these solvers run with masks only
MASKS_ONLY = {"blended", "repaint"}
BASE = "fast"
OBJECTIVE = "energy_distance_rel"
MARGIN = 2.0  # standard errors

Block = Mapping[str, list[Any]]

# The settings of a block are the product of its lists. All blocks of a solver name the same keys,
# so that no setting depends on an existing preset `fast_small`. One setting of each solver is
# `fast` itself.

# CoPaint's regularisation weight is not tried: with one gradient step per level it has no effect,
# because the step starts at the minimum of that term.
_COPAINT: list[Block] = [{"lr": [0.01, 0.025, 0.05, 0.1, 0.2, 0.4]}]
_REDDIFF: list[Block] = [{"lam": [0.25, 1.0, 4.0], "lr": [0.1, 0.2]}]
GRIDS: dict[str, list[Block]] = {
    "blended": [{"eta": [0.0, 0.5, 1.0], "grid": ["native", "logsnr"]}],
    "copaint": _COPAINT,
    "copaint_tt": _COPAINT,
    # inner steps are stable for lr / tau^2 below 2; the measurements have noise of 0.05
    "daps": [
        {"tau": [0.01], "lr": [5e-5, 1e-4]},
        {"tau": [0.02], "lr": [1e-4, 2e-4]},
        {"tau": [0.05], "lr": [2.5e-4, 1.25e-3]},
    ],
    "ddnm": [
        {"steps": [50], "travel_length": [1], "travel_repeat": [1], "eta": [0.5, 0.85, 1.0]},
        {"steps": [25], "travel_length": [5], "travel_repeat": [2], "eta": [0.5, 0.85, 1.0]},
    ],
    "ddrm": [{"eta": [0.5, 0.85, 1.0], "eta_b": [0.85, 1.0]}],
    "diffpir": [{"lam": [0.3, 1.0, 3.0], "zeta": [0.5, 1.0]}],
    "ding": [{"skip": [2, 4, 8], "schedule": ["square", "default"]}],
    "dps": [{"zeta": [0.1, 0.2, 0.3, 0.5, 1.0, 4.0]}],
    "mgdm": [
        {
            "levels": [16],
            "fit_steps": [5],
            "late_steps": [8],
            "inner_steps": [5],
            "lr": [0.03, 0.06, 0.12],
        },
        {
            "levels": [24],
            "fit_steps": [3],
            "late_steps": [4],
            "inner_steps": [3],
            "lr": [0.06, 0.12, 0.25],
        },
    ],
    "mmps": [
        {"steps": [30], "iterations": [2, 3]},
        {"steps": [40], "iterations": [1, 2]},
        {"steps": [60], "iterations": [1]},
        {"steps": [24], "iterations": [4]},
    ],
    "pigdm": [{"data_std": [0.3, 0.5, 1.0], "eta": [0.5, 1.0]}],
    "reddiff": _REDDIFF,
    "reddiff_v": _REDDIFF,
    "repaint": [
        {"steps": [50], "jump_length": [5, 10], "resamples": [3]},
        {"steps": [70], "jump_length": [5, 10], "resamples": [2]},
        {"steps": [30], "jump_length": [3, 5], "resamples": [5]},
    ],
    "tds": [
        {"steps": [20], "particles": [4], "data_std": [0.3, 0.5]},
        {"steps": [10], "particles": [8], "data_std": [0.3, 0.5]},
        {"steps": [40], "particles": [2], "data_std": [0.3, 0.5]},
    ],
    "vipaint1": [
        {"iterations": [28], "refine_scale": [0.1, 0.3, 1.0], "keypoints": [[1.0], [0.5]]}
    ],
    "vipaint2": [
        {"iterations": [28], "refine_scale": [0.1, 0.3, 2.0], "keypoints": [[5.0, 1.0], [2.0, 0.5]]}
    ],
    "vipaint4": [
        {
            "iterations": [14],
            "refine_scale": [0.1, 0.3, 1.0],
            "keypoints": [[5.0, 3.5, 2.5, 1.5, 1.0], [2.0, 1.4, 1.0, 0.7, 0.5]],
        }
    ],
}


def settings(solver: str) -> list[dict[str, Any]]:
    """Return all settings of a solver's grid, in order."""
    blocks = GRIDS[solver]
    return [
        dict(zip(block, values, strict=True))
        for block in blocks
        for values in product(*block.values())
    ]


def shipped(solver: str) -> dict[str, Any]:
    """Return the values of the grid's keys in the preset that every solver has."""
    preset = effective_settings(option("solver", solver).content, BASE)
    return {key: preset[key] for key in GRIDS[solver][0]}


def problems(solver: str) -> list[tuple[str, str]]:
    """Return the problems that a solver can run, as pairs of prior and operator."""
    return [p for p in PROBLEMS if p[1] == "inpainting" or solver not in MASKS_ONLY]


def problem(solver: str, prior: str, operator: str) -> list[str]:
    """Return the overrides that all settings of a solver share on one problem."""
    truths = [f"data.name={NAME}", f"data.images={IMAGES}", f"draws={DRAWS}", f"seed={SEED}"]
    # one batch holds exactly these rows; a larger one would be padded with copies
    speed = [f"batch={IMAGES * DRAWS}", "threads=1", f"metrics={OBJECTIVE}"]
    terse = ["sheet=false", "report=false", "quiet=true", f"out={STUDY / solver}"]
    cell = [f"solver={solver}", f"solver.preset={BASE}"]
    cell += [f"data=arena/{prior}", f"operator={operator}"]
    return [*cell, *truths, *speed, *terse]


Job = tuple[DictConfig, dict[str, object]]


def jobs(solver: str, prior: str, operator: str) -> Iterator[Job]:
    """Compose one job per setting, as the command line does for ``solver.KEY=VALUE``.

    The configuration is composed once for all settings.
    """
    cfg, choices = compose(problem(solver, prior, operator))
    for setting in settings(solver):
        job = cfg.copy()
        for key, value in setting.items():
            job.solver[key] = value
        yield job, choices


def sweep(solvers: Sequence[str]) -> None:
    """Run the missing rows, problem by problem, so that exact draws are made once each."""
    for (prior, operator), solver in product(PROBLEMS, solvers):
        if (prior, operator) in problems(solver):
            for job in jobs(solver, prior, operator):
                run_job(*job, sweep=True)


@dataclass(frozen=True)
class Tried:
    """Result of one setting.

    Parameters
    ----------
    setting : dict[str, Any]
        Values of the grid's keys.
    objective : DataFrame
        Objective of each image (rows) on each problem (columns).
    passes : float
        Network passes per draw.
    failed : int
        Number of failed rows.
    """

    setting: dict[str, Any]
    objective: pd.DataFrame
    passes: float
    failed: int

    @classmethod
    def of(cls, setting: dict[str, Any], cells: Mapping[tuple[str, str], pd.DataFrame]) -> Tried:
        """Collect the result from the rows of each problem's cell."""
        rows = pd.concat(cells.values())
        objective = pd.DataFrame(
            {" ".join(p): cell.groupby("image_id")[OBJECTIVE].mean() for p, cell in cells.items()}
        )
        passes = float(total_passes(rows["nfe"], rows["nge"]).mean())
        return cls(setting, objective, passes, int((rows["status"] != "ok").sum()))

    @property
    def mean(self) -> float:
        """Return the mean objective, or infinity if rows failed."""
        return inf if self.failed else float(self.objective.to_numpy().mean())

    @property
    def error(self) -> float:
        """Return the standard error of the mean objective."""
        return standard_error(self.objective)


def standard_error(values: pd.DataFrame) -> float:
    """Return the standard error of the mean over images.

    Problems share the noise that made an image, so they are not independent and count as one.
    """
    per_image = values.mean(axis=1)
    return float(per_image.std(ddof=1) / sqrt(len(per_image)))


def read(study: Path, solver: str) -> list[Tried]:
    """Read the results of a solver's grid from the rows of its sweep."""
    keys = list(GRIDS[solver][0])
    rows_of: dict[tuple[str, tuple[str, str]], pd.DataFrame] = {}
    for record in map(read_yaml, sorted(study.glob("cells/*/config.yaml"))):
        config, names = record["config"], record["identity"]
        values = arguments(config["solver"])
        rows = RowStore(study / "cells" / record["cell"]).read()
        cell_problem = (names["prior"].split()[0], names["operator"].split()[0])
        rows_of[str({key: values[key] for key in keys}), cell_problem] = rows
    wanted = problems(solver)
    return [
        Tried.of(setting, {p: rows_of[str(setting), p] for p in wanted})
        for setting in settings(solver)
    ]


@dataclass(frozen=True)
class Choice:
    """Result of ``fast`` and of the best setting that costs no more."""

    solver: str
    fast: Tried
    best: Tried

    @property
    def gain(self) -> float:
        """Return by how much the best setting is better than ``fast``."""
        return self.fast.mean - self.best.mean

    @property
    def gain_error(self) -> float:
        """Return the standard error of the gain over images."""
        return standard_error(self.fast.objective - self.best.objective)

    @property
    def better(self) -> bool:
        """Tell whether the best setting is significantly better than ``fast``."""
        return self.best is not self.fast and self.gain > MARGIN * self.gain_error


def choose(solver: str, tried: list[Tried]) -> Choice:
    """Choose the best setting of a solver that costs no more than ``fast``."""
    fast = next(t for t in tried if t.setting == shipped(solver))
    affordable = [t for t in tried if t.passes <= fast.passes * (1 + 1e-9)]
    return Choice(solver, fast, min(affordable, key=lambda t: t.mean))


def summary(choices: list[Choice], counts: list[int]) -> str:
    """Format one line per solver, as Markdown."""
    head = (
        "| solver | tried | `fast` | best | E of `fast` | E of the best | gain | passes | preset |"
    )
    lines = [head, "| --- | ---: | --- | --- | ---: | ---: | ---: | ---: | --- |"]
    for c, count in zip(choices, counts, strict=True):
        lines.append(f"| {' | '.join(summary_cells(c, count))} |")
    return "\n".join(lines)


def summary_cells(c: Choice, count: int) -> list[str]:
    """Format the line of one solver, which tried ``count`` settings."""
    fast, best, same = c.fast, c.best, c.best is c.fast
    keys = [k for k in fast.setting if same or fast.setting[k] != best.setting[k]]
    return [
        c.solver,
        str(count),
        words(fast.setting, keys),
        "the same" if same else words(best.setting, keys),
        f"{fast.mean:.3f} ± {fast.error:.3f}",
        "" if same else f"{best.mean:.3f} ± {best.error:.3f}",
        "" if same else f"{c.gain:.3f} ± {c.gain_error:.3f}",
        f"{fast.passes:.0f}" if same else f"{fast.passes:.0f} → {best.passes:.0f}",
        "**fast_small**" if c.better else "fast",
    ]


def details(solvers: list[str], tried: list[list[Tried]]) -> str:
    """Format one line per setting, as Markdown."""
    lines = [
        "| solver | setting | E | passes | failed rows |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for solver, mine in zip(solvers, tried, strict=True):
        for t in mine:
            value = "" if t.failed else f"{t.mean:.3f} ± {t.error:.3f}"
            mark = " (`fast`)" if t.setting == shipped(solver) else ""
            lines.append(
                f"| {solver} | {words(t.setting)}{mark} | {value} | {t.passes:.1f} | {t.failed} |"
            )
    return "\n".join(lines)


def words(setting: Mapping[str, Any], keys: Iterable[str] | None = None) -> str:
    """Format a setting, or some keys of it, in one line."""
    return ", ".join(f"{k} {setting[k]}" for k in (setting if keys is None else keys))


def report(solvers: Sequence[str]) -> str:
    """Format both tables from the stored rows."""
    tried = [read(STUDY / solver, solver) for solver in solvers]
    choices = [choose(solver, mine) for solver, mine in zip(solvers, tried, strict=True)]
    return f"{summary(choices, [len(mine) for mine in tried])}\n\n{details(list(solvers), tried)}"


def main(solvers: Sequence[str]) -> None:
    """Run the sweeps, then print both tables."""
    sweep(solvers)
    for solver in solvers:
        leaderboard.write(STUDY / solver)
    print(report(solvers))


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "solvers", nargs="*", metavar="SOLVER", help=f"default all: {', '.join(GRIDS)}"
    )
    options = parser.parse_args()
    if unknown := sorted(set(options.solvers) - GRIDS.keys()):
        parser.error(f"no grid for {', '.join(unknown)}; valid: {', '.join(GRIDS)}")
    return options


if __name__ == "__main__":
    main(read_arguments().solvers or list(GRIDS))
