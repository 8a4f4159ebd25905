"""From a configuration to the plan of its cell; whatever cannot run is refused before any work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from posterior_bench.bench.config.build import arguments, build, with_preset
from posterior_bench.bench.config.catalog import as_given
from posterior_bench.bench.config.cell import Cell, cell_of
from posterior_bench.bench.config.image_folders import defaults_line, demand_count
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.plugins import admit_of
from posterior_bench.bench.config.schema import study_folder
from posterior_bench.bench.config.task_versions import outdated_lines
from posterior_bench.bench.core import terminal
from posterior_bench.bench.core.environment import environment
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.core.isolation import isolated
from posterior_bench.bench.engine.arena import are_drawn
from posterior_bench.bench.engine.batches import AutoBatch
from posterior_bench.bench.engine.budget import within_budget
from posterior_bench.bench.engine.cache import described, forget_others, shared
from posterior_bench.bench.engine.chunking import (
    pieces_for,
    planned_workers,
    say_once,
    spread_words,
    together,
)
from posterior_bench.bench.engine.job import job_of, unchecked
from posterior_bench.bench.engine.measurement import build_operator
from posterior_bench.bench.engine.metric_networks import checked_metrics, missing_weights
from posterior_bench.bench.engine.plan import CellPlan, cell_file, plan_cell, writable
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.external.content import (
    hidden_share,
    mask_content,
    operator_content,
    solver_content,
)
from posterior_bench.bench.external.models import absent_model
from posterior_bench.bench.store.study_files import read_cell

ChooseBatch = Callable[[JobConfig, Session, object], AutoBatch]
"""Chooses the batch for a configuration, its session and its executor."""


def prepare(
    cfg: DictConfig,
    choices: Mapping[str, Any],
    write: bool = True,
    choose_batch: ChooseBatch | None = None,
    grown: bool = False,
) -> tuple[Path, CellPlan]:
    """Plan the cell of a configuration.

    Parameters
    ----------
    cfg : DictConfig
        The configuration that Hydra composed.
    choices : Mapping
        The name of the chosen option of every group.
    write : bool, default True
        Create the study folder and record the plan in it.
    choose_batch : callable, default None
        Chooses the batch for ``batch=auto``; None = the cell must have a plan already.
    grown : bool, default False
        Note in a new plan that the cell is one of ``data.images=auto``, which may replace it by a
        larger one.

    Returns
    -------
    Path, CellPlan
        The study folder, and the plan.

    Raises
    ------
    UserError
        If the cell cannot be run.
    """
    _refuse_absent(cfg, choices)
    # constructors of solvers, metrics and data sets run here for the first time
    with isolated(numbers=True):
        return _prepare(cfg, choices, write, choose_batch, grown)


def _prepare(
    cfg: DictConfig,
    choices: Mapping[str, Any],
    write: bool,
    choose_batch: ChooseBatch | None,
    grown: bool,
) -> tuple[Path, CellPlan]:
    config = job_of(cfg)
    config = config.with_settings("operator", operator_content(config.operator))
    executor = build(config.executor)
    workers = planned_workers(executor)
    study = Path(study_folder(config.out, config.study["name"]))
    # whoever only plans need not wait for the libraries of metrics: a run checks them
    config = replace(config, metrics=checked_metrics(config.metrics, libraries=write))
    try:
        session = Session(config, "cpu", described(config.prior))
    except ImportError as error:  # of an optional package
        raise UserError(str(error)) from None
    _demand_images(session)
    channels, height, width = session.prior.image_shape
    build_operator(config.operator, torch.ones(1, 1, height, width, dtype=torch.bool), channels)
    config = config.with_settings("solver", solver_content(config, session.images))
    config = config.with_settings("mask", mask_content(config, session.mask, session.images))
    config = config.with_settings("data", session.told.content())
    if not config.quiet:
        for line in (defaults_line(cfg.data, config.data, session.images), *session.images.notes()):
            _say(line)
        share = hidden_share(config, session.mask, session.images)
        where = config.mask.get("path") or f"mask={choices['mask']}"
        _say(share and f"{where}: {share}")
        _say_outdated(study)
    config = within_budget(config, choices, session, lambda: _countable(session, executor))
    if not hasattr(executor, "device_here"):  # the workers are other processes
        forget_others([("metric", node) for node in config.metrics.values()], "cpu")
    cell = cell_of(config, choices, session.images.name, _content(session))
    if write:
        writable(study)
        session.told.ready()
        _say_told(str(choices["prior"]), tuple(() if config.quiet else session.told.said))
    cell = replace(cell, identity={**cell.identity, **session.told.recorded})
    cell, chosen = _with_batch(cell, study, session, executor, choose_batch)
    config = cell.config
    plan = plan_cell(
        cell,
        study,
        session.images.ids,
        {name: asdict(shared("metric", m, "cpu").card) for name, m in config.metrics.items()},
        {k: environment()[k] for k in ("version", "commit", "dirty", "lock_sha256")},
        write,
        pieces_for(config, session.solver, session.metrics, workers),
        chosen,
        grown,
    )
    if not config.quiet:
        say_once(spread_words(plan, together(session.metrics), workers))
    return study, plan


def _with_batch(
    cell: Cell, study: Path, session: Session, executor: object, choose: ChooseBatch | None
) -> tuple[Cell, str]:
    """Return the cell with a number for ``batch=auto``, and in words how it was chosen.

    A cell that was planned before keeps its batch.
    """
    config = cell.config
    if not config.auto_batch:
        return cell, ""
    path = cell_file(cell, study)
    if path.exists():
        recorded = read_cell(path)
        batch, words = int(recorded["config"]["batch"]), str(recorded.get("batch_chosen", ""))
    elif choose is None:
        raise UserError("batch=auto is chosen by a run; here give batch=N")
    else:
        found = choose(config, session, executor)
        batch, words = found.batch, found.words
        if not config.quiet:
            _say(f"batch=auto is batch={batch} ({words})")
    return replace(cell, config=replace(config, batch=batch, auto_batch=False)), words


def _countable(session: Session, executor: object) -> Session:
    """Return a session on which the network passes of its solver can be counted.

    A solver that needs the features of a network runs on the network itself. It is loaded where the
    executor of this process will use it, so that it is loaded once.
    """
    if "features" not in session.solver.needs:
        return session
    here = getattr(executor, "device_here", None)
    return Session(session.config, "cpu" if here is None else here())


def _demand_images(session: Session) -> None:
    """Raise UserError if there are too few images, or some of them are damaged."""
    wanted = session.config.data["images"]
    demand_count(wanted, len(session.images))
    damaged = session.images.check(list(session.images.ids)[:wanted])
    if damaged:
        more = f" (and {len(damaged) - 1} more images)" if len(damaged) > 1 else ""
        raise UserError(damaged[0] + more)


def _content(session: Session) -> list[str] | None:
    """Return the hashes of the images in use; None where they are drawn from the prior."""
    if are_drawn(session.config.data):
        return None
    try:
        return session.images.content(list(session.images.ids)[: session.config.images])
    except ValueError as error:
        raise UserError(str(error)) from None


@cache
def _say(line: str) -> None:
    """Print a line once, although many cells of a sweep have it; nothing for an empty line."""
    if line:
        terminal.remark(f"bench: {UserError(line)}")


@cache
def _say_outdated(study: Path) -> None:
    """Print once which tasks of the cells in a study folder have another version now."""
    cells = [read_cell(path) for path in sorted(study.glob("cells/*/config.yaml"))]
    for line in outdated_lines(cell["identity"] for cell in cells):
        _say(f"{study}: {line}")


@cache
def _say_told(prior: str, lines: tuple[str, ...]) -> None:
    """Print once what the network is told in place of classes or prompts."""
    for line in lines:
        terminal.remark(f"bench: prior {prior} {line}")


def _refuse_absent(cfg: DictConfig, choices: Mapping[str, Any]) -> None:
    """Raise one UserError for everything that is not there, the prior first.

    Where only weights of metrics are missing, nothing happens yet.
    """
    config = unchecked(cfg)
    absent: list[str] = []
    if line := absent_model(config.prior):
        absent.append(line)
    absent += [
        f"{group}.{key} is not set; give {as_given(group, str(choices[group]), key)}"
        for group, node in config.nodes.items()
        for key, value in node.items()
        if value == "???"
    ]
    if not absent:
        return
    admit_of(config)
    settings = arguments(with_preset(config.solver, config.prior, config.data))
    absent += missing_weights(config.metrics, settings.get("perceptual", "none"))
    raise UserError("; and ".join(absent))
