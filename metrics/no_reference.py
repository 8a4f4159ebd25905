"""Define the base class of metrics that judge an image without its original."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import Batch, Metric
from posterior_bench.metrics.perceptual import as_rgb


class NoReference(Metric):
    """Base class of metrics that see the image alone.

    Such a metric tells how good an image looks, not whether it is right. A subclass writes
    :meth:`score`. Images are scored one at a time, in float32 and [0, 1].

    Attributes
    ----------
    min_side : int
        Smaller images are enlarged bilinearly until the shorter side has as many pixels.
    device : torch.device
        Device of the network.
    """

    min_side: int = 1
    device: torch.device = torch.device("cpu")

    def score(self, image: Tensor) -> Tensor:
        """Score an image.

        Parameters
        ----------
        image : Tensor
            float32 ``(1, 3, H, W)`` in [0, 1], rounded to 8 bits, on ``device``.

        Returns
        -------
        Tensor
            ``(1,)``.

        Raises
        ------
        MissingWeights
            If the weights are missing or damaged.
        """
        raise NotImplementedError

    @property
    def prepared(self) -> str:
        """Describe on the card the processing of images before :meth:`score`."""
        return (
            "8-bit images at native size, grey repeated to RGB; shorter side below "
            f"{self.min_side} px: bilinear up to {self.min_side} px"
        )

    @override
    def __call__(self, batch: Batch) -> Tensor:
        images = (batch.pasted if self.card.pasted else batch.raw).to(self.device, torch.float32)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            scores = [self.score((as_rgb(x, self.min_side) + 1) / 2) for x in images.split(1)]
        return torch.cat(scores).double().cpu()

    @override
    def admit(self, shape: tuple[int, int, int]) -> None:
        if shape[0] not in (1, 3):
            raise ValueError(
                f"metric '{self.card.id}' takes grey or RGB images, and these "
                f"have {shape[0]} channels"
            )

    @override
    def to(self, device: torch.device | str) -> NoReference:
        self.device = torch.device(device)
        return self
