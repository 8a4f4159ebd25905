"""Compare the variants that draws of a face show with the exact posterior over variants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import DrawMetric, Draws, MetricCard
from posterior_bench.metrics.modes import covered_weight, weights_distance
from posterior_bench.metrics.recognition import Component

_PREPROCESSING = (
    "raw output, not rounded; a draw shows the variants of the nearest possible image, over hidden "
    "pixels"
)


class FaceDistance(DrawMetric):
    """Distance of a draw to the nearest possible face.

    The root mean square difference over the hidden values, the mean over draws. A face is possible
    if its posterior probability is not zero. Exact draws have 0. A blurred mouth, one between two
    variants, or one that the visible part rules out, lies farther away.
    """

    card = MetricCard(
        id="face_distance",
        title="Distance to a possible face",
        direction="down",
        unit="[-1, 1] units",
        range="[0, inf); 0 is right",
        region="hole",
        preprocessing="raw output, neither rounded nor clipped",
        level="draws",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"enumerated", "mask"})
    reference: ClassVar[float] = 0.371850

    @override
    def score(self, draws: Draws) -> float:
        hidden = int(draws.hidden.sum())
        if not hidden:
            return math.nan
        return draws.recognised.distances(hidden).mean().item()


class _OfVariants(DrawMetric):
    """Base class of metrics that are means over the hidden components of a face.

    A component counts if the posterior gives probability to two variants or more. The value is NaN
    for a face without one.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"enumerated", "mask"})

    @override
    def score(self, draws: Draws) -> float:
        found: Sequence[Component] = draws.recognised.components
        values = [self.of(one.weights, one.shares) for one in found]
        return sum(values) / len(values) if values else math.nan

    def of(self, weights: Tensor, shares: Tensor) -> float:
        """Return the value of a component.

        Parameters
        ----------
        weights : Tensor
            ``(V,)``: posterior probabilities of its variants.
        shares : Tensor
            ``(D, V)``: probability that each draw shows each variant; mostly 0 or 1.
        """
        raise NotImplementedError


class FaceWeightsError(_OfVariants):
    """Total variation distance between the variants of the draws and the posterior over variants.

    ``1/2 sum |q - p|`` for every hidden component, with the share ``q`` of draws that show a
    variant and its posterior probability ``p``; the mean over components. With few draws it is
    above 0 for exact ones: ``D`` of them get ``1/2 sum E|B(D, p) / D - p|`` on average, where
    ``B(D, p)`` is binomial, so about ``sum sqrt(p (1 - p) / (2 pi D))``. This is the value in the
    line of the solver ``exact``. The value is NaN if nothing hidden has two variants.
    """

    card = MetricCard(
        id="face_weights_error",
        title="Error of variant weights",
        direction="down",
        unit="",
        range="[0, 1]; above 0 for few exact draws",
        preprocessing=_PREPROCESSING,
        level="draws",
    )
    reference: ClassVar[float] = 0.091667

    @override
    def of(self, weights: Tensor, shares: Tensor) -> float:
        return weights_distance(weights, shares)


class FaceCoverage(_OfVariants):
    """Posterior probability of the variants that at least one draw shows.

    The mean over hidden components. ``D`` exact draws cover ``sum p (1 - (1 - p)^D)`` on average.
    Compare with this value, in the line of the solver ``exact``: more is too even a spread, not a
    better method. The value is NaN if nothing hidden has two variants.
    """

    card = MetricCard(
        id="face_coverage",
        title="Coverage of variants",
        direction="up",
        unit="",
        range="[0, 1]; below 1 for few exact draws",
        preprocessing=_PREPROCESSING,
        level="draws",
    )
    reference: ClassVar[float] = 1.0

    @override
    def of(self, weights: Tensor, shares: Tensor) -> float:
        return covered_weight(weights, shares)


class FaceCalibration(_OfVariants):
    """Confidence of the draws in their variants minus the accuracy that the posterior gives them.

    The confidence of a component is the probability that two draws show the same variant, over all
    pairs. Its accuracy is the probability that a draw shows the variant of the truth: the posterior
    probability of the draw's variant, the mean over draws. The value is their difference, the mean
    over components. It is 0 on average for exact draws, however few. Above 0, draws agree with
    each other more often than with the truth: the method is overconfident, as one that always draws
    the same mouth. Draws that ignore the observation, but have the right frequencies over all
    images, have 0 too: this measures calibration alone, so read it beside ``face_weights_error``.
    The value is NaN for less than two draws, and if nothing hidden has two variants.
    """

    card = MetricCard(
        id="face_calibration",
        title="Overconfidence in variants",
        direction="none",
        unit="",
        range="[-1, 1]; 0 is right",
        preprocessing=_PREPROCESSING,
        source="confidence minus accuracy, as in Guo, Pleiss, Sun, Weinberger: On calibration of "
        "modern neural networks, 2017; accuracy under the exact posterior",
        level="draws",
    )
    reference: ClassVar[float] = -0.057143

    @override
    def of(self, weights: Tensor, shares: Tensor) -> float:
        count = len(shares)
        if count < 2:
            return math.nan
        total = shares.sum(0)
        pairs = (total @ total - shares.square().sum()) / (count * (count - 1))
        return (pairs - shares.mean(0) @ weights).item()
