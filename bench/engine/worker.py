"""The worker: one device, everything loaded once, one chunk of rows at a time. It knows no
executor.
"""

from __future__ import annotations

import gc
import io
import json
import math
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from posterior_bench.bench.config.build import build, target
from posterior_bench.bench.config.cell import digest
from posterior_bench.bench.config.image_folders import remedy
from posterior_bench.bench.config.plugins import admit_of
from posterior_bench.bench.config.trained_modules import load_modules
from posterior_bench.bench.core import signals
from posterior_bench.bench.core.cost import Budget
from posterior_bench.bench.core.environment import version
from posterior_bench.bench.core.errors import (
    DeviceLost,
    Inapplicable,
    TimeoutExceeded,
    UserError,
    unknown,
)
from posterior_bench.bench.core.foreign import described, foreign, named, text_of
from posterior_bench.bench.core.isolation import isolated, keep_threads
from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.bench.engine import pulse
from posterior_bench.bench.engine.arena import build_images
from posterior_bench.bench.engine.conditioning import Conditioning
from posterior_bench.bench.engine.exact_draws import exact_reference
from posterior_bench.bench.engine.heartbeat import beating
from posterior_bench.bench.engine.plan import CellPlan, Chunk
from posterior_bench.bench.engine.scoring import (
    Row,
    check_base,
    demand_numbers,
    put_values,
    score_rows,
    values_of,
)
from posterior_bench.bench.engine.source_code import code_of
from posterior_bench.bench.external.folder import UNMEASURED, Folder, stored_posterior
from posterior_bench.bench.store.schema import TRACE
from posterior_bench.bench.store.trace import pack_traces
from posterior_bench.bench.store.truth import truth_hash
from posterior_bench.datasets.base import ImageSet
from posterior_bench.masks.base import MaskGenerator
from posterior_bench.metrics.base import (
    AnyMetric,
    Batch,
    DrawSet,
    MissingWeights,
    ValueMetric,
    from_uint8,
    to_uint8,
)
from posterior_bench.metrics.perceptual import Perceptual
from posterior_bench.operators.base import Operator
from posterior_bench.priors.base import BudgetExceeded, Condition, Prior
from posterior_bench.priors.execution import Execution
from posterior_bench.priors.fingerprint import fingerprint
from posterior_bench.solvers.base import Distance, Observation, Posterior, Solver


@dataclass(frozen=True)
class Measurement:
    """One chunk's truth and what was observed of it, padded to the full batch."""

    keys: Sequence[Key]
    truth: Tensor
    labels: Tensor | None
    operator: Operator
    y: Tensor

    @property
    def truths(self) -> list[str]:
        """A hash of every image's pixels, by which rows say what they were measured on."""
        return [truth_hash(image) for image in self.truth]


