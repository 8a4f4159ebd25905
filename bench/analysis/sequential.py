"""The interval of a mean that is looked at again and again while images are added.

Whoever stops when an interval is short enough, or a difference large enough, looks at several
intervals, and the one that ends it is not an arbitrary one: a plain 95 % interval then contains the
mean too rarely. Here the looks are planned beforehand and share the 5 % evenly (Bonferroni), so the
intervals of all looks contain the mean together in 95 % of cells, whenever it ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from posterior_bench.bench.analysis.families import ALPHA
from posterior_bench.bench.analysis.statistics import FEWEST, Array


@dataclass(frozen=True)
class Look:
    """A mean after some images.

    Parameters
    ----------
    n : int
        The number of images that have a value.
    mean : float
        Their mean.
    half_width : float
        Half the length of its interval; infinite with fewer than 6 images, and where a value is.
    """

    n: int
    mean: float
    half_width: float


def look(values: Array, looks: int) -> Look:
    """Return the mean of ``values`` ``(n,)`` with the interval of one of so many planned looks.

    Student's interval at 5 % / ``looks``. NaN is an image without a value, and left out.
    """
    values = values[~np.isnan(values)]
    n = len(values)
    if n < FEWEST or np.isinf(values).any():
        return Look(n, float(values.mean()) if n else np.nan, np.inf)
    quantile = stdtrit(n - 1, 1 - ALPHA / (2 * looks))
    return Look(n, float(values.mean()), float(quantile * values.std(ddof=1) / np.sqrt(n)))
