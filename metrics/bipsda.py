"""Distances between draws and the posterior as BIPSDA computes them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import (
    DrawMetric,
    Draws,
    MetricCard,
    expect,
    reference_draws,
)

BANDWIDTHS = {"high": 4.9753, "low": 2.0774, "xray": 4.3266, "phase": 12.6182}
"""Squared widths of the kernel by problem, in the units of the benchmark."""

RANGES = {"high": 6.3731, "low": 4.7307, "xray": 4.3931, "phase": 16.9327}
"""Ranges ``b - a`` of the values by problem, in the units of the benchmark."""

UNIT = 12.0
"""How many units of the benchmark the value 1 of an image stands for (``prior.unit``)."""

_SOURCE = "BIPSDA, IEEE Open Journal of Signal Processing 2025"


class _Distance(DrawMetric):
    """Base class of both distances; ``problem`` chooses their published constant."""

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    references: ClassVar[dict[str, float]]
    name: ClassVar[str]
    title: ClassVar[str]
    text: ClassVar[str]

    def __init__(self, problem: str = "high", unit: float = UNIT) -> None:
        if problem not in BANDWIDTHS:
            raise ValueError(f"unknown problem '{problem}'; valid: {', '.join(BANDWIDTHS)}")
        if not unit > 0:
            raise ValueError(f"unit {unit} must be above 0")
        self.problem, self.unit = problem, unit
        self.card = MetricCard(
            id=f"{self.name}_{problem}",
            title=f"{self.title}, {problem}",
            direction="down",
            unit="",
            range="[0, inf); above 0 for few exact draws",
            preprocessing=f"raw output, not rounded, times {unit:g}; {self.text}; float64",
            source=_SOURCE,
            level="draws",
        )

    @override
    def check(self) -> None:
        value = self.score(reference_draws().images[0])
        expect(self.card.id, value, self.references[self.problem])


class MMD(_Distance):
    """Squared maximum mean discrepancy to reference draws, biased, as in BIPSDA.

    The kernel is the sum of ``exp(-|x - x'|^2 / (b 2^k))`` for ``k`` from -2 to 2, with the
    published ``b`` of the problem. Pairs of a draw and itself count, so exact draws are above 0,
    the more the fewer they are. Compare methods with the same number of draws.

    Parameters
    ----------
    problem : str, default 'high'
        The problem of BIPSDA whose ``b`` is used: ``high``, ``low``, ``xray`` or ``phase``.
    unit : float, default 12.0
        Factor from image values to the units of the benchmark, above 0.

    Raises
    ------
    ValueError
        For another problem, or if ``unit`` is not positive.
    """

    name: ClassVar[str] = "mmd_bipsda"
    title: ClassVar[str] = "MMD of BIPSDA, squared"
    text: ClassVar[str] = "five Gaussian kernels; pairs of a draw and itself count"
    references: ClassVar[dict[str, float]] = {
        "high": 1.076611,
        "low": 1.062824,
        "xray": 1.074738,
        "phase": 1.069305,
    }

    @override
    def score(self, draws: Draws) -> float:
        x, z = self.unit * draws.x, self.unit * draws.exact
        return squared_mmd(x, z, BANDWIDTHS[self.problem]).item()


class CMD(_Distance):
    """Central moment discrepancy to reference draws, as in BIPSDA.

    ``|m1 - m1'| / r + sum |mk - mk'| / r^k`` for ``k`` from 2 to 5, with the means ``m1``, the
    central moments ``mk`` of every value, and the published range ``r`` of the problem. Moments are
    those of the draws at hand, so few exact draws are above 0.

    Parameters
    ----------
    problem : str, default 'high'
        The problem of BIPSDA whose ``r`` is used: ``high``, ``low``, ``xray`` or ``phase``.
    unit : float, default 12.0
        Factor from image values to the units of the benchmark, above 0.

    Raises
    ------
    ValueError
        For another problem, or if ``unit`` is not positive.

    Notes
    -----
    The discrepancy is that of Zellinger et al., ICLR 2017.
    """

    name: ClassVar[str] = "cmd_bipsda"
    title: ClassVar[str] = "CMD of BIPSDA"
    text: ClassVar[str] = "moments 1 to 5 of every value"
    references: ClassVar[dict[str, float]] = {
        "high": 3.745889,
        "low": 11.686136,
        "xray": 15.813831,
        "phase": 0.294014,
    }

    @override
    def score(self, draws: Draws) -> float:
        x, z = self.unit * draws.x, self.unit * draws.exact
        return central_moment_discrepancy(x, z, RANGES[self.problem]).item()


def squared_mmd(x: Tensor, z: Tensor, bandwidth: float) -> Tensor:
    """Return the biased squared MMD of ``(n, d)`` and ``(m, d)`` with five Gaussian kernels."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squares = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
        widths = [bandwidth * 2.0**k for k in range(-2, 3)]
        return torch.stack([(-squares / width).exp() for width in widths]).sum(0).mean()

    return kernel(x, x) + kernel(z, z) - 2 * kernel(x, z)


def central_moment_discrepancy(x: Tensor, z: Tensor, span: float) -> Tensor:
    """Return the discrepancy of five moments of ``(n, d)`` and ``(m, d)``; see :class:`CMD`."""
    means = x.mean(0), z.mean(0)
    total = (means[0] - means[1]).norm() / span
    for k in range(2, 6):
        one, other = (
            (values - mean).pow(k).mean(0) for values, mean in zip((x, z), means, strict=True)
        )
        total = total + (one - other).norm() / span**k
    return total
