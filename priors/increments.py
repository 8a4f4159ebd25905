"""Laws of the increments of a Lévy process: densities, quantiles and variances.

A signal of a Lévy process is the running sum of independent increments of one law
(:mod:`priors.levy`). These four laws are those of the benchmark of Zach et al. (2025,
arXiv 2509.12821).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override


@dataclass(frozen=True)
class Law:
    """The law of one increment, symmetric around 0.

    Parameters
    ----------
    scale : float, default 1.0
        Factor of the increment, above 0; what it means stands with each law.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(f"the scale of a law must be positive, got {self.scale}")

    def log_prob(self, u: Tensor) -> Tensor:
        """Return the log density of increments.

        Parameters
        ----------
        u : Tensor
            Increments of any shape.

        Returns
        -------
        Tensor
            Nats, float64, shaped like ``u``.
        """
        raise NotImplementedError

    def quantile(self, p: Tensor) -> Tensor:
        """Return the increments below which a share ``p`` of all increments lies.

        Parameters
        ----------
        p : Tensor
            Numbers between 0 and 1. Uniform numbers give draws of the law.

        Returns
        -------
        Tensor
            Increments, float64, shaped like ``p``.
        """
        raise NotImplementedError

    @property
    def variance(self) -> float:
        """Variance of an increment; infinite where the law has none."""
        raise NotImplementedError

    def scaled(self, factor: float) -> Self:
        """Return the law of ``factor`` times an increment."""
        return replace(self, scale=factor * self.scale)


@dataclass(frozen=True)
class Gauss(Law):
    """Increments ``N(0, scale^2)``; the signal is Brownian motion."""

    @override
    def log_prob(self, u: Tensor) -> Tensor:
        return -0.5 * (u.double() / self.scale).square() - math.log(
            self.scale * math.sqrt(2 * math.pi)
        )

    @override
    def quantile(self, p: Tensor) -> Tensor:
        return self.scale * torch.special.ndtri(p.double())

    @property
    @override
    def variance(self) -> float:
        return self.scale**2


@dataclass(frozen=True)
class Laplace(Law):
    """Increments with the density ``exp(-|u| / scale) / (2 scale)``."""

    @override
    def log_prob(self, u: Tensor) -> Tensor:
        return -u.double().abs() / self.scale - math.log(2 * self.scale)

    @override
    def quantile(self, p: Tensor) -> Tensor:
        q = p.double() - 0.5
        return -self.scale * q.sign() * torch.log1p(-2 * q.abs())

    @property
    @override
    def variance(self) -> float:
        return 2 * self.scale**2


@dataclass(frozen=True)
class BernoulliLaplace(Law):
    """Increments that are 0, or with probability ``jumps`` a Laplace variable.

    The signal is piecewise constant: compound Poisson noise, observed at whole times.

    Parameters
    ----------
    scale : float, default 1.0
        Scale of the Laplace variable.
    jumps : float, default 0.1
        Probability that an increment is not 0, between 0 and 1.
    """

    jumps: float = 0.1

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.jumps < 1:
            raise ValueError(f"the probability of a jump must lie in (0, 1), got {self.jumps}")

    @override
    def log_prob(self, u: Tensor) -> Tensor:
        """Return the log density with respect to the sum of the length and a point mass at 0."""
        jump = math.log(self.jumps) + Laplace(self.scale).log_prob(u)
        return torch.where(u == 0, math.log1p(-self.jumps), jump)

    @override
    def quantile(self, p: Tensor) -> Tensor:
        q = p.double() - 0.5
        # what is left of 1/2 once the point mass is taken off the middle
        tail = (1 - 2 * q.abs()) / self.jumps
        return torch.where(tail < 1, -self.scale * q.sign() * tail.log(), 0.0)

    @property
    @override
    def variance(self) -> float:
        return 2 * self.jumps * self.scale**2


@dataclass(frozen=True)
class Student(Law):
    """Increments ``scale`` times a Student variable.

    Parameters
    ----------
    scale : float, default 1.0
        Factor of the Student variable.
    freedom : int, default 3
        Degrees of freedom: 1 (Cauchy), 2 or 3. Only 3 has a variance.
    """

    freedom: int = 3

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.freedom not in (1, 2, 3):
            raise ValueError(f"the degrees of freedom must be 1, 2 or 3, got {self.freedom}")

    @override
    def log_prob(self, u: Tensor) -> Tensor:
        k, t = self.freedom, u.double() / self.scale
        constant = math.lgamma((k + 1) / 2) - math.lgamma(k / 2) - 0.5 * math.log(k * math.pi)
        return constant - math.log(self.scale) - (k + 1) / 2 * torch.log1p(t.square() / k)

    @override
    def quantile(self, p: Tensor) -> Tensor:
        q = p.double() - 0.5
        if self.freedom == 1:
            return self.scale * torch.tan(math.pi * q)
        tail = 0.25 - q.square()
        if self.freedom == 2:
            return self.scale * q * (2 / tail).sqrt()
        return self.scale * _student3(q.abs()) * q.sign()

    @property
    @override
    def variance(self) -> float:
        return self.scale**2 * 3 if self.freedom == 3 else math.inf


def _student3(q: Tensor) -> Tensor:
    """Return the ``t`` with ``P(0 < T < t) = q`` for three degrees of freedom.

    With ``t = sqrt(3) tan(a)`` this is ``a + sin(a) cos(a) = pi q``. Near ``a = pi/2`` the equation
    for ``c = pi/2 - a`` is ``c - sin(c) cos(c) = pi (1/2 - q)``, where Newton's method from
    ``c^3 = 3/2`` of the right-hand side, which is too small, falls from above after one step.
    """
    right = math.pi * (0.5 - q)
    c = (1.5 * right).pow(1 / 3).clamp_max(math.pi / 2)
    for _ in range(8):
        slope = 2 * c.sin().square()
        step = (c - (2 * c).sin() / 2 - right) / slope.clamp_min(1e-300)
        c = (c - step).clamp(0, math.pi / 2)
    return math.sqrt(3) / c.tan()
