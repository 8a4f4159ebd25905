"""Choose the presets ``fast_small`` on problems that the arena never scores.

    python -m scripts.tune_arena [SOLVER ...]

Every solver of ``study=arena`` tries as many settings, on the same problems: priors and masks of
the arena, but truths of another data name, and masks and noise of another seed. The settings are
the data of this file, :data:`GRIDS`. Their rows are those of any run, in ``runs/tune_arena``:
interrupted, it goes on where it was.

A setting is judged by the energy distance to the exact posterior, in units of the posterior's own
spread, averaged over problems. The best one that costs no more network passes than ``fast`` is
chosen if it is better than ``fast`` by more than two standard errors; else the solver keeps
``fast``. Two tables are printed for ``docs/tuning.md``; what was chosen goes into ``conf/solver``
by hand.
"""

from __future__ import annotations

import sys
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
from posterior_bench.bench.config.presets import effective
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
MASKS_ONLY = {
    "blended",
    "ddnm",
    "ddrm",
    "ding",
    "pigdm",
    "repaint",
}  # with noise on the measurement
BASE = "fast"
OBJECTIVE = "energy_distance_rel"
MARGIN = 2.0  # standard errors

Block = Mapping[str, list[Any]]

# A block is the product of its lists. Every block of a solver names the same keys, so that no
# setting depends on a preset `fast_small` that is there already. One setting of each solver is
# `fast` itself. its weight does nothing with one gradient step a level, which starts where that
# term has its minimum
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
    """What a solver tries, in the order of its grid."""
    blocks = GRIDS[solver]
    return [
        dict(zip(block, values, strict=True))
        for block in blocks
        for values in product(*block.values())
    ]


def shipped(solver: str) -> dict[str, Any]:
    """The value of the grid's keys in the preset that every solver has."""
    preset = effective(option("solver", solver).content, BASE)
    return {key: preset[key] for key in GRIDS[solver][0]}


def problems(solver: str) -> list[tuple[str, str]]:
    return [p for p in PROBLEMS if p[1] == "inpainting" or solver not in MASKS_ONLY]


def problem(solver: str, prior: str, operator: str) -> list[str]:
    """What all settings of a solver have in common on one problem."""
    truths = [f"data.name={NAME}", f"data.images={IMAGES}", f"draws={DRAWS}", f"seed={SEED}"]
    # a batch of just these rows: a larger one is filled up with copies
    speed = [f"batch={IMAGES * DRAWS}", "threads=1", f"metrics={OBJECTIVE}"]
    terse = ["sheet=false", "report=false", "quiet=true", f"out={STUDY / solver}"]
    given = [
        f"solver={solver}",
        f"solver.preset={BASE}",
        f"data=arena/{prior}",
        f"operator={operator}",
    ]
    return [*given, *truths, *speed, *terse]


Job = tuple[DictConfig, dict[str, object]]


def jobs(solver: str, prior: str, operator: str) -> Iterator[Job]:
    """One job per setting: what the command line makes of ``solver.KEY=VALUE``, composed once for
    all.
    """
    cfg, choices = compose(problem(solver, prior, operator))
    for setting in settings(solver):
        job = cfg.copy()
        for key, value in setting.items():
            job.solver[key] = value
        yield job, choices


def sweep(solvers: Sequence[str]) -> None:
    """Run what is missing, problem after problem: their exact draws are then made once."""
    for (prior, operator), solver in product(PROBLEMS, solvers):
        if (prior, operator) in problems(solver):
            for job in jobs(solver, prior, operator):
                run_job(*job, sweep=True)


@dataclass(frozen=True)
class Tried:
    """One setting: its ``objective``, images by problems; network passes of a draw; failed rows."""

    setting: dict[str, Any]
    objective: pd.DataFrame
    passes: float
    failed: int

    @classmethod
    def of(cls, setting: dict[str, Any], cells: Mapping[tuple[str, str], pd.DataFrame]) -> Tried:
        rows = pd.concat(cells.values())
        objective = pd.DataFrame(
            {" ".join(p): cell.groupby("image_id")[OBJECTIVE].mean() for p, cell in cells.items()}
        )
        passes = float(total_passes(rows["nfe"], rows["nge"]).mean())
        return cls(setting, objective, passes, int((rows["status"] != "ok").sum()))

    @property
    def mean(self) -> float:
        return inf if self.failed else float(self.objective.to_numpy().mean())

    @property
    def error(self) -> float:
        return standard_error(self.objective)


