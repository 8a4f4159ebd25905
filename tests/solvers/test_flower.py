"""FLOWER and FLOWER-cov, against the exact law of their runs on a Gaussian prior."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.operators.motion_blur import MotionBlur
from posterior_bench.priors.mixtures import correlated
from posterior_bench.priors.mixtures import g2 as named_g2
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.diffpir import DiffPIR
from posterior_bench.solvers.flower import Flower

NOISY = {"sigma_floor": 0.05}
# settings, then mean1, mean2, sd1, var2 and cov12 of the released loop, carried as an affine map
GOLDEN = [
    (Flower(20, **NOISY), [0.9961, 0.7628, 0.0263, 0.1214, 0.0014]),
    (Flower(100, **NOISY), [0.9971, 0.8628, 0.0320, 0.1011, 0.0012]),
    (Flower(20, "draw", **NOISY), [0.9961, 0.7628, 0.0500, 0.3052]),
    (Flower(100, "draw", **NOISY), [0.9971, 0.8628, 0.0499, 0.2213]),
]


def _numbers(mean, covariance):
    """The numbers of a row of the table."""
    return [
        *(mean[0].item(), mean[1].item(), covariance[0, 0].sqrt().item()),
        *(covariance[1, 1].item(), covariance[0, 1].item()),
    ]


@pytest.mark.parametrize(("solver", "golden"), GOLDEN)
def test_law_on_two_pixels(solver, golden, law):
    found = _numbers(*law(solver, named_g2("flow")))[: len(golden)]
    assert found == pytest.approx(golden, abs=1e-4)


@pytest.mark.parametrize("refine", ["mean", "draw"])
@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_other_coordinates_give_the_same_law(refine, kind, law):
    """But for the noisiest level, at a ratio of 157 or 80 and not at pure noise."""
    solver = Flower(20, refine, **NOISY)
    for found, flow in zip(law(solver, named_g2(kind)), law(solver, named_g2("flow")), strict=True):
        torch.testing.assert_close(found, flow, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_draws_converge_to_the_posterior_and_means_do_not(law):
    """The posterior of the second pixel has variance 0.192."""
    draw, mean = (
        law(Flower(1000, refine, **NOISY), named_g2("flow"))[1][1, 1].item()
        for refine in ("draw", "mean")
    )
    assert draw == pytest.approx(0.197, abs=1e-3)
    assert mean == pytest.approx(0.097, abs=1e-3)


def test_draws_and_means_have_the_same_mean(law):
    means = [law(Flower(20, refine, **NOISY), named_g2("flow"))[0] for refine in ("mean", "draw")]
    torch.testing.assert_close(*means, atol=1e-12, rtol=0)


def test_averaged_runs_have_a_share_of_the_variance(law):
    (one, spread), (mean, shrunk) = (
        law(Flower(10, samples=samples), named_g2("flow")) for samples in (1, 3)
    )
    torch.testing.assert_close(mean, one, atol=1e-12, rtol=0)
    torch.testing.assert_close(shrunk, spread / 3, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_at_every_level_it_is_diffpir_with_more_trust_in_the_prediction(
    kind, observe, double_noise
):
    """DiffPIR has ``rho = sigma_y^2 / lambda^2``, FLOWER has ``sigma_y^2`` more."""
    prior, obs = named_g2(kind), observe((True, False), torch.linspace(-1, 1, 4), rows=4)

    class More(Inpainting):
        def prox(self, x, y, rho):
            return super().prox(x, y, rho + 0.3**2)

    more = replace(obs, operator=More(obs.operator.mask, 0.3))
    pir = DiffPIR(30, clip=False, grid="uniform_time").draw(more, prior, double_noise(4))
    noisy = replace(obs, operator=Inpainting(obs.operator.mask, 0.3))
    torch.testing.assert_close(
        Flower(30).draw(noisy, prior, double_noise(4)), pir, atol=1e-9, rtol=0
    )


def test_boundless_noise_leaves_the_prediction_and_fresh_noise(observe, double_noise):
    prior, noise = named_g2("flow"), double_noise(3)
    levels = prior.grid(15, "uniform_time")
    z = levels[0].sigma * noise.normal((1, 1, 2))
    for t, s in pairwise(levels):
        z = s.alpha * prior.denoise(z, t) + s.sigma * noise.normal((1, 1, 2))
    deaf = Flower(15, sigma_floor=1e9).draw(observe((True, False), rows=3), prior, double_noise(3))
    torch.testing.assert_close(deaf, z, atol=1e-9, rtol=0)


def test_a_draw_has_the_covariance_of_the_refined_gaussian(observe, law):
    """One step from pure noise: the prediction is 0, and ``N(0, I)`` meets ``y = x1 + 0.5 n``."""
    mean, covariance = law(Flower(1, "draw", sigma_floor=0.5), named_g2("flow"), y=0.7)
    precision = torch.tensor([1 + 1 / 0.5**2, 1.0]).double()
    torch.testing.assert_close(
        mean, torch.tensor([0.7 / 0.5**2, 0.0]).double() / precision, atol=1e-6, rtol=0
    )
    torch.testing.assert_close(covariance, torch.diag(1 / precision), atol=1e-6, rtol=0)


def test_a_blur_without_closed_form_runs(double_noise):
    """Motion blur with mirrored borders solves its proximal step by conjugate gradients."""
    prior = correlated((1, 8, 8), "flow", deviation=1.0)
    operator = MotionBlur((1, 8, 8), kernel=3, sigma=0.05)
    truth = prior.sample(torch.full((2,), 0.5), double_noise(2).normal((1, 8, 8)))
    obs = Observation(operator.A(truth), operator)
    for refine in ("mean", "draw"):
        x = Flower(8, refine).draw(obs, prior, double_noise(2))
        residual = operator.residual(x, obs.y).square().mean().sqrt()
        assert residual < 0.1 * obs.y.square().mean().sqrt()


@pytest.mark.parametrize("samples", [1, 2])
def test_calls(samples, observe, double_noise):
    prior = named_g2("ve")
    with prior.metered() as meter:
        Flower(6, samples=samples).draw(observe((True, False), rows=4), prior, double_noise(4))
    assert meter.counts() == dict.fromkeys(meter.counts(), 0) | {"nfe": 4 * 6 * samples}


@pytest.mark.parametrize("refine", ["mean", "draw"])
def test_a_row_does_not_depend_on_its_batch(refine, observe, seeded_noise):
    prior, solver, y = named_g2("flow"), Flower(20, refine), torch.linspace(-1, 1, 8)
    batch = solver.draw(observe((True, False), y, rows=8), prior, seeded_noise(range(8)))
    for i in (0, 5):
        alone = solver.draw(observe((True, False), y[i : i + 1]), prior, seeded_noise([i]))
        torch.testing.assert_close(batch[i : i + 1], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("refine", ["mean", "draw"])
def test_a_broken_row_breaks_no_other(refine, observe, double_noise):
    y = torch.tensor([0.1, torch.nan, 0.3])
    obs = observe((True, False), y, rows=3)
    x = Flower(20, refine).draw(obs, named_g2("ve"), double_noise(3))
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(Flower(3, guidance=2.5))
    assert len(seen) == 3
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("refine", "cov", "unknown refine 'cov'; valid: mean, draw"),
        ("samples", 0, "samples must be at least 1, got 0"),
        ("sigma_floor", 0.0, r"sigma_floor must be positive, got 0\.0"),
    ],
)
def test_bad_settings_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        Flower(**{field: value})


def test_shipped_presets(presets):
    mean, draw = presets("flower"), presets("flower_cov")
    assert mean["authors"] == Flower(100)
    assert mean["authors_deblur_sr_afhq"] == Flower(500)
    same = mean.keys() - {"fast_small", "fast_fashion", "fast_faces"}  # each was tuned by itself
    assert {k: replace(mean[k], refine="draw") for k in same} == {k: draw[k] for k in same}
    assert math.isclose(mean["authors"].sigma_floor, 0.01)
