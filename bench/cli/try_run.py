"""The work of ``bench try``: plan and run the solvers, print the table, draw the picture.

Every solver is planned, run and scored by the code of a study. So a study of this photograph alone,
with one chunk, gives the same numbers. A temporary folder holds the files of that study: a
folder with one photograph, and the mask.
"""

from __future__ import annotations

import re
import shlex
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Eta
from rich.table import Table

from posterior_bench.bench.cli.stored_image import stored_image
from posterior_bench.bench.cli.try_request import (
    PREFERRED,
    USUAL_COUNT,
    Request,
    check_mask_size,
    group_of,
)
from posterior_bench.bench.config.build import operator_caps
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.config.presets import choose
from posterior_bench.bench.core import signals, terminal
from posterior_bench.bench.core.cost import total_passes
from posterior_bench.bench.core.errors import FAILED, Inapplicable, UserError
from posterior_bench.bench.engine.budget import Trial
from posterior_bench.bench.engine.cache import shared
from posterior_bench.bench.engine.measurement import Measurement
from posterior_bench.bench.engine.metric_networks import missing_weights
from posterior_bench.bench.engine.plan import CellPlan
from posterior_bench.bench.engine.prepare import prepare
from posterior_bench.bench.engine.scoring import Row
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.engine.worker import Worker
from posterior_bench.bench.external.models import converted_path, local_model
from posterior_bench.bench.pages.contact_sheet import solver_sheet
from posterior_bench.bench.pages.sheet_panels import Panel
from posterior_bench.datasets.source import is_image
from posterior_bench.metrics.base import SetMetric
from posterior_bench.priors.base import Prior, Shape

_VARIANTS = ("_hole", "_pasted", "")
"""Endings of a metric's columns: the table shows the first column that exists."""
_ARROWS = {"up": " ↑", "down": " ↓"}
_SECONDS_BAR, _SECONDS_LINES = 0.2, 10.0
"""Seconds between two looks at the progress: on a terminal, and where lines are printed."""


@dataclass(frozen=True)
class SolverResult:
    """The result of one solver.

    Parameters
    ----------
    plan : CellPlan
        The cell of the solver.
    rows : sequence of Row
        One per draw.
    """

    plan: CellPlan
    rows: Sequence[Row]

    @property
    def name(self) -> str:
        """The solver, with its variant if it has one."""
        identity = self.plan.cell.identity
        return " ".join(filter(None, (str(identity["solver"]), str(identity["variant"]))))

    @property
    def failure(self) -> str:
        """How many draws failed, and why the first did; empty if all are ok."""
        failed = [row for row in self.rows if row["status"] != "ok"]
        if not failed:
            return ""
        return f"{len(failed)} of {len(self.rows)} draws failed: {failed[0]['message']}"

    def mean(self, column: str) -> float:
        """Return the mean over the draws; NaN if one of them failed."""
        return float(np.mean([float(row.get(column, np.nan)) for row in self.rows]))

    @property
    def passes(self) -> float:
        """Forward and backward network evaluations per draw."""
        return float(total_passes(self.mean("nfe"), self.mean("nge")))

    @property
    def seconds(self) -> float:
        """Time of all draws together, with their fit."""
        return (self.mean("seconds_fit") + self.mean("seconds_sample")) * len(self.rows)


def try_solvers(request: Request) -> int:
    """Run every solver on the photograph, print the table, and write the picture.

    Returns
    -------
    int
        The exit code: 0 if all draws are ok.

    Raises
    ------
    UserError
        If the prior cannot be loaded, or no solver can be used.
    """
    with tempfile.TemporaryDirectory(prefix="bench-try-") as folder:
        inputs = _StudyInputs(request, Path(folder))
        plans = inputs.plans()
        _print_foreign_presets(plans)
        worker = Worker(_device(), plans[0].cell.config.threads)
        session = worker.session(plans[0].cell.config)
        session.told.ready()  # an unusable prompt must not count as a failure of a solver
        measured = session.measure(plans[0].chunks[0].images)
        _print_measurement(request, measured)
        for line in session.told.said:
            terminal.out.print(f"the prior {line}", style="dim", markup=False)
        results = [_run(worker, plan) for plan in plans]
        terminal.out.print(_table(results, inputs.columns, worker.device))
        solver_sheet(request.out, [_panel(request, result, measured) for result in results])
    terminal.out.print(f"picture  {request.out.absolute()}", markup=False)
    terminal.out.print(
        f"a whole folder of photographs: {_study_command(request, results)}",
        style="dim",
        markup=False,
    )
    return FAILED if any(result.failure for result in results) else 0


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


# -- the inputs of a study -------------------------------------------------------------------------


