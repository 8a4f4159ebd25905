"""PnP-DM: its moments on two pixels, the law of a long chain, and dense matrices."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from tests.solvers.conftest import BasisNoise
from tests.solvers.test_spectral import EYE, PROXIMAL, SHAPE, SIZE, Dense, operator, problem
from torch import Tensor

from posterior_bench.operators.hdr import HDR
from posterior_bench.operators.phase_retrieval import PhaseRetrieval
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.mixtures import g2 as named_g2
from posterior_bench.priors.process import VE
from posterior_bench.solvers.base import Observation, Sampler
from posterior_bench.solvers.pnpdm import PnPDM


def _noisy(obs: Observation, sigma: float = 0.1) -> Observation:
    return replace(obs, operator=replace(obs.operator, sigma=sigma))


@dataclass(frozen=True)
class Noisy(Sampler):
    """A sampler whose measurement has noise of 0.1."""

    sampler: Sampler

    def draw(self, obs, prior, noise):
        return self.sampler.draw(_noisy(obs), prior, noise)


# -- moments ---------------------------------------------------------------------------------------

OWN = PnPDM(60, 40, rho_min=0.1, spacing="own")
RELEASED = PnPDM(60, 100, rho_min=0.1, compat="released")
# means, variance of the first pixel, covariance, variance of the second; the released loops were
# run with 1e5 draws, the others with 5e4, which is an error of 0.002
GOLDEN = {
    "own-10": (replace(OWN, steps=10), 0.9791, 0.8584, 0.0130, 0.0132, 0.1551),
    "own-40": (OWN, 0.9781, 0.8641, 0.0177, 0.0172, 0.1965),
    "own-not-mixed": (
        replace(OWN, rho_min=0.02, iterations=80),
        *(0.9869, 0.8461, 0.0101, 0.0104, 0.1995),
    ),
    "released-30": (replace(RELEASED, steps=30), 0.9769, 0.8671, 0.0216, 0.0195, 0.2081),
    "released-30-wide": (
        replace(RELEASED, steps=30, rho_min=0.3),
        *(0.9302, 0.8432, 0.0805, 0.0709, 0.2765),
    ),
    "released-100": (RELEASED, 0.9819, 0.8613, 0.0174, 0.0161, 0.2257),
}
LONG = ("own-40", "own-not-mixed", "released-100", "released-30")
CASES = [pytest.param(k, marks=pytest.mark.slow) if k in LONG else k for k in GOLDEN]


@pytest.mark.parametrize("case", CASES)
def test_law_on_a_gaussian(case, g2, law):
    """The exact law of the run, against simulations of others; noise of 0.1 and one pixel seen."""
    solver, *golden = GOLDEN[case]
    mean, covariance = law(Noisy(solver), g2("ve"))
    found = [*mean.tolist(), *covariance.flatten().tolist()[:2], covariance[1, 1].item()]
    assert found == pytest.approx(golden, abs=0.006)


@pytest.mark.parametrize(("steps", "rho_min", "calls"), [(30, 0.1, 669), (30, 0.3, 713)])
def test_released_calls(steps, rho_min, calls, g2, observe, double_noise):
    """As many as the released code made: the levels of a grid from 80 to 0.002 that are below
    ``rho``, summed over iterations."""
    solver, prior = PnPDM(60, steps, rho_min=rho_min, compat="released"), g2("ve")
    with prior.metered() as meter:
        solver.draw(observe((True, False)), prior, double_noise(1))
    assert (meter.nfe, meter.nge) == (calls, 0)


def test_calls_by_hand(g2, observe, double_noise):
    prior = g2("ve")
    top, bottom = 80.0 ** (1 / 7), 0.002 ** (1 / 7)
    grid = [(top + k / 19 * (bottom - top)) ** 7 for k in range(20)]
    shared = sum(1 + sum(sigma < max(0.2, 10 * 0.5**i) for sigma in grid) for i in range(9))
    for spacing, calls in (("shared", shared), ("own", 9 * 20)):
        solver = PnPDM(9, 20, decay=0.5, rho_min=0.2, spacing=spacing)
        with prior.metered() as meter:
            solver.draw(observe((True, False), rows=2), prior, double_noise(2))
        assert (meter.nfe, meter.nge) == (2 * calls, 0)


def _stationary(solver: PnPDM, obs: Observation, prior: MixturePrior) -> tuple[Tensor, Tensor]:
    """The law that an iteration keeps; the first noise of a run is the image it starts from."""
    d = prior.means.shape[1]
    count = BasisNoise(1)
    solver.draw(obs.repeat(1), prior, count)
    x = solver.draw(obs.repeat(1 + count.used), prior, BasisNoise(1 + count.used)).flatten(1)
    shift, columns = x[0], x[1:] - x[0]
    A, own = columns[:d].T, columns[d:].T @ columns[d:]
    mean = torch.linalg.solve(torch.eye(d).double() - A, shift)
    covariance = torch.linalg.solve(
        torch.eye(d * d).double() - torch.kron(A.contiguous(), A.contiguous()), own.flatten()
    ).view(d, d)
    return mean, covariance


@pytest.mark.parametrize("kind", ["ve", "vp"])
@pytest.mark.parametrize("rho", [0.1, 0.3])
def test_a_long_chain_has_the_posterior_of_a_noisier_measurement(rho, kind, g2, observe):
    prior = g2(kind)
    solver = PnPDM(1, 250, rho_max=rho, rho_min=rho, spacing="own")
    mean, covariance = _stationary(solver, _noisy(observe((True, False))), prior)
    exact = prior.posterior(torch.tensor([[1.0, 0.0]]), torch.ones(1), (0.1**2 + rho**2) ** 0.5)
    torch.testing.assert_close(mean, exact.mean, atol=0.015, rtol=0)
    torch.testing.assert_close(covariance, exact.covariance, atol=0.02, rtol=0)


@pytest.mark.parametrize("name", ["super-resolution", "projection"])
def test_the_noise_of_a_long_chain_passes_the_operator(name):
    """Covariance ``sigma_y^2 I + rho^2 A A^T``, by whitening measurement and matrix with it."""
    sigma, rho = 0.2, 0.3
    obs, prior, dense = problem(name, sigma, "ve")
    one = Observation(obs.y[:1], operator(name, sigma, 1))
    solver = PnPDM(1, 150, rho_max=rho, rho_min=rho, spacing="own")
    mean, covariance = _stationary(solver, one, prior)
    noise = sigma**2 * torch.eye(len(dense.A)).double() + rho**2 * dense.A @ dense.A.T
    white = torch.linalg.inv(torch.linalg.cholesky(noise))
    exact = prior.posterior(white @ dense.A, white @ one.y.flatten(), 1.0)
    torch.testing.assert_close(mean, exact.mean, atol=0.015, rtol=0)
    torch.testing.assert_close(covariance, exact.covariance, atol=0.02, rtol=0)


def test_nothing_observed_keeps_the_prior(g2, observe):
    solver = PnPDM(1, 400, rho_max=1.0, rho_min=1.0, spacing="own")
    mean, covariance = _stationary(solver, observe((False, False)), g2("ve"))
    torch.testing.assert_close(mean, torch.zeros(2).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(covariance, g2("ve").covariances[0], atol=0.02, rtol=0)


def test_a_small_coupling_freezes_the_image(g2, observe, double_noise):
    solver = PnPDM(3, 5, rho_max=0.002, rho_min=0.002, spacing="own")
    x = solver.draw(observe((False, False), rows=4), g2("ve"), double_noise(4))
    start = double_noise(4).normal((1, 1, 2))
    assert 0 < (x - start).abs().max() < 0.02


# -- the draw given the measurement ----------------------------------------------------------------


@pytest.mark.parametrize("name", PROXIMAL)
def test_a_perturbed_proximal_point_is_a_draw(name):
    """Mean and covariance of ``N(z; x, rho^2 I) p(y | z)``, from dense precision matrices."""
    sigma, rho = 0.3, 0.5
    obs, prior, _ = problem(name, sigma, "ve")
    dense = Dense.of(obs.operator, 0.0)
    rows = 1 + SIZE + obs.y[0].numel()
    many = Observation(obs.y[:1].expand(rows, *obs.y.shape[1:]), operator(name, sigma, rows))
    x = torch.randn(1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    z = (
        PnPDM()
        ._given_measurement(x.expand(rows, *SHAPE), rho, many, prior, BasisNoise(rows))
        .flatten(1)
    )
    precision = dense.A.T @ dense.A / sigma**2 + EYE / rho**2
    pull = obs.y[0].flatten() @ dense.A / sigma**2 + x.flatten() / rho**2
    torch.testing.assert_close(z[0], torch.linalg.solve(precision, pull), atol=1e-8, rtol=0)
    columns = z[1:] - z[0]
    torch.testing.assert_close(columns.T @ columns, torch.linalg.inv(precision))


def test_langevin_has_the_variance_that_it_says(g2, observe):
    """An autoregression of order one: the observed pixel forgets its start."""
    solver = PnPDM(likelihood="langevin", langevin_lr=0.4, langevin_steps=60)
    rows, rho = 1 + 2 * 60, 0.3
    obs, x = _noisy(observe((True, False), rows=rows)), torch.full((rows, 1, 1, 2), 0.2).double()
    z = solver._given_measurement(x, rho, obs, g2("ve"), BasisNoise(rows))[:, 0, 0, 0]
    precision = 1 / 0.1**2 + 1 / rho**2
    assert z[0].item() == pytest.approx((1 / 0.1**2 + 0.2 / rho**2) / precision, abs=1e-6)
    variance = (z[1:] - z[0]).square().sum().item()
    assert variance == pytest.approx(1 / precision / (1 - 0.4 / 2), rel=1e-6)


class Batch:
    """One generator for all rows."""

    def __init__(self, rows: int):
        self.rows, self.generator = rows, torch.Generator().manual_seed(0)

    def normal(self, shape):
        return torch.randn(self.rows, *shape, generator=self.generator)


def test_langevin_takes_operators_that_are_not_linear():
    """One pixel of an overexposed image, against its density on a fine grid."""
    rows, sigma, rho, y, x = 20000, 0.3, 0.5, 0.4, 0.1
    z = torch.linspace(-4, 4, 4001).double()
    density = (
        -((y - (2 * z).clamp(-1, 1)) ** 2) / (2 * sigma**2) - (z - x) ** 2 / (2 * rho**2)
    ).exp()
    density = density / density.sum()
    mean = (density * z).sum().item()
    variance = (density * (z - mean) ** 2).sum().item()
    solver = PnPDM(likelihood="langevin", langevin_lr=0.03, langevin_steps=600)
    obs = Observation(torch.full((rows, 1, 1, 1), y), HDR(sigma=sigma))
    start, prior = torch.full((rows, 1, 1, 1), x), named_g2("ve")
    found = solver._given_measurement(start, rho, obs, prior, Batch(rows))
    assert found.mean().item() == pytest.approx(mean, abs=0.012)
    assert found.var().item() == pytest.approx(variance, rel=0.08)


@pytest.mark.parametrize("likelihood", ["exact", "langevin"])
def test_no_noise_is_taken_as_little_noise(likelihood, g2, observe, double_noise):
    solver = PnPDM(2, 4, spacing="own", likelihood=likelihood, sigma_floor=0.05)
    obs, prior = observe((True, False)), g2("ve")
    x = [solver.draw(o, prior, double_noise(1)) for o in (obs, _noisy(obs, 0.05))]
    assert torch.equal(*x)


# -- rows, settings --------------------------------------------------------------------------------

SOLVERS = {
    "exact": PnPDM(5, 6, spacing="own"),
    "released": PnPDM(5, 6, compat="released"),
    "langevin": PnPDM(3, 6, likelihood="langevin", langevin_steps=8),
}


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_a_row_does_not_depend_on_its_batch(solver, g2, observe, seeded_noise):
    prior, y = g2("ve"), torch.linspace(-1, 1, 5)
    batch = solver.draw(observe((True, False), y, rows=5), prior, seeded_noise(range(5)))
    alone = solver.draw(observe((True, False), y[3:4]), prior, seeded_noise([3]))
    torch.testing.assert_close(batch[3:4], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_a_broken_row_breaks_no_other(solver, g2, observe, double_noise):
    y = torch.tensor([0.1, torch.nan, 0.3])
    x = solver.draw(observe((True, False), y, rows=3), g2("ve"), double_noise(3))
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]
    assert not x.requires_grad


def test_phases_are_retrieved_up_to_the_sign(double_noise):
    """Amplitudes of white images of deviation 0.5; the best of a few chains fits them."""
    shape, rows = (1, 4, 4), 16
    prior = MixturePrior(VE(), torch.ones(1), torch.zeros(1, 16), 0.25 * torch.eye(16)[None], shape)
    made = PhaseRetrieval(shape, sigma=0.02)
    truth = 0.5 * torch.randn(1, *shape, generator=torch.Generator().manual_seed(1)).double()
    obs = Observation(made.A(truth).expand(rows, -1, -1, -1), made)
    solver = PnPDM(25, 5, 1.0, 0.85, 0.05, "own", "langevin", 40, 0.5)
    x = solver.draw(obs, prior, double_noise(rows))
    away = (made.A(x) - obs.y).square().flatten(1).mean(1).sqrt()
    assert away.min() < 0.05 < (made.A(torch.zeros_like(x)) - obs.y).square().mean().sqrt()


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(PnPDM(2, 3, spacing="own", guidance=2.5))
    assert len(seen) == 6
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


def test_what_the_settings_need():
    pixel = frozenset({"pixel", "grad", "nonlinear"})
    assert PnPDM().lacks(pixel, 0.1) == {"linear", "prox"}
    assert not PnPDM(likelihood="langevin").lacks(pixel, 0.1)
    assert PnPDM(likelihood="langevin").lacks(frozenset({"latent"}), 0.1) == {"pixel"}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"langevin_steps": 0}, "langevin_steps must be at least 1, got 0"),
        ({"langevin_lr": 0.0}, "langevin_lr must be positive, got 0.0"),
        ({"sigma_floor": 0.0}, "sigma_floor must be positive, got 0.0"),
        ({"rho_min": 20.0}, "need 0 < rho_min <= rho_max and 0 < decay <= 1"),
        ({"decay": 1.1}, "need 0 < rho_min <= rho_max and 0 < decay <= 1"),
        ({"spacing": "mine"}, "unknown spacing 'mine'; valid: shared, own"),
        ({"likelihood": "hmc"}, "unknown likelihood 'hmc'; valid: exact, langevin"),
        ({"compat": "authors"}, "unknown compat 'authors'; valid: none, released"),
        ({"spacing": "own", "compat": "released"}, "set spacing=shared"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        PnPDM(**setting)


def test_shipped_presets_are_complete(presets):
    built = presets("pnpdm")
    assert built["fast"].iterations * built["fast"].steps <= 200
    assert built["authors"] == PnPDM()
    assert built["authors_released"] == PnPDM(compat="released")
    # the authors' step size for phases is 1e-4 at a noise of 0.01
    phase = built["authors_phase"]
    step = phase.langevin_lr / (1 / 0.01**2 + 1 / phase.rho_min**2)
    assert step == pytest.approx(1e-4, rel=0.011)
    assert built["authors_phase_released"] == replace(phase, compat="released")


def test_a_smaller_budget_ends_at_the_same_coupling():
    small = PnPDM(60, 10, spacing="own").scaled(0.5)
    assert (small.iterations, small.steps) == (30, 10)
    assert small.decay**30 == pytest.approx(0.9**60, rel=1e-4)
