"""How much memory a cell will take, found out without its weights, its data or its memory.

Every network of the prior is run once on tensors that have shapes and no values (torch's
FakeTensorMode), with one row and with two: what a call takes for a moment, what it keeps for a
gradient, and what the gradient takes. Then the solver itself runs a few steps on one image and on
two, on small functions in the place of the networks, and a ledger writes down what the networks
would have taken. So chains of calls, guidance, gradients through encoder and decoder and
checkpointing count as the solver uses them, and so does everything in bf16. What is found is linear
in the rows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.forward_ad import unpack_dual
from torch.func import functional_call

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.trained_modules import load_modules
from posterior_bench.bench.core.streams import Key
from posterior_bench.bench.core.streams import Noise as SeededNoise
from posterior_bench.bench.engine.batches import BatchSize
from posterior_bench.bench.engine.budget import weightless
from posterior_bench.bench.engine.cache import shared
from posterior_bench.bench.engine.measurement import Measurement, batch_of, build_operator
from posterior_bench.bench.engine.metric_networks import PERCEPTUAL
from posterior_bench.bench.engine.scoring import score_rows
from posterior_bench.bench.estimate.live_tensors import Ledger, Live
from posterior_bench.bench.external.folder import Folder
from posterior_bench.metrics.base import AnyMetric, DrawMetric, DrawSet, MissingWeights, ValueMetric
from posterior_bench.metrics.lpips_metric import LPIPS, empty
from posterior_bench.metrics.perceptual import Perceptual, as_rgb
from posterior_bench.priors.base import Prior
from posterior_bench.priors.execution import Execution
from posterior_bench.priors.memory import weight_bytes
from posterior_bench.priors.nets import Inpainter
from posterior_bench.solvers.base import Noise, Observation, Solver

T = TypeVar("T")

SLACK = 0.1
"""What allocators and kernels take on top, as a share."""

_FEW = 4
_CUT = ("steps", "iterations", "levels", "every")
_SECONDS = 60.0
"""Of the processor; a dry run that takes longer is ended, and then there is no estimate."""


# -- what one call of a network takes --------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """Bytes beside inputs and weights: ``idle``, at most during a call without gradients;
    ``forward``, with them; ``kept`` afterwards for the gradient; ``backward``, at most while it is
    taken.
    """

    idle: int = 0
    forward: int = 0
    kept: int = 0
    backward: int = 0

    def towards(self, other: Cost, share: int) -> Cost:
        """On the line from this one, ``share`` times as far as to the other."""
        values = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Cost(*(a + share * (b - a) for a, b in values))


class Costs:
    """What calls of a prior's networks take; each is counted once, for one row and two, and for
    more by a line.
    """

    def __init__(self, prior: Prior) -> None:
        self.prior = prior
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        parts = {"net": prior.net, "latent": prior.latent}
        self._weights = {
            name: self.fake(module) for name, module in parts.items() if module is not None
        }
        self._known: dict[tuple[object, ...], tuple[Cost, Cost]] = {}

    def of(self, part: str, call: Callable[..., Tensor], *inputs: Any) -> Cost:
        """The cost of ``call(*inputs)``, rows counted by the first input; tensors may be of any
        number of rows.
        """
        key = (part, self.prior.execution, *(_form(value) for value in inputs))
        if key not in self._known:
            one, two = ([_of_rows(value, rows) for value in inputs] for rows in (1, 2))
            self._known[key] = _apart_from_here(
                lambda: (self._counted(call, one), self._counted(call, two))
            )
        first, second = self._known[key]
        return first.towards(second, len(inputs[0]) - 1)

    def check(self) -> None:
        """Call the network once; raises what it raises."""
        if self.prior.net is not None and not isinstance(
            self.prior.net, Inpainter
        ):  # that wants a measurement
            self._call()

    def for_a_gradient(self) -> int:
        """Bytes that one row keeps for a gradient through network and decoder. Raises what a call
        raises.
        """
        kept = 0 if self.prior.net is None else self._call().kept
        if self.prior.latent is not None:
            kept += self.of("decode", self.decode, torch.zeros(1, *self.prior.latent_shape)).kept
        return kept

    def _call(self) -> Cost:
        """The cost of one call of the network, nothing known of a measurement."""
        prior, z = self.prior, torch.zeros(1, *self.prior.latent_shape)
        cond = prior.condition(torch.zeros(1, dtype=torch.long))
        values = dict(prior._condition_values(cond, z))
        if isinstance(prior.net, Inpainter):
            with torch.no_grad():
                y = torch.zeros(1, *prior.image_shape, device=prior.device)
                values = dict(prior._condition_values(prior.inpainting(y, y[:, :1] == 0, cond), z))
        return self.of("net", self.network, z, torch.zeros(1), values)

    def network(self, x: Tensor, t: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """The prior's network on fake tensors, in the precision it is run with."""
        with self.standing_in():
            return Prior._raw(self.prior, x, t, values)

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """The encoder on fake tensors."""
        return self._autoencoder("encode", x, noise)

    def decode(self, z: Tensor) -> Tensor:
        """The decoder on fake tensors."""
        return self._autoencoder("decode", z)

    def standing_in(self) -> AbstractContextManager[Any]:
        """Within the block the network that the prior runs has fake weights."""
        net = self.prior.net
        assert net is not None

        def call(x: Tensor, t: Tensor, values: Any) -> Any:
            inputs = (x, t, values)
            return functional_call(net, self._weights["net"], inputs, tie_weights=False)

        return patch.object(self.prior, "_compiled", call)

    def _autoencoder(self, name: str, *inputs: Tensor | None) -> Tensor:
        latent = self.prior.latent
        assert latent is not None
        weights = {f"module.{key}": value for key, value in self._weights["latent"].items()}
        out: Tensor = functional_call(_Method(latent, name), weights, inputs, tie_weights=False)
        return out

    def fake(self, module: nn.Module) -> dict[str, Tensor]:
        """Weights for a module that have shapes and no values."""
        state = module.state_dict().items()
        with self.mode:
            return {
                key: torch.empty(
                    value.shape, dtype=torch.float32 if value.is_floating_point() else value.dtype
                )
                for key, value in state
            }

    def _counted(self, call: Callable[..., Tensor], templates: Sequence[Any]) -> Cost:
        with self.mode, torch.enable_grad():
            inputs = [_empty(template) for template in templates]
            with Live() as live, torch.no_grad():
                call(*inputs)
            idle = live.peak
            inputs[0].requires_grad_()
            with Live() as live:
                out = call(*inputs)
                forward, made = live.peak, out.numel() * out.element_size()
                if not out.requires_grad:
                    return Cost(idle, forward)
                kept, slope = live.now - made, torch.empty_like(out)
                made += slope.numel() * slope.element_size()
                live.mark()
                torch.autograd.grad(out, inputs[0], slope)
                return Cost(idle, forward, max(kept, 0), max(live.peak - made, 0))