def standard_error(values: pd.DataFrame) -> float:
    """Of the mean, by images: problems share the noise that made an image, so they do not count
    apart.
    """
    per_image = values.mean(axis=1)
    return float(per_image.std(ddof=1) / sqrt(len(per_image)))


def read(study: Path, solver: str) -> list[Tried]:
    """The settings of a solver's grid, from the rows of its sweep."""
    keys = list(GRIDS[solver][0])
    found: dict[tuple[str, tuple[str, str]], pd.DataFrame] = {}
    for record in map(read_yaml, sorted(study.glob("cells/*/config.yaml"))):
        config, names = record["config"], record["identity"]
        given = arguments(config["solver"])
        rows = RowStore(study / "cells" / record["cell"]).read()
        asked = (names["prior"].split()[0], names["operator"].split()[0])
        found[str({key: given[key] for key in keys}), asked] = rows
    wanted = problems(solver)
    return [
        Tried.of(setting, {p: found[str(setting), p] for p in wanted})
        for setting in settings(solver)
    ]


@dataclass(frozen=True)
class Choice:
    """What ``fast`` does, the best setting that costs no more, and whether that is better for
    sure.
    """

    solver: str
    fast: Tried
    best: Tried

    @property
    def gain(self) -> float:
        return self.fast.mean - self.best.mean

    @property
    def gain_error(self) -> float:
        return standard_error(self.fast.objective - self.best.objective)

    @property
    def better(self) -> bool:
        return self.best is not self.fast and self.gain > MARGIN * self.gain_error


def choose(solver: str, tried: list[Tried]) -> Choice:
    fast = next(t for t in tried if t.setting == shipped(solver))
    affordable = [t for t in tried if t.passes <= fast.passes * (1 + 1e-9)]
    return Choice(solver, fast, min(affordable, key=lambda t: t.mean))


def summary(choices: list[Choice], counts: list[int]) -> str:
    """One line per solver, as Markdown."""
    head = (
        "| solver | tried | `fast` | best | E of `fast` | E of the best | gain | passes | preset |"
    )
    lines = [head, "| --- | ---: | --- | --- | ---: | ---: | ---: | ---: | --- |"]
    for c, count in zip(choices, counts, strict=True):
        same = c.best is c.fast
        varied = [k for k in c.fast.setting if same or c.fast.setting[k] != c.best.setting[k]]
        cells = [
            c.solver, str(count), words(c.fast.setting, varied), "the same" if same else words(c.best.setting, varied),
            f"{c.fast.mean:.3f} ± "
            f"{c.fast.error:.3f}", "" if same else f"{c.best.mean:.3f} ± {c.best.error:.3f}",
            "" if same else f"{c.gain:.3f} ± {c.gain_error:.3f}",
            f"{c.fast.passes:.0f}" if same else f"{c.fast.passes:.0f} → {c.best.passes:.0f}",
            "**fast_small**" if c.better else "fast",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def details(solvers: list[str], tried: list[list[Tried]]) -> str:
    """One line per setting, as Markdown."""
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
    return ", ".join(f"{k} {setting[k]}" for k in (setting if keys is None else keys))


def report(solvers: Sequence[str]) -> str:
    """Both tables, from the rows that are there."""
    tried = [read(STUDY / solver, solver) for solver in solvers]
    choices = [choose(solver, mine) for solver, mine in zip(solvers, tried, strict=True)]
    return f"{summary(choices, [len(mine) for mine in tried])}\n\n{details(list(solvers), tried)}"


def main(solvers: Sequence[str]) -> None:
    """Sweep, then print both tables."""
    sweep(solvers)
    for solver in solvers:
        leaderboard.write(STUDY / solver)
    print(report(solvers))


if __name__ == "__main__":
    main(sys.argv[1:] or list(GRIDS))
