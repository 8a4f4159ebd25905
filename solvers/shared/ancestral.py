"""Ancestral steps with the variance of the posterior, or with one that the network has learned."""

from __future__ import annotations

from torch import Tensor

from posterior_bench.priors.base import Condition, Prior
from posterior_bench.priors.process import Level, Process

VARIANCES = ("fixed", "learned")
"""Valid values of a setting ``variance``."""


def check_variance(variance: str) -> None:
    """Check the setting ``variance``.

    Raises
    ------
    ValueError
        If it is not one of :data:`VARIANCES`.
    """
    if variance not in VARIANCES:
        raise ValueError(f"unknown variance '{variance}'; valid: {', '.join(VARIANCES)}")


def predict(
    prior: Prior, z: Tensor, level: Level, cond: Condition | None, guidance: float, variance: str
) -> tuple[Tensor, Tensor | None]:
    """Predict the clean state and, where the network has learned it, the variance of a step.

    Parameters
    ----------
    prior : Prior
        The prior; it is evaluated once.
    z : Tensor
        Noisy states ``(N, C, H, W)``.
    level : Level
        Noise level of ``z``.
    cond : Condition | None
        Labels or prompts.
    guidance : float
        Classifier-free guidance weight; 1 means no guidance.
    variance : str
        ``fixed`` or ``learned``.

    Returns
    -------
    x0 : Tensor
        Predicted clean states ``(N, C, H, W)``.
    fraction : Tensor | None
        The learned variance, as :meth:`~priors.process.Process.learned_step` takes it. None if
        ``variance`` is ``fixed`` or the network has learned none.
    """
    if variance == "learned" and prior.learned_var:
        return prior.denoise_with_variance(z, level, cond, guidance)
    return prior.denoise(z, level, cond, guidance), None


def step_down(
    process: Process,
    z_t: Tensor,
    x0: Tensor,
    fraction: Tensor | None,
    t: Level,
    s: Level,
    noise: Tensor,
    eta: float = 1.0,
) -> Tensor:
    """Step from level ``t`` down to level ``s``.

    Parameters
    ----------
    process : Process
        Noise process of the prior.
    z_t : Tensor
        States ``(N, C, H, W)`` at ``t``.
    x0 : Tensor
        Predicted clean states ``(N, C, H, W)``.
    fraction : Tensor | None
        Learned variance from :func:`predict`, or None for the variance of the posterior.
    t : Level
        Level of ``z_t``.
    s : Level
        The next level, less noisy.
    noise : Tensor
        Standard normals ``(N, C, H, W)``.
    eta : float, default 1.0
        Share of the posterior's standard deviation in [0, 1], used without a learned variance.

    Returns
    -------
    Tensor
        States ``(N, C, H, W)`` at ``s``.
    """
    if fraction is None:
        return process.bridge(z_t, x0, t, s, eta, noise)
    return process.learned_step(z_t, x0, t, s, fraction, noise)
