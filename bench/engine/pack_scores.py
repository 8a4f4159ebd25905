"""Score samples of any program against the reference samples of a pack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from posterior_bench.bench.analysis.statistics import means_over_images
from posterior_bench.bench.external.pack import Pack
from posterior_bench.metrics.base import DrawMetric
from posterior_bench.metrics.c2st import C2ST
from posterior_bench.metrics.energy import EnergyDistance, EnergyScore, RelativeEnergyDistance
from posterior_bench.metrics.interval_coverage import IntervalCoverage
from posterior_bench.metrics.modes import ModeCoverage, ModeWeightsError
from posterior_bench.metrics.moments import CovarianceError, MeanError
from posterior_bench.metrics.sliced_w2 import SlicedW2

Floats = NDArray[np.float64]

AGAINST_SAMPLES: tuple[DrawMetric, ...] = (
    RelativeEnergyDistance(),
    EnergyDistance(),
    SlicedW2(),
    C2ST(),
    MeanError(),
    CovarianceError(),
)
"""Metrics that compare with the reference samples, the headline first."""
AGAINST_TRUTH: tuple[DrawMetric, ...] = (EnergyScore(), IntervalCoverage(50), IntervalCoverage(90))
OF_MODES: tuple[DrawMetric, ...] = (ModeCoverage(), ModeWeightsError())
"""Metrics for a posterior with several modes, whose weights are known exactly."""

GROUPS = 8
"""Groups of reference samples that are left out in turn, for the error of the reference."""

MEAN, TRUTH = "mean", "truth"


def score_samples(pack: Pack, samples: NDArray[np.float32]) -> pd.DataFrame:
    """Return the scores of every truth, and their means.

    Parameters
    ----------
    pack : Pack
        The problem and its reference samples.
    samples : array
        float32 ``(truths, draws, d)``, truths in the order of the pack.

    Returns
    -------
    DataFrame
        A row per metric (``level`` is ``mean``), then one per metric and truth (``truth``):

        - ``value``: the score;
        - ``lo``, ``hi``: of a mean, its 95 % interval over truths;
        - ``se_truths``: of a mean, the standard error over truths;
        - ``se_reference``: the standard error because the reference samples are finitely many, by
          the jackknife over :data:`GROUPS` groups of them; NaN for a metric without reference;
        - ``exact``: the score of as many reference samples against the other ones, which exact
          samples would have by chance; NaN unless there are twice as many;
        - ``n``: truths with a value.
    """
    x = torch.from_numpy(samples).view(*samples.shape[:2], *pack.truth.shape[1:])
    modes = pack.prior and pack.mode_weights is not None and pack.mode_weights.shape[1] > 1
    metrics = (*AGAINST_SAMPLES, *AGAINST_TRUTH, *(OF_MODES if modes else ()))
    columns = [_of_truth(pack, metrics, i, x[i]) for i in range(len(x))]
    values, errors, exact = (np.stack(each, axis=1) for each in zip(*columns, strict=True))
    names = [metric.card.id for metric in metrics]
    truths = [
        pd.DataFrame(
            {
                "level": TRUTH,
                "image_id": pack.ids,
                "metric": name,
                "value": values[j],
                "se_reference": errors[j],
                "exact": exact[j],
                "n": np.isfinite(values[j]).astype(int),
            }
        )
        for j, name in enumerate(names)
    ]
    return pd.concat([_means(pack.name, names, values, errors, exact), *truths], ignore_index=True)


def _of_truth(
    pack: Pack, metrics: Sequence[DrawMetric], i: int, x: Tensor
) -> tuple[Floats, Floats, Floats]:
    """Return every metric of truth ``i``, its error from the reference, and that of exact draws."""
    place = torch.arange(pack.reference.shape[1])
    values = _scores(pack, metrics, i, x)
    errors, exact = np.full_like(values, np.nan), np.full_like(values, np.nan)
    left = np.stack(
        [_scores(pack, AGAINST_SAMPLES, i, x, place % GROUPS != group) for group in range(GROUPS)]
    )
    squares = np.square(left - left.mean(0)).sum(0)
    errors[: len(AGAINST_SAMPLES)] = np.sqrt((GROUPS - 1) / GROUPS * squares)
    if 2 * len(x) <= len(place):
        exact = _scores(pack, metrics, i, pack.reference[i, : len(x)], place >= len(x))
    return values, errors, exact


def _scores(
    pack: Pack, metrics: Sequence[DrawMetric], i: int, x: Tensor, kept: Tensor | None = None
) -> Floats:
    draws = pack.draws(i, x, kept)
    return np.array([metric.score(draws) for metric in metrics])


def _means(
    key: str, names: Sequence[str], values: Floats, errors: Floats, exact: Floats
) -> pd.DataFrame:
    """Return the means over truths; truths without a value are left out."""
    means = means_over_images(list(values), key)
    n = np.maximum(means.n, 1)
    finite = [row[np.isfinite(row)] for row in values]
    spread = [np.std(row, ddof=1) if len(row) > 1 else np.nan for row in finite]
    return pd.DataFrame(
        {
            "level": MEAN,
            "image_id": "",
            "metric": names,
            "value": means.mean,
            "lo": means.lo,
            "hi": means.hi,
            "se_truths": np.array(spread) / np.sqrt(n),
            # the reference samples of different truths are independent
            "se_reference": np.sqrt(np.where(np.isfinite(values), errors**2, 0).sum(1)) / n,
            "exact": means_over_images(list(exact), key).mean,
            "n": means.n,
        }
    )
