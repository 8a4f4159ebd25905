"""Compute the PSNR as VIPaint's tables print it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import FullReference, MetricCard, column_id


class PSNRVIPaint(FullReference):
    """PSNR of VIPaint, 6.02 dB below the usual PSNR; only for comparison with its printed tables.

    ``10 log10(1 / (MSE + 1e-10))`` on images in [-1, 1]: the released evaluation takes a peak of 1
    although the images have a range of 2. Never compare it with ``psnr``.

    Parameters
    ----------
    pasted : bool, default False
        Score pasted instead of raw images.
    """

    library_alone = True
    reference: ClassVar[Mapping[str, float]] = {"whole": 14.734354 - 6.020600}

    def __init__(self, pasted: bool = False) -> None:
        self.card = MetricCard(
            id=column_id("psnr_vipaint", pasted=pasted),
            title="PSNR as printed by VIPaint (-6.02 dB)",
            direction="up",
            unit="dB",
            range="(-inf, 100]; 100 for identical images",
            pasted=pasted,
            preprocessing="8-bit images in [-1, 1], peak 1 instead of 2, 1e-10 added "
            "to the MSE, float64",
            source="VIPaint, released evaluation code; its Tables 5 to 7",
        )

    @override
    def compare(self, x: Tensor, truth: Tensor, region: Tensor) -> float:
        mse = (x - truth).cpu().double().square().mean()
        return (-10 * (mse + 1e-10).log10()).item()
