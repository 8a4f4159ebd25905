"""LATINO, against its exact law on a Gaussian prior, published Monte Carlo laws and hand values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from posterior_bench.operators.super_resolution import SuperResolution
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.process import CLEAN
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.latino import DELTAS, LATINO

INDICES = {8: [999, 874, 749, 624, 499, 374, 249, 124], 4: [999, 749, 499, 249]}
# alpha of Stable Diffusion's schedule at the eight levels
ALPHAS = [0.0683, 0.1358, 0.2380, 0.3723, 0.5269, 0.6832, 0.8218, 0.9292]
FREE = {"sigma_floor": 0.02, "clip": False}


class Consistency(MixturePrior):
    """The same Gaussian prior as an exact consistency model: it keeps the variance."""

    def denoise(self, z, level, cond=None, guidance=1.0):
        values, vectors = torch.linalg.eigh(self.covariances[0])
        gains = (values / (level.alpha**2 * values + level.sigma**2)).sqrt()
        return (z.flatten(1) @ (vectors * gains) @ vectors.T).view_as(z)


@pytest.fixture
def consistency(g2):
    def build(kind: str) -> Consistency:
        base = g2(kind)
        return Consistency(
            base.process, base.weights, base.means, base.covariances, base.latent_shape
        )

    return build


class OneGenerator:
    """Normals of all rows from one generator, which is fast for many rows."""

    def __init__(self, rows: int):
        self.rows, self.generator = rows, torch.Generator().manual_seed(0)

    def normal(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(self.rows, *shape, generator=self.generator, dtype=torch.float64)


def test_levels_are_the_published_training_steps_on_every_prior(g2):
    for steps, indices in INDICES.items():
        ratios = [(1 - a**2) ** 0.5 / a for a in ALPHAS[:: 8 // steps]]
        for kind in ("vp", "ve"):
            levels = LATINO(steps).levels(g2(kind), steps)
            assert levels[-1] is CLEAN and len(levels) == len(indices) + 1
            found = [float(level.ratio) for level in levels[:-1]]
            assert found == pytest.approx(ratios, rel=2e-3)


@pytest.mark.parametrize("kind", ["vp", "ve"])
@pytest.mark.parametrize(
    ("exact", "steps", "golden"),
    [
        (False, 8, (0.9987, 0.5834, 0.0018, 0.1742, 0.0006)),
        (True, 8, (0.9993, 0.5788, 0.0020, 0.4161, 0.0006)),
        (True, 4, (0.9993, 0.4240, 0.0013, 0.5604, None)),
    ],
    ids=["posterior mean", "consistency", "consistency, 4 levels"],
)
def test_law_on_a_gaussian(exact, steps, golden, kind, g2, consistency, law):
    prior = consistency(kind) if exact else g2(kind)
    mean, covariance = law(LATINO(steps, **FREE), prior)
    found = (*mean.tolist(), covariance[0, 0].sqrt().item(), *covariance[1].flip(0).tolist())
    for value, expected in zip(found, golden, strict=True):
        assert expected is None or value == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("y", "golden"),
    [(1.0, (0.9987, 0.4402, 0.0014, 0.2247)), (0.5, (0.4996, 0.2295, 0.0019, 0.2674))],
)
def test_law_with_clips(y, golden, consistency, observe):
    """Monte Carlo laws of the released loop, 1e5 runs; 4e4 runs here, three deviations."""
    rows = 40_000
    x = (
        LATINO(8, sigma_floor=0.02)
        .draw(observe((True, False), y, rows), consistency("vp"), OneGenerator(rows))
        .flatten(1)
    )
    spread = (golden[3] * (1 / rows + 1e-5)) ** 0.5
    assert x.mean(0)[0].item() == pytest.approx(golden[0], abs=1e-4)
    assert x.mean(0)[1].item() == pytest.approx(golden[1], abs=3 * spread)
    assert x[:, 0].std().item() == pytest.approx(golden[2], abs=1e-4)
    assert x[:, 1].var().item() == pytest.approx(golden[3], rel=0.03)


def test_nothing_observed_is_the_prediction_and_fresh_noise(g2, observe, double_noise):
    prior, noise, nothing = g2("vp"), double_noise(3), observe((False, False), rows=3)
    solver = LATINO(4, clip=False)
    levels = solver.levels(prior, 4)
    z = levels[0].sigma * noise.normal((1, 1, 2))
    for t, s in pairwise(levels):
        z = s.alpha * prior.denoise(z, t) + s.sigma * noise.normal((1, 1, 2))
    assert torch.equal(solver.draw(nothing, prior, double_noise(3)), z)


@pytest.mark.parametrize("name", DELTAS)
def test_every_table_by_hand(name, g2, double_noise):
    """``1 / rho = delta sigma_t^2 / sigma_y^2`` at every published level."""
    table, prior, sigma = DELTAS[name], g2("vp"), 0.05
    shape = (1, 8, 8)
    operator = SuperResolution(shape, 2, sigma=sigma)
    x0 = double_noise(2).normal(shape)
    obs = Observation(operator.A(double_noise(2).normal(shape)) + 1.0, operator)
    distance = (operator.A(x0) - obs.y).square().sum((1, 2, 3)).sqrt()
    solver = LATINO(8, delta=name)
    for index, alpha, t in zip(INDICES[8], ALPHAS, solver.levels(prior, 8), strict=False):
        factor = table.above if index > table.step else table.below
        delta = factor * (distance if table.residual else torch.ones(2).double())
        rho = torch.as_tensor(solver._rho(x0, t, solver.delta, obs), dtype=torch.float64)
        rho = rho.flatten().expand(2)
        gamma = delta * (1 - alpha**2) / sigma**2
        torch.testing.assert_close(rho * gamma, torch.ones(2).double(), atol=0, rtol=1e-3)


def test_a_row_that_fits_already_stays(g2, observe, double_noise):
    prior, obs = g2("vp"), observe((True, False), 0.3, rows=2)
    x0 = obs.y + torch.tensor([[[[0.0, 0.7]]], [[[0.1, 0.7]]]])
    solver = LATINO(delta="blur")
    pulled = solver.pulled(x0, solver.levels(prior, 8)[0], "blur", obs, prior)
    assert pulled.isfinite().all()
    torch.testing.assert_close(pulled[0], x0[0], atol=1e-12, rtol=0)
    assert (pulled[1] - x0[1])[..., 0].abs() > 1e-4


def test_the_noise_level_is_that_of_the_measurement_or_the_floor(g2, observe, double_noise):
    prior, obs = g2("ve"), observe((True, False), 0.2, rows=3)
    noisy = replace(obs, operator=replace(obs.operator, sigma=0.3))
    floored = LATINO(sigma_floor=0.3).draw(obs, prior, double_noise(3))
    assert torch.equal(LATINO().draw(noisy, prior, double_noise(3)), floored)
    assert not torch.equal(LATINO().draw(obs, prior, double_noise(3)), floored)


def test_calls_of_a_latent_prior(latent_g2, observe, double_noise):
    """Facts of the released loop: 8 calls of the network, 9 of the decoder, 9 of the encoder."""
    prior = latent_g2("vp")
    with prior.metered() as meter:
        LATINO().draw(observe((True, False), rows=2), prior, double_noise(2))
    counts = {name: n / 2 for name, n in meter.counts().items() if n}
    assert counts == {"nfe": 8, "decode": 9, "encode": 9}


def test_a_rotating_autoencoder_only_rotates(isometry, observe):
    """States of both priors are the same up to a rotation, so the images are the same."""
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    obs = observe((True, False), torch.linspace(-1, 1, 3), rows=3)
    latent, pixel = (
        LATINO(delta=0.3).fit(obs, prior, noise).sample([0]).x
        for prior, noise in isometry("vp", turn, 3)
    )
    torch.testing.assert_close(latent, pixel, atol=1e-9, rtol=0)


@pytest.mark.parametrize("delta", ["inpainting", "blur", 0.5])
def test_a_row_does_not_depend_on_its_batch(delta, g2, observe, seeded_noise):
    prior, solver, y = g2("ve"), LATINO(delta=delta), torch.linspace(-1, 1, 5)
    batch = solver.draw(observe((True, False), y, rows=5), prior, seeded_noise(range(5)))
    alone = solver.draw(observe((True, False), y[3:4]), prior, seeded_noise([3]))
    torch.testing.assert_close(batch[3:4], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("delta", ["inpainting", "blur"])
def test_a_broken_row_breaks_no_other(delta, g2, observe, double_noise):
    y = torch.tensor([0.1, torch.nan, 0.3])
    x = LATINO(delta=delta).draw(observe((True, False), y, rows=3), g2("ve"), double_noise(3))
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_another_grid_is_obeyed(g2, observe, double_noise):
    prior, obs = g2("ve"), observe((True, False), 0.4, rows=2)
    solver = LATINO(5, grid="karras", clip=False)
    assert solver.levels(prior, 5) == prior.grid(5, "karras")
    x = solver.draw(obs, prior, double_noise(2))
    assert not torch.equal(x, LATINO(5, clip=False).draw(obs, prior, double_noise(2)))


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(LATINO(3, guidance=2.5))
    assert [(given is cond, guidance) for given, guidance in seen] == [(True, 2.5)] * 3


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"steps": 0}, "steps must be 1 to 1000, got 0"),
        ({"delta": 0.0}, "delta must be positive, got 0.0"),
        ({"delta": "deblur"}, "unknown delta 'deblur'; give a positive number or inpainting, "),
        ({"sigma_floor": 0.0}, "sigma_floor must be positive, got 0.0"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        LATINO(**setting)


def test_shipped_presets_are_complete(presets):
    built = presets("latino")
    assert built["authors"] == LATINO()
    authors = {solver.delta for name, solver in built.items() if name.startswith("authors")}
    assert authors <= {*DELTAS}
    assert built["authors_sdxl_blur"] == LATINO(delta="blur")
