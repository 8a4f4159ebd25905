"""Structural similarity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from metrics.base import FullReference, MetricCard, Region, column_id


class SSIM(FullReference):
    """Structural similarity of Wang et al., 2004, with a Gaussian window of 11 x 11 pixels and sigma 1.5.

    The map has one value per pixel and channel; a region averages the map over its pixels (NaN if it has none), so a
    pixel next to the border of the region still sees up to 5 pixels beyond it. K1 = 0.01, K2 = 0.03, data range 2
    (never taken from the images: the score would then depend on what else is in the batch). Computed in float32 on
    the CPU, because reduced-precision convolutions of accelerators lose the variances to cancellation.
    """

    reference: ClassVar[Mapping[str, float]] = {"whole": 0.487444, "hole": 0.367655, "known": 0.607233}

    def __init__(self, region: Region = "whole", pasted: bool = False) -> None:
        self.card = MetricCard(
            id=column_id("ssim", region, pasted),
            title="SSIM",
            direction="up",
            unit="",
            range="[-1, 1]",
            region=region,
            pasted=pasted,
            preprocessing="8-bit images in [-1, 1], data range 2, mirrored borders, mean over pixels and channels",
            source="Wang, Bovik, Sheikh, Simoncelli 2004; torchmetrics structural_similarity_index_measure",
        )

    def compare(self, x: Tensor, truth: Tensor, region: Tensor) -> float:
        from torchmetrics.functional.image import structural_similarity_index_measure

        if min(x.shape[-2:]) < 6:
            raise ValueError(f"SSIM mirrors 5 pixels at each border: images need 6 pixels a side, got {tuple(x.shape)}")
        _, ssim_map = structural_similarity_index_measure(
            x.cpu(), truth.cpu(), sigma=1.5, kernel_size=11, data_range=2.0, return_full_image=True
        )
        return ssim_map[region.cpu().expand(x.shape)].mean(dtype=torch.float64).item()
