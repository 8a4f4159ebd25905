"""Reduce another metric over the draws of an image: mean, minimum, maximum, or the best draw."""

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
    "et al., Evaluating Large Language Models Trained on Code, 2021",
}


class OverDraws(ValueMetric):
    """Mean, minimum, maximum or best value of another metric over the draws of an image.

    The best draw (``oracle``) is chosen with the truth, which no method can do, and its value grows
    with the number of draws. With ``best_of`` N, it is the average, over all choices of N of the
    draws, of the best of the N, so that runs with different numbers of draws can be compared. The
    value is NaN for fewer than N draws and if a draw has no value.

    Parameters
    ----------
    of : str
        Id of the other metric.
    how : {'mean', 'min', 'max', 'oracle'}
        Reduction.
    direction : {'up', 'down'}
        Better end of the other metric.
    best_of : int | None, default None
        Number N of draws for ``oracle``; None = all draws.
    version : int, default 1
        Version of the card of the other metric.

    Raises
    ------
    ValueError
        For an unknown reduction or direction, and an impossible ``best_of``.
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
                f"direction '{direction}' of '{of}' must be up or down: the "
                "better end of that metric"
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
        return _best_of(ordered, self.best_of or values.shape[1])

    def check(self) -> None:
        """Compare the reductions of the values 1, 2 and 4 with numbers computed by hand."""
        value = self(torch.tensor([[2.0, 4.0, 1.0]]))[0].item()
        best, next_best = (4.0, 2.0) if self.card.direction == "up" else (1.0, 2.0)
        of_two = {1: 7 / 3, 2: (2 * best + next_best) / 3, 3: best}
        oracle = of_two.get(self.best_of or 3, float("nan"))
        right = {"mean": 7 / 3, "min": 1.0, "max": 4.0, "oracle": oracle}[self.how]
        if self.best_of is None or self.best_of <= 3:
            expect(self.card.id, value, right)


def _best_of(ordered: Tensor, n: int) -> Tensor:
    """Average the best of ``n`` draws over all choices; draws ``(N, D)`` are sorted, best first."""
    count = ordered.shape[1]
    if n > count:
        return torch.full((len(ordered),), torch.nan, dtype=torch.float64)
    # draw i is the best of a choice if all other members of the choice come after it
    share = [comb(count - 1 - i, n - 1) / comb(count, n) for i in range(count - n + 1)]
    return ordered[:, : len(share)] @ torch.tensor(share, dtype=torch.float64)
