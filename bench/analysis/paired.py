"""Is one solver better than another? Statistics over pairs of values of the same image.

Solvers differ far less on one image than images differ from each other, so the difference of every
image is looked at. One procedure gives the verdicts, the rank letters and the intervals of
differences, so that these cannot contradict each other: a sign-flip permutation test of the
studentised mean difference (:mod:`bench.analysis.sign_flips`), over all pairs of a table at once
(:mod:`bench.analysis.families`). docs/statistics.md explains it at length.
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
    alone, not adjusted. ``effect_size`` is Cohen's d_z, the mean difference in standard deviations
    of the differences. ``lower`` and ``higher`` count the images where the first has the smaller
    and the larger value. ``detectable`` is the true difference that the t-test of this pair alone
    finds in 80 % of studies with so many images.

    References
    ----------
    Cohen, "Statistical Power Analysis", 1988.
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


def pair_values(a: pd.Series, b: pd.Series) -> tuple[Array, Array]:
    """Return the values of the same images in the same order, each ``(n,)``.

    Parameters
    ----------
    a, b : Series
        Values by image id; an image without a value (NaN) counts as absent.

    Raises
    ------
    ValueError
        If the ids differ, or one comes twice.
    """
    a, b = a.dropna().sort_index(), b.dropna().sort_index()
    for ids in (a.index, b.index):
        if ids.has_duplicates:
            raise ValueError(
                f"image '{ids[ids.duplicated()][0]}' appears twice; average the draws of an image "
                "first"
            )
    alone = a.index.symmetric_difference(b.index)
    if len(alone):
        only_a = int(alone.isin(a.index).sum())
        raise ValueError(
            f"image ids differ: {only_a} only in the first, {len(alone) - only_a} only in the "
            f"second, for example '{alone[0]}'; run both on the same images (retry=true runs "
            "failed rows again)"
        )
    return a.to_numpy(float), b.to_numpy(float)


def compare_pair(a: Array, b: Array, key: str) -> Comparison:
    """Return the statistics of paired values ``(n,)`` of two solvers alone.

    One pair of values has means and nothing else (NaN).

    Parameters
    ----------
    a, b : array (n,)
        The values.
    key : str
        Seeds the signs where they are random.

    Raises
    ------
    ValueError
        Without pairs, or if a value is not finite.
    """
    if not len(a):
        raise ValueError("no image has a value for both solvers")
    infinite = int((~np.isfinite(a) | ~np.isfinite(b)).sum())
    if infinite:
        raise ValueError(
            f"{infinite} of {len(a)} images have an infinite value and no difference; take another "
            "metric"
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
    """Return two-sided p values of Student's paired t-test, ``(..., n)`` to ``(...)``.

    One pair gives NaN. Differences that are all zero give 1, and equal ones that are not give 0.
    """
    n = differences.shape[-1]
    if n < 2:
        return np.full(differences.shape[:-1], np.nan)
    t = ratio(differences.mean(axis=-1), differences.std(axis=-1, ddof=1) / np.sqrt(n))
    return np.asarray(2 * stdtr(n - 1, -np.abs(t)))


def detectable_effect(n: int) -> float:
    """Return the smallest d_z that the t-test of ``n`` pairs finds with 80 % power.

    The test is two-sided at 5 %; one pair gives NaN.
    """
    if n < 2:
        return np.nan
    critical = stdtrit(n - 1, 1 - ALPHA / 2)
    return float(nctdtrinc(n - 1, 1 - POWER, critical) / np.sqrt(n))


def _wilcoxon(differences: Array) -> float:
    """Return the two-sided p of the signed-rank test; zeros are left out, and only zeros give 1."""
    from scipy.stats import wilcoxon  # slow to import, and tables do without

    if len(differences) < 2:
        return np.nan
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def ratio(mean: Array, spread: Array) -> Array:
    """Return ``mean / spread``, with nothing over nothing as zero."""
    mean = np.asarray(mean, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((mean == 0) & (spread == 0), 0.0, mean / spread)
