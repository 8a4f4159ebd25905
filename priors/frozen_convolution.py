"""Convolutions with frozen weights that do not keep their input for the gradient.

The gradient of a convolution in its input needs the weight alone. Torch keeps the input all the
same, because one formula serves input and weight. In a U-Net this input is the output of an
activation, which nothing else needs: about a third of what autograd keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input
from typing_extensions import override

_Settings = tuple[Sequence[int], Sequence[int], Sequence[int], int]
"""Stride, padding, dilation and groups."""


class FrozenConv2d(nn.Conv2d):
    """A ``Conv2d`` whose weights are frozen; it keeps the weight for the gradient, not the input.

    Its output and its state are those of ``Conv2d``. Without a gradient, and while its weights take
    gradients, it is a ``Conv2d``.
    """

    @override
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        frozen = not (weight.requires_grad or (bias is not None and bias.requires_grad))
        # a compiler drops what no gradient needs by itself, and cannot trace a function with a jvp
        if (
            not (frozen and input.requires_grad and torch.is_grad_enabled())
            or torch.compiler.is_compiling()
        ):
            return super()._conv_forward(input, weight, bias)
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0, 0)
        out: Tensor = _Convolution.apply(
            input, weight, bias, (self.stride, padding, self.dilation, self.groups)
        )
        return out


def freeze_convolutions(module: nn.Module, frozen: bool = True) -> None:
    """Turn every ``Conv2d`` of a module into a :class:`FrozenConv2d`, or back.

    Weights stay the same objects. Convolutions whose padding is a word (``same``) and subclasses of
    ``Conv2d`` stay what they are.

    Parameters
    ----------
    module : nn.Module
        The network.
    frozen : bool, default True
        False turns them back into ``Conv2d``.
    """
    old, new = (nn.Conv2d, FrozenConv2d) if frozen else (FrozenConv2d, nn.Conv2d)
    for part in module.modules():
        if type(part) is old and not isinstance(part.padding, str):
            part.__class__ = new


class _Convolution(torch.autograd.Function):
    """``x -> conv(x, weight) + bias`` for constant weight and bias."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, settings: _Settings) -> Tensor:
        return F.conv2d(x, weight, bias, *settings)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.settings = inputs
        ctx.shape, ctx.dtype = x.shape, x.dtype
        ctx.save_for_backward(weight)
        ctx.save_for_forward(weight)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        back = _Transposed.apply(slope, weight, ctx.shape, ctx.settings)
        return back.to(ctx.dtype), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        (weight,) = ctx.saved_tensors
        return F.conv2d(tangent, weight, None, *ctx.settings)


class _Transposed(torch.autograd.Function):
    """The transpose of ``x -> conv(x, weight)``, which is linear too."""

    generate_vmap_rule = True

    @staticmethod
    def forward(slope: Tensor, weight: Tensor, shape: Sequence[int], settings: _Settings) -> Tensor:
        # under autocast the convolution was computed in the type of the slope
        return conv2d_input(shape, weight.to(slope.dtype), slope, *settings)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, weight, _, ctx.settings = inputs
        ctx.save_for_backward(weight)
        ctx.save_for_forward(weight)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        out = _Convolution.apply(slope, weight.to(slope.dtype), None, ctx.settings)
        return out, None, None, None
