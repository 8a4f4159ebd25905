"""Compute the multi-scale structural similarity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import (
    FullReference,
    MetricCard,
    column_id,
    expect,
    reference_images,
    unit,
)

MIN_SIDE = 176
"""Smallest side in pixels: the window of 11 pixels must fit into the image halved four times."""


class MSSSIM(FullReference):
    """Contrast and structure of SSIM at five scales, and luminance at the coarsest scale.

    The scales have the weights of the paper (Wang, Simoncelli and Bovik, 2003). The metric scores
    the whole image only: a region would vanish at the coarse scales. Window, constants and the
    range [0, 1] are those of ``ssim``; a scale with a negative similarity counts as zero. Images
    need at least 176 pixels a side; enlarging smaller ones would give another metric. Computed in
    float64 on the CPU. Version 1 was computed on [-1, 1].

    Parameters
    ----------
    pasted : bool, default False
        Score pasted instead of raw images.
    """

    library_alone = True
    reference: ClassVar[Mapping[str, float]] = {"whole": 0.690069}

    def __init__(self, pasted: bool = False) -> None:
        self.card = MetricCard(
            id=column_id("msssim", pasted=pasted),
            title="MS-SSIM",
            direction="up",
            unit="",
            range="[0, 1]",
            pasted=pasted,
            preprocessing="8-bit images in [0, 1], data range 1, five scales, sides of "
            f"{MIN_SIDE} px or more",
            source="Wang, Simoncelli, Bovik: Multi-Scale Structural Similarity for Image Quality "
            "Assessment, 2003; torchmetrics multiscale_structural_similarity_index_measure",
            version=2,
        )

    @override
    def admit(self, shape: tuple[int, int, int]) -> None:
        if min(shape[1:]) < MIN_SIDE:
            raise ValueError(
                f"metric '{self.card.id}' needs images of at least {MIN_SIDE} pixels a side, and "
                f"these have {shape[1]} x {shape[2]}; choose ssim"
            )

    @override
    def compare(self, x: Tensor, truth: Tensor, region: Tensor) -> float:
        # torchmetrics takes seconds to import
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

        self.admit((x.shape[1], x.shape[2], x.shape[3]))
        value: Tensor = multiscale_structural_similarity_index_measure(
            unit(x), unit(truth), sigma=1.5, kernel_size=11, data_range=1.0, normalize="relu"
        )
        return value.item()

    def check(self) -> None:
        """Compare the value of the reference images, each pixel repeated to a block of 3 x 3."""
        x, truth, mask = (
            image.repeat_interleave(3, 2).repeat_interleave(3, 3) for image in reference_images()
        )
        expect(self.card.id, self.compare(x, truth, mask), self.reference["whole"])
