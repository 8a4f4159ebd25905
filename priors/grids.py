"""Grids of native indices: the training steps that a chain visits, noisiest first.

``index`` is the respaced grid of guided-diffusion. The others are the grids of loops that authors
of solvers released; they count training steps from one end, so they exist for whole numbers only.
"""

from __future__ import annotations

import math

import numpy as np

GRIDS = (
    "native", "karras", "logsnr", "index", "flow", "uniform_time", "leading", "leading_one", "quad"
)  # fmt: skip
"""Valid values of ``kind`` in :meth:`priors.base.Prior.grid`."""

RELEASED = ("leading", "leading_one", "quad")
"""Those that count training steps."""


def respaced(top: float, bottom: float, count: int) -> list[int]:
    """Return indices evenly from ``top`` down to ``bottom``, rounded as guided-diffusion does.

    Its ``space_timesteps`` adds the stride again and again, from the bottom up. Where a sum falls
    near a half, its round-off decides, so the sums have to be the same.

    Parameters
    ----------
    top, bottom : float
        The first and the last index, which may lie between two training steps.
    count : int
        Number of indices, 1 or more; 1 returns the top alone.

    Returns
    -------
    list[int]
        ``count`` indices, noisiest first.
    """
    if count == 1:
        return [round(top)]
    stride, reached, indices = (top - bottom) / (count - 1), 0.0, []
    for _ in range(count):
        indices.append(round(bottom + reached))
        reached += stride
    return indices[::-1]


def released(kind: str, n: int, training_steps: int) -> list[int]:
    """Return the indices of a released loop of ``n`` steps.

    Parameters
    ----------
    kind : str
        One of :data:`RELEASED`.
    n : int
        Number of steps, 1 or more.
    training_steps : int
        Number of training steps of the checkpoint.

    Returns
    -------
    list[int]
        ``n`` indices, noisiest first.

    Raises
    ------
    ValueError
        If the loop has no such grid: ``n`` does not divide the number of training steps, or two
        levels of ``quad`` would be one.
    """
    last = training_steps - 1
    if kind == "quad":
        roots = [math.floor(s) for s in np.sqrt(np.linspace(0, training_steps**2, n))]
        indices = [last - min(s, last) for s in roots]
        if len(set(indices)) < n or n < 2:
            raise ValueError(
                f"grid quad has no {n} different levels among {training_steps} training steps; "
                f"take 2 to about {training_steps // 2} steps, or grid=index"
            )
        return indices
    if training_steps % n:
        below, above = _divisors_around(n, training_steps)
        raise ValueError(
            f"grid {kind} needs a number of steps that divides the {training_steps} training "
            f"steps, got {n}; take {below} or {above} steps, or grid=index"
        )
    offset = 1 if kind == "leading_one" else 0
    indices = [offset + k for k in range(0, training_steps, training_steps // n)][::-1]
    if indices[0] > last:
        raise ValueError(
            f"grid leading_one has no {n} levels among {training_steps} training steps, because "
            f"it starts one above leading; take {training_steps // 2} steps, or grid=leading"
        )
    return indices


def _divisors_around(n: int, whole: int) -> tuple[int, int]:
    """Return the divisors of ``whole`` next to ``n``, which is none; above ``whole``, itself."""
    divisors = [d for d in range(1, whole + 1) if whole % d == 0]
    below = max(d for d in divisors if d < n)
    return below, min((d for d in divisors if d > n), default=below)
