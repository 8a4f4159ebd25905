"""Noise levels seen from another noise level."""

from __future__ import annotations

from posterior_bench.priors.process import Level


def seen_from(top: Level, t: Level) -> Level:
    """Return the level ``t`` as it is if the state at ``top`` counts as clean.

    Parameters
    ----------
    top : Level
        The less noisy of the two levels.
    t : Level
        The noisier level, or ``top`` itself.

    Returns
    -------
    Level
        ``alpha`` and ``sigma`` of ``q(z_t | z_top) = N(alpha z_top, sigma^2)``; the number that the
        network reads is that of ``t``.
    """
    alpha = t.alpha / top.alpha
    variance = t.sigma**2 - alpha**2 * top.sigma**2
    # Round-off may leave a variance slightly below zero where t is top.
    return Level(alpha, (variance * (variance > 0)) ** 0.5, t.t)
