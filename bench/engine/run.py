"""The way of the data: configuration, cell, plan, execution, leaderboard. One direction, each step
one call.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import DictConfig, OmegaConf

from posterior_bench.bench.analysis import papers
from posterior_bench.bench.config.build import arguments, build, suited
from posterior_bench.bench.config.cell import Cell, cell_of
from posterior_bench.bench.config.image_folders import demand_count, following, said
from posterior_bench.bench.config.plugins import admit_of
from posterior_bench.bench.config.presets import choose
from posterior_bench.bench.config.schema import study_folder
from posterior_bench.bench.core import terminal
from posterior_bench.bench.core.cost import Budget
from posterior_bench.bench.core.environment import environment
from posterior_bench.bench.core.errors import UserError, unknown
from posterior_bench.bench.engine import display, trackers
from posterior_bench.bench.engine.chunking import (
    pieces_for,
    planned_workers,
    say_once,
    spread_words,
    together,
)
from posterior_bench.bench.engine.early_stop import Breaker
from posterior_bench.bench.engine.plan import CellPlan, plan_cell, writable
from posterior_bench.bench.external.models import absent_model, with_served
from posterior_bench.bench.store.atomic import write_atomic
from posterior_bench.priors.execution import Execution

if TYPE_CHECKING:
    import pandas as pd

    from posterior_bench.bench.engine.session import Session

STATUSES = ("ok", "nan", "oom", "timeout", "error")

_REDUCED: dict[Path, tuple[float, float]] = {}
"""When the tables of a study were last rebuilt, and how many seconds that took."""


@dataclass(frozen=True)
class Outcome:
    """What one job of a run or sweep came to; ``stopped``: the message of the rows that made it
    give up early.

    ``noted``: what the good rows say that a reader should know, such as values far from images, and
    how many do.
    """

    study: Path
    plan: CellPlan
    counts: Mapping[str, int]
    accept: tuple[str, ...]
    quiet: bool
    sheet: bool
    report: bool
    stopped: str = ""
    noted: tuple[str, int] = ("", 0)

    @property
    def good(self) -> bool:
        """Every planned row is there, and is ok or declared acceptable."""
        good = sum(n for status, n in self.counts.items() if status in ("ok", *self.accept))
        return good == self.plan.rows()


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration without Hydra's own node, in plain types, checked."""
    config: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    for group in ("solver", "data", "mask", "operator", "prior"):
        missing = [k for k, v in config[group].items() if v == "???"]
        if missing:
            raise UserError(f"{group}.{missing[0]} is not set; give {group}.{missing[0]}=VALUE")
    config["prior"] = with_served(config["prior"], quiet=bool(config["quiet"]))
    admit_of(config)
    timeout = config["timeout"]
    if timeout is not None and not 0 < timeout < math.inf:
        raise UserError(f"timeout={timeout}: give seconds above 0, or null for no limit")
    if config["logger"] not in (None, *trackers.SINKS):
        raise unknown("logger", str(config["logger"]), trackers.SINKS)
    wrong = [s for s in config["accept"] if s not in STATUSES]
    if wrong:
        raise UserError(f"accept={wrong}: valid statuses are {', '.join(STATUSES)}")
    config = dict(following(config))
    demand_possible(config)
    figure = config["study"].get("figure")
    if figure is not None and (not isinstance(figure, dict) or figure.keys() != {"x", "y"}):
        raise UserError(
            f"study.figure={figure}: name two columns of the leaderboard, such as {{x: passes, y: "
            f"psnr}}"
        )
    if config["study"].get("paper") is not None:
        papers.read(str(config["study"]["paper"]))
    config["solver"] = suited(config["solver"], config["prior"], config["data"])
    return {
        **config,
        "commit": environment()["commit"] + ("+dirty" if environment()["dirty"] else ""),
    }


def demand_possible(config: Mapping[str, Any]) -> None:
    """UserError for a way of execution, a budget or a number of images that no machine could
    run.
    """
    try:
        Execution.of(config)
    except ValueError as error:
        raise UserError(str(error)) from None
    if config["budget"] is not None:
        Budget.of(config["budget"])
    if not isinstance(config["data"]["images"], int) or config["data"]["images"] < 1:
        raise UserError(
            f"data.images={config['data']['images']}: give a whole number of at least 1"
        )


def prepare(
    cfg: DictConfig, choices: Mapping[str, Any], write: bool = True
) -> tuple[Path, CellPlan]:
    """The study folder and the plan of a configuration's cell; refuses what cannot run before any
    work.

    With ``write`` the study folder is created and the plan recorded in it.
    """
    _refuse_absent(cfg)
    from posterior_bench.bench.core.isolation import isolated

    # constructors of solvers, metrics and data sets run here for the first time
    with isolated(numbers=True):
        return _prepare(cfg, choices, write)


