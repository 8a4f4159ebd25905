"""DDNM and DDNM+, against exact laws on a Gaussian prior and the equations of the paper."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from posterior_bench.operators.base import Operator
from posterior_bench.priors.mixtures import g2 as named_g2
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.ddnm import DDNM

# mean and variance of the hidden pixel: exact propagation of the affine map
GOLDEN = {
    ("vp", 250, 0.85): (0.8747, 0.1506),
    ("ve", 250, 0.85): (0.8802, 0.1487),
    ("vp", 250, 1.0): (0.8666, 0.1000),
    ("ve", 250, 1.0): (0.8790, 0.0974),
    ("vp", 1000, 0.85): (0.8903, 0.1469),
    ("ve", 1000, 0.85): (0.8949, 0.1458),
    ("vp", 1000, 1.0): (0.8873, 0.0966),
    ("ve", 1000, 1.0): (0.8946, 0.0955),
}
CASES = [pytest.param(*key, marks=pytest.mark.slow) if key[1] == 1000 else key for key in GOLDEN]


class Average(Operator):
    """The mean of all pixels, one number per image."""

    caps = frozenset({"linear", "pinv"})
    mask = None

    def __init__(self, sigma: float = 0.0):
        self.sigma = sigma

    def A(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3), keepdim=True)

    def pinv(self, y: Tensor) -> Tensor:
        return y.expand(-1, 1, 1, 2)


def _noisy(obs: Observation, sigma: float) -> Observation:
    return replace(obs, operator=replace(obs.operator, sigma=sigma))


@pytest.mark.parametrize(("kind", "steps", "eta"), CASES)
def test_law_on_a_gaussian(kind, steps, eta, g2, law):
    mean, covariance = law(DDNM(steps, eta), g2(kind))
    assert (mean[1].item(), covariance[1, 1].item()) == pytest.approx(
        GOLDEN[kind, steps, eta], abs=1e-4
    )


@pytest.mark.parametrize("kind", ["vp", "ve", "flow"])
@pytest.mark.parametrize("travel", [(1, 1), (5, 2)])
def test_a_sample_reproduces_the_measurement_exactly(kind, travel, observe, double_noise):
    obs = observe((True, False), torch.linspace(-1, 1, 4), rows=4)
    x = DDNM(20, 0.85, *travel).draw(obs, named_g2(kind), double_noise(4))
    torch.testing.assert_close(obs.operator.A(x), obs.y, atol=1e-14, rtol=0)
    assert x.isfinite().all()


def test_any_linear_operator_is_reproduced(g2, double_noise):
    y = torch.linspace(-1, 1, 5, dtype=torch.float64).view(5, 1, 1, 1)
    x = DDNM(20).draw(Observation(y, Average()), g2("ve"), double_noise(5))
    torch.testing.assert_close(Average().A(x), y, atol=1e-14, rtol=0)
    assert (x[..., 0] - x[..., 1]).abs().max() > 0.1


@pytest.mark.parametrize("eta", [0.0, 0.85, 1.0])
def test_without_noise_plus_changes_nothing(eta, g2, observe, double_noise):
    obs = observe((True, False), rows=3)
    runs = [DDNM(30, eta, plus=plus).draw(obs, g2("ve"), double_noise(3)) for plus in (True, False)]
    assert torch.equal(*runs)


def test_plus_goes_to_the_noise_free_method_with_the_noise(g2, observe, double_noise):
    obs = observe((True, False), rows=3)
    clean, tiny = (
        DDNM(30, 1.0).draw(_noisy(obs, s), g2("ve"), double_noise(3)) for s in (0.0, 1e-6)
    )

    def x1(x):
        return x[..., 1]

    torch.testing.assert_close(x1(tiny), x1(clean), atol=1e-5, rtol=0)


@pytest.mark.parametrize("eta", [0.3, 0.85])
def test_plus_follows_the_equations(eta, g2, observe, double_noise):
    """The step of DDNM+ with singular value 1, pixel by pixel, for measurement noise 0.5."""
    prior, sigma_y, noise, y = g2("vp"), 0.5, double_noise(1), 0.7
    levels, keep = prior.grid(12), math.sqrt(1 - eta**2)
    z = (levels[0].sigma * noise.normal((1, 1, 2))).flatten().tolist()
    for t, s in pairwise(levels):
        a, b = (
            prior.denoise(torch.tensor(z, dtype=torch.float64).view(1, 1, 1, 2), t)
            .flatten()
            .tolist()
        )
        xi = noise.normal((1, 1, 2)).flatten().tolist()
        if s.sigma < s.alpha * sigma_y:
            correction, spread = s.sigma * keep / (s.alpha * sigma_y), eta * s.sigma
        else:
            correction, spread = 1.0, math.sqrt(s.sigma**2 - s.alpha**2 * sigma_y**2)
        seen = s.alpha * (a - correction * (a - y)) + spread * xi[0]
        z = [seen, s.alpha * b + s.sigma * (eta * xi[1] + keep * (z[1] - t.alpha * b) / t.sigma)]
    x = DDNM(12, eta).draw(_noisy(observe((True, False), y), sigma_y), prior, double_noise(1))
    assert x.flatten().tolist() == pytest.approx(z, abs=1e-9)


def test_plus_keeps_the_noise_out_of_the_sample(g2, observe, double_noise):
    """y = 5 is far outside N(0, 1): with noise 1 the truth is E[x0 | y] = 2.5, which taking y at
    its word misses."""
    obs = _noisy(observe((True, False), 5.0, rows=400), 1.0)
    plus, plain = (
        DDNM(60, plus=p).draw(obs, g2("ve"), double_noise(400))[..., 0].mean()
        for p in (True, False)
    )
    assert plain.item() == pytest.approx(5.0, abs=1e-6)
    assert plus.item() < 4


def test_plus_without_singular_values_is_refused(g2, double_noise):
    obs = Observation(torch.zeros(1, 1, 1, 1, dtype=torch.float64), Average(sigma=0.1))
    with pytest.raises(ValueError, match=r"DDNM\+ needs the singular values .* solver.plus=false"):
        DDNM(5).draw(obs, g2("ve"), double_noise(1))
    assert DDNM(5, plus=False).draw(obs, g2("ve"), double_noise(1)).mean().item() == pytest.approx(
        0, abs=1e-14
    )


def test_travel_brings_the_hole_closer_to_the_truth(g2, law):
    """With fresh noise alone every visit of a level forgets the last, so travelling makes up for
    missing steps."""
    short, travelled = (
        law(DDNM(20, 0.85, *travel), g2("vp"))[0][1].item() for travel in ((1, 1), (5, 3))
    )
    assert abs(travelled - 0.9) < abs(short - 0.9)


def test_released_travel_restarts_from_the_uncorrected_prediction(g2, observe, double_noise):
    """Two levels with one jump between them, written out."""
    prior, noise, obs = g2("ve"), double_noise(1), observe((True, False), 0.4)
    top, low, clean = prior.grid(2)
    draws = [noise.normal((1, 1, 2)) for _ in range(5)]

    def step(x0, z, t, s, xi):
        return s.alpha * obs.operator.paste(x0, obs.y) + s.sigma * (
            0.6 * xi + 0.8 * (z - x0) / t.sigma
        )

    first = prior.denoise(top.sigma * draws[0], top)
    second = first + top.sigma * draws[2]
    third = prior.denoise(second, top)
    z = step(third, second, top, low, draws[3])
    expected = step(prior.denoise(z, low), z, low, clean, draws[4])
    x = DDNM(2, 0.6, 1, 2, compat="released").draw(obs, prior, double_noise(1))
    torch.testing.assert_close(x, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_coordinates_do_not_matter(sigma, g2, observe, double_noise):
    prior, solver = g2("vp"), DDNM(40, 0.85, 5, 2, grid="karras")
    obs = _noisy(observe((True, False), rows=3), sigma)
    native = solver.draw(obs, prior, double_noise(3))
    torch.testing.assert_close(
        solver.draw(obs, prior.view("ve"), double_noise(3)), native, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(("travel", "calls"), [((1, 1), 30), ((10, 3), 70)])
def test_network_calls(travel, calls, g2, observe, double_noise):
    """Travelling walks the stretches 30..20 and 20..10 of levels to the cleanest two times more: 30
    + 2 x 2 x 10."""
    prior = g2("ve")
    with prior.metered() as meter:
        DDNM(30, 0.85, *travel).draw(observe((True, False), rows=4), prior, double_noise(4))
    assert (meter.nfe, meter.nge) == (4 * calls, 0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"eta": 1.5}, r"eta 1.5 is outside \[0, 1\]"),
        ({"compat": "authors"}, "unknown compat 'authors'; valid: none, released"),
        ({"travel_repeat": 0}, "must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        DDNM(**setting)


def test_shipped_presets_are_complete(presets):
    built = presets("ddnm")
    assert built["authors"].eta == 0.85
    for name in ("authors", "authors_travel"):
        assert built[f"{name}_released"] == replace(built[name], compat="released")
