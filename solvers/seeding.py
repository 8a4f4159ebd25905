"""Noise for other people's code, which knows torch's global generator only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from posterior_bench.solvers.base import Noise

_BITS = 24  # of a float32 uniform


def seeds(noise: Noise) -> list[int]:
    """One seed per row, 48 bits of that row's noise."""
    parts = (noise.uniform((2,)).double() * 2**_BITS).long()
    return [(high << _BITS) | low for high, low in parts.tolist()]


class Seeded(TorchFunctionMode):
    """Within the block, normals that torch would draw from its global generator come from
    ``generator``.

    Covers ``randn``, ``randn_like`` and ``normal_``; the global generator is neither read nor
    moved.
    """

    def __init__(self, generator: torch.Generator):
        super().__init__()
        self.generator = generator

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func == torch.randn_like:
            return torch.empty_like(*args, **given).normal_(generator=self.generator)
        if func in (torch.randn, Tensor.normal_) and given.get("generator") is None:
            given["generator"] = self.generator
        return func(*args, **given)
