"""An empty image set that takes the place of missing images while the rest is checked."""

from __future__ import annotations

from dataclasses import dataclass

from posterior_bench.datasets.base import ImageSet


@dataclass
class StandIn(ImageSet):
    """Hold no images, but have the shape and the number of classes that a prior needs.

    Parameters
    ----------
    shape : tuple of int
        Channels, height and width.
    classes : int, default 0
        How many classes the images have.
    """

    shape: tuple[int, int, int]
    classes: int = 0

    def __post_init__(self) -> None:
        self.name, self.ids, self.num_classes = "stand-in", (), self.classes
