"""Guidance by a Gaussian around the prediction, which PiGDM introduced."""

from __future__ import annotations

import torch
from torch import Tensor

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level, Scalar
from posterior_bench.solvers.base import Observation

RATIO_MAX = 1e3
"""First level: a flow starts at alpha = 0, where the guided prediction is 0 / 0."""


def gaussian_pull(
    z_t: Tensor,
    t: Level,
    rho: Scalar,
    obs: Observation,
    prior: Prior,
    guidance: float = 1.0,
    clip: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the prediction, and the pull of the measurement on the noisy image.

    With ``p(x0 | z_t) = N(D, r^2 I)`` and ``rho = sigma_y^2 / r^2``, the pull is ``r^2`` times the
    score of ``p(y | z_t)``: ``J^T At (A At + rho I)^-1 (y - A D)``, with the Jacobian ``J`` of the
    denoiser. The proximal step of the operator solves the system. It costs one network call and one
    backward pass.

    Parameters
    ----------
    z_t : Tensor
        Noisy images ``(N, C, H, W)``.
    t : Level
        Their level.
    rho : float or Tensor
        Variance of the measurement over that of the prediction, 0 or more.
    obs : Observation
        Measurements of these ``N`` images.
    prior : Prior
        A prior in pixels.
    guidance : float, default 1.0
        Classifier-free guidance weight. The gradient goes through both branches.
    clip : bool, default False
        Clip the prediction to [-1, 1], outside the gradient.

    Returns
    -------
    x0 : Tensor
        The prediction ``D(z_t)``, shaped like ``z_t``, without a gradient.
    pull : Tensor
        The pull, shaped like ``z_t``.

    References
    ----------
    Song et al., "Pseudoinverse-guided diffusion models for inverse problems", 2023, Section 3.
    """
    with torch.enable_grad():
        z_t = z_t.detach().requires_grad_()
        x0 = prior.denoise(z_t, t, obs.cond, guidance)
        free = x0.detach().clamp(-1, 1) if clip else x0.detach()
        # prox(x) - x is At (A At + rho)^-1 (y - A x)
        solved = obs.operator.prox(free, obs.y, rho) - free
        return free, torch.autograd.grad(x0, z_t, solved)[0]
