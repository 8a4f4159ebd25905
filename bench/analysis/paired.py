"""Is one solver better than another? Statistics over pairs: two values of the same image, draws
averaged before.

Solvers differ far less on one image than images differ from each other, so the difference of every
image is looked at, never two clouds of values. One procedure gives the verdicts, the rank letters
and the intervals of differences, so that these cannot contradict each other: a sign-flip
permutation test of the studentised mean difference. Where two solvers are equally good, each
difference of an image is as likely to have the other sign, and the signs of all images are flipped
to see what chance alone does. All pairs of a table are tested at once: an image has the same sign
in all of them, and the largest statistic over the pairs is what every pair must exceed
("single-step max-T": Westfall and Young, "Resampling-Based Multiple Testing", 1993).
docs/statistics.md explains it at length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import nctdtrinc, stdtr, stdtrit

from posterior_bench.bench.analysis.families import ALPHA, POWER
from posterior_bench.bench.analysis.sign_flips import sign_flip
from posterior_bench.bench.analysis.statistics import Array


@dataclass(frozen=True)
class Comparison:
    """Two solvers on the same ``n`` images; every difference is the first minus the second.

    ``p_flip`` (sign-flip permutation), ``p_t`` and ``p_wilcoxon`` are two-sided tests of this pair
    alone, adjusted for nothing. ``effect_size`` is Cohen's d_z, the mean difference in standard
    deviations of the differences (Cohen, "Statistical Power Analysis", 1988). ``lower`` and
    ``higher`` count the images where the first has the smaller and the larger value.
    ``detectable`` is the true difference that the t-test of this pair alone finds in 80 % of
    studies with so many images.
    """

    n: int
    mean_a: float
    mean_b: float
    difference: float
    p_flip: float
    p_t: float
    p_wilcoxon: float
    effect_size: float
    lower: int
    higher: int
    detectable: float


def pair(a: pd.Series, b: pd.Series) -> tuple[Array, Array]:
    """The values of the same images in the same order, each ``(n,)``, from two series indexed by
    image id.

    An image without a value (NaN) is not there. Raises ValueError if the ids differ or one comes
    twice.
    """
    a, b = a.dropna().sort_index(), b.dropna().sort_index()
    for ids in (a.index, b.index):
        if ids.has_duplicates:
            raise ValueError(
                f"image '{ids[ids.duplicated()][0]}' comes twice; average the draws of an image "
                f"first"
            )
    alone = a.index.symmetric_difference(b.index)
    if len(alone):
        only_a = int(alone.isin(a.index).sum())
        raise ValueError(
            f"image ids differ: {only_a} only in the first, {len(alone) - only_a} only in the "
            f"second, for example "
            f"'{alone[0]}'; run both on the same images (retry=true runs failed rows again)"
        )
    return a.to_numpy(float), b.to_numpy(float)


def compare(a: Array, b: Array, key: str) -> Comparison:
    """Everything about the differences of paired values ``(n,)`` of two solvers alone; ``key``
    seeds the signs.

    One pair of values has means and no more (NaN). Raises ValueError without pairs, or if a value
    is not finite.
    """
    if not len(a):
        raise ValueError("no image has a value of both")
    infinite = int((~np.isfinite(a) | ~np.isfinite(b)).sum())
    if infinite:
        raise ValueError(
            f"{infinite} of {len(a)} images have an infinite value and no difference; take another "
            f"metric"
        )
    differences, n = a - b, len(a)
    spread = float(differences.std(ddof=1)) if n > 1 else np.nan
    return Comparison(
        n=n,
        mean_a=float(a.mean()),
        mean_b=float(b.mean()),
        difference=float(differences.mean()),
        p_flip=float(sign_flip(differences, key)) if n > 1 else np.nan,
        p_t=float(paired_t(differences)),
        p_wilcoxon=_wilcoxon(differences),
        effect_size=float(ratio(differences.mean(), np.array(spread))),
        lower=int((differences < 0).sum()),
        higher=int((differences > 0).sum()),
        detectable=detectable_effect(n) * spread,
    )


def paired_t(differences: Array) -> Array:
    """Two-sided p values of Student's paired t-test; ``differences`` ``(..., n)`` to ``(...)``. NaN
    for one pair.

    Differences that are all zero have p = 1, and equal ones that are not have p = 0.
    """
    n = differences.shape[-1]
    if n < 2:
        return np.full(differences.shape[:-1], np.nan)
    t = ratio(differences.mean(axis=-1), differences.std(axis=-1, ddof=1) / np.sqrt(n))
    return np.asarray(2 * stdtr(n - 1, -np.abs(t)))


def detectable_effect(n: int) -> float:
    """The smallest d_z that the two-sided 5 % paired t-test of ``n`` pairs finds with 80 % power;
    NaN for one pair.
    """
    if n < 2:
        return np.nan
    critical = stdtrit(n - 1, 1 - ALPHA / 2)
    return float(nctdtrinc(n - 1, 1 - POWER, critical) / np.sqrt(n))


def _wilcoxon(differences: Array) -> float:
    """Two-sided p of the signed-rank test; zeros are left out (Wilcoxon 1945), and nothing else
    than zeros is p = 1.
    """
    from scipy.stats import wilcoxon  # slow to import, and tables do without

    if len(differences) < 2:
        return np.nan
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def ratio(mean: Array, spread: Array) -> Array:
    """``mean / spread``, where nothing over nothing is zero."""
    mean = np.asarray(mean, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((mean == 0) & (spread == 0), 0.0, mean / spread)
