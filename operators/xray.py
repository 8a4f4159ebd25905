"""X-ray absorption: photons are counted behind an object, so the noise is that of counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.operators.base import Operator


@dataclass(frozen=True)
class XRay(Operator):
    """Count the photons that pass an object: ``counts ~ Poisson(I0 exp(-M (unit x + offset)))``.

    The entries of ``M`` are independent and uniform in [0.01, 0.05], the same for all images. The
    problem is that of BIPSDA (OJSP 2025) if an image has ten values.

    A measurement is ``y = 2 sqrt(counts + 3/8)`` (Anscombe, Biometrika 1948). This holds the same
    information as the counts. Its noise is nearly normal with deviation 1, so solvers of Gaussian
    noise run as they are, with ``sigma`` 1. :meth:`observe` draws from the Poisson law, and
    :meth:`log_likelihood` is that of the counts: neither is an approximation.

    Parameters
    ----------
    shape : tuple[int, int, int]
        Shape ``(C, H, W)`` of an image; the benchmark fills it in.
    rows : int, default 15
        Number of counts.
    intensity : float, default 1000.0
        Photons ``I0`` that a count would have without an object.
    unit : float, default 12.0
        Density that the value 1 of an image stands for.
    offset : float, default 10.0
        Density that the value 0 of an image stands for.
    seed : int, default 0
        Seed of ``M``.
    sigma : float, default 1.0
        Deviation of the noise of ``y``. It is 1, whatever the image.

    Raises
    ------
    ValueError
        If a number is not positive, or ``sigma`` is not 1.
    """

    caps: ClassVar[frozenset[str]] = frozenset({"nonlinear"})
    takes_shape: ClassVar[bool] = True

    shape: tuple[int, int, int]
    rows: int = 15
    intensity: float = 1000.0
    unit: float = 12.0
    offset: float = 10.0
    seed: int = 0
    sigma: float = 1.0

    def __post_init__(self) -> None:
        for name in ("rows", "intensity", "unit", "offset"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)} must be a positive number")
        if self.sigma != 1:
            raise ValueError(
                f"sigma {self.sigma}: the transformed counts have noise of deviation 1; change "
                "the intensity instead"
            )

    @override
    def A(self, x: Tensor) -> Tensor:
        return _transformed(self._rates(x)).to(x.dtype)

    @override
    def observe(self, x: Tensor, noise: Tensor) -> Tensor:
        """Count photons; ``noise`` chooses the quantiles of the Poisson law."""
        counts = _poisson_quantile(torch.special.ndtr(noise.double()), self._rates(x))
        return _transformed(counts).to(x.dtype)

    @override
    def log_likelihood(self, x: Tensor, y: Tensor, floor: float = 0.0) -> Tensor:
        """Return the Poisson log likelihood ``sum c log m - m`` of the counts ``c``."""
        rates = self._rates(x)
        return (self.counts(y) * rates.log() - rates).sum(1)

    @staticmethod
    def counts(y: Tensor) -> Tensor:
        """Return the counts of a measurement, float64, shaped like ``y``."""
        return (y.double().square() / 4 - 0.375).round()

    @override
    def first_guess(self, y: Tensor) -> Tensor:
        """Return the smallest image whose expected counts are nearest, on a logarithmic scale."""
        absorbed = math.log(self.intensity) - self.counts(y).clamp_min(0.5).log()
        weights = self._weights(y)
        density = absorbed - self.offset * weights.sum(1)
        image = density @ torch.linalg.pinv(weights).T / self.unit
        return image.to(y.dtype).unflatten(1, self.shape)

    def _rates(self, x: Tensor) -> Tensor:
        density = self.unit * x.flatten(1).double() + self.offset
        return self.intensity * (-density @ self._weights(x).T).exp()

    def _weights(self, like: Tensor) -> Tensor:
        return _uniform(self.rows, math.prod(self.shape), self.seed, like.device)


def _transformed(counts: Tensor) -> Tensor:
    return 2 * (counts + 0.375).sqrt()


def _poisson_quantile(share: Tensor, rates: Tensor) -> Tensor:
    """Return the smallest count whose probability of it or less reaches ``share``."""
    low = torch.full_like(rates, -1)
    high = (rates + 12 * rates.sqrt() + 30).ceil()  # no normal number in float32 comes so far
    for _ in range(int(high.max() + 1).bit_length()):
        middle = ((low + high) / 2).floor()
        reached = torch.special.gammaincc(middle.clamp_min(0) + 1, rates) >= share
        apart = high - low > 1
        high = torch.where(apart & reached, middle, high)
        low = torch.where(apart & ~reached, middle, low)
    return high


@cache
def _uniform(rows: int, values: int, seed: int, device: torch.device) -> Tensor:
    # drawn on the CPU, in float32 as in the released code
    entries = torch.rand(rows, values, generator=torch.Generator().manual_seed(seed))
    return (0.01 + 0.04 * entries).double().to(device)
