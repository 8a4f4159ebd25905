"""What ``python -m bench try`` does once its command line is understood: plan, run, print, draw.

Every solver is planned, run and scored by what a study uses, so the numbers are those of a study of
this photograph alone with one chunk. A temporary folder holds what a study would be given: a folder
of one photograph, and its mask.
"""

from __future__ import annotations

import io
import re
import shlex
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from PIL import Image
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Eta
from rich.table import Table

from posterior_bench.bench.cli.try_request import (
    PREFERRED,
    SOME,
    Request,
    check_mask_size,
    group_of,
)
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
"""Of the columns of one metric, the first of these stands in the table."""
_ARROWS = {"up": " ↑", "down": " ↓"}
_EVERY = 10.0
"""Seconds between two lines of progress where there is no terminal."""


@dataclass(frozen=True)
class Tried:
    """One solver, and the rows of its draws."""

    plan: CellPlan
    rows: Sequence[Row]

    @property
    def name(self) -> str:
        identity = self.plan.cell.identity
        return " ".join(filter(None, (str(identity["solver"]), str(identity["variant"]))))

    @property
    def failure(self) -> str:
        """How many draws failed, and why the first did; empty where all are ok."""
        failed = [row for row in self.rows if row["status"] != "ok"]
        return (
            f"{len(failed)} of {len(self.rows)} draws failed: {failed[0]['message']}"
            if failed
            else ""
        )

    def mean(self, column: str) -> float:
        """Over the draws; NaN where one of them failed."""
        return float(np.mean([float(row.get(column, np.nan)) for row in self.rows]))

    @property
    def passes(self) -> float:
        return float(total_passes(self.mean("nfe"), self.mean("nge")))

    @property
    def seconds(self) -> float:
        """Of all draws together, with their fit."""
        return (self.mean("seconds_fit") + self.mean("seconds_sample")) * len(self.rows)