class _Method(nn.Module):
    """One method of a module as a module of its own."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module, self.name = module, name

    def forward(self, *inputs: Any) -> Any:
        # the class's own: the object's may be replaced meanwhile
        return getattr(type(self.module), self.name)(self.module, *inputs)


Template = tuple[tuple[int, ...], torch.dtype]


def _form(value: Any) -> object:
    """What tells inputs apart, whatever their rows."""
    if isinstance(value, Tensor):
        return (tuple(value.shape[1:]), value.dtype)
    return tuple((k, _form(v)) for k, v in value.items()) if isinstance(value, Mapping) else value


def _of_rows(value: Any, rows: int) -> Any:
    """The shapes of inputs with so many rows."""
    if isinstance(value, Tensor):
        return ((rows, *value.shape[1:]), value.dtype)
    return {k: _of_rows(v, rows) for k, v in value.items()} if isinstance(value, Mapping) else value


def _empty(template: Any) -> Any:
    if isinstance(template, tuple):
        return torch.zeros(template[0], dtype=template[1])
    return (
        {k: _empty(v) for k, v in template.items()} if isinstance(template, Mapping) else template
    )


# -- a dry run -------------------------------------------------------------------------------------


@contextmanager
def priced(costs: Costs, ledger: Ledger, whole: bool) -> Iterator[None]:
    """Within the block the prior runs no network, and the ledger writes down what its networks
    would have taken.

    A ``whole`` network runs on fake tensors, so that hooks inside it work; all tensors must then be
    fake ones.
    """
    prior, latent = costs.prior, costs.prior.latent
    with ExitStack() as stack:
        stack.enter_context(weightless(prior, whole))
        if whole:
            stack.enter_context(costs.standing_in())
            grid = prior.grid  # levels are numbers, which fake tensors do not have
            stack.enter_context(
                patch.object(prior, "grid", lambda *a, **k: _apart_from_here(lambda: grid(*a, **k)))
            )
        elif prior.net is not None:
            stack.enter_context(
                patch.object(
                    prior, "_raw", charged("net", costs, ledger, costs.network, prior._raw)
                )
            )
            light = prior._to_x0
            # the prediction of a dry run is made of the state alone: tied to the output, it keeps
            # what a network keeps
            stack.enter_context(
                patch.object(prior, "_to_x0", lambda out, *rest: light(out, *rest) + 0 * out)
            )
        if latent is not None:
            for name, call in (("encode", costs.encode), ("decode", costs.decode)):
                paid = charged(name, costs, ledger, call, getattr(latent, name))
                stack.enter_context(patch.object(latent, name, paid))
        yield


def charged(
    part: str,
    costs: Costs,
    ledger: Ledger,
    call: Callable[..., Tensor],
    light: Callable[..., Tensor],
) -> Callable[..., Tensor]:
    """``light``, with what ``call`` would take written down; autograd keeps it as long as a
    gradient may need it.
    """

    def run(*inputs: Any) -> Tensor:
        cost = costs.of(part, call, *inputs)
        graph = torch.is_grad_enabled() and any(
            isinstance(v, Tensor) and v.requires_grad for v in inputs
        )
        tangents = 1 if unpack_dual(inputs[0]).tangent is None else 2
        ledger.spike(tangents * (cost.forward if graph else cost.idle))
        out = light(*inputs)
        if not graph or not out.requires_grad:
            return out
        one, held = ledger.lease(cost.kept)
        out = out * one
        # under checkpointing the lease has ended by now, and begins again when the call is repeated
        out.register_hook(lambda _slope: ledger.spike(cost.backward - (cost.kept if held() else 0)))
        return out

    return run


def _apart_from_here(count: Callable[[], T]) -> T:
    """In a thread of its own, without the modes and hooks around the caller: the ledger's, and
    checkpointing's.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(count).result()