def checked_metrics(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The nodes of metrics with the content of their files recorded; UserError where some cannot be
    computed here.
    """
    if missing := missing_weights(nodes):
        raise UserError("; and ".join(missing))
    return {name: {**node, **shared("metric", node, "cpu").pinned} for name, node in nodes.items()}


def missing_weights(nodes: Mapping[str, Mapping[str, Any]], perceptual: str = "none") -> list[str]:
    """Why metrics, and the distance that a solver's setting ``perceptual`` names, cannot be
    computed here.

    What several columns lack is said once.
    """
    reasons: dict[str, str] = {}
    for name, node in nodes.items():
        metric: AnyMetric = shared("metric", node, "cpu")
        if metric.card.id != name:
            raise UserError(
                f"metrics.{name} is listed as '{name}', but its card says '{metric.card.id}'"
            )
        if reason := _fault(metric):
            reasons.setdefault(reason.partition("' needs ")[2] or reason, reason)
    if perceptual in PERCEPTUAL and (
        reason := _fault(shared("metric", PERCEPTUAL[perceptual], "cpu"))
    ):
        reasons.setdefault(
            reason.partition("' needs ")[2] or reason, f"solver.perceptual={perceptual}: {reason}"
        )
    return list(reasons.values())


def _fault(metric: AnyMetric) -> str:
    """Why a metric cannot be computed here; empty where it can."""
    try:
        metric.check()
    except (MissingWeights, RuntimeError) as error:
        return str(error)
    return ""


class Session:
    """The objects of one cell, built from its plain configuration; a ``prior`` stands in for the
    one it names.
    """

    def __init__(self, config: Mapping[str, Any], device: str, prior: Prior | None = None):
        self.config, self.device = config, device
        self.execution = Execution.of(config)
        admit_of(config)
        self.mask: MaskGenerator = build(config["mask"])
        self.solver: Solver = build(config["solver"])
        self.prior: Prior = shared("prior", config["prior"], device) if prior is None else prior
        self.images: ImageSet = build_images(config["data"], self.prior, int(config["seed"]))
        self.told = Conditioning(
            config["data"], self.images, self.prior, config["prior"].get("path")
        )
        nodes = config["metrics"].items()
        self.metrics: dict[str, AnyMetric] = {
            name: shared("metric", node, device) for name, node in nodes
        }
        self._run_prior()
        self._check_fit()
        self.modules = load_modules(config, device)
        self.code = code_of(config["solver"])
        self.perceptual = perceptual_distance(self.solver, device)

    def _check_fit(self) -> None:
        """Refuse data of another shape, and a solver that needs what operator and prior lack;
        nothing is degraded.
        """
        if tuple(self.images.shape) != tuple(self.prior.image_shape):
            raise Inapplicable(
                f"data gives images of {tuple(self.images.shape)}, the prior is made for "
                f"{self.prior.image_shape} "
                f"(channels, height, width); "
                f"{remedy(self.config['data'], self.images.shape, self.prior.image_shape)}"
            )
        has = self.prior.caps | target(self.config["operator"]).caps
        missing = self.solver.lacks(has, float(self.config["operator"].get("sigma") or 0))
        if "unconditional" in missing:
            raise Inapplicable(
                "this prior was trained for inpainting and is no prior without a mask; choose "
                "solver=conditional, or "
                "another prior"
            )
        if missing:
            name = type(self.solver).__name__
            raise Inapplicable(
                f"{name} needs {', '.join(sorted(missing))}, which this prior and operator do not "
                f"have "
                f"(they have {', '.join(sorted(has))}); choose another solver, prior or operator"
            )
        if self.prior.num_classes and self.prior.null_label is None and not self.told.labels_fit:
            raise Inapplicable(
                f"the prior must be told one of its {self.prior.num_classes} classes, and the data "
                f"has "
                f"{self.images.num_classes or 'none'}; choose prior= and data= that fit"
            )
        self.told.demand_same_classes()
        guidances = (
            value for name, value in vars(self.solver).items() if name.startswith("guidance")
        )
        if any(value != 1 for value in guidances) and (problem := self.told.guidance_problem()):
            raise Inapplicable(problem)
        for name, metric in self.metrics.items():
            lacking = ", ".join(sorted(metric.needs - has))
            if lacking:
                raise UserError(
                    f"metric '{name}' compares with the exact posterior and needs {lacking}, which "
                    f"this prior and "
                    "operator do not have; leave it out, or choose a closed-form prior such as "
                    "prior=g2"
                )
            try:
                metric.admit(self.prior.image_shape)
            except ValueError as error:
                raise UserError(str(error)) from None
            if isinstance(metric, ValueMetric):
                check_base(metric, self.metrics)

    def _run_prior(self) -> None:
        """The prior is shared by the cells of a sweep, which may run it in different ways."""
        try:
            self.prior.run_as(self.execution)
        except ValueError as error:
            raise Inapplicable(str(error)) from None

    def condition(self, measured: Measurement) -> Condition | None:
        """What the network is told of measured images; nothing where there are no labels or prompts
        of its own.
        """
        labels = None if measured.labels is None else measured.labels.to(self.device)
        return self.told.of(labels, [key.image for key in measured.keys])

    def measure(self, images: Sequence[str]) -> Measurement:
        """Truth, masks and observations of some images; see :func:`measure`."""
        return measure(self.config, self.images, self.mask, images, self.device)

    def fit(self, obs: Observation, measured: Measurement, draws: int, noise: Noise) -> Posterior:
        """The solver's posterior, or the images made elsewhere that stand in its place."""
        if isinstance(self.solver, Folder):
            ids = [key.image for key in measured.keys]
            return stored_posterior(
                self.solver, self.images, self.config["data"]["images"], draws, ids, self.device
            )
        return self.solver.fit(obs, self.prior, noise)


def measure(
    config: Mapping[str, Any],
    data: ImageSet,
    mask: MaskGenerator,
    images: Sequence[str],
    device: str = "cpu",
) -> Measurement:
    """Truth, masks and observations; they depend on the study seed, the data and the image
    alone.
    """
    keys = [Key(int(config["seed"]), data.name, image) for image in images]
    truth = data.images(images).to(device)
    height, width = truth.shape[-2:]
    place = {image: i for i, image in enumerate(data.ids)}
    mask = mask.beside(data)
    own = [mask.for_image(image, place[image]) for image in images]
    masks = np.stack(
        [m.generate(key.rng("mask"), height, width) for m, key in zip(own, keys, strict=True)]
    )
    operator = build_operator(
        config["operator"], torch.from_numpy(masks)[:, None], len(truth[0])
    ).to(device)
    noise = Noise(keys, "noise", device).normal(operator.A(truth).shape[1:])
    return Measurement(keys, truth, data.labels(images), operator, operator.observe(truth, noise))


def build_operator(node: Mapping[str, Any], mask: Tensor, channels: int = 1) -> Operator:
    """An operator; those that take masks ``(N, 1, H, W)`` or the shape of the images get them."""
    kind = target(node)
    stored_posterior: dict[str, Any] = {"mask": mask} if kind.takes_mask else {}
    if kind.takes_shape:
        stored_posterior["shape"] = (channels, *mask.shape[-2:])
    operator: Operator = build(node, **stored_posterior)
    return operator


@cache
def _shared(kind: str, key: str, device: str, weights: str) -> Any:
    return build(json.loads(key)).to(device)


def shared(kind: str, node: Mapping[str, Any], device: str) -> Any:
    """A prior or metric, loaded once per process and device."""
    key = json.dumps({k: v for k, v in node.items() if k != "train"}, sort_keys=True)
    return _shared(kind, key, device, _weights(node) if kind == "prior" else "")


def _weights(node: Mapping[str, Any]) -> str:
    """The fingerprint of a prior's files: other files at the same place are another prior."""
    try:
        return fingerprint(node["path"]) if "path" in node else ""
    except (OSError, ValueError):
        return ""  # whoever loads it says what is wrong


PERCEPTUAL: Mapping[str, Mapping[str, Any]] = {
    "stlpips": {"_target_": "metrics.stlpips.STLPIPS"},
    "lpips_vgg": {"_target_": "metrics.lpips_metric.LPIPS", "net": "vgg"},
    "lpips_alex": {"_target_": "metrics.lpips_metric.LPIPS", "net": "alex"},
}
"""Metrics that a solver's setting ``perceptual`` may name; a cell scored by one loads it once."""


def perceptual_distance(solver: Solver, device: str) -> Distance | None:
    """The distance a solver's setting ``perceptual`` names; None where it says ``none`` or there is
    no such setting.

    Raises UserError for an unknown name, and where the weights are missing or are others.
    """
    name = getattr(solver, "perceptual", "none")
    if name == "none":
        return None
    if name not in PERCEPTUAL:
        raise unknown("setting solver.perceptual", name, ["none", *PERCEPTUAL])
    metric: Perceptual = shared("metric", PERCEPTUAL[name], device)
    if reason := _fault(metric):
        raise UserError(f"solver.perceptual={name}: {reason}")
    return metric.between


@dataclass(frozen=True)
class BatchSize:
    """A padded network batch while sampling: so many images, each with so many draws at a time."""

    images: int
    draws: int

    @property
    def rows(self) -> int:
        return self.images * self.draws

    def halved(self) -> BatchSize:
        """Half of it; draws are parted only where there is one image left, because a fit is shared
        by them.
        """
        if self.images > 1:
            return replace(self, images=self.images // 2)
        return replace(self, draws=max(1, self.draws // 2))


_THREADS = torch.get_num_threads()
"""Those of this process, where nobody asks for others."""


class Worker:
    """Runs chunks on one device. Sessions are kept, so a sweep loads a prior once."""

    def __init__(self, device: str = "cpu", threads: int | None = None):
        self.device, self.threads = device, threads or _THREADS
        torch.set_num_threads(self.threads)
        keep_threads()
        # the same kernel for the same shape, run after run; recorded rows promise it
        torch.backends.cudnn.benchmark = False
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self._session: tuple[str, Session] | None = None

    def session(self, config: Mapping[str, Any]) -> Session:
        """The objects of a cell; the last cell's are kept. UserError where they cannot be loaded
        here.
        """
        key = digest(config)
        if self._session is None or self._session[0] != key:
            try:
                # its constructors and imports may extend sys.path, but decide no number of another
                # cell
                with isolated(numbers=True), foreign():
                    session = Session(config, self.device)
            except UserError:
                raise
            except Exception as error:
                raise UserError(
                    f"no worker can start on {self.device}: {one_line(error)}"
                ) from error
            self._session = (key, session)
        return self._session[1]

    def run(self, plan: CellPlan, chunk: Chunk) -> dict[str, int]:
        """Compute one chunk and store its shard; returns how many rows have each status.

        Raises UserError where the cell cannot be loaded here, and DeviceLost, after the rows are
        stored, where the device has failed for good: every further chunk of this process would fail
        too.
        """
        with beating(plan.folder, chunk.name):
            rows = self.rows(plan, chunk)
            signals.check()  # after a signal nobody knows whether the rows were finished
            plan.store.write(chunk.name, rows)
        lost = next((row["message"] for row in rows if "CUDA error" in row["message"]), None)
        if lost is not None:
            raise DeviceLost(
                f"{self.device} answers no more: {lost}; give the same command again to continue"
            )
        statuses = [row["status"] for row in rows]
        return {status: statuses.count(status) for status in dict.fromkeys(statuses)}

    def rows(self, plan: CellPlan, chunk: Chunk) -> list[Row]:
        """The chunk's rows, image by image and draw by draw. A failure is a row too.

        Where memory runs out, the whole chunk is done again with half the padded batch, and so on
        down to one row; the rows say which it was. Every chunk begins with the planned size,
        whatever others of this worker came to: a row may depend on its own chunk's memory, never on
        the order of chunks.
        """
        torch.set_num_threads(self.threads)  # another worker of this process may have others
        session = self.session(plan.cell.config)
        watch = watch_of(plan.cell.config.get("timeout"))
        pulse.begin(chunk.name)
        size = BatchSize(plan.padded, min(plan.cell.draws, plan.batch))
        while size.rows > 1:
            rows, ran_out = self._rows_at(size, session, plan, chunk, watch)
            if not ran_out:
                return rows
            size = size.halved()
        # an image that does not fit alone leaves the others of its chunk alone
        single = [Chunk(chunk.name, [image]) for image in chunk.images]
        return [row for one in single for row in self._rows_at(size, session, plan, one, watch)[0]]

    def _rows_at(
        self,
        size: BatchSize,
        session: Session,
        plan: CellPlan,
        chunk: Chunk,
        watch: Callable[[], None] | None,
    ) -> tuple[list[Row], bool]:
        """The chunk's rows from padded batches of this size, and whether memory ran out."""
        fixed, every = self._fixed(session, plan, size), plan.cell.draws
        draws = chunk.draws(every)
        rows: list[Row] = []
        try:
            for start in range(0, len(chunk.images), size.images):
                part = list(chunk.images[start : start + size.images])
                padded = [*part, *[part[-1]] * (size.images - len(part))]
                with isolated(), foreign():
                    measured = session.measure(padded)
                    truths = measured.truths
                outcome = self._solve(session, measured, every, size.draws, watch, draws)
                rows += [
                    {
                        **fixed,
                        "image_id": image,
                        "draw": d,
                        "truth": truths[i],
                        **outcome[i * len(draws) + k],
                    }
                    for i, image in enumerate(part)
                    for k, d in enumerate(draws)
                ]
            return rows, False
        except Exception as error:
            status, message = status_of(error), one_line(error)
        # behind the handler, whose traceback kept the tensors of the attempt
        if status == "oom":
            self._free_memory()
        return failed_rows(plan, chunk, status, message, fixed), status == "oom"

    def _free_memory(self) -> None:
        gc.collect()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _fixed(self, session: Session, plan: CellPlan, size: BatchSize) -> Row:
        """What is the same in all rows: whose they are, the code, and what bitwise equality depends
        on.
        """
        return {
            "cell": plan.cell.name,
            "message": "",
            "device": _device_name(self.device),
            "build": torch.__version__,
            "threads": torch.get_num_threads(),
            "precision": Execution.of(plan.cell.config).label,
            "padded_batch": size.rows,
            "commit": str(plan.cell.config.get("commit", "")),
            "code": session.code,
            "version": version(),
        }

    def _solve(
        self,
        session: Session,
        measured: Measurement,
        draws: int,
        batch: int,
        watch: Callable[[], None] | None,
        only: range | None = None,
    ) -> list[Row]:
        """Fit once, sample every draw, score; one row per (image, draw) of the padded batch.

        ``only``: those of the ``draws`` that this chunk holds; None = all. A row costs the same in
        any chunk: its share of a fit is that among all draws, though every chunk of an image fits
        once more.
        """
        prior = session.prior
        cond = session.condition(measured)
        obs = Observation(measured.y, measured.operator, cond, session.perceptual, session.modules)
        noise = Noise(measured.keys, "solver", self.device)
        part = range(draws) if only is None else only
        blocks, whole = _blocks(part, min(draws, batch)), _blocks(range(draws), min(draws, batch))
        sampled, planned = (
            obs.n * sum(len(block) for block, _ in these) for these in (blocks, whole)
        )
        if self.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(self.device)
        prior.run_as(session.execution)
        limit, unit = limit_of(session.config["budget"], planned)
        with isolated(), foreign(), _tf32(session.execution.precision == "tf32"):
            with prior.metered(limit, watching(watch), unit) as meter, pulse.following(meter):
                with self._clock() as fit:
                    posterior = session.fit(obs, measured, draws, noise)
                fitted = meter.counts()
                meter.limit = (
                    meter.spent + (limit - meter.spent) * sampled / planned
                )  # the rest is for all draws
                with self._clock() as sample:
                    samples = [posterior.sample(block) for block, _ in blocks]
                    parts = [
                        demand_real(some.x)[:, :n]
                        for some, (_, n) in zip(samples, blocks, strict=True)
                    ]
                    x = torch.cat(parts, dim=1)
            trace = samples[0].trace
            threads = torch.get_num_threads()  # of the solver's choice, if it has made one
            del samples
        if watch is not None:
            watch()
        if x.shape != (obs.n, len(part), *prior.image_shape):
            raise ValueError(
                f"the solver returned {tuple(x.shape)}, not "
                f"{(obs.n, len(part), *prior.image_shape)}"
            )
        cost = {
            "seconds_fit": fit() / (obs.n * draws),
            "seconds_sample": sample() / sampled,
            "peak_mib": _peak_mib(self.device),
            "threads": threads,
            # the fit is shared by the draws; draws that only fill up the last block are not charged
            # to the others
            **{
                k: fitted[k] / (obs.n * draws) + (v - fitted[k]) / sampled
                for k, v in meter.counts().items()
            },
            **(UNMEASURED if isinstance(session.solver, Folder) else {}),
        }
        with isolated(), foreign():
            rows = [
                {**cost, **row}
                for row in self._score(session, measured, x.flatten(0, 1).float(), len(part))
            ]
        if session.config.get("trace") and part.start == 0:
            # as features of an image do, its trace stands in the row of its first draw
            for row, data in zip(rows[:: len(part)], pack_traces(trace), strict=False):
                row[TRACE] = data
        return rows

    @torch.no_grad()
    def _score(self, session: Session, measured: Measurement, x: Tensor, draws: int) -> list[Row]:
        finite = x.isfinite().flatten(1).all(1)
        # a row that is not finite is scored as nothing; its neighbours never see it
        x = torch.where(finite.view(-1, 1, 1, 1), x, torch.zeros((), device=x.device))
        scores = score_rows(
            session.metrics,
            batch_of(measured, x, draws),
            drawn_from(session, measured, x.unflatten(0, (-1, draws))),
            finite,
        )
        put_values(scores, session.metrics, values_of(session.metrics, scores, draws))
        demand_numbers(scores)
        pixels = to_uint8(x)
        rows: list[Row] = []
        reach = x.abs().flatten(1).amax(1).tolist()
        for i, ok in enumerate(finite.tolist()):
            failure = {"message": note_on(reach[i]) if ok else "the output is not finite"}
            image = png(pixels[i]) if ok else None
            rows.append({"status": "ok" if ok else "nan", "png": image, **failure, **scores[i]})
        return rows

    @contextmanager
    def _clock(self) -> Iterator[Callable[[], float]]:
        """Yields a function that gives the seconds the block took, device included."""
        self._synchronize()
        start = end = time.perf_counter()
        yield lambda: end - start
        self._synchronize()
        end = time.perf_counter()

    def _synchronize(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)


@contextmanager
def _tf32(enabled: bool) -> Iterator[None]:
    """TensorFloat-32 on GPUs for the duration of the block; elsewhere, and in every score, products
    stay float32.
    """
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    try:
        products.allow_tf32 = convolutions.allow_tf32 = enabled
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def drawn_from(session: Session, measured: Measurement, x: Tensor) -> DrawSet:
    """The draws ``x`` ``(N, D, C, H, W)`` of measured images, with exact ones where a metric
    compares with them.
    """
    operator, y = measured.operator, measured.y
    seen = operator.first_guess(y) if operator.mask is None else y
    drawn = DrawSet(x, measured.truth, operator.mask, seen)
    if any("exact" in metric.needs for metric in session.metrics.values()):
        exact = exact_reference(session.config, session.prior, measured)
        drawn = replace(
            drawn, reference=exact.x, mode_weights=exact.mode_weights, assign=exact.assign
        )
    return drawn


def batch_of(measured: Measurement, x: Tensor, draws: int) -> Batch:
    """What metrics of single images see of the outputs ``x`` ``(N D, C, H, W)``."""
    operator, y = measured.operator.repeat(draws), measured.y.repeat_interleave(draws, 0)
    mask = (
        operator.mask if operator.mask is not None else torch.ones_like(x[:, :1], dtype=torch.bool)
    )
    return Batch(
        raw=from_uint8(to_uint8(x)),
        pasted=from_uint8(to_uint8(operator.paste(x, y))),
        truth=from_uint8(to_uint8(measured.truth.repeat_interleave(draws, 0))),
        mask=mask,
        y=y,
        Ax=operator.A(x),
        sigma=float(operator.sigma),
    )


def failed_rows(
    plan: CellPlan, chunk: Chunk, status: str, message: str, fixed: Row | None = None
) -> list[Row]:
    """The rows of a chunk that produced nothing."""
    fixed = fixed or {"cell": plan.cell.name}
    return [
        {**fixed, "image_id": image, "draw": d, "status": status, "message": message}
        for image in chunk.images
        for d in chunk.draws(plan.cell.draws)
    ]


def watch_of(timeout: float | None) -> Callable[[], None] | None:
    """A function that raises TimeoutExceeded once so many seconds have gone by; None without a
    limit.

    It is called before every evaluation of a network: Python cannot be stopped safely in between,
    so a call that never comes back is left to ``executor=ray``, which ends the worker.
    """
    if timeout is None:
        return None
    end = time.monotonic() + timeout

    def watch() -> None:
        if time.monotonic() > end:
            raise TimeoutExceeded(f"the chunk took longer than timeout={timeout:g} seconds")

    return watch


def watching(watch: Callable[[], None] | None) -> Callable[[], None]:
    """What is called before every network evaluation: ``watch``, the signal that may have come, and
    progress.
    """

    def look() -> None:
        signals.check()
        pulse.beat()
        if watch is not None:
            watch()

    return look


def demand_real(x: Tensor) -> Tensor:
    """``x``; TypeError unless it is a tensor of real floating numbers: anything else would be
    changed in silence.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"the solver returned {type(x).__name__} in place of a tensor of images")
    if not x.is_floating_point():
        raise TypeError(
            f"the solver returned images of {x.dtype}; give real ones of float32, with values in "
            f"[-1, 1]"
        )
    return x


def note_on(reach: float) -> str:
    """What a reader of a good row should know of the largest value in its output; mostly
    nothing.
    """
    if reach <= FAR:
        return ""
    return f"values reach {reach:.3g}; images lie in [-1, 1], and what is outside was cut off"


FAR = 8.0
"""Values beyond this are no images in [-1, 1] with some noise; 0..255 and 0..65535 are usual
mistakes."""


def status_of(error: Exception) -> str:
    """The row status of a failure. PyTorch tells that host memory ran out by a message alone."""
    text = text_of(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text:
        return "oom"
    return "timeout" if isinstance(error, TimeoutExceeded) else "error"


def one_line(error: BaseException) -> str:
    """Type, first line and place of an error: enough to find it, short enough for a table."""
    return named(error) if isinstance(error, BudgetExceeded | TimeoutExceeded) else described(error)


def _blocks(draws: range, size: int) -> list[tuple[list[int], int]]:
    """Draw indices in blocks of ``size``, the last filled up by repetition, with the number that
    counts.
    """
    blocks = [list(draws[i : i + size]) for i in range(0, len(draws), size)]
    return [(block + [block[-1]] * (size - len(block)), len(block)) for block in blocks]


def limit_of(budget: str | None, rows: int) -> tuple[float, str]:
    """How much ``budget=`` allows so many draws, and in which unit of a meter."""
    if budget is None:
        return math.inf, "nfe"
    allowed = Budget.of(budget)
    return allowed.amount * rows, allowed.unit


def _peak_mib(device: str) -> float:
    """Peak memory so far: of the device, or of the process where there is none."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def png(pixels: Tensor) -> bytes:
    """8-bit pixels ``(C, H, W)`` as PNG."""
    array = pixels.permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(
        buffer, "PNG", compress_level=1
    )
    return buffer.getvalue()


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
