"""Moving tensors from upstream names to those of a network, without losing one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class Renaming:
    """Take tensors out of ``source`` one by one and gather them in ``state`` under new names.

    Parameters
    ----------
    source : Mapping[str, Tensor]
        Tensors under upstream names.
    where : object
        Name of the file in error messages.

    Attributes
    ----------
    state : dict[str, Tensor]
        Tensors under their new names.
    """

    def __init__(self, source: Mapping[str, Tensor], where: object):
        self.source, self.where = source, where
        self.state: dict[str, Tensor] = {}
        self._taken: set[str] = set()

    def has(self, name: str) -> bool:
        """Return whether the source has a tensor called ``name``."""
        return name in self.source

    def take(self, name: str) -> Tensor:
        """Return the tensor called ``name``; raise ValueError if there is none."""
        if name not in self.source:
            raise ValueError(
                f"{self.where} lacks '{name}'; it holds another network, or needs another layout"
            )
        self._taken.add(name)
        return self.source[name]

    def move(self, new: str, old: str, change: Callable[[Tensor], Tensor] | None = None) -> None:
        """Move weight and, if there is one, bias of a layer.

        Parameters
        ----------
        new, old : str
            New and upstream name of the layer.
        change : Callable[[Tensor], Tensor] or None, default None
            Function that is applied to the weight.

        Raises
        ------
        ValueError
            If the layer has no weight.
        """
        weight = self.take(f"{old}.weight")
        self.state[f"{new}.weight"] = weight if change is None else change(weight)
        if self.has(f"{old}.bias"):
            self.state[f"{new}.bias"] = self.take(f"{old}.bias")

    def drop(self, unused: Callable[[str], bool]) -> None:
        """Leave out the tensors whose name ``unused`` accepts."""
        self._taken.update(name for name in self.source if unused(name))

    def finish(self) -> dict[str, Tensor]:
        """Return the renamed tensors; raise ValueError if one was never taken."""
        if left := sorted(self.source.keys() - self._taken):
            more = f" and {len(left) - 3} more" if len(left) > 3 else ""
            names = ", ".join(f"'{name}'" for name in left[:3]) + more
            raise ValueError(
                f"{self.where} has {names} left over; "
                "it holds another network, or needs another layout"
            )
        return self.state


def split_qkv(renaming: Renaming, new: str, old: str, heads: int, order: str) -> None:
    """Split one projection of ``3 C`` rows into the three of diffusers' ``Attention``.

    Parameters
    ----------
    renaming : Renaming
        Source and target of the tensors.
    new, old : str
        New name of the attention and upstream name of the projection.
    heads : int
        Number of heads.
    order : str
        Order of the upstream rows: ``head dim qkv`` (EDM), ``head qkv dim`` (guided-diffusion,
        legacy), or ``qkv head dim`` (guided-diffusion with ``use_new_attention_order``). In
        diffusers it is (head, dim).

    Raises
    ------
    ValueError
        If the projection does not have this form.
    """
    weight, bias = renaming.take(f"{old}.weight"), renaming.take(f"{old}.bias")
    rows, channels = weight.shape[:2]
    if rows != 3 * channels or channels % heads:
        raise ValueError(
            f"{renaming.where}: '{old}' of shape {tuple(weight.shape)} "
            f"is no attention of {heads} heads"
        )
    sizes = {"head": heads, "dim": channels // heads, "qkv": 3}
    axes = order.split()
    for name, part in (("weight", weight.reshape(rows, channels)), ("bias", bias)):
        parts = part.reshape(*(sizes[axis] for axis in axes), *part.shape[1:])
        for i, letter in enumerate("qkv"):
            one = parts.select(axes.index("qkv"), i).reshape(channels, *part.shape[1:])
            renaming.state[f"{new}.to_{letter}.{name}"] = one


def to_linear(weight: Tensor) -> Tensor:
    """Return the weight of a 1 x 1 convolution, 1-D or 2-D, as the weight of a linear layer."""
    return weight.reshape(weight.shape[:2]) if weight[0, 0].numel() == 1 else weight


def to_float(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``state`` in float32."""
    return {name: value.to(torch.float32).contiguous() for name, value in state.items()}