@dataclass(frozen=True)
class _Peaks:
    """Bytes of one dry run: at most in the fit, at most in sampling, and what is left when the
    samples are there.
    """

    fit: int
    sample: int
    left: int


@dataclass(frozen=True)
class _Line:
    """``constant + row * rows + image * images``."""

    constant: float
    row: float
    image: float

    def at(self, size: BatchSize) -> float:
        return self.constant + self.row * size.rows + self.image * size.images


class _Blank:
    """Noise on fake tensors, where a generator has nothing to fill."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def normal(self, shape: Sequence[int]) -> Tensor:
        return torch.zeros(self.rows, *shape)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return torch.zeros(self.rows, *shape)

    def draws(self, draws: Sequence[int]) -> _Blank:
        return _Blank(self.rows * len(draws))


def shortened(solver: Solver) -> Solver:
    """The solver with few steps, its networks used as before; as it is where its settings allow no
    less.
    """
    with suppress(ValueError):
        solver = solver.scaled(_FEW / max(_FEW, *solver.workload.values(), 0))
    values = {f.name: getattr(solver, f.name) for f in dataclasses.fields(solver)}  # type: ignore[arg-type]
    whole = {k: v for k, v in values.items() if type(v) is int and k.endswith(_CUT) and v > _FEW}
    few = {name: 1 if name == "every" else _FEW for name in whole}
    try:
        return replace(solver, **few)  # type: ignore[type-var]
    except ValueError:
        return solver


def _dry_run(config: Mapping[str, Any], costs: Costs, size: BatchSize) -> _Peaks:
    """A few steps of the solver on made-up images, half of each hidden."""
    prior, solver = costs.prior, shortened(build(config["solver"]))
    whole = "features" in solver.needs
    modules = load_modules(config, "cpu")
    with (
        costs.mode if whole else nullcontext(),
        Ledger(_SECONDS) as ledger,
        priced(costs, ledger, whole),
    ):
        measured = _measurement(config, prior, size.images, made_up=whole)
        cond = prior.condition(measured.labels)
        distance = _perceptual(solver, costs, ledger)
        obs = Observation(measured.y, measured.operator, cond, distance, modules)
        noise: Noise = _Blank(size.images) if whole else SeededNoise(measured.keys, "solver")
        with prior.metered():
            posterior = solver.fit(obs, prior, noise)
            fit = ledger.peak
            ledger.mark()
            drawn = posterior.sample(range(size.draws))
        left = ledger.now
        del drawn
        sample = ledger.peak
    return _Peaks(fit, sample, left)


def _measurement(
    config: Mapping[str, Any], prior: Prior, images: int, made_up: bool = False
) -> Measurement:
    """Random images whose left half is seen, and what the operator makes of them."""
    keys = [Key(0, "memory", str(i)) for i in range(images)]
    channels, height, width = prior.image_shape
    random: Noise = _Blank(images) if made_up else SeededNoise(keys, "truth")
    truth = random.normal(prior.image_shape).clamp(-1, 1)
    mask = (torch.arange(width) < width // 2).expand(images, 1, height, width).clone()
    operator = build_operator(config["operator"], mask, channels)
    labels = torch.zeros(images, dtype=torch.long) if prior.num_classes else None
    noise: Noise = _Blank(images) if made_up else SeededNoise(keys, "noise")
    y = operator.observe(truth, noise.normal(operator.A(truth).shape[1:]))
    return Measurement(keys, truth, labels, operator, y)


def _perceptual(
    solver: Solver, costs: Costs, ledger: Ledger
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """A small distance in the place of the solver's perceptual one."""
    name = getattr(solver, "perceptual", "none")
    if name == "none":
        return None
    found = _apart_from_here(lambda: _between(name, costs))

    # without, it may keep what it computed of the last truth, which here has no values
    @torch.enable_grad()
    def between(a: Tensor, b: Tensor) -> Tensor:
        return found(a, b)

    return charged(f"perceptual {name}", costs, ledger, between, _distance)