def try_solvers(request: Request) -> int:
    """Try every solver, print the table, write the picture; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="bench-try-") as folder:
        stage = _Stage(request, Path(folder))
        plans = stage.plans()
        _say_presets(plans)
        worker = Worker(_device(), plans[0].cell.config.threads)
        session = worker.session(plans[0].cell.config)
        session.told.ready()  # a prompt that cannot be embedded here is no failure of a solver
        measured = session.measure(plans[0].chunks[0].images)
        _say_seen(request, measured)
        for line in session.told.said:
            terminal.out.print(f"the prior {line}", style="dim", markup=False)
        tried = [_run(worker, plan) for plan in plans]
        terminal.out.print(_table(tried, stage.columns, worker.device))
        solver_sheet(request.out, [_panel(request, one, measured) for one in tried])
    terminal.out.print(f"picture  {request.out.absolute()}", markup=False)
    terminal.out.print(
        f"a whole folder of photographs: {_next(request, tried)}", style="dim", markup=False
    )
    return FAILED if any(one.failure for one in tried) else 0


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


# -- what a study would be given -------------------------------------------------------------------


class _Stage:
    """A folder with the photograph alone, its mask, and the settings that all solvers share."""

    def __init__(self, request: Request, folder: Path):
        self.request, self.folder = request, folder
        self.model = local_model(request.prior) if isinstance(request.prior, Path) else None
        self.shape = self._shape()
        (folder / "photos").mkdir()
        (folder / "photos" / _plain_name(request.photo)).symlink_to(request.photo.absolute())
        if request.white is not None:
            self._write_mask(request.white)
        self.columns: list[str] = []

    def plans(self) -> list[CellPlan]:
        """One per solver; UserError for a solver named by the user that cannot be used here."""
        if self.request.solvers:
            return [self._plan(name) for name in self.request.solvers]
        found: list[CellPlan] = []
        reasons: list[str] = []
        for name in PREFERRED:
            try:
                found.append(self._plan(name))
            except Inapplicable as error:
                reasons.append(str(error))
            if len(found) == SOME:
                break
        if not found:
            raise UserError(
                f"{reasons[0]}; none of {', '.join(PREFERRED)} can be used: give --solvers a,b,c"
            )
        return found

    def _plan(self, solver: str) -> CellPlan:
        cfg, choices = self._compose(solver)
        if "mask" not in _operator_caps(cfg):
            raise UserError(
                f"operator={choices['operator']} hides no part of a picture, and `try` takes a "
                f"mask; run it with "
                f"python -m bench operator={choices['operator']} data=folder data.root=PHOTOS"
            )
        try:
            return prepare(cfg, choices, write=False)[1]
        except Inapplicable as error:
            raise Inapplicable(f"solver {solver}: {self._as_given(str(error))}") from None
        except UserError as error:
            raise UserError(self._as_given(str(error))) from None

    def _compose(self, solver: str) -> tuple[DictConfig, Mapping[str, object]]:
        """The configuration of a run of this solver; paths are put in as they are, whatever letters
        they hold.
        """
        request, (channels, height, _) = self.request, self.shape
        lines = [
            *(f"solver={solver}", "data=folder", "data.images=1", f"data.size={height}"),
            f"data.mode={'grey' if channels == 1 else 'rgb'}",
            *(
                f"draws={request.draws}",
                f"batch={request.draws}",
                f"seed={request.seed}",
                "quiet=true",
            ),
            f"mask={request.mask or 'files'}",
            *self._prior_lines(),
            *request.settings,
        ]
        cfg, choices = compose(check(lines))
        cfg.out, cfg.data.root = str(self.folder / "study"), str(self.folder / "photos")
        if request.mask is None:
            cfg.mask.path, cfg.mask.white = str(self.folder / "mask.png"), request.white_means
        self._put_prior(cfg)
        self._choose_metrics(cfg)
        return cfg, choices

    def _prior_lines(self) -> list[str]:
        # a folder is put in afterwards, whatever letters its path has
        return ["prior=fashion" if self.model else f"prior={self.request.prior}"]

    def _put_prior(self, cfg: DictConfig) -> None:
        if self.model is not None:
            cfg.prior.path = str(self.model)

    def _shape(self) -> Shape:
        """Of the prior's images; UserError for a prior that cannot be loaded, or is not of square
        pictures.
        """
        settings = [line for line in self.request.settings if group_of(line) == "prior"]
        cfg, _ = compose(check([*self._prior_lines(), *settings]))
        self._put_prior(cfg)
        node = _contained(cfg.prior)
        prior: Prior = shared("prior", {**node, **converted_path(node)}, "cpu")
        channels, height, width = prior.image_shape
        if channels not in (1, 3) or height != width:
            raise UserError(
                f"the prior is made for images of {tuple(prior.image_shape)} (channels, height, "
                f"width), and "
                "photographs become squares with 1 or 3 channels; choose another --model"
            )
        return prior.image_shape

    def _choose_metrics(self, cfg: DictConfig) -> None:
        """Leave out what cannot be computed here, unless the user asked for it; and remember the
        columns to show.
        """
        nodes: dict[str, Any] = _contained(cfg.metrics)
        asked = any(group_of(line) == "metrics" for line in self.request.settings)
        if not asked:
            nodes = {name: node for name, node in nodes.items() if self._is_computable(name, node)}
            cfg.metrics = nodes
        metrics = {name: shared("metric", node, "cpu") for name, node in nodes.items()}
        self.columns = _one_each(
            [name for name, metric in metrics.items() if not isinstance(metric, SetMetric)]
        )

    def _is_computable(self, name: str, node: Mapping[str, Any]) -> bool:
        try:
            shared("metric", node, "cpu").admit(self.shape)
        except ValueError:
            return False
        return not missing_weights({name: node})

    def _write_mask(self, white: NDArray[np.bool_]) -> None:
        """As large as it was drawn: what becomes of the photograph becomes of its mask."""
        _, height, width = self.shape
        check_mask_size(
            self.request.mask_label, white.shape, self.request.photo_size, (height, width)
        )
        Image.fromarray(white.astype(np.uint8) * 255).save(self.folder / "mask.png")

    def _as_given(self, message: str) -> str:
        """A message with the user's files in the place of those in the temporary folder."""
        for ours, theirs in (
            ("mask.png", self.request.mask_label),
            ("photos", str(self.request.photo.parent)),
        ):
            message = message.replace(str(self.folder / ours), theirs)
        return message


