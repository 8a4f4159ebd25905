"""A pretended GPU: a device ``cudax:0`` whose tensors hold real numbers on the CPU.

It refuses what CUDA refuses, and counts what costs time on a GPU: kernels, copies and waits. The
name begins with ``cuda``, so that the code for GPUs runs. It knows nothing of kernels: numbers are
those of the CPU, and nothing is timed.

torch allows one such device per process, and only before the first gradient: the threads of
autograd start there, one per device. So :mod:`tests.test_pretended_gpu` runs it in a process of its
own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any
from unittest import mock
from weakref import WeakValueDictionary

import torch
from tests.unordered import is_unordered
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)
from typing_extensions import override

from posterior_bench.bench.core import drawn_ahead

KIND = "cudax"
DEVICE = f"{KIND}:0"

aten = torch.ops.aten


@dataclass
class Counts:
    """What the GPU was asked for.

    Parameters
    ----------
    operations : float, default 0
        Kernels. Views are none, and neither are copies from and to the host.
    to_device : float, default 0
        Copies from memory of the host that is not pinned: the host waits until the GPU has done all
        before it.
    to_host : float, default 0
        Reads of the GPU's numbers, which wait likewise: ``item``, ``cpu``, boolean indices.
    streamed : float, default 0
        Copies from pinned memory for which nobody waits.
    """

    operations: float = 0
    to_device: float = 0
    to_host: float = 0
    streamed: float = 0

    @property
    def waits(self) -> float:
        """How often the host waits for the GPU."""
        return self.to_device + self.to_host

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(a - b for a, b in zip(self.row, other.row, strict=True)))

    @property
    def row(self) -> tuple[float, float, float, float]:
        """The four counts."""
        return self.operations, self.to_device, self.to_host, self.streamed


class GpuTensor(Tensor):
    """A tensor on the pretended GPU. ``held`` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> GpuTensor:
        tensor: GpuTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=DEVICE,
        )
        tensor.held = held
        return tensor

    # no detour through Python for torch's functions: only for the operations below them
    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return GPU.compute(func, args, kwargs or {})

    @override
    def tolist(self) -> Any:
        # torch has none for subclasses
        return self.cpu().tolist()

    @override
    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"on {DEVICE}: {self.held!r}"


READS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten._linalg_check_errors.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
}
"""Operations whose result, or its size, the host must know."""

INDEX = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}

NO_SCALARS = {"cat", "stack", "searchsorted", "gather", "scatter", "index_select", "bucketize"}
"""Operations that take no number of the host among tensors of the GPU."""


