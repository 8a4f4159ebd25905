"""Measure which modes of the exact posterior the draws reach, and how often."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import (
    DrawMetric,
    Draws,
    MetricCard,
    expect,
    reference_draws,
)

_PREPROCESSING = (
    "raw output, not rounded; a draw belongs to the mixture's components by "
    "their probabilities given it"
)


class ModeCoverage(DrawMetric):
    """Posterior weight of the modes that at least one draw reached.

    A draw reaches component ``k`` with the probability ``r_k`` that it came from it, so ``k``
    counts with ``1 - prod(1 - r_k)``; this treats overlapping components fairly. ``D`` exact draws
    cover ``sum w (1 - (1 - w)^D)`` on average. Compare with this value: more is too even a spread,
    not a better method. Draws between modes count for the nearest ones. The value is NaN for a
    posterior with one component.
    """

    card = MetricCard(
        id="mode_coverage",
        title="Mode coverage",
        direction="up",
        unit="",
        range="[0, 1]; below 1 for few exact draws",
        preprocessing=_PREPROCESSING,
        level="draws",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"exact", "reference"})
    reference: ClassVar[float] = 0.954038

    @override
    def score(self, draws: Draws) -> float:
        weights, shares = _modes(draws)
        return covered_weight(weights, shares) if len(weights) > 1 else float("nan")


class ModeWeightsError(DrawMetric):
    """Total variation distance between the mode weights of the draws and of the posterior.

    ``1/2 sum |w - exact w|``, where the draws' weights ``w`` are the mean probabilities that a draw
    came from each component. They have the right expectation for exact draws even if components
    overlap. With few draws they scatter: ``D`` exact draws get about
    ``sum sqrt(w (1 - w) / (2 pi D))``, the value in the line of the solver ``exact``. The value is
    NaN for a posterior with one component.
    """

    card = MetricCard(
        id="mode_weights_error",
        title="Mode weights error",
        direction="down",
        unit="",
        range="[0, 1]; above 0 for few exact draws",
        preprocessing=_PREPROCESSING,
        level="draws",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"exact", "reference"})
    reference: ClassVar[float] = 0.110021

    @override
    def score(self, draws: Draws) -> float:
        weights, shares = _modes(draws)
        return weights_distance(weights, shares) if len(weights) > 1 else float("nan")


class ModeWeight(DrawMetric):
    """Weight of one component of the prior among the draws.

    It is the mean probability that a draw came from the component. Compare with the line of the
    solver ``exact`` or ``long_run``, whose expectation is the weight in the posterior. The value is
    NaN for a prior without this component.

    Parameters
    ----------
    mode : int, default 0
        The component, counted from 0.

    Raises
    ------
    ValueError
        If ``mode`` is negative.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"exact", "reference"})
    references: ClassVar[dict[int, float]] = {0: 0.441889, 1: 0.246222, 2: 0.311888}

    def __init__(self, mode: int = 0) -> None:
        if mode < 0:
            raise ValueError(f"mode {mode}: components are counted from 0")
        self.mode = mode
        self.card = MetricCard(
            id=f"mode_weight_{mode}",
            title=f"Weight of mode {mode}",
            direction="none",
            unit="",
            range="[0, 1]; that of exact draws is right",
            preprocessing=_PREPROCESSING,
            level="draws",
        )

    @override
    def check(self) -> None:
        if self.mode in self.references:
            value = self.score(reference_draws().images[0])
            expect(self.card.id, value, self.references[self.mode])

    @override
    def score(self, draws: Draws) -> float:
        weights, shares = _modes(draws)
        return shares[:, self.mode].mean().item() if self.mode < len(weights) else float("nan")


def covered_weight(weights: Tensor, shares: Tensor) -> float:
    """Return the weight of the modes that at least one draw reached.

    Parameters
    ----------
    weights : Tensor
        ``(K,)``: weights of the modes.
    shares : Tensor
        ``(D, K)``: probability that each draw came from each mode.
    """
    return (weights @ (1 - (1 - shares).prod(0))).item()


def weights_distance(weights: Tensor, shares: Tensor) -> float:
    """Return the total variation distance between the modes of the draws and their weights.

    Parameters
    ----------
    weights : Tensor
        ``(K,)``: weights of the modes.
    shares : Tensor
        ``(D, K)``: probability that each draw came from each mode.
    """
    return ((shares.mean(0) - weights).abs().sum() / 2).item()


def _modes(draws: Draws) -> tuple[Tensor, Tensor]:
    """Return exact weights ``(K,)`` and responsibilities of the draws ``(D, K)``.

    Raises
    ------
    ValueError
        If the posterior is no mixture.
    """
    if draws.mode_weights is None or draws.responsibilities is None:
        raise ValueError(
            "this metric compares modes of a mixture, and there are none; choose a mixture prior"
        )
    return draws.mode_weights, draws.responsibilities