class _StudyInputs:
    """A folder with the photograph and its mask, and the settings that all solvers share."""

    def __init__(self, request: Request, folder: Path):
        self.request, self.folder = request, folder
        self.model = local_model(request.prior) if isinstance(request.prior, Path) else None
        self.shape = self._image_shape()
        (folder / "photos").mkdir()
        (folder / "photos" / _image_name(request.photo)).symlink_to(request.photo.absolute())
        if request.mask.white is not None:
            self._write_mask(request.mask.white)
        self.columns: list[str] = []

    def plans(self) -> list[CellPlan]:
        """Return one plan per solver.

        Raises
        ------
        UserError
            If a solver that the user named cannot be used here, or if none of the usual ones can.
        """
        if self.request.solvers:
            return [self._plan(name) for name in self.request.solvers]
        plans: list[CellPlan] = []
        reasons: list[str] = []
        for name in PREFERRED:
            try:
                plans.append(self._plan(name))
            except Inapplicable as error:
                reasons.append(str(error))
            if len(plans) == USUAL_COUNT:
                break
        if not plans:
            raise UserError(
                f"{reasons[0]}; none of {', '.join(PREFERRED)} can be used: give --solvers a,b,c"
            )
        return plans

    def _plan(self, solver: str) -> CellPlan:
        cfg, choices = self._compose(solver)
        if "mask" not in operator_caps(_as_dict(cfg.operator)):
            raise UserError(
                f"operator={choices['operator']} hides no part of a picture, and `try` takes a "
                f"mask; run it with python -m bench operator={choices['operator']} data=folder "
                "data.root=PHOTOS"
            )
        try:
            return prepare(cfg, choices, write=False)[1]
        except Inapplicable as error:
            raise Inapplicable(f"solver {solver}: {self._name_user_files(str(error))}") from None
        except UserError as error:
            raise UserError(self._name_user_files(str(error))) from None

    def _compose(self, solver: str) -> tuple[DictConfig, Mapping[str, object]]:
        """Return the configuration of a run of this solver.

        Paths are set afterwards: an override cannot hold every letter of a path.
        """
        request, (channels, height, _) = self.request, self.shape
        lines = [
            f"solver={solver}",
            "data=folder",
            "data.images=1",
            f"data.size={height}",
            f"data.mode={'grey' if channels == 1 else 'rgb'}",
            f"draws={request.draws}",
            f"batch={request.draws}",
            f"seed={request.seed}",
            "quiet=true",
            f"mask={request.mask.generator or 'files'}",
            *self._prior_lines(),
            *request.settings,
        ]
        cfg, choices = compose(check(lines))
        cfg.out, cfg.data.root = str(self.folder / "study"), str(self.folder / "photos")
        if request.mask.generator is None:
            cfg.mask.path, cfg.mask.white = str(self.folder / "mask.png"), request.mask.white_means
        self._set_prior_path(cfg)
        self._choose_metrics(cfg)
        return cfg, choices

    def _prior_lines(self) -> list[str]:
        # the path of a folder is set afterwards: an override cannot hold every letter
        return ["prior=fashion" if self.model else f"prior={self.request.prior}"]

    def _set_prior_path(self, cfg: DictConfig) -> None:
        if self.model is not None:
            cfg.prior.path = str(self.model)

    def _image_shape(self) -> Shape:
        """Load the prior and return the shape of its images; UserError unless they are square."""
        settings = [line for line in self.request.settings if group_of(line) == "prior"]
        cfg, _ = compose(check([*self._prior_lines(), *settings]))
        self._set_prior_path(cfg)
        node = _as_dict(cfg.prior)
        prior: Prior = shared("prior", {**node, **converted_path(node)}, "cpu")
        channels, height, width = prior.image_shape
        if channels not in (1, 3) or height != width:
            raise UserError(
                f"the prior is made for images of {tuple(prior.image_shape)} (channels, height, "
                "width), and photographs become squares with 1 or 3 channels; choose another "
                "--model"
            )
        return prior.image_shape

    def _choose_metrics(self, cfg: DictConfig) -> None:
        """Choose the metrics and the columns to show.

        Metrics that cannot be computed here are left out, unless the user chose the metrics.
        """
        nodes: dict[str, Any] = _as_dict(cfg.metrics)
        if not any(group_of(line) == "metrics" for line in self.request.settings):
            nodes = {name: node for name, node in nodes.items() if self._is_computable(name, node)}
            cfg.metrics = nodes
        metrics = {name: shared("metric", node, "cpu") for name, node in nodes.items()}
        self.columns = _main_columns(
            [name for name, metric in metrics.items() if not isinstance(metric, SetMetric)]
        )

    def _is_computable(self, name: str, node: Mapping[str, Any]) -> bool:
        try:
            shared("metric", node, "cpu").admit(self.shape)
        except ValueError:
            return False
        return not missing_weights({name: node})

    def _write_mask(self, white: NDArray[np.bool_]) -> None:
        """Write the mask in the size of the drawing; it is later resized like the photograph."""
        check_mask_size(
            self.request.mask.label, white.shape, self.request.photo_size, self.shape[1:]
        )
        Image.fromarray(white.astype(np.uint8) * 255).save(self.folder / "mask.png")

    def _name_user_files(self, message: str) -> str:
        """Replace paths of the temporary folder in a message by the user's paths."""
        for ours, theirs in (
            ("mask.png", self.request.mask.label),
            ("photos", str(self.request.photo.parent)),
        ):
            message = message.replace(str(self.folder / ours), theirs)
        return message


