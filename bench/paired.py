"""Is one solver better than another? Statistics over pairs: two values of the same image, draws averaged before.

Solvers differ far less on one image than images differ from each other, so the difference of every image is looked at,
never two clouds of values. Rank letters answer the question for all solvers of a table at once. They rest on the paired
t-test, because it asks about what the table shows, the mean over images; where two solvers do not differ their
differences are symmetric about zero, which is what the test needs.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import nctdtrinc, stdtr, stdtrit

from bench.statistics import Array, bootstrap_interval, generator

ALPHA, POWER = 0.05, 0.8
FEWEST = 6
"""With fewer pairs nothing is called better or worse: even if all favour one side, the signed-rank test cannot say."""

Adjust = Callable[[Array], Array]


@dataclass(frozen=True)
class Comparison:
    """Two solvers on the same ``n`` images; every difference is the first minus the second.

    ``lo`` to ``hi`` is the 95 % interval of the mean difference, ``p_t`` and ``p_wilcoxon`` are two-sided, and
    ``effect_size`` is Cohen's d_z, the mean difference in standard deviations of the differences (Cohen, "Statistical
    Power Analysis", 1988). ``lower`` and ``higher`` count the images where the first has the smaller and the larger
    value. ``detectable`` is the true difference that so many images show in 80 % of studies.
    """

    n: int
    mean_a: float
    mean_b: float
    difference: float
    lo: float
    hi: float
    p_t: float
    p_wilcoxon: float
    effect_size: float
    lower: int
    higher: int
    detectable: float


def pair(a: pd.Series, b: pd.Series) -> tuple[Array, Array]:
    """The values of the same images in the same order, each ``(n,)``, from two series indexed by image id.

    An image without a value (NaN) is not there. Raises ValueError if the ids differ or one comes twice.
    """
    a, b = a.dropna().sort_index(), b.dropna().sort_index()
    for ids in (a.index, b.index):
        if ids.has_duplicates:
            raise ValueError(f"image '{ids[ids.duplicated()][0]}' comes twice; average the draws of an image first")
    alone = a.index.symmetric_difference(b.index)
    if len(alone):
        only_a = int(alone.isin(a.index).sum())
        raise ValueError(
            f"image ids differ: {only_a} only in the first, {len(alone) - only_a} only in the second, for example "
            f"'{alone[0]}'; run both on the same images (retry=true runs failed rows again)"
        )
    return a.to_numpy(float), b.to_numpy(float)


def compare(a: Array, b: Array, key: str) -> Comparison:
    """Everything about the differences of paired values ``(n,)``; ``key`` seeds the bootstrap.

    The interval is the BCa interval of :mod:`bench.statistics`, over resamples of pairs. One pair has means and no
    more (NaN). Raises ValueError without pairs, or if a value is not finite.
    """
    if not len(a):
        raise ValueError("no image has a value of both")
    infinite = int((~np.isfinite(a) | ~np.isfinite(b)).sum())
    if infinite:
        raise ValueError(f"{infinite} of {len(a)} images have an infinite value and no difference; take another metric")
    differences, n = a - b, len(a)
    lo, hi = bootstrap_interval(differences[:, None], generator(f"{key}\x1fpairs\x1f{n}"))[:, 0]
    spread = float(differences.std(ddof=1)) if n > 1 else np.nan
    return Comparison(
        n=n,
        mean_a=float(a.mean()),
        mean_b=float(b.mean()),
        difference=float(differences.mean()),
        lo=float(lo),
        hi=float(hi),
        p_t=float(paired_t(differences)),
        p_wilcoxon=_wilcoxon(differences),
        effect_size=float(_ratio(differences.mean(), np.array(spread))),
        lower=int((differences < 0).sum()),
        higher=int((differences > 0).sum()),
        detectable=detectable_effect(n) * spread,
    )


def paired_t(differences: Array) -> Array:
    """Two-sided p values of Student's paired t-test; ``differences`` ``(..., n)`` to ``(...)``. NaN for one pair.

    Differences that are all zero have p = 1, and equal ones that are not have p = 0.
    """
    n = differences.shape[-1]
    if n < 2:
        return np.full(differences.shape[:-1], np.nan)
    t = _ratio(differences.mean(axis=-1), differences.std(axis=-1, ddof=1) / np.sqrt(n))
    return np.asarray(2 * stdtr(n - 1, -np.abs(t)))


def detectable_effect(n: int) -> float:
    """The smallest d_z that the two-sided 5 % paired t-test of ``n`` pairs finds with 80 % power; NaN for one pair."""
    if n < 2:
        return np.nan
    critical = stdtrit(n - 1, 1 - ALPHA / 2)
    return float(nctdtrinc(n - 1, 1 - POWER, critical) / np.sqrt(n))


def holm(p: Array) -> Array:
    """P values ``(m,)`` adjusted so that the chance of any false rejection stays below the level (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


def benjamini_hochberg(p: Array) -> Array:
    """P values ``(m,)`` adjusted so that the expected share of false rejections stays below the level (1995)."""
    order = np.argsort(p, kind="stable")[::-1]
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.minimum.accumulate(p[order] * len(p) / np.arange(len(p), 0, -1)), 1)
    return adjusted


