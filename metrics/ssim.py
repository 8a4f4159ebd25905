"""Compute the structural similarity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import FullReference, MetricCard, Region, column_id, unit

MIN_SIDE = 6
WINDOW = 11


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

    library_alone = True
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
            tables="FLAIR; not DAPS and InverseBench, see ssim_piq"
            if region == "whole" and not pasted
            else "",
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
        self.admit((x.shape[1], x.shape[2], x.shape[3]))
        return _map(unit(x), unit(truth))[region.cpu().expand(x.shape)].mean().item()


class SSIMPiq(FullReference):
    """Structural similarity as the library piq computes it.

    It differs from ``ssim`` in two ways. Only windows that lie inside the image count, so pixels
    near the border count less; at 256 pixels the difference is a few thousandths. Images with a
    shorter side of 384 pixels or more are first averaged over squares of ``round(side / 256)``
    pixels. Computed on 8-bit images in [0, 1]; the published code hands over unrounded ones.

    Parameters
    ----------
    pasted : bool, default False
        Score pasted instead of raw images.
    """

    library_alone = True
    reference: ClassVar[Mapping[str, float]] = {"whole": 0.560746}

    def __init__(self, pasted: bool = False) -> None:
        self.card = MetricCard(
            id=column_id("ssim_piq", pasted=pasted),
            title="SSIM of piq",
            direction="up",
            unit="",
            range="[-1, 1]",
            pasted=pasted,
            preprocessing="8-bit images in [0, 1], data range 1; from a shorter side of 384 px on "
            "averaged down to about 256 px; windows inside the image",
            source="Wang, Bovik, Sheikh, Simoncelli 2004; piq ssim",
            tables="" if pasted else "DAPS, Table 1; InverseBench",
        )

    @override
    def admit(self, shape: tuple[int, int, int]) -> None:
        if min(shape[1:]) < WINDOW:
            raise ValueError(
                f"metric '{self.card.id}' needs images of {WINDOW} pixels a side, and these have "
                f"{shape[1]} x {shape[2]}; choose psnr"
            )

    @override
    def compare(self, x: Tensor, truth: Tensor, region: Tensor) -> float:
        self.admit((x.shape[1], x.shape[2], x.shape[3]))
        factor = max(1, round(min(x.shape[2:]) / 256))
        small, original = (F.avg_pool2d(unit(image), factor) for image in (x, truth))
        edge = WINDOW // 2
        return _map(small, original)[..., edge:-edge, edge:-edge].mean().item()


def _map(x: Tensor, truth: Tensor) -> Tensor:
    """Return the similarity of the windows about every pixel of images in [0, 1], in float64."""
    # torchmetrics takes seconds to import
    from torchmetrics.functional.image import structural_similarity_index_measure

    _, similarity = structural_similarity_index_measure(
        x, truth, sigma=1.5, kernel_size=WINDOW, data_range=1.0, return_full_image=True
    )
    return similarity.double()
