"""The long-run reference, against closed forms and stored importance sampling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.operators.base import Operator
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.operators.projection import Projection
from posterior_bench.operators.squared_projection import SquaredProjection
from posterior_bench.operators.xray import XRay
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.mixtures import bipsda, two_modes
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.exact import Exact
from posterior_bench.solvers.long_run import LongRun, LongRunPosterior

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "bipsda_golden.npz")
SHAPE = (1, 1, 10)


def noise(*images: str) -> Noise:
    return Noise([Key(0, "data", image) for image in images], "metric")


def run(
    solver: LongRun, prior: MixturePrior, operator: Operator, y: Tensor, *images: str
) -> LongRunPosterior:
    return solver.fit(Observation(y.float(), operator), prior, noise(*(images or "a")))


def test_a_linear_problem_with_two_open_modes() -> None:
    """The weights 0.27 and 0.73 are right only if chains change their mode."""
    prior = two_modes(separation=0.8)
    operator = Projection((1, 1, 2), rows=1, sigma=0.5, seed=3)
    y = torch.tensor([[0.1]])
    exact = Exact().fit(Observation(y, operator), prior, noise("a")).mixtures[0]
    found = run(LongRun(particles=128, stages=6, moves=2, steps=100), prior, operator, y)
    assert exact.weights.min() > 0.1
    error = 4 / found.ess.item() ** 0.5
    assert found.rhat.item() < 1.05 and found.ess.item() > 1000
    spread = exact.covariance.diagonal().sqrt()
    assert ((found.mean.flatten() - exact.mean).abs() < error * spread).all()
    assert (found.mode_weights[0] - exact.weights).abs().max() < error / 2
    total = exact.covariance.trace().sqrt().item()
    measured = (found.mean.flatten() - exact.mean).norm().item() / total
    assert measured < 4 * found.error.item() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["xray", "phase"])
def test_the_nonlinear_problems_of_bipsda(name: str) -> None:
    """Stored: importance sampling of 2e6 draws of the prior, with an error of about 0.003."""
    y = torch.from_numpy(GOLDEN[f"{name}_y"])[None]
    xray = name == "xray"
    operator = XRay(SHAPE) if xray else SquaredProjection(SHAPE, sigma=25 / 144)
    found = run(LongRun(), bipsda(), operator, 2 * (y + 0.375).sqrt() if xray else y / 144)
    assert found.rhat.item() < 1.02
    covariance = GOLDEN[f"{name}_cov"]
    deviation = np.sqrt(covariance.diagonal())
    error = np.hypot(deviation / found.ess.item() ** 0.5, 0.003)
    assert (np.abs(12 * found.mean.flatten().numpy() - GOLDEN[f"{name}_mean"]) < 4 * error).all()
    pool = 12 * found.sample(range(2000)).x[0].flatten(1).double()
    # 2000 draws of ten values: the trace scatters by about sqrt(2 / 20000) of itself, and more
    assert torch.cov(pool.T).trace().item() == pytest.approx(covariance.trace(), rel=0.05)
    assert found.mode_weights[0].tolist() == pytest.approx([0, 1, 0], abs=1e-6)
    share = float(GOLDEN[f"{name}_ess"]) / 2e6
    assert found.plain.item() == pytest.approx(share, rel=0.5)


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    solver = LongRun(particles=16, stages=3, moves=1, steps=8, kept=4)
    operator = SquaredProjection((1, 1, 2), rows=1, sigma=0.2)
    y = torch.tensor([[0.1], [3.0]])
    both = run(solver, two_modes(), operator, y, "a", "b")
    alone = run(solver, two_modes(), operator, y[1:], "b")
    assert torch.equal(both.mean[1], alone.mean[0]) and both.rhat[1] == alone.rhat[0]
    assert torch.equal(both.sample([0, 5]).x[1], alone.sample([0, 5]).x[0])
    assert torch.equal(both.sample([5]).x[:, 0], both.sample([0, 5]).x[:, 1])


def test_chains_that_cannot_agree_say_so() -> None:
    """Without moves and with two far modes, the halves of short chains differ."""
    operator = SquaredProjection((1, 1, 2), rows=2, sigma=0.001)
    y = operator.A(torch.tensor([[[[0.3, 0.9]]]]))
    found = run(LongRun(particles=8, stages=1, moves=0, steps=8, kept=4), two_modes(), operator, y)
    assert found.rhat.item() > 1.1 and found.ess.item() < 64


@pytest.mark.parametrize(
    "settings", [{"particles": 1}, {"steps": 3, "kept": 2}, {"kept": 500}, {"stages": 0}]
)
def test_too_little_work_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        LongRun(**settings)


def test_a_problem_that_it_cannot_sample_is_refused() -> None:
    lacks = LongRun().lacks
    few = two_modes().caps | SquaredProjection.caps
    assert not lacks(few, 0.1) and lacks(few, 0.0) == {"noise"}
    assert lacks(two_modes().caps | Projection.caps, 0.1) == {"nonlinear"}
    mask = torch.ones(1, 1, 1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="use solver=exact"):
        run(LongRun(), two_modes(), Inpainting(sigma=0.1, mask=mask), torch.ones(1, 1, 1, 2))
