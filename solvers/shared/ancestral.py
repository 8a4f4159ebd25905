"""Ancestral steps with the variance of the posterior, or with the one a network has learned."""

from __future__ import annotations

from torch import Tensor

from posterior_bench.priors.base import Condition, Prior
from posterior_bench.priors.process import Level, Process

VARIANCES = ("fixed", "learned")


def check_variance(variance: str) -> None:
    """Raises ValueError for a ``variance`` that is not one of :data:`VARIANCES`."""
    if variance not in VARIANCES:
        raise ValueError(f"unknown variance '{variance}'; valid: {', '.join(VARIANCES)}")


def predict(
    prior: Prior, z: Tensor, level: Level, cond: Condition | None, guidance: float, variance: str
) -> tuple[Tensor, Tensor | None]:
    """``x0`` and, where ``variance`` is ``learned`` and the network has learned one, its fraction;
    one evaluation.
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
    """One step from ``t`` down to ``s``: :meth:`Process.bridge`, or :meth:`Process.learned_step`
    with a fraction.
    """
    if fraction is None:
        return process.bridge(z_t, x0, t, s, eta, noise)
    return process.learned_step(z_t, x0, t, s, fraction, noise)
