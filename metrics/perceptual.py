"""What the perceptual metrics share: how an image reaches a feature network, and how weights are
trusted.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import FullReference, Metric, MissingWeights, Region


class Perceptual(FullReference):
    """A distance between deep features of RGB images in [-1, 1], in float32.

    Images enter at their native size. Only where the shorter side is below ``min_side``, the least
    that the network can take, both images are enlarged bilinearly (half-pixel centres) until it has
    that length. Grey images are repeated to three channels. The network is loaded at first use,
    once per process and device. A value for the hole or the known region is that of the whole image
    with the truth everywhere else: features near its border see both, and it is small where the
    region is.
    """

    min_side: int
    device: torch.device = torch.device("cpu")

    def distance(self, x: Tensor, truth: Tensor) -> Tensor:
        """The distances ``(N,)`` of prepared images ``(N, 3, H, W)``. MissingWeights without the
        weights.
        """
        raise NotImplementedError

    def between(self, x: Tensor, truth: Tensor) -> Tensor:
        """The metric's own values ``(N,)`` for images ``(N, 1 or 3, h, w)``, differentiable in
        both; float32.

        Computed as one batch, so a value may differ in its last digits from that of the image
        alone.
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
                f"metric '{self.card.id}' takes grey or RGB images, and these have {shape[0]} "
                f"channels"
            )

    def to(self, device: torch.device | str) -> Metric:
        """Compute on ``device``; images are brought there from wherever they are."""
        self.device = torch.device(device)
        return self


def preprocessing(min_side: int, region: Region = "whole") -> str:
    """The card's line on what happens to an image before the network."""
    line = (
        f"native size, grey repeated to RGB, [-1, 1]; shorter side below {min_side} px: "
        f"bilinear up to {min_side} px"
    )
    return line if region == "whole" else f"{line}; the truth outside the region"


def as_rgb(image: Tensor, min_side: int) -> Tensor:
    """``(N, 1 or 3, h, w)`` to ``(N, 3, H, W)`` no side below ``min_side``; ValueError for other
    channel counts.
    """
    channels, *size = image.shape[1:]
    if channels not in (1, 3):
        raise ValueError(
            f"perceptual metrics take grey or RGB images, got {channels} channels; choose psnr or "
            f"ssim"
        )
    image = image.expand(-1, 3, -1, -1)
    if min(size) >= min_side:
        return image
    enlarged = [max(min_side, round(side * min_side / min(size))) for side in size]
    return F.interpolate(image, size=enlarged, mode="bilinear", align_corners=False)


def verify(path: Path, sha256: str, remedy: str) -> None:
    """Raises MissingWeights unless the file's hash starts with ``sha256``: wrong weights would give
    wrong scores.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(sha256):
        raise MissingWeights(
            f"{path} is damaged or another file: sha256 {found[:16]}, not {sha256[:16]}; {remedy}"
        )