def _one_each(names: Sequence[str]) -> list[str]:
    """One column of every metric: of ``psnr``, ``psnr_known`` and ``psnr_hole`` that of the
    hole.
    """
    bases = dict.fromkeys(re.sub("(_hole|_known)?(_pasted)?$", "", name) for name in names)
    return [next(base + end for end in _VARIANTS if base + end in names) for base in bases]


def _plain_name(photo: Path) -> str:
    """The photograph's name, changed only where a folder of images would leave a file of that name
    out.
    """
    name = photo.name.lstrip(".") or "photo"
    return name if is_image(name) else f"{name}.png"


def _contained(node: DictConfig) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True)


def _operator_caps(cfg: DictConfig) -> frozenset[str]:
    from posterior_bench.bench.config.build import target

    caps: frozenset[str] = target(_contained(cfg.operator)).caps
    return caps


# -- the work --------------------------------------------------------------------------------------


def _run(worker: Worker, plan: CellPlan) -> Tried:
    """One solver's rows, with progress in network passes."""
    session = worker.session(plan.cell.config)
    one = Tried(plan, ())
    with _progress(one.name, session.prior, _expected(session)):
        rows = [row for chunk in plan.chunks for row in worker.rows(plan, chunk)]
    signals.check()  # a signal may have come while a solver ran
    return Tried(plan, rows)


def _expected(session: Session) -> float:
    """How many network passes all draws will take; 0 where that is not known beforehand."""
    if (
        "features" in session.solver.needs
    ):  # could be counted with the network alone, which takes as long as the run
        return 0.0
    try:
        return Trial.of(session, "passes").cost(session.solver) * session.config.draws
    except UserError:
        return 0.0  # what fails here fails in the run, and is said there


@contextmanager
def _progress(name: str, prior: Prior, total: float) -> Iterator[None]:
    """Say how far a solver is, read from the prior's meter by a thread beside it."""
    over = threading.Event()
    if terminal.out.is_terminal:
        bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}" + (f" of {total:.0f}" if total else "") + " passes"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            Eta(),
            console=terminal.out,
            transient=True,
        )
        task = bar.add_task(escape(name), total=total or None)
        with bar, _beside(over, 0.2, lambda: bar.update(task, completed=prior.meter.passes)):
            yield
        return
    start = time.monotonic()
    terminal.out.print(
        f"{name}: {total:.0f} network passes ..." if total else f"{name} ...", markup=False
    )

    def say() -> None:
        done, spent = prior.meter.passes, time.monotonic() - start
        if not done:  # before the first call of the network, and while the draws are scored
            return
        ahead = f" of {total:.0f} passes, about {terminal.span(spent * (total - done) / done)} left"
        terminal.out.print(
            f"{name}: {done}{ahead if 0 < done < total else ' passes'}", markup=False
        )

    with _beside(over, _EVERY, say):
        yield


@contextmanager
def _beside(over: threading.Event, every: float, look: Any) -> Iterator[None]:
    """Call ``look`` now and then until the block ends."""

    def repeat() -> None:
        while not over.wait(every):
            look()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# -- what is said and shown ------------------------------------------------------------------------


def _say_presets(plans: Sequence[CellPlan]) -> None:
    """Which solvers run with settings that were chosen for other priors than this one."""
    foreign = []
    for plan in plans:
        config = plan.cell.config
        choice = choose(config.solver, config.prior, config.data)
        if choice is not None and choice.foreign:
            foreign.append(f"{plan.cell.identity['solver']} ({choice.preset})")
    if foreign:
        line = (
            f"settings that were chosen for other priors than this one: preset of "
            f"{', '.join(foreign)}"
        )
        terminal.out.print(line, style="dim", markup=False)


def _say_seen(request: Request, measured: Measurement) -> None:
    """What became of photograph and mask, and that an embedded prior stands in where the user has
    named none.
    """
    _, channels, height, width = measured.truth.shape
    part = (
        f"{'the centre square of ' if len({*request.photo_size}) > 1 else ''}{request.photo.name}"
    )
    seen = f"{part} in {width} x {height} pixels, {'grey' if channels == 1 else 'colour'}"
    mask = measured.operator.mask
    share = 0.0 if mask is None else 1 - float(mask.float().mean())
    other = "observed" if request.white_means == "hole" else "hole"
    words = {"hole": "its white part", "observed": "its black part"}[request.white_means]
    turn = f" ({words}; --white {other} hides the rest instead)" if request.mask is None else ""
    terminal.out.print(
        f"the model sees {seen}; {request.mask_label} hides {share:.0%} of that{turn}", markup=False
    )
    if request.stand_in:
        terminal.out.print(
            f"{request.prior} stands in: it was trained on pictures of clothes alone, so it fills "
            "the hole as if the photograph were one. --model DIR takes a model of your own",
            style="dim",
            markup=False,
        )


