"""The memory that one call of a prior's network takes, counted without weights or data.

Every network runs once with one row and once with two rows, on tensors that have shapes and no
values (torch's FakeTensorMode). For more rows the memory lies on the line through these two points.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from posterior_bench.bench.estimate.live_tensors import Live
from posterior_bench.priors.base import Prior
from posterior_bench.priors.execution import Execution
from posterior_bench.priors.nets import Inpainter
from posterior_bench.priors.replaced import replaced

T = TypeVar("T")


@dataclass(frozen=True)
class CallMemory:
    """Bytes that one call takes, apart from its inputs and the weights.

    Parameters
    ----------
    idle : int, default 0
        The peak during a call without gradients.
    forward : int, default 0
        The peak during a call with gradients.
    kept : int, default 0
        Bytes that autograd keeps after the call.
    backward : int, default 0
        The peak while the gradient is computed.
    """

    idle: int = 0
    forward: int = 0
    kept: int = 0
    backward: int = 0

    def extrapolate(self, other: CallMemory, share: int) -> CallMemory:
        """Return the point on the line to ``other``, at ``share`` times its distance."""
        values = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return CallMemory(*(a + share * (b - a) for a, b in values))


class NetworkMemory:
    """The memory that calls of a prior's networks take.

    Calls whose inputs differ only in the number of rows are counted once.

    Parameters
    ----------
    prior : Prior
        The prior; its networks may lie on the meta device.
    """

    def __init__(self, prior: Prior) -> None:
        self.prior = prior
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        parts = {"net": prior.net, "latent": prior.latent}
        self._weights = {
            name: self.fake_weights(module) for name, module in parts.items() if module is not None
        }
        with self.mode:
            self._low = {
                key: torch.empty(value.shape, dtype=torch.bfloat16)
                for key, value in self._weights.get("net", {}).items()
            }
        self._cast: dict[Execution, set[str]] = {}
        self._known: dict[tuple[object, ...], tuple[CallMemory, CallMemory]] = {}

    def of(self, part: str, call: Callable[..., Tensor], *inputs: Any) -> CallMemory:
        """Return the memory of ``call(*inputs)``.

        Parameters
        ----------
        part : str
            A name that tells this call from calls of other networks.
        call : callable
            Runs the network on fake tensors.
        *inputs : object
            Tensors, or mappings of tensors. The first one says how many rows there are.
        """
        key = (part, self.prior.execution, *(_form(value) for value in inputs))
        if key not in self._known:
            one, two = ([_of_rows(value, rows) for value in inputs] for rows in (1, 2))
            self._known[key] = in_own_thread(lambda: (self.count(call, one), self.count(call, two)))
        first, second = self._known[key]
        return first.extrapolate(second, len(inputs[0]) - 1)

    def check(self) -> None:
        """Call the network once, so that a wrong network raises here.

        A network for inpainting is left out, because it needs a measurement.
        """
        if self.prior.net is not None and not isinstance(self.prior.net, Inpainter):
            self._call()

    def for_a_gradient(self) -> int:
        """Return the bytes that one row keeps for a gradient through network and decoder."""
        kept = 0 if self.prior.net is None else self._call().kept
        if self.prior.latent is not None:
            kept += self.of("decode", self.decode, torch.zeros(1, *self.prior.latent_shape)).kept
        return kept

    def _call(self) -> CallMemory:
        """Return the memory of one row; a network for inpainting sees an empty measurement."""
        prior, z = self.prior, torch.zeros(1, *self.prior.latent_shape)
        cond = prior.condition(torch.zeros(1, dtype=torch.long))
        values = dict(prior._condition_values(cond, z))
        if isinstance(prior.net, Inpainter):
            with torch.no_grad():
                y = torch.zeros(1, *prior.image_shape, device=prior.device)
                values = dict(prior._condition_values(prior.inpainting(y, y[:, :1] == 0, cond), z))
        return self.of("net", self.network, z, torch.zeros(1), values)

    def network(self, x: Tensor, t: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Call the network on fake tensors, in the precision of the run."""
        with self.fake_network():
            return Prior.run_network(self.prior, x, t, values)

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Call the encoder on fake tensors."""
        return self._autoencoder("encode", x, noise)

    def decode(self, z: Tensor) -> Tensor:
        """Call the decoder on fake tensors."""
        return self._autoencoder("decode", z)

    def fake_network(self) -> AbstractContextManager[Any]:
        """Give the prior's network fake weights within a block."""
        net = self.prior.net
        assert net is not None
        weights = self._weights_of("net")

        def call(x: Tensor, t: Tensor, values: Any) -> Any:
            inputs = (x, t, values)
            return functional_call(net, weights, inputs, tie_weights=False)

        return replaced(self.prior, network_call=call)

    def _autoencoder(self, name: str, *inputs: Tensor | None) -> Tensor:
        latent = self.prior.latent
        assert latent is not None
        weights = {f"module.{key}": value for key, value in self._weights["latent"].items()}
        out: Tensor = functional_call(_Method(latent, name), weights, inputs, tie_weights=False)
        return out

    def fake_weights(self, module: nn.Module) -> dict[str, Tensor]:
        """Return weights of a module that have shapes and no values."""
        state = module.state_dict().items()
        with self.mode:
            return {
                key: torch.empty(
                    value.shape, dtype=torch.float32 if value.is_floating_point() else value.dtype
                )
                for key, value in state
            }

    def count(self, call: Callable[..., Tensor], templates: Sequence[Any]) -> CallMemory:
        """Return the memory of one call whose inputs are pairs of a shape and a dtype."""
        with ExitStack() as stack:
            # the gradient of a checkpointed block calls it again, after the call of the network
            for name in self._weights:
                stack.enter_context(weights_in(getattr(self.prior, name), self._weights_of(name)))
            return self._count(call, templates)

    def _weights_of(self, name: str) -> dict[str, Tensor]:
        """Return the fake weights of a network, in the precision of the run."""
        if name == "latent":
            return self._weights[name]
        # asked for before the prior has fake weights, which it does not know
        cast = self._cast.setdefault(self.prior.execution, {*self.prior.bf16_weights})
        return {**self._weights[name], **{key: self._low[key] for key in cast}}

    def _count(self, call: Callable[..., Tensor], templates: Sequence[Any]) -> CallMemory:
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
                    return CallMemory(idle, forward)
                kept, slope = live.now - made, torch.empty_like(out)
                made += slope.numel() * slope.element_size()
                live.mark()
                torch.autograd.grad(out, inputs[0], slope)
                return CallMemory(idle, forward, max(kept, 0), max(live.peak - made, 0))