def _main_columns(names: Sequence[str]) -> list[str]:
    """Return one column of every metric, such as ``psnr_hole`` of ``psnr`` and ``psnr_hole``."""
    bases = dict.fromkeys(re.sub("(_hole|_known)?(_pasted)?$", "", name) for name in names)
    return [next(base + end for end in _VARIANTS if base + end in names) for base in bases]


def _image_name(photo: Path) -> str:
    """Return the photograph's name, changed if a folder of images would skip such a file."""
    name = photo.name.lstrip(".") or "photo"
    return name if is_image(name) else f"{name}.png"


def _as_dict(node: DictConfig) -> Any:
    return OmegaConf.to_container(node, resolve=True)


# -- the work --------------------------------------------------------------------------------------


def _run(worker: Worker, plan: CellPlan) -> SolverResult:
    """Compute one solver's rows, and show the progress in network passes."""
    session = worker.session(plan.cell.config)
    name = SolverResult(plan, ()).name
    with _progress(name, session.prior, _expected_passes(session)):
        rows = [row for chunk in plan.chunks for row in worker.rows(plan, chunk)]
    signals.check()  # a signal may have come while a solver ran
    return SolverResult(plan, rows)


def _expected_passes(session: Session) -> float:
    """Return how many network passes all draws will take; 0 if only the run itself tells it."""
    if "features" in session.solver.needs:  # to count the passes takes as long as the run
        return 0.0
    try:
        return Trial.of(session, "passes").cost(session.solver) * session.config.draws
    except UserError:
        return 0.0  # the run fails with the same error, and reports it


@contextmanager
def _progress(name: str, prior: Prior, total: float) -> Iterator[None]:
    """Show how many network passes a solver has made: a bar on a terminal, lines elsewhere."""
    show = _progress_bar if terminal.out.is_terminal else _progress_lines
    with show(name, prior, total):
        yield


@contextmanager
def _progress_bar(name: str, prior: Prior, total: float) -> Iterator[None]:
    count = "{task.completed:.0f}" + (f" of {total:.0f}" if total else "") + " passes"
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(count),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        Eta(),
        console=terminal.out,
        transient=True,
    )
    task = bar.add_task(escape(name), total=total or None)

    def update() -> None:
        bar.update(task, completed=prior.meter.passes)

    with bar, _call_every(_SECONDS_BAR, update):
        yield


@contextmanager
def _progress_lines(name: str, prior: Prior, total: float) -> Iterator[None]:
    start = time.monotonic()
    first = f"{name}: {total:.0f} network passes ..." if total else f"{name} ..."
    terminal.out.print(first, markup=False)

    def print_line() -> None:
        done, spent = prior.meter.passes, time.monotonic() - start
        if not done:  # before the first call of the network, and while the draws are scored
            return
        line = f"{name}: {done} passes"
        if done < total:
            left = terminal.span(spent * (total - done) / done)
            line = f"{name}: {done} of {total:.0f} passes, about {left} left"
        terminal.out.print(line, markup=False)

    with _call_every(_SECONDS_LINES, print_line):
        yield