class PretendedGPU(TorchDispatchMode):
    """The GPU of this process."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()
        self.pinned: WeakValueDictionary[int, Any] = WeakValueDictionary()

    @override
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return self.compute(func, args, kwargs or {})

    def compute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation on the numbers, wherever its tensors are; count it, or refuse it."""
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        here = [tensor for tensor in tensors if isinstance(tensor, GpuTensor)]
        target = kwargs.get("device")
        there = bool(here) if target is None else torch.device(target).type == KIND
        if func is aten.is_pinned.default and not here:
            return self.is_pinned(args[0])
        if func is aten._pin_memory.default and not here:
            return self.pin(args[0].clone())
        if not here and not there:
            return func(*args, **kwargs)
        self._check(func, args, kwargs, tensors, here, there)
        self._count(func, args, kwargs, tensors, here, there)
        held = tree_map_only(GpuTensor, lambda tensor: tensor.held, (args, kwargs))
        if target is not None:
            held[1]["device"] = torch.device("cpu")
        # a view that is conjugated when it is read would be forgotten here: numbers in its place
        compute = aten._conj_physical.default if func is aten._conj.default else func
        result = compute(*held[0], **held[1])
        if not there:
            return result
        # an operation in place returns the tensor that it was given
        known = {id(tensor.held): tensor for tensor in here}

        def returned(new: Tensor) -> Tensor:
            return known[id(new)] if id(new) in known else GpuTensor(new)

        return tree_map_only(Tensor, returned, result)

    def _check(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        tensors: list[Tensor],
        here: list[GpuTensor],
        there: bool,
    ) -> None:
        if torch.are_deterministic_algorithms_enabled() and is_unordered(func, args, kwargs):
            raise RuntimeError(f"{func} does not have a deterministic implementation")
        generator = kwargs.get("generator")
        if there and generator is not None and generator.device.type != KIND:
            raise RuntimeError(
                f"{func}: Expected a '{KIND}' device type for generator but found "
                f"'{generator.device.type}'"
            )
        if not here or func in (aten.copy_.default, aten._to_copy.default):
            return
        host = [tensor for tensor in tensors if not isinstance(tensor, GpuTensor)]
        if func in INDEX:
            # indices may be on the host, and a value that is one number
            tensor, value = args[0], args[2] if len(args) > 2 else None
            host = [] if isinstance(tensor, GpuTensor) else [tensor]
            if isinstance(value, Tensor) and not isinstance(value, GpuTensor):
                host.append(value)
        elif _changes(func) and not isinstance(args[0], GpuTensor | list | tuple):
            raise RuntimeError(f"{func}: output with device cpu doesn't match {DEVICE}")
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        refused = [t for t in host if t.dim() or name in NO_SCALARS]
        if refused:
            raise RuntimeError(
                f"{func}: Expected all tensors to be on the same device, but found at least two "
                f"devices, {DEVICE} and cpu! (shape {tuple(refused[0].shape)})"
            )

    def _count(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        tensors: list[Tensor],
        here: list[GpuTensor],
        there: bool,
    ) -> None:
        counts = self.counts
        if func in (aten.copy_.default, aten._to_copy.default):
            to, source = (args[0], args[1]) if func is aten.copy_.default else (None, args[0])
            arrives = there if to is None else isinstance(to, GpuTensor)
            starts = isinstance(source, GpuTensor)
            if arrives and starts:
                counts.operations += 1
            elif arrives:
                late = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
                if late and self.is_pinned(source):
                    counts.streamed += 1
                else:
                    counts.to_device += 1
            else:
                counts.to_host += 1
            return
        if not there or _is_free(func):
            return
        if func is aten._local_scalar_dense.default:
            counts.to_host += 1
            return
        counts.operations += 1
        if func in READS:
            counts.to_host += 1
        elif func is aten.where.self:
            # where copies a number of the host; other operations pass it to their kernel
            counts.to_device += len(tensors) - len(here)
        elif func in INDEX:
            indices = [index for index in args[1] if index is not None]
            boolean = [index.dtype in (torch.bool, torch.uint8) for index in indices]
            if len(args) > 2 and all(boolean) and args[2].numel() == 1:
                return  # masked_fill
            for index, is_mask in zip(indices, boolean, strict=True):
                if not isinstance(index, GpuTensor):
                    counts.to_device += 1
                elif is_mask:
                    counts.to_host += 1

    def pin(self, tensor: Tensor) -> Tensor:
        """Take the memory of a tensor for pinned, as long as it lives."""
        self.pinned[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether a tensor of the host lies in pinned memory."""
        return tensor.untyped_storage().data_ptr() in self.pinned

    @contextmanager
    def counted(self) -> Iterator[Counts]:
        """Count what the block asks of the GPU."""
        before, counts = self.counts, Counts()
        self.counts = counts
        try:
            yield counts
        finally:
            self.counts = Counts(*(a + b for a, b in zip(before.row, counts.row, strict=True)))


@cache
def _is_free(func: Any) -> bool:
    """Whether an operation launches no kernel: it makes a view, or room for a tensor."""
    schema = func._schema
    if schema.name.startswith(("aten::empty", "aten::new_empty", "aten::lift", "aten::detach")):
        return True
    return any(one.alias_info and not one.alias_info.is_write for one in schema.returns)


@cache
def _changes(func: Any) -> bool:
    """Whether an operation changes its first argument."""
    arguments = func._schema.arguments
    return bool(arguments and arguments[0].alias_info and arguments[0].alias_info.is_write)


class _Module(_DummyBackendModule):
    """What ``torch.cudax`` must have."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


GPU = PretendedGPU()

_KERNELS = torch.library.Library("aten", "IMPL")


def _room(empty: Any, *args: Any, **kwargs: Any) -> GpuTensor:
    return GpuTensor(empty(*args, **{**kwargs, "device": torch.device("cpu")}))


def _copy(source: Tensor, to: Tensor, non_blocking: bool = False) -> Any:
    return GPU.compute(aten.copy_.default, (to, source, non_blocking), {})


@cache
def register() -> None:
    """Make the device known to torch, before the first gradient of the process."""
    _setup_privateuseone_for_python_backend(KIND, _Module())
    # what torch calls past any mode, as ``torch.tensor`` does
    for name in ("empty.memory_format", "empty_strided"):
        _KERNELS.impl(name, partial(_room, getattr(aten, name.split(".")[0])), "PrivateUse1")
    _KERNELS.impl("_copy_from", _copy, "PrivateUse1")


@contextmanager
def pretended_gpu() -> Iterator[PretendedGPU]:
    """Use the pretended GPU in the block; ``torch.cuda`` answers what a worker asks of it."""
    register()
    answers = {
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda device=None: None,
        "max_memory_allocated": lambda device=None: 2**20,
        "get_device_name": lambda device=None: "a pretended GPU",
    }

    def empty(request: drawn_ahead.Request, rows: int, pinned: bool = False) -> Tensor:
        # torch's own pinned memory needs a real device
        room = torch.empty((rows, *request[1]), dtype=request[2], device="cpu")
        return GPU.pin(room) if pinned else room

    patched = mock.patch.object(drawn_ahead, "empty", empty)
    with mock.patch.multiple(torch.cuda, **answers), patched, GPU:
        yield GPU


def on_gpu(value: Any) -> Any:
    """Return a value with all its tensors on the pretended GPU."""
    return tree_map_only(Tensor, lambda tensor: tensor.to(DEVICE), value)
