"""The noise levels of a loop, and levels seen from another level."""

from __future__ import annotations

from dataclasses import replace

from posterior_bench.priors.base import Prior
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


def loop_grid(
    prior: Prior,
    steps: int,
    grid: str,
    compat: str,
    released: str,
    start: Level | None = None,
) -> list[Level]:
    """Return the levels that a solver's loop visits, noisiest first.

    ``compat=released`` brings back the levels of the released loop too, where the settings leave
    them open: with ``grid=native``, on a prior with the 1000 training steps that all released loops
    have. Any other ``grid`` is obeyed, and other priors have their own native grid.

    Parameters
    ----------
    prior : Prior
        The prior.
    steps : int
        Number of steps.
    grid : str
        The solver's setting ``grid``.
    compat : str
        The solver's setting ``compat``.
    released : str
        The grid of the released loop, see :meth:`priors.base.Prior.grid`.
    start : Level | None, default None
        The first level; None takes the noisiest level of the network.

    Returns
    -------
    list[Level]
        ``steps + 1`` levels.

    Raises
    ------
    ValueError
        As ``Prior.grid`` does, for example if ``steps`` does not divide 1000.
    """
    if compat == "released" and grid == "native" and prior.process.training_steps == 1000:
        if (released, steps) == ("leading_one", 1000):
            # PSLD's code: coefficients of 999 to 0, but the network is told 1000 to 1.
            levels = prior.grid(steps, "leading", start=start)[:-1]
            return [*(replace(level, t=level.t + 1) for level in levels), levels[-1]]
        grid = released
    return prior.grid(steps, grid, start=start)
