"""A metric by groups of images: by class, and by how much of an image was hidden."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from posterior_bench.bench.analysis.statistics import FEWEST, means_over_images

BINS = 4
"""Groups of coverage, at most."""

COLUMNS = ["solver", "group", "mean", "lo", "hi", "n"]


def breakdown(values: Mapping[str, pd.Series], groups: pd.Series) -> pd.DataFrame:
    """Return means over the images of each group, with 95 % intervals, a line per solver and group.

    Groups keep the order in which they are first named. Those with fewer than
    :data:`bench.analysis.statistics.FEWEST` images have no interval.

    Parameters
    ----------
    values : mapping of str to Series
        Per solver, the values of images by image id.
    groups : Series
        The group of every image, by image id; NaN leaves an image out.
    """
    names = [*dict.fromkeys(groups.dropna())]
    keys, columns = [], []
    for solver, series in values.items():
        for name in names:
            keys.append((solver, name))
            columns.append(series[series.index.isin(groups.index[groups == name])].to_numpy(float))
    if not columns:
        return pd.DataFrame(columns=COLUMNS)
    over = means_over_images(columns, "breakdown")
    frame = pd.DataFrame(keys, columns=["solver", "group"])
    return frame.assign(mean=over.mean, lo=over.lo, hi=over.hi, n=over.n)


def coverage_groups(hidden: pd.Series) -> pd.Series:
    """Return groups of equally many images by the hidden share, the least hidden first.

    There are so many groups that each has :data:`bench.analysis.statistics.FEWEST` images, at least
    two and at most :data:`BINS`. Nothing is returned where all images hide the same share, or for
    fewer than four images.

    Parameters
    ----------
    hidden : Series
        The hidden share of every image, 0 to 1, by image id.
    """
    hidden = hidden.sort_values(kind="stable")
    if len(hidden) < 4 or np.isclose(hidden.iloc[0], hidden.iloc[-1]):
        return pd.Series(dtype=object)
    places = np.array_split(np.arange(len(hidden)), min(BINS, max(2, len(hidden) // FEWEST)))
    parts = [hidden.iloc[part] for part in places]
    ends = [f"{100 * part.min():.0f}–{100 * part.max():.0f} %" for part in parts]
    return pd.concat([pd.Series(end, part.index) for end, part in zip(ends, parts, strict=True)])