def _prepare(cfg: DictConfig, choices: Mapping[str, Any], write: bool) -> tuple[Path, CellPlan]:
    import torch

    from posterior_bench.bench.engine.budget import within_budget
    from posterior_bench.bench.engine.cache import shared
    from posterior_bench.bench.engine.measurement import build_operator
    from posterior_bench.bench.engine.metric_networks import checked_metrics
    from posterior_bench.bench.engine.session import Session
    from posterior_bench.bench.external.content import (
        hidden_share,
        mask_with_content,
        operator_with_content,
        with_content,
    )

    config = plain(cfg)
    config["operator"] = operator_with_content(config["operator"])
    # what cannot be run is refused here, before anything is written
    workers = planned_workers(build(config["executor"]))
    study = Path(study_folder(config["out"], config["study"]["name"]))
    config["metrics"] = checked_metrics(config["metrics"])
    cards = {
        name: asdict(shared("metric", node, "cpu").card) for name, node in config["metrics"].items()
    }
    try:
        session = Session(config, "cpu")
    except ImportError as error:  # of an optional package
        raise UserError(str(error)) from None
    demand_count(config["data"]["images"], len(session.images))
    damaged = session.images.check(list(session.images.ids)[: config["data"]["images"]])
    if damaged:
        more = f" (and {len(damaged) - 1} more images)" if len(damaged) > 1 else ""
        raise UserError(damaged[0] + more)
    channels, height, width = session.prior.image_shape
    build_operator(config["operator"], torch.ones(1, 1, height, width, dtype=torch.bool), channels)
    config = dict(
        mask_with_content(with_content(config, session.images), session.mask, session.images)
    )
    config["data"] = session.told.pinned(config["data"])
    if not config["quiet"]:
        for line in (said(cfg.data, config["data"], session.images), *session.images.notes()):
            _say(line)
        _say_hidden(hidden_share(config, session.mask, session.images), config["mask"].get("path"))
    config = dict(within_budget(config, choices, session))
    cell: Cell = cell_of(config, choices, session.images.name, _content(session))
    if write:
        writable(study)
        session.told.ready()
        _say_told(str(choices["prior"]), tuple(session.told.said if not config["quiet"] else ()))
    cell = replace(cell, identity={**cell.identity, **session.told.recorded})
    provenance = {k: environment()[k] for k in ("version", "commit", "dirty", "lock_sha256")}
    cuts = pieces_for(config, session.solver, session.metrics, workers)
    plan = plan_cell(cell, study, session.images.ids, cards, provenance, write, cuts)
    if not config["quiet"]:
        say_once(spread_words(plan, together(session.metrics), workers))
    return study, plan


def _content(session: Session) -> list[str] | None:
    """The hashes of the images in use; None where they are drawn from the prior."""
    from posterior_bench.bench.engine.arena import are_drawn

    if are_drawn(session.config["data"]):
        return None
    try:
        return session.images.content(
            list(session.images.ids)[: int(session.config["data"]["images"])]
        )
    except ValueError as error:
        raise UserError(str(error)) from None


def _say_hidden(share: str, path: str | None) -> None:
    _say(share and f"{path}: {share}")


@cache
def _say(line: str) -> None:
    """Once for the cells of a sweep that have the same data and masks; nothing for an empty
    line.
    """
    if line:
        terminal.err.print(
            f"bench: {UserError(line)}", markup=False, highlight=False, soft_wrap=True
        )


@cache
def _say_told(prior: str, lines: tuple[str, ...]) -> None:
    """Once for the cells of a sweep that are asked without a class or prompt, or with a part of
    it.
    """
    for line in lines:
        terminal.err.print(
            f"bench: prior {prior} {line}", markup=False, highlight=False, soft_wrap=True
        )


def _refuse_absent(cfg: DictConfig) -> None:
    """UserError that names all that is not there at once, the prior first; nothing where only
    weights are missing.
    """
    config: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    absent: list[str] = []
    if line := absent_model(config["prior"]):
        absent.append(line)
    unset = [
        f"{group}.{key}"
        for group in ("data", "mask")
        for key, value in config[group].items()
        if value == "???"
    ]
    absent += [f"{key} is not set; give {key}=VALUE" for key in unset]
    if not absent:
        return
    from posterior_bench.bench.engine.metric_networks import missing_weights

    admit_of(config)
    settings = arguments(suited(config["solver"], config["prior"], config["data"]))
    absent += missing_weights(config["metrics"], settings.get("perceptual", "none"))
    raise UserError("; and ".join(absent))


