"""Metrics: one number per image, with a card that says exactly which number it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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

    def to(self, device) -> Metric:
        """Move feature networks; metrics without one return themselves."""
        return self
