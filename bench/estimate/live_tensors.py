"""The bytes of live tensors, counted while code runs.

A storage counts from the operation that makes it until it is freed. Views share a storage and count
once. Memory that a kernel frees before it ends is not counted, nor is memory that an allocator
rounds up or keeps in reserve. Unlike the memory of a process, two runs give the same numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Unfinished(RuntimeError):
    """The block ran longer than it was allowed to."""


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that live within a block.

    ``now`` are the bytes of tensors made within the block, and ``peak`` is the most they have been.
    ``outside`` are the bytes of tensors that operations read and that were made before the block,
    such as weights; ``outside_peak`` is the most they have been.

    Parameters
    ----------
    seconds : float, default inf
        Processor time after which the block ends with :class:`Unfinished`.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        super().__init__()
        self.now = self.peak = self.outside = self.outside_peak = 0
        self.end = time.thread_time() + seconds
        self._sizes: dict[int, int] = {}
        self._refs: dict[int, ref[torch.UntypedStorage]] = {}
        self._outside: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if time.thread_time() > self.end:
            raise Unfinished("a few steps of the solver took too long to count their memory")
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):
            self._see(tensor, made_here=False)
        result = func(*args, **kwargs)
        for tensor in _tensors(result):
            self._see(tensor, made_here=True)
        return result

    def mark(self) -> None:
        """Count the peak anew from here."""
        self.peak = self.now

    def _see(self, tensor: Tensor, made_here: bool) -> None:
        """Count the storage of a tensor if it is new.

        ``made_here`` says whether the tensor is the result of an operation, not its input.
        """
        try:
            storage = tensor.untyped_storage()
        except NotImplementedError:  # sparse tensors have none
            return
        key = storage._cdata
        if key in self._refs:
            return
        self._sizes[key] = size = storage.nbytes()
        self._refs[key] = ref(storage, partial(self._gone, key))
        if made_here:
            self.now += size
            self.peak = max(self.peak, self.now)
        else:
            self._outside.add(key)
            self.outside += size
            self.outside_peak = max(self.outside_peak, self.outside)

    def _gone(self, key: int, _ref: object) -> None:
        size = self._sizes.pop(key)
        del self._refs[key]
        if key in self._outside:
            self._outside.remove(key)
            self.outside -= size
        else:
            self.now -= size


class Ledger(Live):
    """Counts live tensors, and the bytes that a network would take if it really ran."""

    def spike(self, size: int) -> None:
        """Add bytes that live for a moment only."""
        self.peak = max(self.peak, self.now + size)

    def lease(self, size: int) -> tuple[Tensor, Callable[[], bool]]:
        """Return a tensor 1.0 that counts as ``size`` bytes, and a function: whether it lives.

        A product with it keeps it alive as long as autograd keeps what a gradient through a network
        needs.
        """
        one = torch.ones(())
        key = one.untyped_storage()._cdata
        self._sizes[key] += size
        self.now += size
        self.peak = max(self.peak, self.now)
        held = self._refs[key]
        return one, lambda: held() is not None


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
