"""Moving tensors from upstream names to those of a network, with nothing lost on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class Renaming:
    """Takes tensors out of ``source`` one by one and gathers them in ``state`` under new names.

    ``source`` maps upstream names to tensors; ``where`` names the file in errors. :meth:`finish`
    raises ValueError where a tensor was never taken.
    """

    def __init__(self, source: Mapping[str, Tensor], where: object):
        self.source, self.where = source, where
        self.state: dict[str, Tensor] = {}
        self._taken: set[str] = set()

    def has(self, name: str) -> bool:
        return name in self.source

    def take(self, name: str) -> Tensor:
        """The tensor called ``name``; ValueError where there is none."""
        if name not in self.source:
            raise ValueError(
                f"{self.where} lacks '{name}'; it holds another network, or another layout was "
                f"meant"
            )
        self._taken.add(name)
        return self.source[name]

    def move(self, new: str, old: str, change: Callable[[Tensor], Tensor] | None = None) -> None:
        """Weight and, where there is one, bias of the layer ``old``; ``change`` is applied to the
        weight.
        """
        weight = self.take(f"{old}.weight")
        self.state[f"{new}.weight"] = weight if change is None else change(weight)
        if self.has(f"{old}.bias"):
            self.state[f"{new}.bias"] = self.take(f"{old}.bias")

    def drop(self, unused: Callable[[str], bool]) -> None:
        """Count the tensors as taken whose name ``unused`` accepts."""
        self._taken.update(name for name in self.source if unused(name))

    def finish(self) -> dict[str, Tensor]:
        """The renamed tensors; ValueError where any is left over."""
        if left := sorted(self.source.keys() - self._taken):
            more = f" and {len(left) - 3} more" if len(left) > 3 else ""
            names = ", ".join(f"'{name}'" for name in left[:3]) + more
            raise ValueError(
                f"{self.where} has {names} left over; it holds another network, or another layout "
                f"was meant"
            )
        return self.state


def split_qkv(renaming: Renaming, new: str, old: str, heads: int, order: str) -> None:
    """One projection ``old`` of ``3 C`` rows into the three of diffusers' ``Attention``, whose rows
    are (head, dim).

    ``order`` of the rows upstream: ``head dim qkv`` (EDM), ``head qkv dim`` (guided-diffusion,
    legacy), or ``qkv head dim`` (guided-diffusion with ``use_new_attention_order``).
    """
    weight, bias = renaming.take(f"{old}.weight"), renaming.take(f"{old}.bias")
    rows, channels = weight.shape[:2]
    if rows != 3 * channels or channels % heads:
        raise ValueError(
            f"{renaming.where}: '{old}' of shape {tuple(weight.shape)} is no attention of {heads} "
            f"heads"
        )
    sizes = {"head": heads, "dim": channels // heads, "qkv": 3}
    axes = order.split()
    for name, part in (("weight", weight.reshape(rows, channels)), ("bias", bias)):
        parts = part.reshape(*(sizes[axis] for axis in axes), *part.shape[1:])
        for i, letter in enumerate("qkv"):
            one = parts.select(axes.index("qkv"), i).reshape(channels, *part.shape[1:])
            renaming.state[f"{new}.to_{letter}.{name}"] = one


def to_linear(weight: Tensor) -> Tensor:
    """The weight of a 1 x 1 convolution, one- or two-dimensional, as that of a linear layer."""
    return weight.reshape(weight.shape[:2]) if weight[0, 0].numel() == 1 else weight


def to_float(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` in float32, whatever it was stored in."""
    return {name: value.to(torch.float32).contiguous() for name, value in state.items()}
