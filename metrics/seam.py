"""Measure the error along the border of the hole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d
from typing_extensions import override

from posterior_bench.metrics.base import (
    Batch,
    FullReference,
    MetricCard,
    Region,
    column_id,
    expect,
    pixels_of,
    reference_images,
)

WIDTH = 3


class Seam(FullReference):
    """Root mean square error over pixels at most 3 pixels away from the other side of the border.

    The distance counts rows, columns or diagonals. A pasted image is exact on the known side if the
    measurement is. The value is NaN without a border.

    Parameters
    ----------
    region : {'whole', 'hole', 'known'}, default 'whole'
        ``whole`` = both sides of the border; ``hole`` or ``known`` = that side.
    pasted : bool, default False
        Score pasted instead of raw images.
    """

    reference: ClassVar[Mapping[str, float]] = {
        "whole": 0.355216,
        "hole": 0.358571,
        "known": 0.351829,
    }

    def __init__(self, region: Region = "whole", pasted: bool = False) -> None:
        self.card = MetricCard(
            id=column_id("seam", region, pasted),
            title="Seam error",
            direction="down",
            unit="[-1, 1] units",
            range="[0, 2]",
            region=region,
            pasted=pasted,
            preprocessing=f"8-bit images; band of {WIDTH} pixels on either side of the "
            "border of the hole; float64",
        )

    @override
    def __call__(self, batch: Batch) -> Tensor:
        x = batch.pasted if self.card.pasted else batch.raw
        rows = zip(x.split(1), batch.truth.split(1), batch.mask.split(1), strict=True)
        return torch.tensor([self.compare(*row) for row in rows], dtype=torch.float64)

    def compare(self, x: Tensor, truth: Tensor, region: Tensor) -> float:
        """Score one image; ``region`` is the mask here, because both sides of its border count."""
        inside = (_band(region) & pixels_of(self.card.region, region)).cpu().expand(x.shape)
        return (x - truth).cpu().double()[inside].square().mean().sqrt().item()

    @override
    def check(self) -> None:
        expect(self.card.id, self.compare(*reference_images()), self.reference[self.card.region])


def _band(mask: Tensor) -> Tensor:
    """Find the pixels at most ``WIDTH`` steps from the other side of the border of ``mask``."""
    near_known, near_hole = (
        max_pool2d(side.float(), 2 * WIDTH + 1, 1, WIDTH) > 0 for side in (mask, ~mask)
    )
    return near_known & near_hole
