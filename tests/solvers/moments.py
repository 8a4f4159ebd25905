"""Moments of many samples of two pixels, for values that were measured over many runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.base import Prior
from posterior_bench.solvers.base import Observation, Sampler


class OneGenerator:
    """Noise in float64 from one generator for all rows, which is fast."""

    def __init__(self, rows: int, seed: int = 0):
        self.rows, self.generator = rows, torch.Generator().manual_seed(seed)

    def normal(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(self.rows, *shape, generator=self.generator, dtype=torch.float64)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return torch.rand(self.rows, *shape, generator=self.generator)

    host_uniform = uniform


def first_seen(rows: int, y: float = 1.0, sigma: float = 0.05) -> Observation:
    """Two pixels, of which the first is observed as exactly ``y``."""
    mask = torch.tensor([True, False]).view(1, 1, 1, 2).expand(rows, 1, 1, 2)
    value = torch.tensor([y, 0.0], dtype=torch.float64).view(1, 1, 1, 2).expand(rows, 1, 1, 2)
    return Observation(value.clone(), Inpainting(mask, sigma))


def moments(sampler: Sampler, prior: Prior, rows: int) -> list[float]:
    """Return mean 1, mean 2, deviation 1 and variance 2 of the samples."""
    x = sampler.draw(first_seen(rows), prior, OneGenerator(rows)).flatten(1)
    return [*x.mean(0).tolist(), x[:, 0].std().item(), x[:, 1].var().item()]
