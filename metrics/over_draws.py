"""What the draws of an image make of another metric: mean, least, greatest, and the best one an
oracle would pick.
"""

from __future__ import annotations

from math import comb
from typing import Literal, get_args

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import MetricCard, ValueMetric, expect

How = Literal["mean", "min", "max", "oracle"]
_TITLES = {"mean": "mean over draws", "min": "least of the draws", "max": "greatest of the draws"}
_SOURCES = {
    "oracle": "Best-of-N results of stochastic inpainting; the estimate from more draws as in Chen "
    "et al., Evaluating "
    "Large Language Models Trained on Code, 2021",
}


class OverDraws(ValueMetric):
    """``mean``, ``min``, ``max`` or ``oracle`` of the values that the metric ``of`` gave the draws
    of an image.

    ``direction``: the better end of ``of``. ``oracle`` is the best draw, chosen with the truth in
    hand: no method can choose so, and it grows with the number of draws. With ``best_of`` N it is
    what the best of N draws scores on average over all choices of N among the draws there are, so
    that runs of different size can be compared; NaN for fewer draws than N, and where a draw has no
    value. ``version``: that of the card of ``of``.
    """

    def __init__(
        self,
        of: str,
        how: How,
        direction: Literal["up", "down"],
        best_of: int | None = None,
        version: int = 1,
    ) -> None:
        if how not in get_args(How):
            raise ValueError(
                f"unknown reduction '{how}' of '{of}'; valid: {', '.join(get_args(How))}"
            )
        if direction not in ("up", "down"):
            raise ValueError(
                f"direction '{direction}' of '{of}' must be up or down: the better end of that "
                f"metric"
            )
        if best_of is not None and (how != "oracle" or best_of < 1):
            raise ValueError(
                f"best_of={best_of} is a whole number of at least 1, and for how=oracle only"
            )
        self.of, self.how, self.best_of = of, how, best_of
        chosen = f"oracle@{best_of or 'all'}"
        self.card = MetricCard(
            id=f"{of}_{how}{best_of or ''}",
            title=f"{of}, {_TITLES.get(how, f'{chosen}: best draw, chosen with the truth')}",
            direction=direction,
            unit="",
            range=f"as {of}",
            preprocessing=f"the stored values of {of}, one per draw",
            source=_SOURCES.get(how, "VIPaint, Fig. 6"),
            level="draws",
            version=version,
        )

    @override
    def __call__(self, values: Tensor) -> Tensor:
        values = values.double()
        if self.how == "mean":
            return values.mean(1)
        up = self.how == "max" or (self.how == "oracle" and self.card.direction == "up")
        ordered = values.sort(dim=1, descending=up).values
        ordered[values.isnan().any(1)] = torch.nan
        return _best_of(
            ordered, self.best_of or 1 if self.how == "oracle" and self.best_of else values.shape[1]
        )

    def check(self) -> None:
        """Draws 1, 2 and 4: their mean, ends, and the best of two (two pairs of three hold the
        better end).
        """
        value = self(torch.tensor([[2.0, 4.0, 1.0]]))[0].item()
        best, next_best = (4.0, 2.0) if self.card.direction == "up" else (1.0, 2.0)
        of_two = {1: 7 / 3, 2: (2 * best + next_best) / 3, 3: best}
        right = {
            "mean": 7 / 3,
            "min": 1.0,
            "max": 4.0,
            "oracle": of_two.get(self.best_of or 3, float("nan")),
        }[self.how]
        if self.best_of is None or self.best_of <= 3:
            expect(self.card.id, value, right)


def _best_of(ordered: Tensor, n: int) -> Tensor:
    """The mean of the best of ``n`` over all choices among draws ``(N, D)`` that stand best
    first.
    """
    count = ordered.shape[1]
    if n > count:
        return torch.full((len(ordered),), torch.nan, dtype=torch.float64)
    # the i-th is the best of a choice whose other members all stand behind it
    share = [comb(count - 1 - i, n - 1) / comb(count, n) for i in range(count - n + 1)]
    return ordered[:, : len(share)] @ torch.tensor(share, dtype=torch.float64)
