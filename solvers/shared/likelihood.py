"""Data terms: one number per sample, likelihoods summed over the observed scalars.

A sum is the negative log likelihood itself, in nats. A mean would silently rescale every guidance
strength with the size of the image, of the hole or of the batch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from posterior_bench.priors.base import Prior
from posterior_bench.solvers.base import Observation, norm


def residual_norm(x: Tensor, obs: Observation) -> Tensor:
    """Return the Euclidean norm ``|y - A(x)|`` of every sample.

    Parameters
    ----------
    x : Tensor
        Images ``(N, C, H, W)`` in [-1, 1] units.
    obs : Observation
        Measurements of these ``N`` images.

    Returns
    -------
    Tensor
        Norms ``(N,)``. The gradient is a unit vector pulled back through ``A``, and zero where the
        residual is zero.
    """
    return norm(obs.operator.residual(x, obs.y))


def squares(x: Tensor, obs: Observation) -> Tensor:
    """Return ``(y - A x)^2``, scalar by scalar.

    Parameters
    ----------
    x : Tensor
        Images ``(N, C, H, W)`` in [-1, 1] units.
    obs : Observation
        Measurements of these ``N`` images.

    Returns
    -------
    Tensor
        Squares, shaped like ``y``; hidden scalars are zeros.
    """
    return F.mse_loss(obs.operator.A(x), obs.y, reduction="none")


def residual_mean(x: Tensor, obs: Observation) -> Tensor:
    """Return the mean of ``|y - A(x)|`` over all scalars of ``y``, hidden ones counted as zeros.

    Use it only for loss weights that were published for this mean, as is usual in latent codes.

    Parameters
    ----------
    x : Tensor
        Images ``(N, C, H, W)`` in [-1, 1] units.
    obs : Observation
        Measurements of these ``N`` images.

    Returns
    -------
    Tensor
        Means ``(N,)``.
    """
    return obs.operator.residual(x, obs.y).abs().flatten(1).mean(1)


def perceptual_distance(x: Tensor, obs: Observation) -> Tensor:
    """Return the perceptual distance of ``A(x)`` and ``y``, with hidden pixels at zero in both.

    Parameters
    ----------
    x : Tensor
        Images ``(N, C, H, W)`` in [-1, 1] units.
    obs : Observation
        Measurements of these ``N`` images, with a distance in ``perceptual``.

    Returns
    -------
    Tensor
        Distances ``(N,)``.

    Raises
    ------
    ValueError
        If the observation has no distance.
    """
    if obs.perceptual is None:
        raise ValueError("this observation has no perceptual distance; set perceptual=none")
    return obs.perceptual(obs.operator.A(x), obs.y)


def laplace_nll(x: Tensor, obs: Observation, scale: float) -> Tensor:
    """Return ``sum |y - A(x)| / scale + n log(2 scale)`` over the ``n`` observed scalars.

    Parameters
    ----------
    x : Tensor
        Images ``(N, C, H, W)`` in [-1, 1] units.
    obs : Observation
        Measurements of these ``N`` images.
    scale : float
        Parameter ``b`` of the Laplace law, in [-1, 1] units; the standard deviation is
        ``sqrt(2) b``.

    Returns
    -------
    Tensor
        Negative log likelihoods ``(N,)``, in nats.

    Raises
    ------
    ValueError
        If ``scale`` is not positive.
    """
    _check_positive("scale", scale)
    distance = obs.operator.residual(x, obs.y).abs().flatten(1).sum(1)
    return distance / scale + observed_count(obs) * math.log(2 * scale)


def gaussian_nll(x: Tensor, obs: Observation, sigma: float) -> Tensor:
    """Return ``sum (y - A(x))^2 / (2 sigma^2) + n/2 log(2 pi sigma^2)``, ``n`` observed scalars.

    Parameters
    ----------
    x : Tensor
        Images ``(N, C, H, W)`` in [-1, 1] units.
    obs : Observation
        Measurements of these ``N`` images.
    sigma : float
        Standard deviation of the noise, in [-1, 1] units.

    Returns
    -------
    Tensor
        Negative log likelihoods ``(N,)``, in nats.

    Raises
    ------
    ValueError
        If ``sigma`` is not positive.
    """
    _check_positive("sigma", sigma)
    distance = obs.operator.residual(x, obs.y).square().flatten(1).sum(1)
    return distance / (2 * sigma**2) + observed_count(obs) * 0.5 * math.log(2 * math.pi * sigma**2)


NLL = {"laplace": laplace_nll, "gaussian": gaussian_nll}
"""Likelihoods by name; each takes ``(x, obs, scale)``."""


def data_slope(x: Tensor, obs: Observation, prior: Prior) -> Tensor:
    """Return the gradient of ``|y - A(decode(x))|^2 / 2`` in the clean state ``x``.

    Parameters
    ----------
    x : Tensor
        Clean states ``(N, *latent_shape)``.
    obs : Observation
        Measurements of these ``N`` images.
    prior : Prior
        The prior whose decoder makes images of the states.

    Returns
    -------
    Tensor
        Gradients, shaped like ``x``: no mean over pixels, and no noise level.
    """
    if "linear" in obs.operator.caps and not prior.is_latent:
        return obs.operator.At(obs.operator.A(x) - obs.y)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return gradient(squares(prior.decode(x), obs).flatten(1).sum(1) / 2, x)


def observed_count(obs: Observation) -> Tensor:
    """Return the number of scalars that each row of ``obs`` observes, ``(N,)``, dtype of ``y``."""
    mask = obs.operator.mask
    if mask is None:
        return obs.y.new_full((obs.n,), obs.y[0].numel())
    # A mask has one entry for all channels, so counting it costs less than counting y's.
    each = obs.y[0].numel() // mask[0].numel()
    return (each * mask.flatten(1).sum(1)).to(obs.y)


def gradient(loss: Tensor, z: Tensor) -> Tensor:
    """Return the gradient of every row's loss with respect to the same row of ``z``.

    Parameters
    ----------
    loss : Tensor
        One loss per row, ``(N,)``. A row's loss depends on no other row of ``z``, so the gradient
        of the sum keeps the rows apart. Its graph is freed.
    z : Tensor
        States ``(N, ...)`` that require a gradient.

    Returns
    -------
    Tensor
        Gradients with the shape of ``z``.
    """
    return torch.autograd.grad(loss.sum(), z)[0]


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(
            f"{name} {value} is not a noise level; give a positive number in [-1, 1] image units"
        )
