"""Test with a classifier whether draws differ from the exact posterior."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from typing_extensions import override

from posterior_bench.metrics.base import DrawMetric, Draws, MetricCard

FOLDS = 4


class C2ST(DrawMetric):
    """Accuracy of a classifier that separates draws from exact draws: 0.5 is chance, 1 is perfect.

    The classifier is the witness function of the energy distance, ``f(z) = E|z - Z| - E|z - X|``,
    with the threshold halfway between its means over both training sets. It computes averages only,
    so it is deterministic and works with 16 draws in 784 dimensions, where a neural network would
    only memorise. Unlike nearest neighbours, it notices draws that are too narrow in many
    dimensions. Four-fold cross-validation gives a balanced accuracy, which is 0.5 on average for
    any number of exact draws. A stronger classifier could reach more; this one is weak for
    differences of high order. The metric is NaN for fewer than four draws.
    """

    card = MetricCard(
        id="c2st",
        title="C2ST",
        direction="down",
        unit="",
        range="[0, 1]; 0.5 on average for exact draws",
        preprocessing=f"raw output, not rounded; energy witness, {FOLDS} folds, "
        "balanced accuracy; float64",
        source="Lopez-Paz, Oquab: Revisiting Classifier Two-Sample Tests, ICLR 2017; "
        "Kubler et al.: A Witness Two-Sample Test, AISTATS 2022",
        level="draws",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    reference: ClassVar[float] = 0.333333

    @override
    def score(self, draws: Draws) -> float:
        count, total = len(draws.x), len(draws.distances)
        if count < FOLDS:
            return float("nan")
        # assigned in turn, so that every fold gets its share of both kinds
        fold = torch.cat([torch.arange(count), torch.arange(total - count)]) % FOLDS
        folds, is_draw = one_hot(fold, FOLDS).double(), torch.arange(total) < count
        to_draws, within_draws = _means(draws.distances, folds * is_draw[:, None])
        to_exact, within_exact = _means(draws.distances, folds * ~is_draw[:, None])
        # halfway between the means of f over the training sets, without pairs of a point with
        # itself
        threshold = (within_exact - within_draws) / 2
        witness = (to_exact - to_draws - threshold).gather(1, fold[:, None])[:, 0].sign()
        return ((2 + witness[:count].mean() - witness[count:].mean()) / 4).item()


def _means(distances: Tensor, folds: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean distances with fold ``k`` left out.

    ``folds`` ``(n, K)`` is 1 where a point of the kind in question is in a fold. Returns the mean
    distance from every point, ``(n, K)``, and of pairs, ``(K,)``.
    """
    sums = distances @ folds
    pairs = folds.T @ sums
    left = folds.sum() - folds.sum(0)
    within = pairs.sum() - pairs.sum(0) - pairs.sum(1) + pairs.diagonal()
    return (sums.sum(1, keepdim=True) - sums) / left, within / (left * (left - 1))
