"""Execute the plan of a cell, and reduce the study to its tables."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import DictConfig, OmegaConf

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.presets import choose
from posterior_bench.bench.core import terminal
from posterior_bench.bench.core.environment import environment
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine import display, trackers
from posterior_bench.bench.engine.chunking import say_once
from posterior_bench.bench.engine.early_stop import Breaker
from posterior_bench.bench.engine.plan import CellPlan, Chunk
from posterior_bench.bench.engine.prepare import prepare
from posterior_bench.bench.store.atomic import write_atomic

if TYPE_CHECKING:
    import pandas as pd


_REDUCED: dict[Path, tuple[float, float]] = {}
"""When the tables of a study were last rebuilt, and how many seconds that took."""


@dataclass(frozen=True)
class Outcome:
    """The result of one job of a run or sweep.

    ``stopped`` is the message of the rows for which the job gave up early. ``noted`` is what good
    rows say that a reader should know, such as values far from images, and how many rows say it.
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


def run_job(cfg: DictConfig, choices: Mapping[str, Any], sweep: bool = False) -> Outcome:
    """Plan, execute and reduce one cell.

    In a ``sweep`` tables are rebuilt now and then; the caller rebuilds them at the end.
    """
    return execute(cfg, *prepare(cfg, choices), sweep)


def execute(cfg: DictConfig, study: Path, plan: CellPlan, sweep: bool = False) -> Outcome:
    """Run the missing chunks of a plan, and reduce.

    In a ``sweep`` tables are rebuilt now and then.
    """
    config = plan.cell.config
    choice = choose(config.solver, config.prior, config.data)
    if choice is not None and choice.foreign and not config.quiet:
        terminal.remark(f"bench: {plan.cell.identity['solver']} runs preset {choice.text}")
    _record(study, cfg)
    chunks = plan.missing(config.retry)
    _check_metrics(plan)
    if not chunks and (outdated := plan.outdated()):
        terminal.remark(
            f"bench: {outdated} rows of {display.title(plan)} were computed with another source of "
            "this solver than the present one; retry=true computes them again"
        )
    executor = build(config.executor)
    breaker = Breaker(plan, config.accept)
    stopped = breaker.before(chunks) if chunks and not config.retry else ""
    chunks = [] if stopped else chunks
    threads = config.threads or (_threads_so_far(plan, chunks) if chunks else None)
    with (
        display.progress(plan, chunks, quiet=config.quiet or bool(stopped)) as advance,
        trackers.tracking(plan, chunks, config.logger) as track,
    ):
        for done, (chunk, counts) in enumerate(
            executor.run(plan, chunks, threads) if chunks else (), 1
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
    quiet, sheet, report = (config.quiet, config.sheet, config.report)
    return Outcome(
        study, plan, counts, tuple(config.accept), quiet, sheet, report, stopped, _first(notes)
    )


def _threads_so_far(plan: CellPlan, missing: Sequence[Chunk]) -> int | None:
    """Return the threads of the cell's rows; None without rows. Say it where it is not usual."""
    import torch  # heavy: the first line of a run is printed before

    threads = plan.threads(missing)
    if threads not in (None, torch.get_num_threads()) and not plan.cell.config.quiet:
        say_once(f"threads={threads}, as in the rows that this cell has")
    return threads


def _first(notes: pd.Series) -> tuple[str, int]:
    return ("", 0) if notes.empty else (str(notes.iloc[0]), len(notes))


def _reduce(study: Path, lately: bool) -> None:
    """Rebuild the tables.

    With ``lately``, this is left out if it would take more than a thirtieth of the process's time.
    """
    # loads pandas and torch: the first line of a run is printed before
    from posterior_bench.bench.analysis import leaderboard

    start = time.monotonic()
    finished, took = _REDUCED.get(study, (-math.inf, 0.0))
    if lately and start - finished < 29 * took:
        return
    leaderboard.write(study)
    _REDUCED[study] = (time.monotonic(), time.monotonic() - start)


def _check_metrics(plan: CellPlan) -> None:
    """Refuse metrics that the finished rows were not scored with.

    Their column would be half empty.
    """
    # loads pandas and torch: the first line of a run is printed before
    from posterior_bench.bench.engine.cache import shared

    nodes = plan.cell.config.metrics.items()
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
    """Write the study's configuration, of its latest job, and the environment."""
    resolved = OmegaConf.to_container(cfg, resolve=True)
    write_atomic(
        study / "config.yaml",
        yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True).encode(),
    )
    write_atomic(study / "environment.json", json.dumps(environment(), indent=2).encode())
