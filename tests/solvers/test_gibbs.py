"""The Gibbs sampler, against closed forms, sums over a grid and another implementation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.priors.levy_grid import posterior_mean
from torch import Tensor

from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.operators.base import Operator
from posterior_bench.operators.denoising import Denoising
from posterior_bench.operators.fourier import Fourier
from posterior_bench.operators.gaussian_blur import GaussianBlur
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.increments import BernoulliLaplace, Gauss, Laplace, Law, Student
from posterior_bench.priors.levy import LevyPrior, levy_gauss
from posterior_bench.priors.mixtures import g2
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.exact import Exact
from posterior_bench.solvers.gibbs import Gibbs, GibbsPosterior

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "levy_golden.npz")
SHAPE = (1, 1, 64)
BINS = (0, 1, 2, 3, 4, 6, 8, 9, 12, 13, 17, 18, 19, 21, 25, 27, 29, 31, 32)
LAWS: dict[str, Law] = {
    "gauss": Gauss(0.5),
    "laplace": Laplace(),
    "student1": Student(freedom=1),
    "bl": BernoulliLaplace(),
}


def observed(key: str) -> Observation:
    """A measurement of the golden file."""
    sigma = float(GOLDEN[f"{key}_var"]) ** 0.5
    y = torch.from_numpy(GOLDEN[f"{key}_y"])[None]
    mask = torch.from_numpy(GOLDEN["indices"]).view(1, 1, 1, 64)
    operators: dict[str, Operator] = {
        "identity": Denoising(SHAPE, sigma),
        "sample": Inpainting(mask, sigma),
        "convolution": GaussianBlur(SHAPE, 13, 2.0, "circular", sigma),
        "fourier": Fourier(SHAPE, BINS, sigma),
    }
    kind = key.split("_")[1]
    if kind == "sample":
        y = torch.zeros(1, 64, dtype=y.dtype).masked_scatter(mask.view(1, 64), y)
    return Observation(y if kind == "fourier" else y.view(1, *SHAPE), operators[kind])


def noise(rows: int = 1) -> Noise:
    return Noise([Key(0, "levy", str(i)) for i in range(rows)], "solver")


def fitted(key: str, solver: Gibbs) -> GibbsPosterior:
    return solver.fit(observed(key), LevyPrior(LAWS[key.split("_")[0]]), noise())


def moments(posterior: GibbsPosterior) -> tuple[Tensor, Tensor]:
    states = posterior.states[0].flatten(0, 1).double()
    return states.mean(0), states.std(0)


@pytest.mark.parametrize("kind", ["identity", "sample", "convolution", "fourier"])
def test_the_golden_measurements_are_of_our_operators(kind: str) -> None:
    """The closed form for our operators gives the means and deviations of the golden file."""
    key = f"gauss_{kind}"
    (posterior,) = Exact().fit(observed(key), levy_gauss(), noise()).mixtures
    np.testing.assert_allclose(posterior.mean, GOLDEN[f"{key}_mean"], atol=2e-5)
    deviation = posterior.covariance.diagonal().sqrt()
    np.testing.assert_allclose(deviation, GOLDEN[f"{key}_sd"], atol=2e-5)


@pytest.mark.parametrize("kind", ["sample", "fourier"])
def test_gaussian_increments_in_closed_form(kind: str) -> None:
    key = f"gauss_{kind}"
    posterior = fitted(key, Gibbs(chains=2, burn_in=0, kept=1000, thin=1))
    (exact,) = Exact().fit(observed(key), levy_gauss(), noise()).mixtures
    for x in (posterior.states[0].flatten(0, 1), posterior.sample(range(2000)).x[0].flatten(1)):
        x = x.double()
        deviation = exact.covariance.diagonal().sqrt()
        # 2000 independent draws: 64 means within 4.5 standard errors
        assert ((x.mean(0) - exact.mean) / deviation).abs().max() < 4.5 / math.sqrt(2000)
        correlation = (x.T.cov() - exact.covariance) / deviation / deviation[:, None]
        assert correlation.abs().max() < 5.5 * math.sqrt(2 / 2000)
    assert (posterior.rhat - 1).abs().item() < 0.02 and posterior.ess.item() > 1000


@pytest.mark.slow
@pytest.mark.parametrize("key", ["laplace_identity", "laplace_sample", "student1_identity"])
def test_the_golden_posteriors(key: str) -> None:
    posterior = fitted(key, Gibbs(kept=750, thin=3))
    mean, deviation = moments(posterior)
    assert posterior.rhat.item() < 1.02
    # both are Monte Carlo means with some thousand effective draws
    off = (mean - torch.from_numpy(GOLDEN[f"{key}_mean"])) / torch.from_numpy(GOLDEN[f"{key}_sd"])
    assert off.abs().max() < 0.12 and off.square().mean().sqrt() < 0.03
    np.testing.assert_allclose(deviation, GOLDEN[f"{key}_sd"], rtol=0.1)


@pytest.mark.slow
def test_the_golden_posterior_of_jumps() -> None:
    mean, deviation = moments(fitted("bl_identity", Gibbs(burn_in=200, kept=400, thin=1)))
    # half the difference of two runs of the golden chains is up to 0.004
    assert (mean - torch.from_numpy(GOLDEN["bl_identity_mean"])).abs().max() < 0.05
    assert deviation.square().mean().item() == pytest.approx(0.0170, rel=0.12)


@pytest.mark.parametrize(
    ("law", "sigma"), [(Laplace(), 0.7), (Student(freedom=3), 0.7), (BernoulliLaplace(), 0.4)]
)
def test_denoising_by_sums_over_a_grid(law: Law, sigma: float) -> None:
    rng = np.random.default_rng(1)
    ranks = torch.from_numpy(rng.uniform(size=(1, 12)))
    z = law.quantile(ranks).cumsum(-1).numpy()[0] + sigma * rng.standard_normal(12)
    step, width = 0.02, 2000
    edges = step * (torch.arange(-width, width + 2, dtype=torch.float64) - 0.5)
    if isinstance(law, BernoulliLaplace):
        increments = law.jumps * _masses(Laplace(), edges)
        increments[width] += 1 - law.jumps
    else:
        increments = _masses(law, edges)
    expected = posterior_mean(increments, z, sigma, step)
    shape = (1, 1, 12)
    obs = Observation(torch.from_numpy(z).view(1, *shape), Denoising(shape, sigma))
    posterior = Gibbs(burn_in=50, kept=250, thin=1).fit(obs, LevyPrior(law, shape=shape), noise())
    mean, deviation = moments(posterior)
    error = deviation / posterior.ess.sqrt()
    assert ((mean - torch.from_numpy(expected)).abs() / error).max() < 4.5
    assert posterior.rhat.item() < 1.05


def _masses(law: Law, edges: Tensor) -> np.ndarray:
    """The probability of each cell of a grid, by the trapezoidal rule on eight parts of it."""
    parts = edges[:-1, None] + (edges[1] - edges[0]) * torch.linspace(0, 1, 9)
    return torch.trapezoid(law.log_prob(parts).exp(), parts, dim=1).numpy()


def test_rows_and_draws_stand_alone() -> None:
    solver, prior = Gibbs(chains=2, burn_in=5, kept=6, thin=1), LevyPrior(BernoulliLaplace())
    y = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    together = solver.fit(Observation(y, Denoising(SHAPE, 0.1)), prior, noise(3))
    alone = solver.fit(Observation(y[:1], Denoising(SHAPE, 0.1)), prior, noise(1))
    x = together.sample([0, 1, 2]).x
    assert x.shape == (3, 3, *SHAPE) and x.dtype == torch.float32
    torch.testing.assert_close(x[:1], alone.sample([0, 1, 2]).x)
    assert torch.equal(x[:, 2:], together.sample([2]).x)
    assert (x.flatten(2).diff() == 0).any(), "where nothing jumps, the signal is exactly flat"


def test_what_it_refuses() -> None:
    y = torch.zeros(1, *SHAPE)
    with pytest.raises(ValueError, match="needs noise in the measurement"):
        Gibbs().fit(Observation(y, Denoising(SHAPE, 0.0)), LevyPrior(Laplace()), noise())
    with pytest.raises(ValueError, match="needs a Lévy prior, not a MixturePrior"):
        Gibbs().fit(Observation(y, Denoising(SHAPE, 0.1)), g2(), noise())
    for name, value in (("chains", 0), ("kept", 3), ("sigma_floor", -1.0)):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            Gibbs(**{name: value})
    assert Gibbs().lacks(g2().caps | Denoising.caps, 0.1) == {"increments"}
