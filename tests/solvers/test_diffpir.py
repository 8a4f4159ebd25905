"""DiffPIR, against its exact law on a Gaussian prior and closed forms."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from posterior_bench.operators.gaussian_blur import GaussianBlur
from posterior_bench.operators.projection import Projection
from posterior_bench.operators.super_resolution import SuperResolution
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.mixtures import g2 as named_g2
from posterior_bench.priors.process import VE
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.diffpir import DiffPIR, _start

# mean and variance of the hidden pixel: exact propagation of the affine map
GOLDEN = {
    ("vp", 250): (0.8666, 0.1000),
    ("ve", 250): (0.8790, 0.0974),
    ("vp", 1000): (0.8873, 0.0966),
    ("ve", 1000): (0.8946, 0.0955),
}
CASES = [pytest.param(*key, marks=pytest.mark.slow) if key[1] == 1000 else key for key in GOLDEN]


@pytest.mark.parametrize(("kind", "steps"), CASES)
def test_law_on_a_gaussian(kind, steps, g2, law):
    mean, covariance = law(DiffPIR(steps, clip=False), g2(kind))
    assert (mean[1].item(), covariance[1, 1].item()) == pytest.approx(GOLDEN[kind, steps], abs=1e-4)


def test_a_single_step_in_closed_form(g2, observe, double_noise):
    """One step from sigma 80: the proximal mean of y and x0 with weights 1 and rho = lam sigma_n^2
    / 80^2."""
    prior, obs, noise = g2("ve"), observe((True, False), 0.7, rows=3), double_noise(3)
    obs = replace(obs, operator=replace(obs.operator, sigma=40.0))
    x0 = prior.denoise(80.0 * noise.normal((1, 1, 2)), prior.level(80.0))
    expected = x0.clone()
    expected[..., 0] = (0.7 + 0.5 * x0[..., 0]) / 1.5  # rho = 2 (40 / 80)^2
    x = DiffPIR(1, lam=2.0, clip=False).draw(obs, prior, double_noise(3))
    torch.testing.assert_close(x, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("sigma", "nearest"), [(0.0, 0), (0.05, 11), (0.3, 88)])
def test_the_released_start_is_a_state_at_the_level_of_the_noise(
    sigma, nearest, g2, observe, double_noise
):
    """One step: its call would leave the state, here the start, as it is, so it is not made."""
    prior, obs = g2("vp"), observe((True, False), 0.7)
    obs = replace(obs, operator=replace(obs.operator, sigma=sigma))
    ratios = [float(prior.level_at_index(k).ratio) for k in range(1000)]
    assert min(range(1000), key=lambda k: abs(ratios[k] - sigma)) == nearest
    top, low = prior.grid(1)[0], prior.level_at_index(nearest)
    image = torch.tensor([[[[0.7, -1.0]]]], dtype=torch.float64)
    a = top.alpha / low.alpha
    start = a * image + (top.sigma**2 - (a * low.sigma) ** 2) ** 0.5 * double_noise(1).normal(
        (1, 1, 2)
    )
    with prior.metered() as meter:
        x = DiffPIR(1, clip=False, grid="index", compat="released").draw(
            obs, prior, double_noise(1)
        )
    torch.testing.assert_close(x, start, atol=1e-12, rtol=0)
    assert meter.nfe == 0


def test_the_released_start_is_an_image(g2, double_noise):
    """An enlarged small image, a blurred one as it is, and the first guess of anything else."""
    shape = (1, 4, 4)
    prior = MixturePrior(VE(), torch.ones(1), torch.zeros(1, 16), torch.eye(16)[None], shape)
    flat = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    torch.testing.assert_close(
        _start(Observation(flat, SuperResolution(shape, 2)), prior),
        torch.full((1, *shape), 0.5, dtype=torch.float64),
    )
    y = double_noise(1).normal(shape)
    assert _start(Observation(y, GaussianBlur(shape)), prior) is y
    projection = Projection(shape)
    y = double_noise(1).normal((8,))
    assert torch.equal(_start(Observation(y, projection), prior), projection.pinv(y))


@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_no_pull_and_no_fresh_noise_is_ddim(kind, g2, observe, double_noise):
    prior, noise = g2(kind), double_noise(4)
    levels = prior.grid(30)
    z = levels[0].sigma * noise.normal((1, 1, 2))
    for t, s in pairwise(levels):  # Song et al. 2021, Eq. 12 with eta = 0
        x0 = prior.denoise(z, t)
        z = s.alpha * x0 + s.sigma * (z - t.alpha * x0) / t.sigma
    x = DiffPIR(30, lam=1e30, zeta=0.0, clip=False).draw(
        observe((True, False), rows=4), prior, double_noise(4)
    )
    torch.testing.assert_close(x, z, atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", ["vp", "ve", "flow"])
def test_observed_pixels_are_within_the_assumed_noise(kind, observe, double_noise):
    obs = observe((True, False), torch.linspace(-1, 1, 4), rows=4)
    x = DiffPIR(60, sigma_floor=1e-5).draw(obs, named_g2(kind), double_noise(4))
    torch.testing.assert_close(obs.operator.A(x), obs.y, atol=1e-3, rtol=0)


@pytest.mark.parametrize("zeta", [0.0, 0.5, 1.0])
def test_coordinates_do_not_matter(zeta, g2, observe, double_noise):
    prior, obs, solver = (
        g2("vp"),
        observe((True, False), rows=3),
        DiffPIR(40, zeta=zeta, grid="karras"),
    )
    native = solver.draw(obs, prior, double_noise(3))
    torch.testing.assert_close(
        solver.draw(obs, prior.view("ve"), double_noise(3)), native, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"zeta": 1.5}, r"zeta 1.5 is outside \[0, 1\]"),
        ({"lam": 0.0}, "lam must be positive, got 0.0"),
        ({"sigma_floor": 0.0}, "sigma_floor must be positive, got 0.0"),
        ({"compat": "authors"}, "unknown compat 'authors'; valid: none, released"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        DiffPIR(**setting)


def test_shipped_presets_are_complete(presets):
    built = presets("diffpir")
    assert built["authors"].steps == 20
    assert built["authors_released"] == replace(built["authors"], compat="released")
    for task in ("sr", "deblur"):  # the released lam is four times ours
        ours, released = built[f"authors_{task}"], built[f"authors_{task}_released"]
        assert released == replace(ours, lam=4 * ours.lam, compat="released")
