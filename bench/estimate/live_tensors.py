"""Bytes of tensors that are alive, counted while code runs: storages are seen when an operation
makes them, and leave.

Views share a storage and count once. What a kernel takes for itself and gives back before it ends
is not seen, nor is what an allocator rounds up or keeps in reserve. Two runs give the same numbers,
which those of a process do not.
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
    """Within the block, ``now`` is what the tensors made there take in bytes, and ``peak`` the most
    it has been.

    ``outside`` is what tensors take that operations read and that were made before the block, such
    as weights; the most at one time is ``outside_peak``. ``seconds`` of the processor end the block
    with :class:`Unfinished`.
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
        """Count a storage that was not seen before; an input's is not that of the operation's
        result.
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
    """Counts, beside the tensors that are there, bytes that would be there if a network were really
    run.
    """

    def spike(self, size: int) -> None:
        """So many bytes more for a moment."""
        self.peak = max(self.peak, self.now + size)

    def lease(self, size: int) -> tuple[Tensor, Callable[[], bool]]:
        """A one that counts as so many bytes for as long as it is alive, and a function that says
        whether it is.

        Who multiplies by it keeps it exactly as long as autograd keeps what it needs of a network
        for a gradient.
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
