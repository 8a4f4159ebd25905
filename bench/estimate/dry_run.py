"""The memory that a solver takes, counted in a dry run of a few steps.

The solver runs on made-up images, with small functions in place of the networks. A ledger counts
the memory that the networks would take (:mod:`bench.estimate.network_memory`), for as long as the
solver or autograd holds on to it. So chains of calls, guidance, checkpointing, and gradients
through encoder and decoder count as the solver uses them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.func import functional_call

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.trained_modules import load_modules
from posterior_bench.bench.core.streams import Key
from posterior_bench.bench.core.streams import Noise as SeededNoise
from posterior_bench.bench.engine.batches import BatchSize
from posterior_bench.bench.engine.budget import weightless
from posterior_bench.bench.engine.cache import shared
from posterior_bench.bench.engine.measurement import Measurement, build_operator
from posterior_bench.bench.engine.metric_networks import PERCEPTUAL
from posterior_bench.bench.engine.short_solver import shortened
from posterior_bench.bench.estimate.call_counts import mean_square
from posterior_bench.bench.estimate.live_tensors import Ledger
from posterior_bench.bench.estimate.network_memory import NetworkMemory, in_own_thread
from posterior_bench.metrics.base import MissingWeights
from posterior_bench.metrics.lpips_metric import LPIPS, empty
from posterior_bench.metrics.perceptual import Perceptual, as_rgb
from posterior_bench.priors.base import Prior
from posterior_bench.priors.replaced import replaced
from posterior_bench.solvers.base import Noise, Observation, Solver

_SECONDS = 60.0
"""Processor time of a dry run; one that takes longer is ended, and then there is no estimate."""


@dataclass(frozen=True)
class Peaks:
    """Bytes of one dry run.

    Parameters
    ----------
    fit : int
        The peak during the fit.
    sample : int
        The peak while the solver samples.
    left : int
        Bytes that are still held when the samples are there.
    """

    fit: int
    sample: int
    left: int


def dry_run(config: JobConfig, memory: NetworkMemory, size: BatchSize) -> Peaks:
    """Run a few steps of a cell's solver on made-up images, half of each hidden.

    Parameters
    ----------
    config : JobConfig
        The configuration of the cell.
    memory : NetworkMemory
        The memory of its prior's networks.
    size : BatchSize
        Images, and draws of each image.

    Raises
    ------
    Exception
        If the solver does not fit prior and operator; whatever the solver raises.
    """
    prior, solver = memory.prior, shortened(build(config.solver))
    whole = "features" in solver.needs
    modules = load_modules(config, "cpu")
    with (
        memory.mode if whole else nullcontext(),
        Ledger(_SECONDS) as ledger,
        charged_prior(memory, ledger, whole),
    ):
        measured = made_up_measurement(config, prior, size.images, fake=whole)
        cond = prior.condition(measured.labels)
        distance = _perceptual(solver, memory, ledger)
        obs = Observation(measured.y, measured.operator, cond, distance, modules)
        noise: Noise = _ZeroNoise(size.images) if whole else SeededNoise(measured.keys, "solver")
        with prior.metered():
            posterior = solver.fit(obs, prior, noise)
            fit = ledger.peak
            ledger.mark()
            drawn = posterior.sample(range(size.draws))
        left = ledger.now
        del drawn
        sample = ledger.peak
    return Peaks(fit, sample, left)


@contextmanager
def charged_prior(memory: NetworkMemory, ledger: Ledger, whole: bool) -> Iterator[None]:
    """Replace the prior's networks within a block by small functions whose calls the ledger counts.

    Parameters
    ----------
    memory : NetworkMemory
        The memory of the networks.
    ledger : Ledger
        Counts the bytes that the networks would take.
    whole : bool
        Run the network itself on fake tensors, so that hooks inside it work. Then all other
        tensors must be fake too.
    """
    prior = memory.prior
    with ExitStack() as stack:
        stack.enter_context(weightless(prior, whole))
        if whole:
            stack.enter_context(memory.fake_network())
            grid = prior.grid  # levels are numbers, which fake tensors do not have
            stack.enter_context(
                replaced(prior, grid=lambda *a, **k: in_own_thread(lambda: grid(*a, **k)))
            )
        elif prior.net is not None:
            small = charged("net", memory, ledger, memory.network, prior.run_network)
            stack.enter_context(replaced(prior, run_network=small))
            to_x0 = prior.x0_of_output
            # a dry run predicts from the state alone: a tie to the output makes autograd keep what
            # it keeps for a network
            stack.enter_context(
                replaced(prior, x0_of_output=lambda out, *rest: to_x0(out, *rest) + 0 * out)
            )
        if (latent := prior.latent) is not None:
            for name, call in (("encode", memory.encode), ("decode", memory.decode)):
                small = charged(name, memory, ledger, call, getattr(latent, name))
                stack.enter_context(replaced(latent, **{name: small}))
        yield


def charged(
    part: str,
    memory: NetworkMemory,
    ledger: Ledger,
    call: Callable[..., Tensor],
    small: Callable[..., Tensor],
) -> Callable[..., Tensor]:
    """Return a function that computes ``small`` and charges the memory of ``call``.

    The ledger holds the memory as long as autograd may need it for a gradient.

    Parameters
    ----------
    part : str
        The name of the network.
    memory : NetworkMemory
        Knows what a call takes.
    ledger : Ledger
        Counts it.
    call : callable
        Runs the network on fake tensors.
    small : callable
        A function that takes no memory, with inputs and outputs of the same shapes.
    """

    def run(*inputs: Any) -> Tensor:
        taken = memory.of(part, call, *inputs)
        graph = torch.is_grad_enabled() and any(
            isinstance(v, Tensor) and v.requires_grad for v in inputs
        )
        tangents = 1 if unpack_dual(inputs[0]).tangent is None else 2
        ledger.spike(tangents * (taken.forward if graph else taken.idle))
        out = small(*inputs)
        if not graph or not out.requires_grad:
            return out
        one, held = ledger.lease(taken.kept)
        out = out * one
        # under checkpointing the lease has ended by now, and begins again when the call is repeated
        out.register_hook(
            lambda _slope: ledger.spike(taken.backward - (taken.kept if held() else 0))
        )
        return out

    return run


class _ZeroNoise:
    """Noise for fake tensors, which hold no values that a generator could fill."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def normal(self, shape: Sequence[int]) -> Tensor:
        return torch.zeros(self.rows, *shape)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return torch.zeros(self.rows, *shape)

    host_uniform = uniform

    def draws(self, draws: Sequence[int]) -> _ZeroNoise:
        return _ZeroNoise(self.rows * len(draws))


