"""An exact reference for whole priors: networks that answer as perfectly trained ones would."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.priors.base import Prior
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.process import VE, VP, Flow, Level, Process

SHAPE = (1, 1, 2)


def mixture(process: Process) -> MixturePrior:
    """Three unequal, correlated components in two dimensions."""
    means = torch.tensor([[0.6, -0.4], [-0.7, 0.1], [0.1, 0.8]])
    factors = torch.tensor(
        [[[0.3, 0.0], [0.2, 0.1]], [[0.2, 0.0], [-0.1, 0.2]], [[0.1, 0.0], [0.0, 0.4]]]
    )
    return MixturePrior(process, torch.tensor([0.5, 0.3, 0.2]), means, factors @ factors.mT, SHAPE)


class PerfectNet(nn.Module):
    """Puts out what a perfectly trained network would: the exact denoiser, written as ``kind``.

    Like a real network it sees its scaled input and a time and nothing else. A label shifts its
    output, so that guidance has something to do; label 2 is 'none'.
    """

    def __init__(self, kind: str, process: Process, sigma_data: float = 0.5):
        super().__init__()
        self.kind, self.process, self.sigma_data, self.rows = kind, process, sigma_data, 0
        self.exact = mixture(process)

    def level(self, t: float) -> Level:
        if isinstance(self.process, VE):
            return Level(1.0, math.exp(4 * t))
        if isinstance(self.process, VP):
            return self.process.level_at_index(t)
        return Level(1 - t / 1000, t / 1000)

    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        self.rows += len(x)
        level = Level.stack([self.level(value) for value in t.tolist()])
        alpha, sigma = level.alpha, level.sigma
        z = x * (alpha**2 * self.sigma_data**2 + sigma**2) ** 0.5 if self.kind == "edm" else x
        x0 = self.exact.denoise(z, level)
        if "label" in cond:
            x0 = x0 + torch.tensor([0.1, -0.2, 0.0], dtype=x0.dtype)[cond["label"]].view(
                -1, 1, 1, 1
            )
        eps = (z - alpha * x0) / sigma
        if self.kind == "edm":
            r, sd = sigma / alpha, self.sigma_data
            return (
                (x0 - sd**2 / (r**2 + sd**2) * z / alpha) / (r * sd / (r**2 + sd**2) ** 0.5)
            ).to(x.dtype)
        v = (alpha * eps - sigma * x0) / (alpha**2 + sigma**2) ** 0.5
        return {"eps": eps, "x0": x0, "v": v, "flow": eps - x0}[self.kind].to(x.dtype)


PAIRS: dict[str, tuple[Callable[[], Process], str]] = {
    "ve-edm": (VE, "edm"),
    "ve-eps": (VE, "eps"),
    "vp-eps": (lambda: VP.scheduled("linear", 1e-4, 0.02), "eps"),
    "vp-v": (lambda: VP.scheduled("linear", 1e-4, 0.02), "v"),
    "ldm-x0": (lambda: VP.scheduled("scaled_linear", 0.0015, 0.0195), "x0"),
    "flow-flow": (Flow, "flow"),
    "flow-edm": (lambda: Flow(shift=3.0), "edm"),
}
"""Seven families of checkpoints: a process, and what the network puts out."""


@pytest.fixture(params=PAIRS)
def perfect(request: pytest.FixtureRequest) -> Prior:
    """A prior of each family over the same mixture."""
    return perfect_prior(request.param)


def perfect_prior(name: str, **settings: object) -> Prior:
    make, kind = PAIRS[name]
    process = make()
    return Prior(process, PerfectNet(kind, process), SHAPE, kind, **settings)  # type: ignore[arg-type]


class DoubleNoise:
    """Seeded noise in float64, so that round-off cannot hide or fake a difference."""

    def __init__(self, rows: int):
        self.base = Noise([Key(0, "test", str(i)) for i in range(rows)], "solver")

    def normal(self, shape: Sequence[int]) -> Tensor:
        return self.base.normal(shape).double()


@pytest.fixture
def double_noise() -> Callable[[int], DoubleNoise]:
    return DoubleNoise


@pytest.fixture
def make_perfect() -> Callable[..., Prior]:
    return perfect_prior


@pytest.fixture
def make_mixture() -> Callable[[Process], MixturePrior]:
    return mixture
