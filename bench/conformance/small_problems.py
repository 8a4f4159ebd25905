"""Where solvers are checked: small priors of every kind, measurements that hold a truth to steal,
and spies.

Nothing here is quick at the expense of being real: seeds, noise and measurements are those of a
run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from posterior_bench.bench.core.streams import Key
from posterior_bench.bench.core.streams import Noise as SeededNoise
from posterior_bench.bench.engine.measurement import Measurement, build_operator
from posterior_bench.operators.base import Operator
from posterior_bench.priors.base import Meter, Prior
from posterior_bench.priors.latents import KL
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.mixtures import smooth
from posterior_bench.priors.nets import UNet2D, UNet2DInpainting
from posterior_bench.priors.process import VE, VP
from posterior_bench.solvers.base import Distance, Noise, Observation, Solver

IMAGES, DRAWS = (0, 1, 2, 3), (0, 1)
"""Image numbers and draw indices of the run that all others are compared with."""

_CLASSES = 3
_WORK = ("steps", "iterations", "levels")
_FEW = 4


# -- priors ----------------------------------------------------------------------------------------


def _exact() -> Prior:
    """Two modes of smooth 8 x 12 images, in closed form: VE, no labels."""
    base = smooth((1, 8, 12), "ve")
    means = torch.cat([base.means - 0.3, base.means + 0.3])
    return MixturePrior(
        VE(), torch.tensor([0.6, 0.4]), means, base.covariances.repeat(2, 1, 1), (1, 8, 12)
    )


def _unet(channels: int) -> UNet2D:
    config = {
        "sample_size": 8,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "num_class_embeds": _CLASSES + 1,
        "norm_num_groups": 4,
        "attention_head_dim": 8,
    }
    return UNet2D(config)


def _network() -> Prior:
    """An untrained U-Net over 8 x 12 images: VE, class-conditional with guidance."""
    return Prior(VE(), _unet(1), (1, 8, 12), num_classes=_CLASSES, null_label=_CLASSES)


def _latent() -> Prior:
    """An untrained U-Net over latents ``(2, 8, 12)`` of 16 x 24 images, with an untrained KL
    autoencoder: VP.
    """
    return _on_latents(_unet(2))


def _inpainting() -> Prior:
    """An untrained U-Net that reads mask and masked image beside such latents, and prompts in the
    place of labels.
    """
    config = {
        "sample_size": 8,
        "in_channels": 5,
        "out_channels": 2,
        "cross_attention_dim": 6,
        "attention_head_dim": 2,
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "norm_num_groups": 4,
    }
    net = UNet2DInpainting(config, (_CLASSES + 1, 3, 6))
    nn.init.normal_(net.contexts)
    return _on_latents(net)


def _on_latents(net: nn.Module) -> Prior:
    config = {
        "in_channels": 1,
        "out_channels": 1,
        "latent_channels": 2,
        "block_out_channels": [8, 8],
        "norm_num_groups": 4,
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    }
    process = VP.scheduled("scaled_linear", 0.00085, 0.012)
    return Prior(process, net, (1, 16, 24), "v", 1.0, _CLASSES, _CLASSES, latent=KL(config))


PRIORS: Mapping[str, Callable[[], Prior]] = {
    "exact": _exact,
    "network": _network,
    "latent": _latent,
    "inpainting": _inpainting,
}
"""The priors solvers are checked on, one of each kind; no image is square, so that rows and columns
cannot be mixed up.

Add one here and every solver that fits is checked on it."""


@cache
def small_prior(name: str) -> Prior:
    """One of :data:`PRIORS`; untrained weights are the same every time, and torch's generator is
    left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PRIORS[name]()


def reduced(solver: Solver, keep: frozenset[str] = frozenset()) -> Solver:
    """The solver with few steps: whole numbers whose names end in steps, iterations or levels are
    cut to 4.

    Settings in ``keep`` stay. A solver that refuses the cut, because its settings depend on each
    other, stays whole.
    """
    values = {f.name: getattr(solver, f.name) for f in fields(solver)}  # type: ignore[arg-type]
    work = {
        k: v for k, v in values.items() if type(v) is int and k not in keep and k.endswith(_WORK)
    }
    try:
        return replace(solver, **{k: min(v, _FEW) for k, v in work.items()})  # type: ignore[type-var]
    except ValueError:
        return solver


