"""FPS, against its equations with dense matrices and a Kalman filter, which many particles are."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tests.solvers.test_spectral import EYE, NAMES, ROWS, SHAPE, Dense, Recorded, problem
from torch import Tensor

from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.ddrm import DDRM
from posterior_bench.solvers.fps import FPS


def _noisy(obs: Observation, sigma: float = 0.1) -> Observation:
    return replace(obs, operator=replace(obs.operator, sigma=sigma))


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt() @ vectors.T


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_one_particle_follows_the_equations(name, kind):
    """Dou and Song (2024): precision matrices ``I / v + A^T A / r`` in the space of images.

    Normals are the coordinates of images, and a symmetric root acts alike on both.
    """
    sigma, c = 0.3, 0.7
    obs, prior, _ = problem(name, sigma, kind)
    A, y = Dense.of(obs.operator, 0.0).A, obs.y.flatten(1)
    noise = Recorded(ROWS, obs.operator)
    levels = prior.grid(8)

    def fresh() -> Tensor:
        return noise.normal((1, *SHAPE)[1:]).flatten(1)

    def drawn(mean: Tensor, v: float, y_s: Tensor, r: float, xi: Tensor) -> Tensor:
        covariance = torch.linalg.inv(EYE / v + A.T @ A / r)
        return (mean / v + y_s @ A / r) @ covariance + xi @ _root(covariance)

    top = levels[0]
    e, xi = fresh(), fresh()
    y_t = top.alpha * y + top.sigma * e @ A.T
    z = drawn(torch.zeros_like(xi), top.sigma**2, y_t, (top.alpha * sigma) ** 2, xi)
    for t, s in pairwise(levels):
        x0 = prior.denoise(z.view(-1, *SHAPE), t).flatten(1)
        mean = s.alpha * x0 + math.sqrt(1 - c) * s.sigma * (z - t.alpha * x0) / t.sigma
        e = math.sqrt(1 - c) * e + math.sqrt(c) * fresh()
        noise.base.uniform((1,))
        y_s, xi = s.alpha * y + s.sigma * e @ A.T, fresh()
        z = mean
        if s.sigma > 0:
            z = drawn(mean, c * s.sigma**2, y_s, (s.alpha * sigma) ** 2, xi)
    x = FPS(8, c, 1).draw(obs, prior, Particles(ROWS))
    torch.testing.assert_close(x.flatten(1), z, atol=1e-8, rtol=0)


class Particles(Recorded):
    """Noise for one particle, the same numbers as for the images of :class:`Recorded`."""

    def __init__(self, rows: int):
        super().__init__(rows)

    def uniform(self, shape):
        return self.base.uniform(shape)


@pytest.mark.parametrize("kind", ["vp", "ve"])
@pytest.mark.parametrize("c", [0.25, 0.95])
def test_a_measurement_of_noise_alone_leaves_ddim(c, kind, g2, observe, double_noise):
    """Song et al. (2021), Eq. 12, where the fresh noise has the share ``c`` of the variance."""
    prior, noise = g2(kind), double_noise(4)
    obs = _noisy(observe((True, False), torch.linspace(-1, 1, 4), rows=4), 1e9)
    levels, one = prior.grid(30), (1, 1, 1, 2)
    noise.normal(one)
    z = levels[0].sigma * noise.normal(one)[:, 0]
    for t, s in pairwise(levels):
        x0 = prior.denoise(z, t)
        eps = (z - t.alpha * x0) / t.sigma
        noise.normal(one), noise.uniform((1,))
        mixed = math.sqrt(1 - c) * eps + math.sqrt(c) * noise.normal(one)[:, 0]
        z = s.alpha * x0 + s.sigma * mixed
    x = FPS(30, c, 1).draw(obs, prior, double_noise(4))
    torch.testing.assert_close(x, z, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_nothing_observed_is_ddrm(kind, g2, observe, double_noise):
    class Skipping:
        """The normals of the particles alone, without those of the measurement."""

        def __init__(self):
            self.base = double_noise(4)

        def normal(self, shape):
            self.base.normal((1, *shape))
            return self.base.normal((1, *shape))[:, 0]

    class Plain:
        """Normals without the uniforms in between."""

        def __init__(self):
            self.base = double_noise(4)

        def normal(self, shape):
            return self.base.normal(shape)

        def uniform(self, shape):
            return torch.zeros(4, *shape)

    nothing = observe((False, False), rows=4)
    ddrm = DDRM(25, eta=math.sqrt(0.6)).draw(nothing, g2(kind), Skipping())
    fps = FPS(25, 0.6, 1).draw(nothing, g2(kind), Plain())
    torch.testing.assert_close(fps, ddrm, atol=1e-9, rtol=0)


def test_without_noise_observed_pixels_are_the_chain_of_measurements(
    g2, observe, double_noise, monkeypatch
):
    prior, seen, noise = g2("ve"), [], double_noise(3)
    denoise = prior.denoise
    monkeypatch.setattr(
        prior, "denoise", lambda z, t, *given: seen.append((z, t)) or denoise(z, t, *given)
    )
    y = torch.linspace(-1, 1, 3)
    FPS(10, 0.8, 2, sigma_floor=1e-9).draw(
        observe((True, False), y, rows=3), prior, double_noise(3)
    )
    e = noise.normal((1, 1, 1, 2))
    noise.normal((2, 1, 1, 2))
    for z, t in seen:
        chain = y.double() + t.sigma * e[:, 0, 0, 0, 0]
        for k in range(2):
            torch.testing.assert_close(
                z.unflatten(0, (3, 2))[:, k, 0, 0, 0], chain, atol=1e-6, rtol=0
            )
        e = math.sqrt(0.2) * e + math.sqrt(0.8) * noise.normal((1, 1, 1, 2))
        noise.uniform((2,)), noise.normal((2, 1, 1, 2))


def _filtered(prior, sigma: float, y: float, c: float, steps: int) -> tuple[Tensor, Tensor]:
    """The mean and the covariance of the filter's samples over all chains of measurements of the
    first pixel."""
    levels, eye = prior.grid(steps), torch.eye(2).double()
    S, H = prior.covariances[0], torch.tensor([[1.0, 0.0]]).double()
    # rows: constant, then one row for each normal of the chain
    e = torch.zeros(steps + 2, 1).double()
    e[1] = 1.0
    mean, P = torch.zeros(steps + 2, 2).double(), levels[0].sigma ** 2 * eye

    def update(mean: Tensor, P: Tensor, s) -> tuple[Tensor, Tensor]:
        y_s = s.sigma * e.clone()
        y_s[0] += s.alpha * y
        gain = P @ H.T / (H @ P @ H.T + (s.alpha * sigma) ** 2)
        return mean + (y_s - mean @ H.T) @ gain.T, P - gain @ H @ P

    mean, P = update(mean, P, levels[0])
    for k, (t, s) in enumerate(pairwise(levels)):
        K = t.alpha * S @ torch.linalg.inv(t.alpha**2 * S + t.sigma**2 * eye)
        keep = math.sqrt(1 - c) * s.sigma / t.sigma
        F = s.alpha * K + keep * (eye - t.alpha * K)
        mean, P = mean @ F.T, F @ P @ F.T + c * s.sigma**2 * eye
        e = math.sqrt(1 - c) * e
        e[k + 2] = math.sqrt(c)
        mean, P = update(mean, P, s)
    return mean[0], P + mean[1:].T @ mean[1:]


def _error(particles: int, rows: int, g2, observe, seeded_noise) -> tuple[Tensor, Tensor]:
    prior, sigma = g2("vp"), 0.3
    obs = _noisy(observe((True, False), rows=rows), sigma)
    solver = FPS(12, 0.6, particles, together=particles)
    x = solver.draw(obs, prior, seeded_noise(range(rows))).flatten(1).double()
    mean, covariance = _filtered(prior, sigma, 1.0, 0.6, 12)
    return x.mean(0) - mean, x.T.cov() - covariance


@pytest.mark.parametrize(
    ("rows", "tolerance"),
    [(2500, 0.05), pytest.param(10000, 0.03, marks=pytest.mark.slow)],
    ids=["few", "many"],
)
def test_many_particles_are_the_kalman_filter(rows, tolerance, g2, observe, seeded_noise):
    """By simulation with 64 particles, which leave 0.02; a mean of draws has an error of
    0.6 / sqrt(rows)."""
    mean, covariance = _error(64, rows, g2, observe, seeded_noise)
    assert max(mean.abs().max(), covariance.abs().max()) < tolerance


def test_one_particle_is_not_the_filter(g2, observe, seeded_noise):
    mean, _ = _error(1, 2500, g2, observe, seeded_noise)
    assert mean.abs().max() > 0.1


def test_how_many_particles_go_together_changes_nothing(g2, observe, double_noise):
    obs = _noisy(observe((True, False), torch.linspace(-1, 1, 3), rows=3))
    runs = [FPS(15, 0.9, 6, k).draw(obs, g2("ve"), double_noise(3)) for k in (1, 4, 100)]
    torch.testing.assert_close(runs[0], runs[1], atol=1e-9, rtol=0)
    torch.testing.assert_close(runs[0], runs[2], atol=1e-9, rtol=0)


def test_cost(g2, observe, double_noise, monkeypatch):
    prior, seen = g2("ve"), []
    denoise = prior.denoise
    monkeypatch.setattr(
        prior, "denoise", lambda z, *given: seen.append(len(z)) or denoise(z, *given)
    )
    with prior.metered() as meter:
        x = FPS(2, particles=7, together=3).draw(
            observe((True, False), rows=2), prior, double_noise(2)
        )
    assert seen == [6, 6, 2] * 2
    assert (meter.nfe, meter.nge) == (2 * 7 * 2, 0)
    assert not x.requires_grad


@pytest.mark.parametrize("particles", [1, 4])
def test_a_row_does_not_depend_on_its_batch(particles, g2, observe, seeded_noise):
    prior, solver, y = g2("ve"), FPS(20, particles=particles), torch.linspace(-1, 1, 5)
    batch = solver.draw(observe((True, False), y, rows=5), prior, seeded_noise(range(5)))
    alone = solver.draw(observe((True, False), y[3:4]), prior, seeded_noise([3]))
    torch.testing.assert_close(batch[3:4], alone, atol=1e-5, rtol=0)


def test_a_broken_row_breaks_no_other(g2, observe, double_noise):
    y = torch.tensor([0.1, torch.nan, 0.3])
    x = FPS(10).draw(observe((True, False), y, rows=3), g2("ve"), double_noise(3))
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_clipped_predictions_stay_in_the_image_range(g2, observe, double_noise):
    prior, obs = g2("ve"), observe((False, False), rows=50)
    assert FPS(20, particles=2).draw(obs, prior, double_noise(50)).abs().max() > 1
    assert FPS(20, particles=2, clip=True).draw(obs, prior, double_noise(50)).abs().max() <= 1


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(FPS(3, particles=2, together=1, guidance=2.5))
    assert len(seen) == 6
    assert all(
        torch.equal(given.values["label"], cond.values["label"]) and g == 2.5 for given, g in seen
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"c": 0.0}, r"c 0.0 is outside \(0, 1\]"),
        ({"c": 1.1}, r"c 1.1 is outside \(0, 1\]"),
        ({"particles": 0}, "particles must be positive, got 0"),
        ({"together": 0}, "together must be positive, got 0"),
        ({"sigma_floor": 0.0}, "sigma_floor must be positive, got 0.0"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        FPS(**setting)


def test_shipped_presets_are_complete(presets):
    built = presets("fps")
    assert built["fast"].steps * built["fast"].particles <= 200
    assert built["authors"] == FPS(1000, 0.95, 5, clip=True)
    assert built["authors_fps"] == replace(built["authors"], particles=1)
