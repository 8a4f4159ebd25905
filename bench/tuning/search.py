"""Look for the settings of a solver, with the same effort for every solver.

Every trial runs the same images of the same problems, within the same budget of network passes, so
the effort of a search is ``trials x rows x passes``, whatever the method. The first trial is the
preset that the problems have today. A tree-structured Parzen estimator of Optuna proposes the
others (Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011).

Every trial is a cell of an ordinary study. The proposals follow from the seed and from the values
of the trials before, so a search that was interrupted proposes the same trials again, and finds
their rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf, sqrt
from typing import TYPE_CHECKING, Any

import pandas as pd
from omegaconf import DictConfig

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.presets import choose, effective_settings
from posterior_bench.bench.config.search_spaces import Choices, Range, Space, space_of
from posterior_bench.bench.core import terminal
from posterior_bench.bench.core.cost import total_passes
from posterior_bench.bench.core.errors import Inapplicable, UserError, unknown
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.plan import CellPlan
from posterior_bench.bench.engine.run import run_job
from posterior_bench.bench.store.study_files import read_cell
from posterior_bench.solvers.base import Solver

if TYPE_CHECKING:
    from optuna.trial import Trial as Proposal

STARTUP = 5
"""So many trials are random, before the estimator knows enough; Optuna takes 10."""

ALIKE = 2.0
"""Trials whose paired difference is below so many standard errors count as equal."""


@dataclass(frozen=True)
class Problem:
    """One problem of a search, as Hydra composed it for the solver."""

    cfg: DictConfig
    choices: Mapping[str, Any]

    @property
    def data(self) -> str:
        """The chosen data."""
        return str(self.choices["data"])

    @property
    def task(self) -> str:
        """The operator, or the mask where that is all."""
        operator, mask = str(self.choices["operator"]), str(self.choices["mask"])
        return mask if operator == "inpainting" else operator

    @property
    def name(self) -> str:
        """Data and task."""
        return f"{self.data} {self.task}"


@dataclass(frozen=True)
class Trial:
    """The result of one setting.

    Parameters
    ----------
    setting : Mapping of str to Any
        Values of the settings of the space.
    objective : DataFrame, default empty
        The objective of each image (rows) on each problem (columns), draws averaged; empty if
        ``refused`` says why the setting could not run.
    work : Mapping of str to Any
        The settings of the work that the budget chose.
    passes : float, default 0
        Network passes of all rows together, forward and backward.
    rows, failed : int, default 0
        Number of rows, and of those that are not ok.
    refused : str, default ''
        Why the setting cannot run: a value that the solver refuses, or more work than the budget.
    """

    setting: Mapping[str, Any]
    objective: pd.DataFrame = field(default_factory=pd.DataFrame)
    work: Mapping[str, Any] = field(default_factory=dict)
    passes: float = 0.0
    rows: int = 0
    failed: int = 0
    refused: str = ""

    @property
    def words(self) -> str:
        """The setting in words: ``tau 0.01, lr 0.1``."""
        return ", ".join(f"{key} {value}" for key, value in self.setting.items())

    @property
    def good(self) -> bool:
        """Whether every row has a value."""
        return not self.refused and not self.failed and bool(self.objective.notna().all(axis=None))

    @cached_property
    def value(self) -> float:
        """The mean objective over problems and images; NaN if a row failed."""
        return float(self.objective.to_numpy().mean()) if self.good else math.nan


@dataclass(frozen=True)
class Search:
    """A finished search.

    Parameters
    ----------
    solver, preset : str
        The solver, and the preset that the search began with.
    problems : sequence of Problem
        The problems that the solver can run.
    objective, direction : str
        The column that was optimised, and its better end, ``up`` or ``down``.
    trials : sequence of Trial
        All trials in order. The first one is the preset.
    space : Space
        The space that was searched.
    """

    solver: str
    preset: str
    problems: Sequence[Problem]
    objective: str
    direction: str
    trials: Sequence[Trial]
    space: Space

    @property
    def ranked(self) -> list[Trial]:
        """The trials whose rows are all good, the best first; of equal ones the earlier first."""
        good = [trial for trial in self.trials if trial.good]
        return sorted(
            good, key=lambda trial: -trial.value if self.direction == "up" else trial.value
        )

    @property
    def alike(self) -> int:
        """How many trials are no worse than the best one by :data:`ALIKE` standard errors."""
        best, *others = self.ranked
        return 1 + sum(abs(best.value - t.value) <= ALIKE * standard_error(best, t) for t in others)


def standard_error(one: Trial, other: Trial) -> float:
    """Return the standard error of the paired difference of two trials.

    Problems share the noise that an image is made of, so they count as one per image.
    """
    per_image = (one.objective - other.objective).mean(axis=1)
    return float(per_image.std(ddof=1) / sqrt(len(per_image))) if len(per_image) > 1 else inf


def search(
    solver: str,
    problems: Sequence[Problem],
    objective: str,
    trials: int,
    seed: int,
    tell: Callable[[int, Trial], None],
) -> Search:
    """Run the trials of one solver.

    Parameters
    ----------
    solver : str
        The name of its option.
    problems : sequence of Problem
        The problems; those that the solver cannot run are left out.
    objective : str
        The column to optimise.
    trials : int
        How many settings are tried, the preset included.
    seed : int
        Seed of the proposals.
    tell : callable
        Gets the number of a trial and its result as soon as it is known.

    Raises
    ------
    Inapplicable
        If the solver can run none of the problems within the budget.
    UserError
        If the space is empty or wrong, or the objective is no metric with a better end.
    """
    start = Start.of(solver, problems)
    possible, first, direction = _first(problems, start, objective)
    done = [first]
    tell(0, first)
    proposals = Proposals(start.space, direction, seed)
    proposals.learn(first)
    while len(done) < trials and (setting := proposals.next()) is not None:
        done.append(_tried(possible, setting, objective))
        proposals.learn(done[-1])
        tell(len(done) - 1, done[-1])
    return Search(solver, start.preset, possible, objective, direction, done, start.space)


@dataclass(frozen=True)
class Start:
    """Where a search begins: a preset, the space around it, and its values of the space."""

    preset: str
    space: Space
    setting: Mapping[str, Any]

    @classmethod
    def of(cls, solver: str, problems: Sequence[Problem]) -> Start:
        """Return the start of a search; all problems get the preset of the first one."""
        config = job_of(problems[0].cfg)
        choice = choose(config.solver, config.prior, config.data)
        if choice is None:
            raise UserError(f"solver={solver} has no presets, so there is nothing to begin with")
        built: Solver = build(config.solver)
        for problem in problems:
            problem.cfg.solver.preset = choice.preset
            if not built.workload:  # there is no work that a budget could choose
                problem.cfg.budget = None
        fixed = {*built.workload, *built.growth, "guidance"}
        space = space_of(config.solver, solver, choice.preset, fixed)
        if not space:
            raise Inapplicable(f"{solver} has no setting to tune; `space` in its YAML names some")
        values = effective_settings(config.solver, choice.preset)
        return cls(choice.preset, space, {key: values[key] for key in space})


def _first(
    problems: Sequence[Problem], start: Start, objective: str
) -> tuple[list[Problem], Trial, str]:
    """Run the preset as it is.

    Returns
    -------
    tuple
        The problems that it can run, the trial, and the better end of the objective.
    """
    reasons: dict[str, Inapplicable] = {}
    cells: dict[str, CellPlan] = {}
    for problem in problems:
        try:
            cells[problem.name] = run_job(problem.cfg, problem.choices, sweep=True).plan
        except Inapplicable as error:
            reasons[problem.name] = error
    if not cells:
        raise next(iter(reasons.values()))
    for name, reason in reasons.items():
        terminal.remark(f"bench: {name} is left out: {reason}")
    possible = [problem for problem in problems if problem.name in cells]
    direction = _direction(objective, next(iter(cells.values())))
    return possible, _trial(start.setting, cells, objective), direction


def _direction(objective: str, cell: CellPlan) -> str:
    """Return the better end of the objective."""
    cards = read_cell(cell.folder / "config.yaml")["metrics"]
    if objective not in cards:
        raise unknown("objective", objective, cards)
    direction = str(cards[objective]["direction"])
    if direction == "none" or cards[objective].get("level") == "set":
        raise UserError(
            f"objective={objective} has no value per image with a better end; choose one that has"
        )
    return direction


def _tried(problems: Sequence[Problem], setting: Mapping[str, Any], objective: str) -> Trial:
    """Run a setting on all problems."""
    cells = {}
    for problem in problems:
        job = problem.cfg.copy()
        for key, value in setting.items():
            job.solver[key] = value
        if refused := _refused(job, setting):
            return Trial(setting, refused=refused)
        try:
            cells[problem.name] = run_job(job, problem.choices, sweep=True).plan
        except Inapplicable as error:  # at least this much work is more than the budget
            return Trial(setting, refused=str(error))
    return _trial(setting, cells, objective)


def _refused(job: DictConfig, setting: Mapping[str, Any]) -> str:
    """Return why the solver refuses its settings; empty if it takes them."""
    try:
        solver: Solver = build(job_of(job).solver)
    except UserError as error:
        return str(error)
    # which settings are work may depend on the others, as with DDNM's time travel
    work = sorted(solver.workload.keys() & setting.keys())
    return f"{', '.join(work)} is work, which the budget decides" if work else ""


def _trial(setting: Mapping[str, Any], cells: Mapping[str, CellPlan], objective: str) -> Trial:
    """Read the result of a setting from the rows of its cells."""
    frames = {name: plan.store.read() for name, plan in cells.items()}
    rows = pd.concat(frames.values())
    values = {}
    for name, frame in frames.items():
        # where every row failed there is no such column
        column = frame[objective] if objective in frame else pd.Series(math.nan, frame.index)
        values[name] = column.groupby(frame["image_id"]).mean()
    return Trial(
        setting,
        pd.DataFrame(values),
        _work(cells.values()),
        float(total_passes(rows["nfe"], rows["nge"]).sum()),  # a failed row may have no counts
        len(rows),
        int((rows["status"] != "ok").sum()),
    )


def _work(cells: Iterable[CellPlan]) -> dict[str, Any]:
    """Return the work that the budget chose; where problems differ, the least."""
    chosen: dict[str, Any] = {}
    for plan in cells:
        config = plan.cell.config
        solver: Solver = build(config.solver)
        if config.budget is not None:
            for key in (*solver.workload, *solver.growth):
                value = getattr(solver, key)
                chosen[key] = min(value, chosen.get(key, value))
    return chosen


class Proposals:
    """Settings that are worth a try, by a tree-structured Parzen estimator.

    Parameters
    ----------
    space : Space
        The space.
    direction : str
        ``up`` or ``down``.
    seed : int
        Seed of the estimator.
    """

    REPEATS = 50
    """So many proposals in a row that were all tried before end the search."""

    def __init__(self, space: Space, direction: str, seed: int) -> None:
        optuna = _optuna()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space = space
        self.worst = -inf if direction == "up" else inf
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
        way = "maximize" if direction == "up" else "minimize"
        self.study = optuna.create_study(sampler=sampler, direction=way)
        self.known: list[tuple[Mapping[str, Any], float]] = []
        self.asked: Proposal | None = None

    def learn(self, trial: Trial) -> None:
        """Take the result of a trial into account; the preset too, where the space holds it."""
        value = trial.value if trial.good else self.worst
        self.known.append((dict(trial.setting), value))
        if self.asked is None and all(trial.setting[key] in self.space[key] for key in self.space):
            self.study.enqueue_trial(self._encoded(trial.setting))
            self._suggested(self.study.ask())
        if self.asked is not None:
            self.study.tell(self.asked, value)

    def next(self) -> dict[str, Any] | None:
        """Return a setting that was not tried; None if the estimator finds no other."""
        for _ in range(self.REPEATS):
            self.asked = self.study.ask()
            setting = self._suggested(self.asked)
            before = next((value for known, value in self.known if known == setting), None)
            if before is None:
                return setting
            self.study.tell(self.asked, before)
        return None

    def _suggested(self, trial: Proposal) -> dict[str, Any]:
        self.asked = trial
        return {key: _suggest(trial, key, part) for key, part in self.space.items()}

    def _encoded(self, setting: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: part.values.index(setting[key]) if isinstance(part, Choices) else setting[key]
            for key, part in self.space.items()
        }


def _suggest(trial: Proposal, key: str, part: Range | Choices) -> Any:
    if isinstance(part, Choices):  # by its place: a value may be a list
        return part.values[trial.suggest_categorical(key, range(len(part.values)))]
    if part.whole:
        return trial.suggest_int(key, int(part.low), int(part.high), log=part.log)
    return part.rounded(trial.suggest_float(key, part.low, part.high, log=part.log))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UserError(
            "'tune' needs Optuna: pip install 'posterior-bench[tune]', or pip install optuna"
        ) from None
    return optuna