# -- measurements ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rig:
    """What a solver runs on: a prior, an operator's configuration, and what else its settings ask
    for.
    """

    prior: Prior
    operator: Mapping[str, Any]
    modules: Mapping[str, torch.nn.Module] | None = None
    perceptual: Distance | None = None
    device: str = "cpu"

    def measure(
        self,
        images: Sequence[int] = IMAGES,
        masks: tuple[str, ...] = ("box",),
        other_truth: bool = False,
        truth: Tensor | None = None,
    ) -> Measurement:
        """Random images and what was observed of them, the same for a number whatever the batch.

        ``masks``: ``box``, ``all`` or ``nothing``, one per image or one for all. ``other_truth``:
        other images with the same measurement, where the operator has a pseudo-inverse. ``truth``:
        these images instead of noise.
        """
        keys = [Key(0, "check", str(i)) for i in images]
        shape = self.prior.image_shape
        drawn, hidden = (
            0.4 * SeededNoise(keys, "metric", self.device, draw).normal(shape) for draw in (0, 1)
        )
        truth = drawn if truth is None else truth
        kinds = masks if len(masks) == len(keys) else masks * len(keys)
        seen = np.stack(
            [_mask(key, kind, *shape[-2:]) for key, kind in zip(keys, kinds, strict=True)]
        )
        operator = build_operator(self.operator, torch.from_numpy(seen)[:, None], shape[0]).to(
            self.device
        )
        noise = SeededNoise(keys, "noise", self.device).normal(operator.A(truth).shape[1:])
        y = operator.observe(truth, noise)
        if other_truth:
            truth = truth + hidden - operator.pinv(operator.A(hidden))
        classes = max(self.prior.num_classes, 1)
        labels = torch.tensor([i % classes for i in images], device=self.device)
        return Measurement(keys, truth, labels, operator, y)

    @property
    def sigma(self) -> float:
        """The noise level of the operator, in [-1, 1] units."""
        return float(self.operator.get("sigma") or 0)

    def observe(self, measured: Measurement) -> Observation:
        """What the solver is given of a measurement."""
        cond = self.prior.condition(measured.labels)
        return Observation(
            measured.y, measured.operator, cond, perceptual=self.perceptual, modules=self.modules
        )

    def noise(self, measured: Measurement) -> SeededNoise:
        """The noise a run would give."""
        return SeededNoise(measured.keys, "solver", self.device)


