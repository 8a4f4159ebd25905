"""VIPaint: the fit against the exact posterior of a Gaussian prior, the draws against its law."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from operators.inpainting import Inpainting
from priors.mixture import MixturePrior
from priors.process import VE, VP, Level, Process
from solvers.base import Observation
from solvers.chain import Chain
from solvers.refinement import Refinement
from solvers.vipaint import VIPaint

CIN256 = VP.scheduled("scaled_linear", 0.0015, 0.0195)
MEAN = torch.tensor([0.5, -1.0, 0.0, 0.3, 1.2, -0.4], dtype=torch.float64)
VAR = torch.tensor([0.5, 1.0, 0.2, 0.8, 0.3, 1.5], dtype=torch.float64) ** 2
Y = torch.tensor([1.0, -2.0, 0.4, 0.0, 0.0, 0.0], dtype=torch.float64)
SEEN = torch.tensor([True, True, True, False, False, False])
SCALE = 0.3


class DoubleNoise:
    """Independent normals and uniforms in float64; every draw index starts its own stream."""

    def __init__(self, rows: int, seed: int = 0):
        self.rows, self.seed = rows, seed
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(self.rows, *shape, generator=self.generator, dtype=torch.float64)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return torch.rand(self.rows, *shape, generator=self.generator, dtype=torch.float64)

    def draws(self, draws: Sequence[int]) -> DoubleNoise:
        return DoubleNoise(self.rows * len(draws), self.seed + 1 + draws[0])


def gaussian(process: Process = CIN256, mean: Tensor = MEAN, var: Tensor = VAR) -> MixturePrior:
    """Independent scalars with an exact denoiser."""
    return MixturePrior(process, torch.ones(1), mean[None], torch.diag(var)[None], (1, 1, len(mean)))


def observed(images: int, y: Tensor = Y, seen: Tensor = SEEN) -> Observation:
    """The same observation for every image."""
    shape = (images, 1, 1, len(y))
    return Observation(y.expand(shape).clone(), Inpainting(mask=seen.expand(shape)))


# -- the exact posterior, by backward messages ------------------------------------------------------------------------


@dataclass
class Exact:
    """Moments of the posterior at the top keypoint; gamma, mu, tau^2 of every step below, noisiest first."""

    log_evidence: float
    mean: Tensor
    var: Tensor
    steps: list[tuple[Tensor, Tensor, Tensor]]


def affine(t: Level) -> tuple[Tensor, Tensor]:
    """``x0(z) = c z + d``."""
    c = t.alpha * VAR / (t.alpha**2 * VAR + t.sigma**2)
    return c, MEAN - c * t.alpha * MEAN


def exact(levels: Sequence[Level], eta: float) -> Exact:
    c, d = affine(levels[-1])
    precision, shift = SEEN * c**2 / SCALE**2, SEEN * c * (Y - d) / SCALE**2
    top = levels[0]
    prior_mean, prior_var = top.alpha * MEAN, top.alpha**2 * VAR + top.sigma**2
    steps = []
    for t, s in reversed(list(zip(levels, levels[1:], strict=False))):
        r = t.alpha / s.alpha
        v = eta * (t.sigma**2 - r**2 * s.sigma**2) * s.sigma**2 / t.sigma**2
        direction = math.sqrt(s.sigma**2 - v) / t.sigma
        c_t, d_t = affine(t)
        A, B = direction + (s.alpha - direction * t.alpha) * c_t, (s.alpha - direction * t.alpha) * d_t
        gamma = 1 / (1 + v * precision)
        steps.insert(0, (gamma, shift / precision, v * gamma))
        precision, shift = A**2 * precision * gamma, A * shift * gamma - A * B * precision * gamma
    # the evidence by running the prior forward
    mean, var = prior_mean, prior_var
    for t, s in zip(levels, levels[1:], strict=False):
        direction = math.sqrt(s.sigma**2 - eta * Process.transition(s, t).var) / t.sigma
        c_t, d_t = affine(t)
        A = direction + (s.alpha - direction * t.alpha) * c_t
        mean, var = A * mean + (s.alpha - direction * t.alpha) * d_t, A**2 * var + eta * Process.transition(s, t).var
    predicted = torch.distributions.Normal(c * mean + d, (c**2 * var + SCALE**2).sqrt())
    posterior_var = 1 / (1 / prior_var + precision)
    posterior_mean = posterior_var * (prior_mean / prior_var + shift)
    return Exact(predicted.log_prob(Y)[SEEN].sum().item(), posterior_mean, posterior_var, steps)


GOLDEN = [
    (
        (550, 400), 0.2, -3.513227, (0.691071, -1.693381, 0.086454, 0.082298, 0.329192, -0.109731),
        (0.811703, 0.374745, 0.923528, 0.972908, 0.931518, 1.094069),
        (0.973760, 0.773478, 0.999220), (0.109474, 0.086958, 0.112337),
    ),
    (
        (550, 400), 1.0, -3.566061, (0.457306, -1.197852, 0.048510), (0.899647, 0.746653, 0.926424),
        (0.881262, 0.405794, 0.996114), (0.495376, 0.228105, 0.559937),
    ),
    (
        (550, 500, 450, 400), 0.2, -3.481215, (0.676410, -1.640970, 0.083854), (0.818339, 0.403494, 0.923779),
        (0.987602, 0.879945, 0.999637), (0.051725, 0.046087, 0.052356),
    ),
    (
        (550, 500, 450, 400), 1.0, -3.499434, (0.456046, -1.147295, 0.048509), (0.899820, 0.760522, 0.926425),
        (0.940938, 0.594469, 0.998186), (0.246407, 0.155676, 0.261399),
    ),
]  # fmt: skip


def near(values: Tensor, golden: Sequence[float], tolerance: float = 2e-6) -> bool:
    return values[: len(golden)].tolist() == pytest.approx(list(golden), rel=0, abs=tolerance)


@pytest.mark.parametrize(("indices", "eta", "evidence", "mean", "var", "gamma", "tau2"), GOLDEN)
def test_the_backward_messages_give_the_golden_posterior(indices, eta, evidence, mean, var, gamma, tau2):
    """This checks the reference of the tests below."""
    answer = exact([CIN256.level_at_index(k) for k in indices], eta)
    assert answer.log_evidence == pytest.approx(evidence, abs=2e-6)
    assert near(answer.mean, mean) and near(answer.var, var)
    assert near(answer.steps[-1][0], gamma) and near(answer.steps[-1][2], tau2)
    assert near(answer.steps[-1][1], (3.64635, -2.54947, 16.0044), 1e-4)
