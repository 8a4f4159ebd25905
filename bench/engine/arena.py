"""The arena: test images that are drawn from the law of a prior itself.

Mixtures of Gaussians and Lévy signals have a known law. There a posterior is known, in closed form
or by Markov chains, and the truth is one more draw from it: given the measurement,
truth and exact posterior draws have the same distribution, which is what simulation-based
calibration needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from posterior_bench.bench.config.build import build, target
from posterior_bench.bench.config.prompts import NOT_OF_THE_IMAGES
from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.datasets.base import ImageSet
from posterior_bench.priors.base import Drawable, Prior

IMAGES = 10_000


@dataclass
class PriorDraws(ImageSet):
    """Draws from the law of the prior of the same cell; no labels.

    An image depends on the prior, ``name``, the study seed and its own id alone, and not on how
    many others there are: a replicate with another seed has other images, as it has other masks and
    measurement noise.

    Parameters
    ----------
    name : str
        Data id, ``arena-...``.
    prior, seed : Prior or int
        Handed in by the harness. Raises ValueError for another name and for a prior whose law is
        not known, as that of a network of images.
    """

    name: str
    prior: Prior = field(repr=False)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.name.startswith("arena-"):
            raise ValueError(
                f"name '{self.name}' must start with 'arena-', so that drawn images are told from "
                f"real ones"
            )
        if not isinstance(self.prior, Drawable):
            raise ValueError(
                f"{self.name} draws its images from the prior, which must be in closed form or a "
                "Lévy law; leave prior= out, or choose one such as g2 or gauss64"
            )
        self.exact: Drawable = self.prior
        self.shape = self.prior.image_shape
        self.ids = tuple(f"draw-{i:05d}" for i in range(IMAGES))

    def images(self, ids: Sequence[str]) -> Tensor:
        """Return the images ``(N, C, H, W)`` with these ids."""
        return torch.cat([self._image(image) for image in ids])

    def _image(self, image: str) -> Tensor:
        # one at a time: the last bits of a matrix product depend on the number of its rows
        noise = Noise([Key(self.seed, self.name, image)], "truth", self.prior.device)
        return self.exact.sample(noise.uniform(()), noise.normal(self.shape))


def are_drawn(node: Mapping[str, Any]) -> bool:
    """Whether the images of a configuration are drawn from its prior."""
    return target(node) is PriorDraws


def build_images(node: Mapping[str, Any], prior: Prior | None, seed: int = 0) -> ImageSet:
    """Return the image set of a data node.

    Images that are drawn from the prior get it, and the study seed.
    """
    more: dict[str, Any] = {"prior": prior, "seed": seed} if are_drawn(node) else {}
    images: ImageSet = build(node, skip=NOT_OF_THE_IMAGES, **more)
    return images