def _mask(key: Key, kind: str, height: int, width: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """``box``: the columns left of a random one between a quarter and three quarters are
    observed.
    """
    if kind != "box":
        return np.full((height, width), kind == "all")
    edge = int(key.rng("mask").integers(width // 4, 3 * width // 4 + 1))
    return np.broadcast_to(np.arange(width) < edge, (height, width)).copy()


def restricted(operator: Operator, needs: frozenset[str]) -> Operator:
    """The operator without the capabilities that are not in ``needs``: what it then cannot do
    raises.
    """
    can = operator.caps & needs

    class Restricted(Operator):
        caps = can
        sigma = operator.sigma
        mask = operator.mask if "mask" in can else None

        def A(self, x: Tensor) -> Tensor:
            return operator.A(x)

        def At(self, y: Tensor) -> Tensor:
            return operator.At(y)

        def pinv(self, y: Tensor) -> Tensor:
            return operator.pinv(y) if "pinv" in can else super().pinv(y)

        def prox(self, x: Tensor, y: Tensor, rho: float | Tensor) -> Tensor:
            return operator.prox(x, y, rho) if "prox" in can else super().prox(x, y, rho)

        def first_guess(self, y: Tensor) -> Tensor:
            # every operator has one; that of a linear one must not come from a pseudo-inverse that
            # nobody asked for
            return super().first_guess(y) if "linear" in operator.caps else operator.first_guess(y)

        def paste(self, x: Tensor, y: Tensor) -> Tensor:
            return operator.paste(x, y) if "mask" in can else x

        def repeat(self, times: int) -> Operator:
            return restricted(operator.repeat(times), needs)

        def to(self, device: torch.device | str) -> Operator:
            return restricted(operator.to(device), needs)

    return Restricted()


# -- spies -----------------------------------------------------------------------------------------


class GlobalRandomness(RuntimeError):
    """Something drew from a generator that all of the process shares."""


@dataclass
class SpyNoise:
    """Noise that tells whether it was used, and can be NaN in one image's rows."""

    inner: Noise
    broken: range = field(default_factory=lambda: range(0))
    used: list[str] = field(default_factory=list)

    def normal(self, shape: Sequence[int]) -> Tensor:
        self.used.append("normal")
        x = self.inner.normal(shape)
        x[self.broken.start : self.broken.stop] = torch.nan
        return x

    def uniform(self, shape: Sequence[int]) -> Tensor:
        self.used.append("uniform")
        return self.inner.uniform(shape)

    def draws(self, draws: Sequence[int]) -> SpyNoise:
        broken = range(self.broken.start * len(draws), self.broken.stop * len(draws))
        return SpyNoise(self.inner.draws(draws), broken, self.used)


class _NoUnseeded(TorchDispatchMode):
    """Refuses every torch operation that draws random numbers without a generator of its own."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # attention carries the tag for its dropout, which a frozen network has not
        random_op = (
            torch.Tag.nondeterministic_seeded in func.tags and "attention" not in func.name()
        )
        if random_op and kwargs.get("generator") is None:
            raise GlobalRandomness(f"torch's global generator was used ({func.name()})")
        return func(*args, **kwargs)


def _refuse(name: str) -> Callable[..., None]:
    def refused(*_args: object, **_kwargs: object) -> None:
        raise GlobalRandomness(f"{name} was called")

    return refused


@contextmanager
def poisoned() -> Iterator[None]:
    """Within the block every function that uses or seeds a global generator of torch, NumPy or
    Python raises.
    """
    shared = np.random.mtrand._rand
    with ExitStack() as stack:
        for module, owner, label in (
            (np.random, shared, "numpy.random"),
            (random, random._inst, "random"),
        ):
            for name, member in vars(module).items():
                if getattr(member, "__self__", None) is owner and not name.startswith(("_", "get")):
                    stack.enter_context(patch.object(module, name, _refuse(f"{label}.{name}")))
        for module, names in (
            (torch, ("manual_seed", "seed", "set_rng_state")),
            (np.random, ("seed", "ranf", "sample")),
        ):
            for name in names:
                stack.enter_context(
                    patch.object(module, name, _refuse(f"{module.__name__}.{name}"))
                )
        stack.enter_context(_NoUnseeded())
        yield


def global_generators() -> tuple[bytes, bytes, bytes]:
    """The states of the global generators of torch, NumPy and Python."""
    numpy_state = np.random.get_state(legacy=False)
    return (
        torch.get_rng_state().numpy().tobytes(),
        repr(numpy_state).encode(),
        repr(random.getstate()).encode(),
    )


@contextmanager
def contained() -> Iterator[None]:
    """After the block gradient mode, default dtype and number of threads are what they were."""
    gradient, dtype, threads = (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
    )
    try:
        yield
    finally:
        torch.set_grad_enabled(gradient)
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@contextmanager
def counted_evaluations(prior: Prior) -> Iterator[Meter]:
    """Counts in ``nfe`` the rows that really reach the network, or the closed form, whatever the
    prior's own meter.
    """
    count = Meter()
    if prior.net is not None:
        handle = prior.net.register_forward_pre_hook(
            lambda _module, inputs: count.add("nfe", len(inputs[0]))
        )
        try:
            yield count
        finally:
            handle.remove()
        return
    denoise = prior.denoise

    def counting(z: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        count.add("nfe", len(z))
        return denoise(z, *args, **kwargs)

    with patch.object(prior, "denoise", counting):
        yield count


def snapshot(prior: Prior) -> dict[str, object]:
    """Everything about a prior and the process that a solver must leave as it was."""
    roots = {"net": prior.net, "latent": prior.latent}
    modules = {place: module for place, module in roots.items() if module is not None}
    tensors = {name: value for name, value in vars(prior).items() if isinstance(value, Tensor)}
    for place, module in modules.items():
        tensors |= {
            f"{place}.{name}": value for name, value in module.state_dict(keep_vars=True).items()
        }
    parts = [
        (f"{place}.{name}", part)
        for place, root in modules.items()
        for name, part in root.named_modules()
    ]
    return {
        "weights": {
            name: value.detach().cpu().numpy().tobytes() for name, value in tensors.items()
        },
        "gradients": {
            name for name, value in tensors.items() if value.requires_grad or value.grad is not None
        },
        "training mode": {name for name, part in parts if part.training},
        "hooks": {
            name: len(part._forward_hooks) + len(part._forward_pre_hooks) for name, part in parts
        },
        "meter": id(prior.meter),
        "gradient mode": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "number of threads": torch.get_num_threads(),
    }