def made_up_measurement(
    config: JobConfig, prior: Prior, images: int, fake: bool = False
) -> Measurement:
    """Return random images whose left half is observed, measured by the cell's operator.

    Parameters
    ----------
    config : JobConfig
        The configuration of the cell.
    prior : Prior
        Says the shape of an image and the number of classes.
    images : int
        How many images.
    fake : bool, default False
        Whether the tensors hold no values.
    """
    keys = [Key(0, "memory", str(i)) for i in range(images)]
    channels, height, width = prior.image_shape
    random: Noise = _ZeroNoise(images) if fake else SeededNoise(keys, "truth")
    truth = random.normal(prior.image_shape).clamp(-1, 1)
    mask = (torch.arange(width) < width // 2).expand(images, 1, height, width).clone()
    operator = build_operator(config.operator, mask, channels)
    labels = torch.zeros(images, dtype=torch.long) if prior.num_classes else None
    noise: Noise = _ZeroNoise(images) if fake else SeededNoise(keys, "noise")
    y = operator.observe(truth, noise.normal(operator.A(truth).shape[1:]))
    return Measurement(keys, truth, labels, operator, y)


def _perceptual(
    solver: Solver, memory: NetworkMemory, ledger: Ledger
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return a small distance in place of the solver's perceptual one, None where it uses none."""
    name = getattr(solver, "perceptual", "none")
    if name == "none":
        return None
    distance = in_own_thread(lambda: _between(name, memory))

    # with gradients, because otherwise it may keep features of the last truth, which has no values
    @torch.enable_grad()
    def between(a: Tensor, b: Tensor) -> Tensor:
        return distance(a, b)

    return charged(f"perceptual {name}", memory, ledger, between, mean_square)


def _between(name: str, memory: NetworkMemory) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a perceptual distance by its name; LPIPS without weights gets fake ones."""
    metric: Perceptual = shared("metric", PERCEPTUAL[name], "cpu")
    try:
        metric.check()
    except MissingWeights:
        if not isinstance(metric, LPIPS):
            raise
        side, module = metric.min_side, empty(metric.net).eval().requires_grad_(False)
        weights = memory.fake_weights(module)
        return lambda a, b: functional_call(
            module, weights, (as_rgb(a, side), as_rgb(b, side)), tie_weights=False
        ).flatten()
    return metric.between
