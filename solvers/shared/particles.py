"""Particles: several states of one row, of which weights choose those that go on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from posterior_bench.operators.spectrum import Spectrum
from posterior_bench.priors.base import Condition, Prior
from posterior_bench.priors.process import Level
from posterior_bench.priors.running_sum import running_sum


def resample(log_weight: Tensor, uniform: Tensor, *states: Tensor) -> list[Tensor]:
    """Draw particles by weight, independently of each other.

    Parameters
    ----------
    log_weight : Tensor
        Logarithms of the weights ``(N, K)``, up to a constant per row. A particle whose number is
        NaN has no weight.
    uniform : Tensor
        Uniform numbers ``(N, M)`` on [0, 1), one per particle that is drawn.
    *states : Tensor
        Properties of the particles, ``(N, K, ...)``.

    Returns
    -------
    list[Tensor]
        Each of ``states`` at the ``M`` drawn particles, ``(N, M, ...)``.
    """
    # A particle that is NaN has no weight.
    weight = log_weight.double().nan_to_num(nan=-math.inf).softmax(1)
    k = torch.searchsorted(running_sum(weight), uniform.double(), right=True)
    k = k.clamp_max(weight.shape[1] - 1)
    rows = torch.arange(len(k), device=k.device)[:, None]
    return [state[rows, k] for state in states]


def denoise_coordinates(
    prior: Prior,
    spectrum: Spectrum,
    z: Tensor,
    level: Level,
    together: int,
    cond: Condition | None = None,
    guidance: float = 1.0,
    clip: bool = False,
) -> Tensor:
    """Denoise particles that are given in the coordinates of an operator.

    Parameters
    ----------
    prior : Prior
        A prior in pixels; it is evaluated once per particle.
    spectrum : Spectrum
        The singular value decomposition of the operator.
    z : Tensor
        Coordinates ``(N, K, C, H, W)`` of the noisy states.
    level : Level
        Noise level of all states.
    together : int
        Particles per network call. Memory grows with it; no result depends on it.
    cond : Condition | None, default None
        Labels or prompts of the ``N`` rows.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance.
    clip : bool, default False
        Clip predicted images to [-1, 1].

    Returns
    -------
    Tensor
        Coordinates of the predicted clean images, shaped like ``z``.
    """
    parts = []
    for some in z.split(together, dim=1):
        rows = None if cond is None else cond.repeat(some.shape[1])
        x0 = prior.denoise(spectrum.image(some.flatten(0, 1)), level, rows, guidance)
        x0 = spectrum.coordinates(x0.clamp(-1, 1) if clip else x0)
        parts.append(x0.unflatten(0, some.shape[:2]))
    return torch.cat(parts, dim=1)


def per_particle(values: Tensor) -> Tensor:
    """Return numbers of rows so that they broadcast against particles ``(N, K, C, H, W)``.

    Parameters
    ----------
    values : Tensor
        Numbers that broadcast against ``(N, C, H, W)``.

    Returns
    -------
    Tensor
        The same numbers, with an axis for the particles where there is one for the rows.
    """
    return values[:, None] if values.ndim == 4 else values
