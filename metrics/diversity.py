"""Measure how different the draws of one image are."""

from __future__ import annotations

from itertools import combinations
from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import (
    DrawMetric,
    Draws,
    DrawSet,
    MetricCard,
    Region,
    column_id,
    expect,
    from_uint8,
    reference_draws,
    to_uint8,
)
from posterior_bench.metrics.lpips_metric import LPIPS
from posterior_bench.metrics.perceptual import Perceptual
from posterior_bench.metrics.stlpips import STLPIPS

PairRegion = Literal["whole", "hole"]


class Diversity(DrawMetric):
    """Root mean square difference of two draws in the region, averaged over all pairs.

    Computed from 8-bit images in [-1, 1]. A large value is not good by itself, because noise is
    diverse too; the calibration metrics tell whether the spread is right. The value is NaN for one
    draw and for an empty region.

    Parameters
    ----------
    region : {'whole', 'hole'}, default 'whole'
        Pixels that count.
    """

    unrounded: ClassVar[bool] = False
    references: ClassVar[dict[str, float]] = {"whole": 0.684835, "hole": 0.677728}

    def __init__(self, region: PairRegion = "whole") -> None:
        self.card = _card(
            "diversity", "Diversity", "[-1, 1] units", region, "8-bit images, float64"
        )

    @override
    def score(self, draws: Draws) -> float:
        chosen = draws.hidden if self.card.region == "hole" else torch.ones_like(draws.hidden)
        if len(draws.x) < 2 or not chosen.any():
            return float("nan")
        x = from_uint8(to_uint8(draws.x[:, chosen])).double()
        return (torch.pdist(x).mean() / int(chosen.sum()) ** 0.5).item()

    @override
    def check(self) -> None:
        expect(
            self.card.id, self.score(reference_draws().images[0]), self.references[self.card.region]
        )


class PerceptualDiversity(DrawMetric):
    """Perceptual distance of two draws, averaged over all pairs.

    As published for LPIPS (Zhu et al., BicycleGAN, 2017), from 8-bit images. For the hole, both
    draws hold the truth in all other pixels. The value is NaN for one draw, and for the hole if
    nothing is hidden.

    Parameters
    ----------
    distance : {'stlpips', 'lpips_alex', 'lpips_vgg'}, default 'stlpips'
        Perceptual distance.
    region : {'whole', 'hole'}, default 'whole'
        Pixels that count.

    Raises
    ------
    ValueError
        For an unknown distance or region.
    """

    unrounded: ClassVar[bool] = False

    def __init__(
        self,
        distance: Literal["stlpips", "lpips_alex", "lpips_vgg"] = "stlpips",
        region: PairRegion = "whole",
    ) -> None:
        self.network = _distance(distance)
        of = self.network.card
        how = f"{of.preprocessing}; 8-bit images" + (
            "; the truth outside the hole" if region == "hole" else ""
        )
        self.card = _card(
            f"diversity_{distance}",
            f"Diversity ({of.title})",
            "",
            region,
            how,
            of.backbone,
            of.weights,
        )

    @override
    def to(self, device: torch.device | str) -> PerceptualDiversity:
        self.network.to(device)
        return self

    @override
    def admit(self, shape: tuple[int, int, int]) -> None:
        self.network.admit(shape)

    @override
    def check(self) -> None:
        self.network.check()

    @override
    def __call__(self, draws: DrawSet) -> Tensor:
        levels = (from_uint8(to_uint8(x)) for x in (draws.x, draws.truth.to(draws.x)))
        masks = [None] * len(draws.x) if draws.mask is None else list(draws.mask)
        scores = [self._image(*image) for image in zip(*levels, masks, strict=True)]
        return torch.tensor(scores, dtype=torch.float64)

    def _image(self, x: Tensor, truth: Tensor, mask: Tensor | None) -> float:
        if self.card.region == "hole" and mask is not None:
            if mask.all():
                return float("nan")
            x = torch.where(mask, truth, x)
        if len(x) < 2:
            return float("nan")
        with torch.no_grad():
            pairs = [self.network.between(a, b).item() for a, b in combinations(x.split(1), 2)]
        return sum(pairs) / len(pairs)


def _distance(name: str) -> Perceptual:
    if name == "stlpips":
        return STLPIPS()
    if name == "lpips_alex":
        return LPIPS("alex")
    if name == "lpips_vgg":
        return LPIPS("vgg")
    raise ValueError(
        f"unknown distance '{name}' for diversity; valid: stlpips, lpips_alex, lpips_vgg"
    )


def _card(
    name: str,
    title: str,
    unit: str,
    region: Region,
    preprocessing: str,
    backbone: str = "",
    weights: str = "",
) -> MetricCard:
    if region not in ("whole", "hole"):
        raise ValueError(f"unknown region '{region}' of metric '{name}'; valid: whole, hole")
    return MetricCard(
        id=column_id(name, region),
        title=title,
        direction="none",
        unit=unit,
        range="[0, inf)",
        region=region,
        backbone=backbone,
        weights=weights,
        preprocessing=f"{preprocessing}; mean over all pairs of draws",
        source="Zhu, Zhang, Pathak, Darrell, Efros, Wang, Shechtman: Toward Multimodal "
        "Image-to-Image Translation, NeurIPS 2017",
        level="draws",
    )
