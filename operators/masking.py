"""Keeping the pixels of a mask: the bits of ``torch.where``, several times as fast on a CPU.

On a CPU, ``torch.where`` takes one element at a time. A bitwise "and" of floats with all ones or
all zeros takes several at once, and is as strict: a NaN in the hole does not leak, as it would from
a product, and observed pixels keep their bits, the sign of a zero included.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

_WORDS = {torch.float32: torch.int32, torch.float64: torch.int64}
"""Types of floats, and the integers of the same size."""

_LARGE = 2**15
"""Elements from which on the time that is saved is more than a call of :class:`_Kept` takes."""


class PixelMask:
    """A mask that keeps pixels; values and gradients have the bits of ``torch.where``.

    Parameters
    ----------
    mask : Tensor
        Bool ``(N, 1, H, W)``.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        self._words: dict[torch.dtype, Tensor] = {}

    def kept(self, x: Tensor) -> Tensor:
        """Return ``x`` where the mask is True, and 0 elsewhere.

        Parameters
        ----------
        x : Tensor
            Images ``(N, C, H, W)``.

        Returns
        -------
        Tensor
            Shaped like ``x``.
        """
        if not self._bitwise(x):
            return torch.where(self.mask, x, torch.zeros((), dtype=x.dtype, device=x.device))
        kept: Tensor = _Kept.apply(x, self._as_words(x.dtype))
        return kept

    def _bitwise(self, x: Tensor) -> bool:
        return (
            x.device.type == "cpu"
            and x.dtype in _WORDS
            and x.numel() >= _LARGE
            and x.is_contiguous()
            and x.shape == torch.broadcast_shapes(x.shape, self.mask.shape)
            and not torch._C._are_functorch_transforms_active()  # they take no such function
        )

    def _as_words(self, dtype: torch.dtype) -> Tensor:
        """Return the mask in integers of the size of ``dtype``: all ones where True, else 0."""
        if dtype not in self._words:
            self._words[dtype] = -self.mask.to(_WORDS[dtype])
        return self._words[dtype]


class _Kept(torch.autograd.Function):
    """``x & words``, bit by bit. It is linear, and its own adjoint."""

    @staticmethod
    @override
    def forward(ctx: Any, x: Tensor, words: Tensor) -> Tensor:
        ctx.save_for_backward(words)
        ctx.save_for_forward(words)
        if x.is_contiguous():
            return (x.view(words.dtype) & words).view(x.dtype)
        # a gradient in another layout, which torch.where would change
        return torch.where(words.bool(), x, torch.zeros((), dtype=x.dtype))

    @staticmethod
    @override
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return _Kept.apply(slope, *ctx.saved_tensors), None

    @staticmethod
    @override
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        moved: Tensor = _Kept.apply(tangent, *ctx.saved_tensors)
        return moved
