"""Posterior means of Lévy signals by sums over a grid: no chains, no networks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Signal = NDArray[np.float64]


def posterior_mean(increments: NDArray[np.float64], z: Signal, sigma: float, step: float) -> Signal:
    """Return ``E[s | z]`` of ``z = s + sigma n``, by the forward-backward recursion.

    Parameters
    ----------
    increments : NDArray
        Probabilities ``(2 K + 1,)`` of the increments ``-K step`` to ``K step``.
    z : NDArray
        One noisy signal ``(L,)``.
    sigma : float
        Standard deviation of the noise.
    step : float
        Distance of the points of the grid.
    """
    low, high = min(z.min(), 0) - 6 * sigma, max(z.max(), 0) + 6 * sigma
    points = step * np.arange(np.floor(low / step), np.ceil(high / step) + 1)
    seen = np.exp(-0.5 * ((z[:, None] - points) / sigma) ** 2) + 1e-300
    start = np.isclose(points, 0).astype(float)
    forward = []
    for likelihood in seen:
        start = np.convolve(start, increments, "full")[len(increments) // 2 :][: len(points)]
        start = start * likelihood
        start /= start.sum()
        forward.append(start)
    mean, backward = np.empty_like(z), np.ones(len(points))
    for n in range(len(z) - 1, -1, -1):
        both = forward[n] * backward
        mean[n] = both @ points / both.sum()
        backward = backward * seen[n]
        backward = np.convolve(backward, increments, "full")[len(increments) // 2 :][: len(points)]
        backward /= backward.sum()
    return mean
