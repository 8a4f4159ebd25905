"""Seconds that one sample takes in every kind of call of a prior, from a few calls on this machine.

Nothing is loaded or run before its memory and the time of a first call have been estimated and lie
within the limits. The weights are counted from the description of the files, the memory of a call
on the meta device, and its time from its number of operations and the speed of a matrix product.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.cache import shared
from posterior_bench.bench.estimate.network_memory import NetworkMemory
from posterior_bench.priors.base import Condition, Prior
from posterior_bench.priors.memory import weight_bytes
from posterior_bench.priors.nets import Inpainter

KINDS = ("nfe", "nge", "decode", "decode_grad", "encode", "encode_grad")
"""The kinds of call that a meter counts; ``nge`` and those with ``_grad`` are backward passes."""

_REPEATS = 3
_SHARE = 0.2
"""The share of the remaining time that calls of one kind may take."""


class OverLimit(Exception):
    """Calls are not made because they need more memory or time than allowed; says which."""


@dataclass(frozen=True)
class CallSeconds:
    """Seconds of one sample in every kind of call.

    Parameters
    ----------
    seconds : Mapping of str to float
        Seconds by kind of call.
    source : str
        In few words, how they were measured.
    """

    seconds: Mapping[str, float]
    source: str

    def of(self, counts: Mapping[str, float]) -> float:
        """Return the seconds of a number of calls of every kind."""
        return sum(count * self.seconds.get(name, 0.0) for name, count in counts.items() if count)


@dataclass(frozen=True)
class Limits:
    """What timing may take.

    Parameters
    ----------
    memory : int
        Bytes for weights and activations.
    end : float
        The moment of ``time.monotonic`` at which it must be over.
    """

    memory: int
    end: float

    @property
    def seconds_left(self) -> float:
        """Seconds until the end."""
        return self.end - time.monotonic()


def time_calls(
    node: Mapping[str, Any],
    described: Prior,
    needed: Collection[str],
    rows: int,
    device: str,
    limits: Limits,
) -> CallSeconds:
    """Time the calls of a prior at batch 1, then at up to ``rows`` samples within the limits.

    Parameters
    ----------
    node : Mapping
        The node of the prior, which is loaded.
    described : Prior
        The prior on the meta device, or in closed form.
    needed : collection of str
        Which of :data:`KINDS` are timed.
    rows : int
        Samples of a network batch in a run.
    device : str
        The device of the calls.
    limits : Limits
        Memory and time.

    Raises
    ------
    OverLimit
        If a call would exceed a limit, before anything is loaded; or if the prior cannot be loaded.
    """
    kept = _demand_memory(described, limits.memory)
    _demand_time(described, device, limits)
    try:
        prior: Prior = shared("prior", node, device)
    except (UserError, OSError, ValueError, RuntimeError) as error:
        raise OverLimit(str(error).splitlines()[0]) from None
    gradient = bool({"nge", "decode_grad", "encode_grad"} & {*needed})
    if gradient and weight_bytes(described) + kept > limits.memory:
        gradient = False  # its time is guessed from the forward pass
    seconds, calls = _timed(prior, needed, 1, gradient, limits)
    most = min(
        rows,
        int((limits.memory - weight_bytes(described)) // max(kept, 1)),
        int(_SHARE * limits.seconds_left / _REPEATS / max(sum(seconds.values()), 1e-9)),
    )
    batch = max(1, most)
    if batch > 1:
        seconds, more = _timed(prior, needed, batch, gradient, limits)
        calls += more
    words = f"{calls} calls at batch {batch} on {_name(device)}"
    if "nge" in needed and not gradient:
        words += ", backward taken as twice forward"
    return CallSeconds(seconds, words)


def _name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "this CPU"


def _demand_memory(prior: Prior, memory: int) -> int:
    """Return the bytes that a sample keeps for a gradient.

    Raises
    ------
    OverLimit
        If weights and one call need more than ``memory`` bytes.
    """
    if prior.net is None:
        return 0
    try:
        kept = NetworkMemory(prior).for_a_gradient()
    except Exception as error:
        raise OverLimit(f"its network cannot be called: {str(error).splitlines()[0]}") from None
    weights = weight_bytes(prior)
    # without a gradient, the activations of a few layers are there at a time
    if weights + kept // 4 > memory:
        raise OverLimit(
            f"its weights ({weights / 2**30:.1f} GiB) and the activations of one call do not fit "
            f"into max_memory={memory / 2**30:.1f}GiB"
        )
    return kept


def _demand_time(prior: Prior, device: str, limits: Limits) -> None:
    """Raise OverLimit if one call takes too long, by its operations and the speed of a product."""
    if prior.net is None:
        return
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _denoise(
            prior, torch.zeros(1, *prior.latent_shape, device="meta"), _condition(prior, 1, "meta")
        )
    expected, left = 2 * counter.get_total_flops() / _speed(device), limits.seconds_left
    if 4 * expected > left:
        raise OverLimit(
            f"one call takes about {expected:.0f} s on {_name(device)}, more than "
            f"{max(left, 0):.0f} s allow (the rest of max_seconds)"
        )


def _speed(device: str, size: int = 1024) -> float:
    """Return the operations a second of a matrix product."""
    a = torch.ones(size, size, device=device)
    return 2 * size**3 / min(_clocked(lambda: a @ a, device) for _ in range(2))


def _clocked(call: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    call()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _timed(
    prior: Prior, needed: Collection[str], rows: int, gradient: bool, limits: Limits
) -> tuple[dict[str, float], int]:
    """Return the seconds a sample of every needed kind, and how many calls were made."""
    device = str(prior.device)
    cond = _condition(prior, rows, device)
    noise = torch.Generator().manual_seed(0)
    z = (0.5 * torch.randn(rows, *prior.latent_shape, generator=noise)).to(prior.device)
    x = (0.5 * torch.randn(rows, *prior.image_shape, generator=noise)).to(prior.device).clamp(-1, 1)
    functions: list[tuple[str, str, Callable[[Tensor], Tensor], Tensor]] = [
        ("nfe", "nge", lambda value: _denoise(prior, value, cond), z),
        ("decode", "decode_grad", prior.decode, z),
        ("encode", "encode_grad", prior.encode, x),
    ]
    seconds, calls = dict.fromkeys(KINDS, 0.0), 0
    for forward, backward, function, at in functions:
        if not {forward, backward} & {*needed}:
            continue
        alone, made = _best(lambda f=function, a=at: _forward(f, a), device, limits)  # type: ignore[misc]
        calls += made
        seconds[forward], seconds[backward] = alone / rows, 2 * alone / rows
        if backward in needed and gradient:
            both, made = _best(lambda f=function, a=at: _backward(f, a), device, limits)  # type: ignore[misc]
            calls += made
            seconds[backward] = max(both - alone, 0.0) / rows
    return seconds, calls


def _best(call: Callable[[], object], device: str, limits: Limits) -> tuple[float, int]:
    """Return the seconds of the fastest of a few calls, and how many calls were made.

    The first call also warms up; a slow first call is the only one. On a machine with other work
    the fastest call is nearest to the time of the call itself.
    """
    times = [_clocked(call, device)]
    while len(times) <= _REPEATS and times[0] < _SHARE / _REPEATS * limits.seconds_left:
        times.append(_clocked(call, device))
    return min(times), len(times)


def _denoise(prior: Prior, z: Tensor, cond: Condition | None) -> Tensor:
    return prior.denoise(z, prior.level(1.0), cond)


def _condition(prior: Prior, rows: int, device: str) -> Condition | None:
    cond = prior.condition(torch.zeros(rows, dtype=torch.long, device=device))
    if isinstance(prior.net, Inpainter):
        y = torch.zeros(rows, *prior.image_shape, device=device)
        with torch.no_grad():
            return prior.inpainting(y, y[:, :1] == 0, cond)
    return cond


@torch.no_grad()
def _forward(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    return function(at)


def _backward(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    at = at.detach().requires_grad_(True)
    return torch.autograd.grad(function(at).square().sum(), at)[0]