def _table(tried: Sequence[Tried], columns: Sequence[str], device: str) -> Table:
    """A line per solver; why draws failed stands behind its numbers."""
    metrics = tried[0].plan.cell.config.metrics
    columns = [name for name in columns if any(not np.isnan(one.mean(name)) for one in tried)]
    table = Table(box=None, pad_edge=False, caption_justify="left", caption_style="dim")
    table.caption = (
        f"Means over {len(tried[0].rows)} draws. passes: forward and backward network evaluations "
        f"per draw; "
        f"seconds: of all draws together, on {device}. docs/metrics.md explains the others"
    )
    table.add_column("solver")
    for name in columns:
        card = shared("metric", metrics[name], "cpu").card
        unit = f" ({card.unit})" if card.unit == "dB" else ""
        table.add_column(
            escape(f"{name}{unit}{_ARROWS.get(card.direction, '')}"), justify="right", no_wrap=True
        )
    table.add_column("passes", justify="right")
    table.add_column("seconds", justify="right")
    failed = any(one.failure for one in tried)
    if failed:
        table.add_column("")
    for one in tried:
        numbers = [*map(one.mean, columns), one.passes, one.seconds]
        table.add_row(
            escape(one.name), *map(_number, numbers), *([escape(one.failure)] if failed else [])
        )
    return table


def _number(value: float) -> str:
    """Three significant digits; a dash for what was not measured."""
    if np.isnan(value):
        return "–"
    return f"{value:.0f}" if 100 <= abs(value) < np.inf else f"{value:#.3g}"


def _panel(request: Request, one: Tried, measured: Measurement) -> Panel:
    truth, y = measured.truth.cpu(), measured.y.cpu()
    draws = np.full((1, len(one.rows), *truth.shape[1:]), np.nan, np.float32)
    for d, row in enumerate(one.rows):
        if row.get("png") is not None:
            draws[0, d] = _pixels(row["png"])
    known = measured.operator.mask
    mask = np.ones(truth[:, :1].shape, bool) if known is None else known.cpu().numpy()
    numbers = (
        []
        if np.isnan(one.mean("psnr_hole"))
        else [f"PSNR of the hole {one.mean('psnr_hole'):.1f} dB"]
    )
    numbers += (
        []
        if np.isnan(one.passes)
        else [f"{one.passes:.0f} passes a draw", f"{_number(one.seconds)} s"]
    )
    caption = one.failure or ", ".join(numbers)
    group = (
        f"{request.photo.name}, mask {request.mask_label}, prior {one.plan.cell.identity['prior']}"
    )
    return Panel(one.name, truth, y, mask, draws, [caption], group)


def _pixels(png: bytes) -> NDArray[np.float32]:
    """A stored PNG as ``(C, H, W)`` in [-1, 1]."""
    array = np.atleast_3d(np.asarray(Image.open(io.BytesIO(png)))).astype(np.float32)
    return array.transpose(2, 0, 1) / np.float32(127.5) - 1


def _next(request: Request, tried: Sequence[Tried]) -> str:
    """The command of a study of many photographs with the same choices."""
    solvers = ",".join(str(one.plan.cell.identity["solver"]) for one in tried)
    mask = (
        f"mask={request.mask}"
        if request.mask
        else f"mask=files mask.path=MASKS mask.white={request.white_means}"
    )
    prior = shlex.quote(f"prior={request.prior}")
    several = "-m " if len(tried) > 1 else ""
    settings = "".join(f" {shlex.quote(line)}" for line in request.settings)
    return (
        f"python -m bench {several}solver={solvers} data=folder data.root=PHOTOS {mask} "
        f"{prior}{settings}"
    )