def ranks(values: Array, direction: str, adjust: Adjust = holm) -> list[str]:
    """Rank letters of solvers from ``values`` ``(solvers, images)``, finite and paired by column; ``a`` has the best.

    ``direction`` is ``up`` or ``down``. Two solvers that share a letter cannot be told apart at 5 % after ``adjust``
    over all pairs. Raises ValueError for fewer than :data:`FEWEST` images.
    """
    solvers, n = values.shape
    if n < FEWEST:
        raise ValueError(f"{n} images are too few for rank letters; at least {FEWEST} are needed")
    means = values.mean(axis=1)
    order = np.argsort(-means if direction == "up" else means, kind="stable")
    first, second = np.triu_indices(solvers, 1)
    ordered = values[order]
    p = np.concatenate([np.empty(0), *(paired_t(ordered[i] - ordered[i + 1 :]) for i in range(solvers - 1))])
    differ = np.zeros((solvers, solvers), dtype=bool)
    differ[first, second] = adjust(p) < ALPHA
    named = dict(zip(order.tolist(), letters(differ), strict=True))
    return [named[i] for i in range(solvers)]


def letters(differ: NDArray[np.bool_]) -> list[str]:
    """Compact letter display: items ``i`` and ``j`` share a letter if and only if not ``differ[i, j]``, for ``i < j``.

    Items come best first, and letters are given in their order. Insert and absorb, then sweep (Piepho, "An algorithm
    for a letter-based representation of all-pairwise comparisons", JCGS 2004). Numbers, where letters run out.
    """
    groups = {frozenset(range(len(differ)))}
    for i, j in np.argwhere(np.triu(differ, 1)).tolist():
        split = {group for group in groups if {i, j} <= group}
        parts = {group - {item} for group in split for item in (i, j)}
        groups = (groups - split) | parts
        groups -= {part for part in parts if any(part < other for other in groups)}
    kept = sorted(groups, key=sorted)
    for group in kept[::-1]:
        others = [other for other in kept if other != group]
        if all(any({i, j} <= other for other in others) for i in group for j in group):
            kept = others
    symbols = string.ascii_letters if len(kept) <= len(string.ascii_letters) else None
    names = [symbols[k] if symbols else str(k + 1) for k in range(len(kept))]
    join = "".join if symbols else ",".join
    return [join(n for n, g in zip(names, kept, strict=True) if i in g) for i in range(len(differ))]


def share(a: str, b: str) -> bool:
    """Whether two of the names that :func:`letters` gives have a letter, or a number, in common."""
    if a[:1].isdigit():
        return not {*a.split(",")}.isdisjoint(b.split(","))
    return not {*a}.isdisjoint(b)


def _wilcoxon(differences: Array) -> float:
    """Two-sided p of the signed-rank test; zeros are left out (Wilcoxon 1945), and nothing else than zeros is p = 1."""
    from scipy.stats import wilcoxon  # slow to import, and tables do without

    if len(differences) < 2:
        return np.nan
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def _ratio(mean: Array, spread: Array) -> Array:
    """``mean / spread``, where nothing over nothing is zero."""
    mean = np.asarray(mean, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((mean == 0) & (spread == 0), 0.0, mean / spread)
