"""Compute the structural similarity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import FullReference, MetricCard, Region, column_id, unit

MIN_SIDE = 6


class SSIM(FullReference):
    """Structural similarity with a Gaussian window of 11 x 11 pixels and sigma 1.5.

    Wang, Bovik, Sheikh and Simoncelli (2004). The similarity map has one value per pixel and
    channel. A region averages the map over its pixels (NaN without pixels), so a pixel next to the
    border of the region still sees up to 5 pixels beyond it. K1 = 0.01 and K2 = 0.03. Images are
    moved to [0, 1] with data range 1: SSIM compares mean grey levels, so it depends on the value of
    black, which is 0 in published results. The data range is never taken from the images, because
    the score would then depend on the rest of the batch; VIPaint's released evaluator does that on
    [-1, 1], but its paper prints no SSIM. Computed in float64 on the CPU, because float32 loses the
    variances of flat regions to cancellation. Version 1 was computed on [-1, 1] with data range 2.

    Parameters
    ----------
    region : {'whole', 'hole', 'known'}, default 'whole'
        Pixels that count.
    pasted : bool, default False
        Score pasted instead of raw images.
    """

    reference: ClassVar[Mapping[str, float]] = {
        "whole": 0.554886,
        "hole": 0.439842,
        "known": 0.669930,
    }

    def __init__(self, region: Region = "whole", pasted: bool = False) -> None:
        self.card = MetricCard(
            id=column_id("ssim", region, pasted),
            title="SSIM",
            direction="up",
            unit="",
            range="[-1, 1]",
            region=region,
            pasted=pasted,
            preprocessing="8-bit images in [0, 1], data range 1, mirrored borders, "
            "mean over pixels and channels",
            source="Wang, Bovik, Sheikh, Simoncelli 2004; torchmetrics "
            "structural_similarity_index_measure",
            version=2,
        )

    @override
    def admit(self, shape: tuple[int, int, int]) -> None:
        if min(shape[1:]) < MIN_SIDE:
            raise ValueError(
                f"metric '{self.card.id}' mirrors 5 pixels at each border: images need {MIN_SIDE} "
                f"pixels a side, and these have {shape[1]} x {shape[2]}; choose psnr"
            )

    @override
    def compare(self, x: Tensor, truth: Tensor, region: Tensor) -> float:
        # torchmetrics takes seconds to import
        from torchmetrics.functional.image import structural_similarity_index_measure

        self.admit((x.shape[1], x.shape[2], x.shape[3]))
        _, ssim_map = structural_similarity_index_measure(
            unit(x), unit(truth), sigma=1.5, kernel_size=11, data_range=1.0, return_full_image=True
        )
        return ssim_map[region.cpu().expand(x.shape)].mean(dtype=torch.float64).item()
