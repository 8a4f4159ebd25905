"""Compiled blocks of a network, and CUDA graphs of whole calls.

Rows must not depend on what ran before in the process. So every network owns its compiled code, and
every block has one program for each form of a call: the shape of the input, and whether a gradient
is taken. Nothing falls back to plain PyTorch: what cannot be compiled is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from types import FunctionType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from posterior_bench.priors.block_checkpointing import blocks

BACKEND = "inductor"
"""The compiler, by its name in torch."""

FORMS = 32
"""The most forms of a call that one chunk may use."""

Values = Mapping[str, Tensor]


class NetworkCall(Protocol):
    """What is called in place of a network."""

    def __call__(self, x: Tensor, t: Tensor, values: Values) -> Tensor:
        """Answer as the network does."""


class CompiledBlocks:
    """A network whose repeated blocks run through ``torch.compile``, each as one whole graph.

    Blocks with weights of the same shapes share a program. The network itself, and whatever lies
    between its blocks, run as they are.

    Parameters
    ----------
    net : nn.Module
        The network; its blocks are compiled in place until :meth:`remove`.

    Raises
    ------
    ValueError
        If the network has no blocks that can be compiled.
    """

    def __init__(self, net: nn.Module):
        self.net, self.blocks = net, list(blocks(net))
        if not self.blocks:
            raise ValueError(
                f"compile=true: {type(net).__name__} has no block that can be compiled; "
                "use compile=false"
            )
        # here, because this module of torch takes a second to import
        from torch._functorch import config

        # torch refuses a second gradient through a graph that gave buffers away in the first
        config.donated_buffer = False
        self._programs: dict[object, Callable[..., Any]] = {}
        self._form: object = None
        self._used: set[object] = set()
        self._known: set[object] = set()
        for block in self.blocks:
            block.forward = self._compiled(block)

    def begin(self) -> None:
        """Count the forms of a chunk from here on."""
        self._used.clear()
        if len(self._known) > FORMS:
            self._known.clear()
            self._programs.clear()

    def __call__(self, x: Tensor, t: Tensor, values: Values) -> Tensor:
        """Call the network.

        Raises
        ------
        RuntimeError
            If the chunk has used more than :data:`FORMS` forms.
        """
        if not torch.is_grad_enabled():
            x = x.detach()  # the same form, whether or not a gradient was wanted elsewhere
        self._form = form_of(x, values)
        self._used.add(self._form)
        self._known.add(self._form)
        if len(self._used) > FORMS:
            raise RuntimeError(
                f"compile=true: this solver calls the network with more than {FORMS} different "
                "numbers of rows, and each would be compiled; use compile=false"
            )
        out: Tensor = self.net(x, t, values)
        return out

    def remove(self) -> None:
        """Give the blocks their own ``forward`` back."""
        for block in self.blocks:
            del block.forward
        self._programs.clear()

    def _compiled(self, block: nn.Module) -> Callable[..., Any]:
        kind = (type(block), *((k, v.shape, v.dtype) for k, v in block.state_dict().items()))

        def forward(*inputs: Any, **more: Any) -> Any:
            key = (kind, self._form)
            if key not in self._programs:
                self._programs[key] = _program()
            return self._programs[key](block, *inputs, **more)

        return forward


def form_of(x: Tensor, values: Values) -> object:
    """Return what must be the same in two calls that run one program."""
    tensors = (x, *values.values())
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    return modes, tuple(values), *((v.shape, v.dtype, v.requires_grad) for v in tensors)


def _block(module: nn.Module, *inputs: Any, **more: Any) -> Any:
    return type(module).forward(module, *inputs, **more)


def _program() -> Callable[..., Any]:
    """Return a compiled :func:`_block`.

    Torch keeps programs by code object, at most eight for each. So this one gets a code object of
    its own, which no other network, block or form can fill up.
    """
    own = FunctionType(_block.__code__.replace(), globals(), "_block")
    return torch.compile(own, backend=BACKEND, fullgraph=True, dynamic=False)


class CudaGraphs:
    """Calls of a network as CUDA graphs, one for each form; calls with gradients run as they are.

    A graph starts all kernels of a call at once. It runs the same kernels, so the numbers are the
    same. Elsewhere than on a GPU the network is called as it is.

    Parameters
    ----------
    call : NetworkCall
        What is called.
    net : nn.Module
        The network behind it.
    """

    def __init__(self, call: NetworkCall, net: nn.Module):
        self.call, self.net = call, net
        self._weights: tuple[int, ...] = ()
        self._graphs: dict[object, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}
        self._pool: Any = None

    def begin(self) -> None:
        """Forget all graphs if weights have moved; a graph reads them where they were."""
        weights = tuple(v.data_ptr() for v in chain(self.net.parameters(), self.net.buffers()))
        if weights != self._weights:
            self._graphs.clear()
        self._weights = weights

    def __call__(self, x: Tensor, t: Tensor, values: Values) -> Tensor:
        """Call the network, or replay such a call."""
        if not can_replay(x, values):
            return self.call(x, t, values)
        key = (form_of(x, values), x.stride(), torch.is_autocast_enabled("cuda"))
        inputs = [x, t, *values.values()]
        if key not in self._graphs:
            self._graphs[key] = self._captured(inputs, tuple(values))
        graph, places, out = self._graphs[key]
        for place, tensor in zip(places, inputs, strict=True):
            place.copy_(tensor)
        graph.replay()
        return out.clone()  # the next replay writes to the same place

    def _captured(
        self, inputs: list[Tensor], names: tuple[str, ...]
    ) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        places = [tensor.clone() for tensor in inputs]
        x, t, *values = places
        arguments = x, t, dict(zip(names, values, strict=True))
        # what is compiled, chosen or allocated in first calls cannot be captured
        side = torch.cuda.Stream(x.device)
        side.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(side):
            for _ in range(2):
                self.call(*arguments)
        torch.cuda.current_stream(x.device).wait_stream(side)
        # graphs share their memory: none holds a result while another one runs
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:
            # other threads of the worker may allocate memory meanwhile
            with torch.cuda.graph(graph, self._pool, capture_error_mode="thread_local"):
                out = self.call(*arguments)
        except Exception as error:
            # the end of a capture that failed hides why it failed
            ran_out = isinstance(error.__context__, torch.OutOfMemoryError)
            raise (error.__context__ if ran_out and error.__context__ else error) from None
        return graph, places, out


def can_replay(x: Tensor, values: Values) -> bool:
    """Return whether a call is on a GPU and no derivative is taken through it."""
    tensors = (x, *values.values())
    gradient = torch.is_grad_enabled() and any(v.requires_grad for v in tensors)
    transformed = torch._C._functorch.peek_interpreter_stack() is not None
    tangent = any(torch.autograd.forward_ad.unpack_dual(v).tangent is not None for v in tensors)
    return x.device.type == "cuda" and not (gradient or transformed or tangent)
