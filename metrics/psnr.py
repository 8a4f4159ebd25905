"""Compute the peak signal-to-noise ratio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import FullReference, MetricCard, Region, column_id


class PSNR(FullReference):
    """Peak signal-to-noise ratio in dB.

    ``10 log10(2^2 / MSE)`` with the MSE over the pixels and channels of the region, on 8-bit images
    in [-1, 1]. Identical images give ``inf``, an empty region gives NaN. An average of this metric
    is the mean of dB over images, not the dB of a pooled MSE. The peak is 2, the width of [-1, 1];
    published values computed with a peak of 1 on such images are 6.02 dB lower. Computed in float64
    on the CPU, so the number does not depend on the device that solved the problem. The library piq
    adds 1e-8 to the MSE in [0, 1], which changes less than 0.001 dB below 40 dB.

    Parameters
    ----------
    region : {'whole', 'hole', 'known'}, default 'whole'
        Pixels that count.
    pasted : bool, default False
        Score pasted instead of raw images.
    """

    library_alone = True
    reference: ClassVar[Mapping[str, float]] = {
        "whole": 14.734354,
        "hole": 13.996432,
        "known": 15.623850,
    }

    def __init__(self, region: Region = "whole", pasted: bool = False) -> None:
        self.card = MetricCard(
            id=column_id("psnr", region, pasted),
            title="PSNR",
            direction="up",
            unit="dB",
            range="(-inf, inf]; inf for identical images",
            region=region,
            pasted=pasted,
            preprocessing="8-bit images in [-1, 1], peak 2, float64, one value per image",
            source="torchmetrics peak_signal_noise_ratio",
            tables="DAPS, Table 1, and InverseBench (by piq, which gives the same but for 0.001 dB "
            "below 40 dB); FLAIR and DING; not VIPaint, see psnr_vipaint"
            if region == "whole" and not pasted
            else "",
        )

    @override
    def compare(self, x: Tensor, truth: Tensor, region: Tensor) -> float:
        # torchmetrics takes seconds to import
        from torchmetrics.functional.image import peak_signal_noise_ratio

        inside = region.cpu().expand(x.shape)
        if not inside.any():
            return float("nan")
        # a selection is a flat list of values, so the library averages over the region alone
        return peak_signal_noise_ratio(
            x.cpu().double()[inside], truth.cpu().double()[inside], data_range=2.0
        ).item()
