"""Places for labels beside the points they name, so that none covers another."""

from __future__ import annotations

import numpy as np

from posterior_bench.bench.analysis.statistics import Array


def spread(wanted: Array, heights: Array, low: float, high: float) -> Array:
    """Return centres ``(n,)`` of labels as near as can be to the wanted ones, without overlaps.

    Labels keep the order of ``wanted``, and stay between ``low`` and ``high``. The sum of squared
    distances to the wanted centres is the least possible.

    Parameters
    ----------
    wanted, heights : array (n,)
        The wanted centres and the heights.
    low, high : float
        The ends of the room.

    Raises
    ------
    ValueError
        If the labels are higher together than the room.
    """
    if heights.sum() > (high - low) * (1 + 1e-9):
        raise ValueError(f"labels of {heights.sum():g} do not fit into {high - low:g}")
    order = np.argsort(wanted, kind="stable")
    sizes = heights[order]
    # the centre of a label above those before it; without overlaps, what is left never falls
    offsets = np.cumsum(sizes) - sizes / 2
    free = np.clip(_rising(wanted[order] - offsets), low, max(low, high - sizes.sum()))
    centres = np.empty(len(wanted))
    centres[order] = free + offsets
    return centres


def _rising(values: Array) -> Array:
    """Return the sequence that never falls and is nearest to ``values`` (pools of neighbours)."""
    means: list[float] = []
    counts: list[int] = []
    for value in values.tolist():
        means.append(value)
        counts.append(1)
        while len(means) > 1 and means[-2] >= means[-1]:
            count = counts[-2] + counts[-1]
            means[-2:] = [(means[-2] * counts[-2] + means[-1] * counts[-1]) / count]
            counts[-2:] = [count]
    return np.repeat(np.array(means, dtype=float), counts)
