"""Metrics: one number per image, with a card that says exactly which number it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

Region = Literal["whole", "hole", "known"]


class MissingWeights(RuntimeError):
    """The weights of a metric are not on this machine; the message names the file and where it is looked for."""


@dataclass(frozen=True)
class MetricCard:
    """What must be known to compare a number. ``id`` is the column name of the rows and of the leaderboard."""

    id: str
    title: str
    direction: Literal["up", "down", "none"]
    unit: str
    range: str
    region: Region = "whole"
    pasted: bool = False
    backbone: str = ""
    weights: str = ""
    preprocessing: str = ""
    source: str = ""


@dataclass(frozen=True)
class Batch:
    """What a metric may look at. All images float32 ``(N, C, H, W)`` in [-1, 1], already rounded to 8 bits.

    ``raw``: the solver's output; ``pasted``: the same with observed pixels put back; ``truth``; ``mask``: bool
    ``(N, 1, H, W)``, True = observed (all True where the operator has none); ``y`` and ``Ax``: the measurement and
    the operator applied to the unrounded raw output.
    """

    raw: Tensor
    pasted: Tensor
    truth: Tensor
    mask: Tensor
    y: Tensor
    Ax: Tensor


class Metric:
    """One number per image."""

    card: MetricCard

    def __call__(self, batch: Batch) -> Tensor:
        """float ``(N,)``; NaN where the metric is undefined for that image (an empty region)."""
        raise NotImplementedError

    def check(self) -> None:
        """Compare a reference value; raises RuntimeError where this installation gives another number."""

    def to(self, device: torch.device | str) -> Metric:
        """Move feature networks; metrics without one return themselves."""
        return self


class FullReference(Metric):
    """A metric that compares an image with the truth, in one region, one image at a time.

    Images are never batched: the sums and convolutions of a batch may run in another order than those of one image,
    and a score must not depend on its neighbours.
    """

    reference: ClassVar[Mapping[str, float]] = {}
    """The value for ``reference_images()`` by region, from another implementation than ours."""

    def compare(self, x: Tensor, truth: Tensor, region: Tensor) -> float:
        """The value for one image: ``x`` and ``truth`` ``(1, C, H, W)``, ``region`` bool ``(1, 1, H, W)``."""
        raise NotImplementedError

    def __call__(self, batch: Batch) -> Tensor:
        x = batch.pasted if self.card.pasted else batch.raw
        region = pixels_of(self.card.region, batch.mask)
        rows = zip(x.split(1), batch.truth.split(1), region.split(1), strict=True)
        return torch.tensor([self.compare(*row) for row in rows], dtype=torch.float64)

    def check(self) -> None:
        x, truth, mask = reference_images()
        value = self.compare(x, truth, pixels_of(self.card.region, mask))
        expect(self.card.id, value, self.reference[self.card.region])


def column_id(name: str, region: Region = "whole", pasted: bool = False) -> str:
    """The id of a card: ``psnr``, ``psnr_hole``, ``psnr_pasted``, ``psnr_hole_pasted``; ValueError otherwise."""
    if region not in get_args(Region):
        raise ValueError(f"unknown region '{region}' of metric '{name}'; valid: {', '.join(get_args(Region))}")
    return name + ("" if region == "whole" else f"_{region}") + ("_pasted" if pasted else "")


def pixels_of(region: Region, mask: Tensor) -> Tensor:
    """The pixels of a region, bool, shaped like ``mask`` (True = observed)."""
    return {"whole": torch.ones_like(mask), "hole": ~mask, "known": mask}[region]


def expect(name: str, value: float, expected: float, tolerance: float = 1e-4) -> None:
    """Raises RuntimeError where a reference value is missed by more than ``tolerance``."""
    if not abs(value - expected) <= tolerance:
        raise RuntimeError(
            f"metric '{name}' gives {value:.6f} for its reference images, {expected:.6f} is right: the installed "
            "libraries compute another number; reinstall the versions that pyproject.toml names"
        )


def reference_images() -> tuple[Tensor, Tensor, Tensor]:
    """Closed-form 8-bit images: ``x`` and ``truth`` ``(1, 3, 64, 64)``, and a mask with the left half known.

    ``truth`` holds one tilted wave per channel, ``x`` the same with a weaker contrast and a second wave on top, which
    grows to the right: the three regions have different scores.
    """
    pixel = torch.arange(64, dtype=torch.float64)
    row, column = torch.meshgrid(pixel, pixel, indexing="ij")
    channel = torch.arange(3).view(-1, 1, 1)
    # float64, and offsets that keep away from ties: the rounding to 8 bits falls the same way on every machine
    wave = torch.cos(torch.pi / 32 * ((channel + 1) * row + 2 * column))
    ripple = torch.cos(torch.pi / 32 * (11 * row - 7 * column) + 0.3)
    x, truth = 0.5 * wave + 0.45 * column / 64 * ripple + 0.02, 0.95 * wave + 0.013
    return from_uint8(to_uint8(x))[None], from_uint8(to_uint8(truth))[None], (column < 32)[None, None]


def to_uint8(x: Tensor) -> Tensor:
    """[-1, 1] to 0..255, shape kept: values outside are clamped, the rest rounded to the nearest, ties to even.

    Truncation would darken 95 of the 256 grey levels of an exact image by one. NaN becomes 0, so that the result is
    defined; find non-finite images before.
    """
    x = torch.nan_to_num(x.to(torch.promote_types(x.dtype, torch.float32)), nan=-1.0)
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_uint8(x: Tensor) -> Tensor:
    """0..255 to float32 in [-1, 1], shape kept; ``to_uint8`` gives the same levels back. ValueError unless uint8."""
    if x.dtype != torch.uint8:
        raise ValueError(f"from_uint8 takes uint8 grey levels, got {x.dtype}; use to_uint8 for images in [-1, 1]")
    return x.to(torch.float32) / 127.5 - 1