def run_job(cfg: DictConfig, choices: Mapping[str, Any], sweep: bool = False) -> Outcome:
    """Plan, execute and reduce one cell; of many in a ``sweep``, reduce now and then (the last is
    for the caller).
    """
    return execute(cfg, *prepare(cfg, choices), sweep)


def execute(cfg: DictConfig, study: Path, plan: CellPlan, sweep: bool = False) -> Outcome:
    """Run the chunks of a plan that are missing, and reduce; of many cells in a ``sweep``, now and
    then.
    """
    config = plan.cell.config
    choice = choose(config["solver"], config["prior"], config["data"])
    if choice is not None and choice.foreign and not config["quiet"]:
        terminal.err.print(
            f"bench: {plan.cell.identity['solver']} runs preset {choice.text}", markup=False
        )
    _record(study, cfg)
    chunks = plan.missing(bool(config["retry"]))
    _check_metrics(plan)
    if not chunks and (outdated := plan.outdated()):
        terminal.err.print(
            f"bench: {outdated} rows of {display.title(plan)} were computed with another source of "
            f"this solver than "
            "the present one; retry=true computes them again",
            markup=False,
        )
    executor = build(config["executor"])
    breaker = Breaker(plan, config["accept"])
    stopped = breaker.before(chunks) if chunks and not config["retry"] else ""
    chunks = [] if stopped else chunks
    with (
        display.progress(plan, chunks, quiet=bool(config["quiet"]) or bool(stopped)) as advance,
        trackers.tracking(plan, chunks, config["logger"]) as track,
    ):
        for done, (chunk, counts) in enumerate(
            executor.run(plan, chunks, config["threads"]) if chunks else (), 1
        ):
            advance(chunk, counts)
            track(chunk, counts)
            if not plan.folder.joinpath("config.yaml").exists():
                raise UserError(
                    f"{study} was renamed or removed under the run; give out= the folder it is now"
                )
            message = breaker.after(chunk, counts)
            if message and done < len(chunks):
                stopped = message
                break
    rows = plan.store.read(["status", "message"])
    statuses = rows["status"].value_counts()
    notes = rows.loc[(rows["status"] == "ok") & rows["message"].fillna("").astype(bool), "message"]
    counts = {str(status): int(n) for status, n in statuses.items()}
    _reduce(study, lately=sweep)
    quiet, sheet, report = (bool(config[key]) for key in ("quiet", "sheet", "report"))
    return Outcome(
        study, plan, counts, tuple(config["accept"]), quiet, sheet, report, stopped, _first(notes)
    )


def _first(notes: pd.Series) -> tuple[str, int]:
    return ("", 0) if notes.empty else (str(notes.iloc[0]), len(notes))


def _reduce(study: Path, lately: bool) -> None:
    """Rebuild the tables; unless, with ``lately``, that would take this process more than a
    thirtieth of its time.
    """
    from posterior_bench.bench.analysis import leaderboard

    start = time.monotonic()
    finished, took = _REDUCED.get(study, (-math.inf, 0.0))
    if lately and start - finished < 29 * took:
        return
    leaderboard.write(study)
    _REDUCED[study] = (time.monotonic(), time.monotonic() - start)


def _check_metrics(plan: CellPlan) -> None:
    """Refuse metrics that the cell's finished rows were not scored with: their column would be half
    empty.
    """
    from posterior_bench.bench.engine.cache import shared

    nodes = plan.cell.config["metrics"].items()
    columns = {name: {*shared("metric", node, "cpu").columns} for name, node in nodes}
    stored = {*plan.store.columns()}
    if not stored or stored >= set[str]().union(
        *columns.values()
    ):  # one footer, instead of thousands of shards
        return
    rows = plan.store.read()
    unscored = [name for name in columns if columns[name] - {*rows.columns}]
    if (rows["status"] == "ok").any() and unscored:
        raise UserError(
            f"rows of {plan.folder} were stored without {', '.join(unscored)}; `python -m bench "
            f"score` adds metrics to "
            "finished rows, or give another out=DIR"
        )


def _record(study: Path, cfg: DictConfig) -> None:
    """The study's configuration (of its latest job) and environment."""
    resolved = OmegaConf.to_container(cfg, resolve=True)
    write_atomic(
        study / "config.yaml",
        yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True).encode(),
    )
    write_atomic(study / "environment.json", json.dumps(environment(), indent=2).encode())