def _between(name: str, costs: Costs) -> Callable[[Tensor, Tensor], Tensor]:
    """The perceptual distance of a name, loaded; of LPIPS the network without values where its
    weights are missing.
    """
    metric: Perceptual = shared("metric", PERCEPTUAL[name], "cpu")
    try:
        metric.check()
    except MissingWeights:
        if not isinstance(metric, LPIPS):
            raise
        side, module = metric.min_side, empty(metric.net).eval().requires_grad_(False)
        weights = costs.fake(module)
        return lambda a, b: functional_call(
            module, weights, (as_rgb(a, side), as_rgb(b, side)), tie_weights=False
        ).flatten()
    return metric.between


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).mean(1)


# -- scoring ---------------------------------------------------------------------------------------


def _scoring(
    config: Mapping[str, Any], prior: Prior, metrics: Mapping[str, AnyMetric]
) -> tuple[_Line, int]:
    """What scores take, really computed for an image or two; and the weights of the networks in
    them.
    """
    draws = min(int(config["draws"]), 2)
    network, weights = _scored(config, prior, metrics, BatchSize(1, draws))
    none = [_scored(config, prior, {}, BatchSize(1, rows))[0] for rows in (1, 2)]
    row = none[1] - none[0]
    if any(isinstance(metric, DrawMetric) for metric in metrics.values()):
        row += 2 * _image_bytes(prior)  # vectors of all draws in float64
    return _Line(network - draws * row, row, 0.0), weights


def _scored(
    config: Mapping[str, Any], prior: Prior, metrics: Mapping[str, AnyMetric], size: BatchSize
) -> tuple[int, int]:
    with Live() as live, torch.no_grad():
        measured = _measurement(config, prior, size.images)
        x = SeededNoise([Key(0, "memory", str(i)) for i in range(size.rows)], "metric").normal(
            prior.image_shape
        )
        operator = measured.operator
        seen = operator.first_guess(measured.y) if operator.mask is None else measured.y
        drawn = DrawSet(x.unflatten(0, (-1, size.draws)), measured.truth, operator.mask, seen)
        finite = torch.ones(size.rows, dtype=torch.bool)
        score_rows(metrics, batch_of(measured, x, size.draws), drawn, finite)
    return live.peak, live.outside_peak


def _image_bytes(prior: Prior) -> int:
    return 4 * math.prod(prior.image_shape)