@contextmanager
def weights_in(module: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Give a module other weights within a block."""
    usual = []
    for key, value in weights.items():
        path, _, name = key.rpartition(".")
        owner = module.get_submodule(path)
        kind: dict[str, Any] = owner._parameters if name in owner._parameters else owner._buffers
        usual.append((kind, name, kind[name]))
        kind[name] = value
    try:
        yield
    finally:
        for kind, name, before in usual:
            kind[name] = before


class _Method(nn.Module):
    """One method of a module as a module of its own."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module, self.name = module, name

    def forward(self, *inputs: Any) -> Any:
        # the method of the class: a dry run may have replaced the method of the object
        return getattr(type(self.module), self.name)(self.module, *inputs)


def in_own_thread(work: Callable[[], T]) -> T:
    """Return ``work()``, computed in a thread of its own.

    There the modes and hooks of the caller (:class:`Ledger`, checkpointing) do not act.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def _form(value: Any) -> object:
    """Return a key that is the same for inputs that differ only in their number of rows."""
    if isinstance(value, Tensor):
        return (tuple(value.shape[1:]), value.dtype)
    return tuple((k, _form(v)) for k, v in value.items()) if isinstance(value, Mapping) else value


def _of_rows(value: Any, rows: int) -> Any:
    """Return the shapes and dtypes of inputs with ``rows`` rows."""
    if isinstance(value, Tensor):
        return ((rows, *value.shape[1:]), value.dtype)
    return {k: _of_rows(v, rows) for k, v in value.items()} if isinstance(value, Mapping) else value


def _empty(template: Any) -> Any:
    if isinstance(template, tuple):
        return torch.zeros(template[0], dtype=template[1])
    return (
        {k: _empty(v) for k, v in template.items()} if isinstance(template, Mapping) else template
    )
