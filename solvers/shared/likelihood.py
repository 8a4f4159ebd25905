"""Data terms shared by the solvers: one number per sample; likelihoods are summed over what was
observed.

A sum is the negative log likelihood itself, in nats; a mean would silently rescale every guidance
strength with the image size, the size of the hole or the batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from posterior_bench.solvers.base import Observation, norm


def residual_norm(x: Tensor, obs: Observation) -> Tensor:
    """``|y - A(x)|_2`` of every sample, shape ``(N,)``, for images ``x`` ``(N, C, H, W)`` in [-1,
    1] units.

    Its gradient is a unit vector pulled back through ``A``, and zero where the residual is zero.
    """
    return norm(obs.operator.residual(x, obs.y))


def residual_mean(x: Tensor, obs: Observation) -> Tensor:
    """The mean of ``|y - A(x)|`` over all scalars of ``y``, shape ``(N,)``; hidden ones count as
    zeros.

    Only for loss weights that were published for this mean, as those of latent codes often are.
    """
    return obs.operator.residual(x, obs.y).abs().flatten(1).mean(1)


def perceptual_distance(x: Tensor, obs: Observation) -> Tensor:
    """The perceptual distance of ``A(x)`` and ``y``, images with their hidden pixels at zero, shape
    ``(N,)``.

    Raises ValueError where the observation came without a distance.
    """
    if obs.perceptual is None:
        raise ValueError("this observation has no perceptual distance; set perceptual=none")
    return obs.perceptual(obs.operator.A(x), obs.y)


def laplace_nll(x: Tensor, obs: Observation, scale: float) -> Tensor:
    """``sum |y - A(x)| / scale + n log(2 scale)`` in nats, shape ``(N,)``, over the ``n`` observed
    scalars.

    ``scale`` is the Laplace parameter b in [-1, 1] units; the standard deviation is ``sqrt(2) b``.
    Raises ValueError unless ``scale > 0``.
    """
    _check_positive("scale", scale)
    distance = obs.operator.residual(x, obs.y).abs().flatten(1).sum(1)
    return distance / scale + observed_count(obs) * math.log(2 * scale)


def gaussian_nll(x: Tensor, obs: Observation, sigma: float) -> Tensor:
    """``sum (y - A(x))^2 / (2 sigma^2) + n/2 log(2 pi sigma^2)`` in nats, shape ``(N,)``, over
    ``n`` observed scalars.

    ``sigma`` is a standard deviation in [-1, 1] units. Raises ValueError unless ``sigma > 0``.
    """
    _check_positive("sigma", sigma)
    distance = obs.operator.residual(x, obs.y).square().flatten(1).sum(1)
    return distance / (2 * sigma**2) + observed_count(obs) * 0.5 * math.log(2 * math.pi * sigma**2)


NLL = {"laplace": laplace_nll, "gaussian": gaussian_nll}
"""Likelihoods by name; each takes ``(x, obs, scale)``."""


def observed_count(obs: Observation) -> Tensor:
    """How many scalars each row of ``obs`` observes, shape ``(N,)``, in the dtype of ``y``."""
    mask = obs.operator.mask
    if mask is None:
        return obs.y.new_full((obs.n,), obs.y[0].numel())
    return mask.expand_as(obs.y).flatten(1).sum(1).to(obs.y)


def gradient(loss: Tensor, z: Tensor) -> Tensor:
    """The gradient of every row's own loss ``(N,)`` with respect to its own row of ``z``; the graph
    is freed.

    Summing first is what keeps rows apart: a row's loss does not depend on any other row of ``z``.
    """
    return torch.autograd.grad(loss.sum(), z)[0]


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(
            f"{name} {value} is not a noise level; give a positive number in [-1, 1] image units"
        )