# -- the estimate ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """Bytes of one worker: ``weights`` of all networks, and what solver and scores take by their
    rows.

    ``draws`` of every image, of which a batch holds at most ``batch`` rows at once; ``image``:
    bytes of one output.
    """

    weights: int
    draws: int
    batch: int
    image: int
    fit: _Line
    sample: _Line
    left: _Line
    scores: _Line

    @property
    def size(self) -> BatchSize:
        """The images, and the draws of each, in one network batch."""
        return rows_at_once(self.draws, self.batch)

    def activations(self, batch: int | None = None) -> int:
        """All but the weights, at the worst moment: of the fit, of sampling, or of the scores."""
        size = self.size if batch is None else rows_at_once(self.draws, batch)
        # draws that were sampled before the last block of them
        done = self.image * size.images * (self.draws - size.draws)
        scored = self.left.at(size) + done + self.scores.at(BatchSize(size.images, self.draws))
        return round(max(self.fit.at(size), self.sample.at(size) + done, scored))

    def total(self, batch: int | None = None) -> int:
        """Weights and activations."""
        return self.weights + self.activations(batch)

    def largest_batch(self, memory: float) -> int:
        """The largest ``batch`` that fits into so many bytes, slack included; 0 where none does."""
        fits = lambda batch: (1 + SLACK) * self.total(batch) <= memory  # noqa: E731
        if not fits(1):
            return 0
        good, bad = 1, 2
        while fits(bad) and bad < _MOST_ROWS:
            good, bad = bad, 2 * bad
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if fits(middle) else (good, middle)
        return good


_MOST_ROWS = 2**16


def rows_at_once(draws: int, batch: int) -> BatchSize:
    """What a worker fills its network batches to (:func:`bench.engine.plan.slices`,
    :meth:`bench.engine.worker.Worker.rows`).
    """
    return BatchSize(max(1, batch // draws), min(draws, batch))


def estimate(config: Mapping[str, Any], costs: Costs) -> Estimate:
    """The memory of a cell's worker. Raises what the solver raises where it does not fit to prior
    and operator.
    """
    costs.prior.run_as(replace(Execution.of(config), compile=False))
    solver = config["solver"]
    sizes = (BatchSize(1, 1), BatchSize(2, 1), BatchSize(1, 2))
    if isinstance(build(solver), Folder):
        runs = [_Peaks(0, 0, 0)] * len(sizes)
    else:
        runs = [_dry_run(config, costs, size) for size in sizes]
    lines = {
        name: _line(*(getattr(run, name) for run in runs)) for name in ("fit", "sample", "left")
    }
    scores, scored_weights = _scoring(config, costs.prior, _usable(config))
    return Estimate(
        weights=weight_bytes(costs.prior)
        + scored_weights
        + _perceptual_weights(config, costs.prior),
        draws=int(config["draws"]),
        batch=int(config["batch"]),
        image=_image_bytes(costs.prior),
        scores=scores,
        **lines,
    )


def _line(one: int, images: int, draws: int) -> _Line:
    """The line through what was found for one row, two images of one draw, and one image of two
    draws.
    """
    row = draws - one
    image = images - one - row
    return _Line(one - row - image, row, image)


def _usable(config: Mapping[str, Any]) -> dict[str, AnyMetric]:
    """Metrics that can be computed here without an exact posterior and without the values of
    others.
    """
    found: dict[str, AnyMetric] = {}
    for name, node in config["metrics"].items():
        try:
            metric = shared("metric", node, "cpu")
            metric.check()
        except Exception:  # a finding of its own
            continue
        if not isinstance(metric, ValueMetric) and "exact" not in metric.needs:
            found[name] = metric
    return found


def _perceptual_weights(config: Mapping[str, Any], prior: Prior) -> int:
    """Weights of the distance that the solver's setting names, unless a metric brings them
    along.
    """
    name = getattr(build(config["solver"]), "perceptual", "none")
    if name == "none" or any(
        node.get("_target_") == PERCEPTUAL[name]["_target_"] for node in config["metrics"].values()
    ):
        return 0
    metric: Perceptual = shared("metric", PERCEPTUAL[name], "cpu")
    x = torch.zeros(1, *prior.image_shape)
    try:
        metric.between(x, x)  # loads them
    except MissingWeights:
        return (
            4 * sum(p.numel() for p in empty(metric.net).parameters())
            if isinstance(metric, LPIPS)
            else 0
        )
    with Live() as live, torch.no_grad():
        metric.between(x, x)
    return live.outside_peak - _image_bytes(prior)
