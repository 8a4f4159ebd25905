"""Define the base class of perceptual metrics."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import FullReference, Metric, Region


class Perceptual(FullReference):
    """Base class of distances between deep features of RGB images.

    Images enter in float32, in [-1, 1], at their native size. If the shorter side is below
    ``min_side``, both images are enlarged bilinearly (half-pixel centres) until it has that length.
    Grey images are repeated to three channels. The network is loaded at first use, once per process
    and device. The value for the hole or the known region is the value of the whole image with the
    truth in all other pixels: features near the border of the region see both, and the value is
    small for a small region.

    Attributes
    ----------
    min_side : int
        Smallest side in pixels that the network can take.
    device : torch.device
        Device of the network.
    """

    min_side: int
    device: torch.device = torch.device("cpu")

    def distance(self, x: Tensor, truth: Tensor) -> Tensor:
        """Compute distances of prepared images.

        Parameters
        ----------
        x : Tensor
            float32 ``(N, 3, H, W)`` in [-1, 1] on ``device``.
        truth : Tensor
            The same for the originals.

        Returns
        -------
        Tensor
            ``(N,)``.

        Raises
        ------
        MissingWeights
            If the weights are missing or damaged.
        """
        raise NotImplementedError

    def between(self, x: Tensor, truth: Tensor) -> Tensor:
        """Compute distances of images, differentiable in both arguments.

        The images are one batch, so the last digits may differ from the value of a single image.

        Parameters
        ----------
        x : Tensor
            ``(N, 1 or 3, H, W)`` in [-1, 1].
        truth : Tensor
            The same for the originals.

        Returns
        -------
        Tensor
            float32 ``(N,)``.
        """
        with torch.autocast(self.device.type, enabled=False):
            prepared = (
                as_rgb(image.to(self.device, torch.float32), self.min_side) for image in (x, truth)
            )
            return self.distance(*prepared)

    @override
    def compare(self, x: Tensor, truth: Tensor, region: Tensor) -> float:
        if not region.any():
            return float("nan")
        with torch.no_grad():
            return self.between(torch.where(region, x, truth), truth).item()

    @override
    def admit(self, shape: tuple[int, int, int]) -> None:
        if shape[0] not in (1, 3):
            raise ValueError(
                f"metric '{self.card.id}' takes grey or RGB images, and these "
                f"have {shape[0]} channels"
            )

    def to(self, device: torch.device | str) -> Metric:
        """Set the device of the network; images are moved there when they are scored."""
        self.device = torch.device(device)
        return self


def preprocessing(min_side: int, region: Region = "whole") -> str:
    """Describe on a card the processing of images before the network."""
    line = (
        f"native size, grey repeated to RGB, [-1, 1]; shorter side below {min_side} px: "
        f"bilinear up to {min_side} px"
    )
    return line if region == "whole" else f"{line}; the truth outside the region"


def as_rgb(image: Tensor, min_side: int) -> Tensor:
    """Convert images to RGB of at least ``min_side`` pixels a side.

    Parameters
    ----------
    image : Tensor
        ``(N, 1 or 3, h, w)``.
    min_side : int
        Smallest side in pixels.

    Returns
    -------
    Tensor
        ``(N, 3, H, W)``.

    Raises
    ------
    ValueError
        If there are neither 1 nor 3 channels.
    """
    channels, *size = image.shape[1:]
    if channels not in (1, 3):
        raise ValueError(
            f"perceptual metrics take grey or RGB images, got {channels} "
            "channels; choose psnr or ssim"
        )
    image = image.expand(-1, 3, -1, -1)
    if min(size) >= min_side:
        return image
    enlarged = [max(min_side, round(side * min_side / min(size))) for side in size]
    return F.interpolate(image, size=enlarged, mode="bilinear", align_corners=False)