@contextmanager
def _call_every(seconds: float, function: Callable[[], None]) -> Iterator[None]:
    """Call a function regularly, in a thread of its own, until the block ends."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(seconds):
            function()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# -- the output ------------------------------------------------------------------------------------


def _print_foreign_presets(plans: Sequence[CellPlan]) -> None:
    """Print which solvers run with settings that were chosen for other priors than this one."""
    foreign = []
    for plan in plans:
        config = plan.cell.config
        choice = choose(config.solver, config.prior, config.data)
        if choice is not None and choice.foreign:
            foreign.append(f"{plan.cell.identity['solver']} ({choice.preset})")
    if foreign:
        terminal.out.print(
            "settings that were chosen for other priors than this one: preset of "
            + ", ".join(foreign),
            style="dim",
            markup=False,
        )


def _print_measurement(request: Request, measured: Measurement) -> None:
    """Print how the model sees photograph and mask, and whether an embedded prior stands in."""
    _, channels, height, width = measured.truth.shape
    part = "the centre square of " if len({*request.photo_size}) > 1 else ""
    colours = "grey" if channels == 1 else "colour"
    seen = f"{part}{request.photo.name} in {width} x {height} pixels, {colours}"
    mask = measured.operator.mask
    share = 0.0 if mask is None else 1 - float(mask.float().mean())
    advice = ""
    if request.mask.generator is None:
        white_hides = request.mask.white_means == "hole"
        hidden, other = ("white", "observed") if white_hides else ("black", "hole")
        advice = f" (its {hidden} part; --white {other} hides the rest instead)"
    terminal.out.print(
        f"the model sees {seen}; {request.mask.label} hides {share:.0%} of that{advice}",
        markup=False,
    )
    if request.stand_in:
        terminal.out.print(
            f"{request.prior} stands in: it was trained on small drawn or grey pictures, so it "
            "fills the hole as if the photograph were one. --model DIR takes a model of your own",
            style="dim",
            markup=False,
        )


def _table(results: Sequence[SolverResult], columns: Sequence[str], device: str) -> Table:
    """Return a table with a line per solver; the last column says why draws failed."""
    metrics = results[0].plan.cell.config.metrics
    columns = [
        name for name in columns if not all(np.isnan(result.mean(name)) for result in results)
    ]
    table = Table(box=None, pad_edge=False, caption_justify="left", caption_style="dim")
    table.caption = (
        f"Means over {len(results[0].rows)} draws. passes: forward and backward network "
        f"evaluations per draw; seconds: of all draws together, on {device}. docs/metrics.md "
        "explains the others"
    )
    table.add_column("solver")
    for name in columns:
        card = shared("metric", metrics[name], "cpu").card
        unit = f" ({card.unit})" if card.unit == "dB" else ""
        title = f"{name}{unit}{_ARROWS.get(card.direction, '')}"
        table.add_column(escape(title), justify="right", no_wrap=True)
    table.add_column("passes", justify="right")
    table.add_column("seconds", justify="right")
    any_failed = any(result.failure for result in results)
    if any_failed:
        table.add_column("")
    for result in results:
        numbers = [*map(result.mean, columns), result.passes, result.seconds]
        failure = [escape(result.failure)] if any_failed else []
        table.add_row(escape(result.name), *map(_number, numbers), *failure)
    return table


def _number(value: float) -> str:
    """Return a number with three significant digits; a dash for NaN."""
    if np.isnan(value):
        return "–"
    return f"{value:.0f}" if 100 <= abs(value) < np.inf else f"{value:#.3g}"


def _panel(request: Request, result: SolverResult, measured: Measurement) -> Panel:
    truth, y = measured.truth.cpu(), measured.y.cpu()
    draws = np.full((1, len(result.rows), *truth.shape[1:]), np.nan, np.float32)
    for d, row in enumerate(result.rows):
        if row.get("png") is not None:
            draws[0, d] = stored_image(row["png"])
    observed = measured.operator.mask
    mask = np.ones(truth[:, :1].shape, bool) if observed is None else observed.cpu().numpy()
    prior = result.plan.cell.identity["prior"]
    group = f"{request.photo.name}, mask {request.mask.label}, prior {prior}"
    return Panel(result.name, truth, y, mask, draws, [_caption(result)], group)


def _caption(result: SolverResult) -> str:
    """Return the line below the draws: why they failed, or their quality and cost."""
    if result.failure:
        return result.failure
    parts = []
    if not np.isnan(psnr := result.mean("psnr_hole")):
        parts.append(f"PSNR of the hole {psnr:.1f} dB")
    if not np.isnan(result.passes):
        parts += [f"{result.passes:.0f} passes a draw", f"{_number(result.seconds)} s"]
    return ", ".join(parts)


def _study_command(request: Request, results: Sequence[SolverResult]) -> str:
    """Return the command of a study of many photographs with the same settings."""
    solvers = ",".join(str(result.plan.cell.identity["solver"]) for result in results)
    mask = f"mask={request.mask.generator}"
    if request.mask.generator is None:
        mask = f"mask=files mask.path=MASKS mask.white={request.mask.white_means}"
    prior = shlex.quote(f"prior={request.prior}")
    several = "-m " if len(results) > 1 else ""
    settings = "".join(f" {shlex.quote(line)}" for line in request.settings)
    return (
        f"python -m bench {several}solver={solvers} data=folder data.root=PHOTOS {mask} "
        f"{prior}{settings}"
    )
