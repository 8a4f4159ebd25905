"""The denoising network of the Lévy signals: convolutions around the best linear denoiser."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

DILATIONS = (1, 2, 4, 8, 16, 1)


class Walk(NamedTuple):
    """The covariance of a random walk with increments of variance 1, decomposed; float32."""

    values: Tensor  # (L,)
    vectors: Tensor  # (L, L), in columns


@cache
def random_walk(length: int, device: torch.device | None = None) -> Walk:
    """Return eigenvalues and eigenvectors of ``C[i, j] = min(i, j)``, counted from 1.

    They are closed forms: sines whose slope vanishes behind the last sample.
    """
    angles = math.pi * (2 * torch.arange(1, length + 1).double() - 1) / (2 * length + 1)
    places = torch.arange(1, length + 1).double()
    vectors = (places[:, None] * angles).sin() * (4 / (2 * length + 1)) ** 0.5
    values = 0.25 / (angles / 2).sin().square()
    return Walk(values.float().to(device), vectors.float().to(device))


def _convolution(channels: int, width: int, dilation: int = 1) -> nn.Conv2d:
    """Return a convolution with five taps along the signal, as an image of one row."""
    return nn.Conv2d(channels, width, (1, 5), padding=(0, 2 * dilation), dilation=(1, dilation))


class _Block(nn.Module):
    """A residual step whose channels are scaled and shifted by the noise level."""

    def __init__(self, width: int, time: int, dilation: int):
        super().__init__()
        self.modulation = nn.Linear(time, 2 * width)
        self.conv = _convolution(width, width, dilation)
        self.out = nn.Conv2d(width, width, 1)

    @override
    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.modulation(time)[..., None, None].chunk(2, 1)
        mixed = self.conv(h) * (1 + scale) + shift
        step: Tensor = self.out(F.silu(mixed))
        return h + step


class LevyNet(nn.Module):
    """Predict EDM's ``F`` for signals with independent increments of finite variance.

    The best linear denoiser of such a signal is known in closed form. The network adds to it a
    correction in units of the linear denoiser's own error, so it can only learn what is not linear.
    For Gaussian increments the correction is 0.

    Parameters
    ----------
    law : str
        Name of the law that it is trained for, one of :data:`priors.levy.LAWS`.
    length : int, default 64
        Samples of a signal.
    deviation : float, default 1.0
        Standard deviation of an increment.
    sigma_data : float, default 1.0
        The ``sigma_data`` of the prior, which has scaled the input.
    width : int, default 32
        Channels.

    Attributes
    ----------
    unit : float
        Factor of the signals of the prior, compared with those of the training.
    """

    def __init__(
        self,
        law: str,
        length: int = 64,
        deviation: float = 1.0,
        sigma_data: float = 1.0,
        width: int = 32,
    ):
        super().__init__()
        self.settings: dict[str, object] = {
            "law": law,
            "length": length,
            "deviation": deviation,
            "sigma_data": sigma_data,
            "width": width,
        }
        self.law = law
        self.length, self.deviation, self.sigma_data = length, deviation, sigma_data
        self.unit = 1.0
        self.time = nn.Sequential(
            nn.Linear(8, 2 * width), nn.SiLU(), nn.Linear(2 * width, 2 * width), nn.SiLU()
        )
        self.enter = _convolution(5, width)
        self.places = nn.Parameter(torch.zeros(width, 1, length))
        self.blocks = nn.ModuleList(_Block(width, 2 * width, d) for d in DILATIONS)
        self.leave = nn.Conv2d(width, 1, 1)
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)

    @override
    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        noise = (4 * t).exp()[:, None] / (self.unit * self.deviation)  # in units of an increment
        sd = self.sigma_data / self.deviation
        z = x.flatten(1) * (sd**2 + noise**2).sqrt()
        values, vectors = random_walk(self.length, x.device)
        values = values.to(x.dtype)
        vectors = vectors.to(x.dtype)
        gain = values / (values + noise**2)
        rotated = z @ vectors
        linear = (gain * rotated) @ vectors.T
        error = ((gain * noise**2) @ vectors.T.square()).sqrt()
        correction = error * self._correction(z, linear, noise, error)
        # the linear part minus EDM's skip, mode by mode: no difference of large numbers
        beyond = noise * (values - sd**2) / ((values + noise**2) * sd)
        skipped = (beyond * (x.flatten(1) @ vectors)) @ vectors.T
        return (skipped + correction * (sd**2 + noise**2).sqrt() / (noise * sd)).view_as(x)

    def _correction(self, z: Tensor, linear: Tensor, noise: Tensor, error: Tensor) -> Tensor:
        """Return the correction ``(N, L)``, about 1 in size where a law is far from Gaussian."""
        jumps = _increments(z) / (1 + 2 * noise**2).sqrt()
        steps = _increments(linear)
        features = [
            (z - linear) / noise,
            jumps.asinh(),
            steps.asinh(),
            (steps / error).asinh(),
            jumps.clamp(-3, 3),
        ]
        time = self.time(_waves(noise.log()))
        # channels last: three times as fast on a CPU
        image = torch.stack(features, 1)[:, :, None].contiguous(memory_format=torch.channels_last)
        h = self.enter(image) + self.places
        for block in self.blocks:
            h = block(h, time)
        return self.leave(F.silu(h))[:, 0, 0]


def _increments(s: Tensor) -> Tensor:
    return s - F.pad(s, (1, 0))[:, :-1]


def _waves(log_noise: Tensor) -> Tensor:
    """Return ``(N, 8)`` smooth functions of the noise level."""
    angles = log_noise * torch.tensor([0.25, 0.5, 1.0, 2.0], device=log_noise.device).to(log_noise)
    return torch.cat([angles.sin(), angles.cos()], 1)
