"""Say which variants draws show, where everything that is hidden can be enumerated.

An image is made of components (mouth, eyes, hair), each of which shows one of a few variants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Component:
    """What draws show of one hidden component.

    Parameters
    ----------
    name : str
        The component.
    variants : Sequence[str]
        Names of its ``V`` possible variants, two or more.
    weights : Tensor
        float64 ``(V,)``: their posterior probabilities.
    shares : Tensor
        float64 ``(D, V)``: probability that each draw shows each variant, 0 or 1 but for variants
        that look the same in the draw. These share it as they share posterior probability.
    """

    name: str
    variants: Sequence[str]
    weights: Tensor
    shares: Tensor


@dataclass(frozen=True)
class Recognised:
    """What draws were recognised as.

    Parameters
    ----------
    squares : Tensor
        float64 ``(D,)``: squared distance to the nearest possible image, over hidden values.
    components : Sequence[Component]
        The hidden components that have two possible variants or more.
    """

    squares: Tensor
    components: Sequence[Component]

    def distances(self, hidden: int) -> Tensor:
        """Return the root mean square distance ``(D,)`` of draws with so many hidden values."""
        return (self.squares / max(hidden, 1)).sqrt()


@dataclass(frozen=True)
class Listed:
    """A posterior given by the list of all possible images, which recognises draws.

    Parameters
    ----------
    images : Tensor
        ``(J, d)``: the possible images.
    weights : Tensor
        float64 ``(J,)``: their posterior probabilities; the sum is 1.
    components : Sequence[str]
        Names of ``k`` components.
    variants : Sequence[Sequence[str]]
        ``J`` times ``k``: the variant of every component in each image.
    hidden : Tensor
        bool ``(d,)``: values that were not observed.
    """

    images: Tensor
    weights: Tensor
    components: Sequence[str]
    variants: Sequence[Sequence[str]]
    hidden: Tensor

    def __call__(self, x: Tensor) -> Recognised:
        """Find the possible image nearest to every draw ``(D, d)``."""
        images = self.images[:, self.hidden].double()
        squares = (x[:, None, self.hidden] - images).square().sum(2)
        which = squares.argmin(1)
        same = (images[which][:, None] == images).all(2) * self.weights
        shares = same / same.sum(1, keepdim=True)
        columns = zip(self.components, zip(*self.variants, strict=True), strict=True)
        found = [self._component(name, shown, shares) for name, shown in columns]
        return Recognised(squares.amin(1), [one for one in found if len(one.variants) > 1])

    def _component(self, name: str, shown: Sequence[str], shares: Tensor) -> Component:
        variants = list(dict.fromkeys(shown))
        belongs = torch.tensor([[v == one for v in variants] for one in shown]).double()
        return Component(name, variants, self.weights @ belongs, shares @ belongs)
