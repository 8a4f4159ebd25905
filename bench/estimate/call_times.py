"""Seconds that one sample takes in every kind of call of a prior, from a few calls on this machine.

Nothing is loaded and nothing is run before its memory, and the time of a first call, have been
estimated and found within the limits: the weights are counted in the description of the files, the
memory of a call on the meta device, and its time from its operations and the speed of a matrix
product here.
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
from posterior_bench.bench.estimate.memory import Costs
from posterior_bench.priors.base import Condition, Prior
from posterior_bench.priors.memory import weight_bytes
from posterior_bench.priors.nets import Inpainter

KINDS = ("nfe", "nge", "decode", "decode_grad", "encode", "encode_grad")
"""What a meter counts, and what is timed: the ``_grad`` ones and ``nge`` are backward passes."""

_REPEATS = 3
_SHARE = 0.2
"""Of the time that is left, what the calls of one kind may take."""


class TooMuch(Exception):
    """Calls that are not made, because they would take more memory or time than allowed; the
    message says which.
    """


@dataclass(frozen=True)
class Pace:
    """Seconds a sample by kind of call, and a few words for where they are from."""

    seconds: Mapping[str, float]
    source: str

    def of(self, counts: Mapping[str, float]) -> float:
        """The seconds of so many calls."""
        return sum(count * self.seconds.get(name, 0.0) for name, count in counts.items() if count)


def measured(
    node: Mapping[str, Any],
    described: Prior,
    needed: Collection[str],
    rows: int,
    device: str,
    memory: int,
    end: float,
) -> Pace:
    """Times the calls in ``needed`` of a prior at batch 1, then at as many of ``rows`` samples as
    keep to the limits.

    ``described``: the prior on the meta device, or in closed form. ``memory``: bytes that may be in
    use. ``end``: when this must be over, of ``time.monotonic``. Raises TooMuch before anything is
    loaded.
    """
    kept = _demand_memory(described, memory)
    _demand_time(described, device, end)
    try:
        prior: Prior = shared("prior", node, device)
    except (UserError, OSError, ValueError, RuntimeError) as error:
        raise TooMuch(str(error).splitlines()[0]) from None
    gradient = bool({"nge", "decode_grad", "encode_grad"} & {*needed})
    if gradient and weight_bytes(described) + kept > memory:
        gradient = False  # its time is guessed from the forward pass
    seconds, calls = _timed(prior, needed, 1, gradient, end)
    most = min(
        rows,
        int((memory - weight_bytes(described)) // max(kept, 1)),
        int(_SHARE * (end - time.monotonic()) / _REPEATS / max(sum(seconds.values()), 1e-9)),
    )
    batch = max(1, most)
    if batch > 1:
        seconds, more = _timed(prior, needed, batch, gradient, end)
        calls += more
    words = f"{calls} calls at batch {batch} on {_name(device)}"
    return Pace(
        seconds,
        words
        if gradient or not {"nge"} & {*needed}
        else f"{words}, backward taken as twice forward",
    )


def _name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "this CPU"


def _demand_memory(prior: Prior, memory: int) -> int:
    """The bytes that a sample of the prior keeps for a gradient; TooMuch where weights and a call
    take too much.
    """
    if prior.net is None:
        return 0
    try:
        kept = Costs(prior).for_a_gradient()
    except Exception as error:
        raise TooMuch(f"its network cannot be called: {str(error).splitlines()[0]}") from None
    weights = weight_bytes(prior)
    # without a gradient, the activations of a few layers are there at a time
    if weights + kept // 4 > memory:
        raise TooMuch(
            f"its weights ({weights / 2**30:.1f} GiB) and the activations of one call do not fit "
            f"into max_memory="
            f"{memory / 2**30:.1f}GiB"
        )
    return kept


def _demand_time(prior: Prior, device: str, end: float) -> None:
    """TooMuch where one call, by its operations and the speed of a matrix product here, takes too
    long.
    """
    if prior.net is None:
        return
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _denoise(
            prior, torch.zeros(1, *prior.latent_shape, device="meta"), _condition(prior, 1, "meta")
        )
    expected, left = 2 * counter.get_total_flops() / _speed(device), end - time.monotonic()
    if 4 * expected > left:
        raise TooMuch(
            f"one call takes about {expected:.0f} s on {_name(device)}, more than "
            f"{max(left, 0):.0f} s allow (the rest "
            "of max_seconds)"
        )


def _speed(device: str, size: int = 1024) -> float:
    """Operations a second of a matrix product."""
    a = torch.ones(size, size, device=device)
    return 2 * size**3 / min(_clocked(lambda: a @ a, device) for _ in range(2))


def _clocked(call: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    call()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _timed(
    prior: Prior, needed: Collection[str], rows: int, gradient: bool, end: float
) -> tuple[dict[str, float], int]:
    """Seconds a sample of every needed kind, and how many calls that took."""
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
        alone, made = _best(lambda f=function, a=at: _forward(f, a), device, end)  # type: ignore[misc]
        calls += made
        seconds[forward], seconds[backward] = alone / rows, 2 * alone / rows
        if backward in needed and gradient:
            both, made = _best(lambda f=function, a=at: _backward(f, a), device, end)  # type: ignore[misc]
            calls += made
            seconds[backward] = max(both - alone, 0.0) / rows
    return seconds, calls


def _best(call: Callable[[], object], device: str, end: float) -> tuple[float, int]:
    """The fastest of a few calls, and how many there were: the first also warms up, and is the only
    one if it is slow.

    On a machine that others use, the fastest is nearest to what the call itself takes.
    """
    times = [_clocked(call, device)]
    while len(times) <= _REPEATS and times[0] < _SHARE / _REPEATS * (end - time.monotonic()):
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
