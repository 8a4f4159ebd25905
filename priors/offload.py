"""Weights that wait in the memory of the host while nothing needs them on the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn


class HostCopy:
    """Frozen weights with a copy in the memory of the host.

    The copy is made once. Weights that wait take no memory of the device, and come back with the
    same bits. No gradient may be pending through them while they wait.

    Parameters
    ----------
    modules : Iterable[nn.Module]
        Networks with frozen weights, on one device.
    """

    def __init__(self, modules: Iterable[nn.Module]):
        self.modules = tuple(modules)
        self._copies: dict[Tensor, Tensor] = {}
        self._device: torch.device | None = None

    def _tensors(self) -> Iterator[Tensor]:
        for module in self.modules:
            yield from chain(module.parameters(), module.buffers())

    @property
    def waits(self) -> bool:
        """Whether the weights are on the host alone."""
        return self._device is not None

    def park(self) -> None:
        """Free the memory of the weights on their device."""
        for tensor in self._tensors():
            if not self.waits:
                self._device = tensor.device
            copy = self._copies.get(tensor)
            if copy is None or not _alike(copy, tensor):
                copy = _host(tensor.data)
                self._copies[tensor] = copy
            tensor.data = copy

    def fetch(self) -> None:
        """Bring the weights back to their device."""
        if self._device is None:
            return
        for tensor in self._tensors():
            tensor.data = _on(self._device, self._copies[tensor])
        self._device = None

    @contextmanager
    def parked(self) -> Iterator[None]:
        """Keep the weights on the host while a block runs."""
        self.park()
        try:
            yield
        finally:
            self.fetch()


def _host(tensor: Tensor) -> Tensor:
    copy = tensor.to("cpu", copy=True)
    # pages that stay where they are come back several times faster
    return copy.pin_memory() if tensor.device.type == "cuda" else copy


def _on(device: torch.device, copy: Tensor) -> Tensor:
    return copy.to(device, non_blocking=True, copy=True)


def _alike(copy: Tensor, tensor: Tensor) -> bool:
    """Whether a copy still has the type and layout of a weight, which an execution may change."""
    return (copy.dtype, copy.shape, copy.stride()) == (tensor.dtype, tensor.shape, tensor.stride())
