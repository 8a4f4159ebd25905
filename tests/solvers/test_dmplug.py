"""DMPlug, against its chain by hand, the law of the released loop and calls counted by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from posterior_bench.solvers.dmplug import DMPlug

TURN = torch.tensor(
    [[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]], dtype=torch.float64
)
EYE = torch.eye(2, dtype=torch.float64)


def generator(prior) -> Tensor:
    """``M`` with ``G(seed) = seed M``: DDIM (Song et al. 2021, Eq. 12 with eta = 0) from training
    steps 666, 333 and 0, for the prior ``N(0, S)``."""
    S, M = prior.covariances[0], EYE
    levels = [(t.alpha, t.sigma) for t in map(prior.level_at_index, (666, 333, 0))]
    for (alpha, sigma), (alpha_s, sigma_s) in pairwise([*levels, (1.0, 0.0)]):
        K = alpha * S @ torch.linalg.inv(alpha**2 * S + sigma**2 * EYE)
        M = M @ (alpha_s * K + sigma_s * (EYE - alpha * K) / sigma)
    return M


def test_without_iterations_it_is_a_ddim_chain_of_three_steps(g2, observe, double_noise):
    prior, seed = g2("vp"), double_noise(4).normal((2,))
    x = DMPlug(0, clip=False).draw(observe((True, False), rows=4), prior, double_noise(4))
    torch.testing.assert_close(x.flatten(1), seed @ generator(prior), atol=1e-9, rtol=0)


def test_an_adam_step_by_hand(g2, observe, double_noise):
    """The first step of Adam is ``lr g / (|g| + 1e-8)``; the loss is a mean, hidden scalars too."""
    prior, seed, y = g2("vp"), double_noise(4).normal((2,)), 0.7
    M = generator(prior)
    g = -2 * (y - (seed @ M)[:, :1]) * M[:, :1].T / 2
    moved = seed - 0.3 * g / (g.abs() + 1e-8)
    x = DMPlug(1, 0.3, clip=False).draw(observe((True, False), y, rows=4), prior, double_noise(4))
    torch.testing.assert_close(x.flatten(1), moved @ M, atol=1e-9, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("iterations", "mean", "var"),
    [
        (100, (0.5589, 0.5582), (0.1645, 0.1603, 0.1676)),
        (1000, (1.0000, 0.9993), (0.0000, 0.0000, 0.0115)),
    ],
)
def test_laws_of_the_released_loop(iterations, mean, var, g2, observe, double_noise):
    """Means, and variances and covariance, of 2e4 draws. Its last Adam step moves no image."""
    rows, prior = 4000, g2("vp")
    solver = DMPlug(iterations - 1, clip=False)
    x = solver.draw(observe((True, False), rows=rows), prior, double_noise(rows)).flatten(1)
    # four standard errors, and the last digit
    expected, share, cov = torch.tensor(var), 1 / rows + 1 / 20_000, x.T.cov()
    spread = torch.stack([cov[0, 0], cov[0, 1], cov[1, 1]])
    errors = 4 * (expected[[0, 2]] * share).sqrt() + 1e-4
    assert ((x.mean(0) - torch.tensor(mean)).abs() < errors).all()
    assert ((spread - expected).abs() < 4 * expected * (2 * share) ** 0.5 + 1e-4).all()


def test_the_measurement_is_met_in_the_end(g2, observe, double_noise):
    obs = observe((True, False), torch.linspace(-1, 1, 5), rows=5)
    x = DMPlug(80, 0.1, clip=False).draw(obs, g2("ve"), double_noise(5))
    assert obs.operator.residual(x, obs.y).abs().max() < 0.02


def test_no_residual_is_no_move(g2, observe, double_noise):
    nothing = observe((False, False), rows=3)
    still, moved = (DMPlug(n, clip=False).draw(nothing, g2("ve"), double_noise(3)) for n in (0, 5))
    assert torch.equal(still, moved)


def test_a_row_stops_at_the_noise_if_it_is_asked_to(g2, observe, double_noise):
    """Over the one observed scalar, not over both."""
    prior, obs, rows = g2("vp"), observe((True, False), 0.5, rows=40), 40
    obs = replace(obs, operator=replace(obs.operator, sigma=0.1))

    def residuals(stop: float, iterations: int = 60) -> Tensor:
        solver = DMPlug(iterations, 0.05, stop=stop, clip=False)
        return (solver.draw(obs, prior, double_noise(rows))[:, 0, 0, 0] - 0.5).abs()

    start, stopped = residuals(2.0, iterations=0), residuals(2.0)
    assert torch.equal(stopped[start < 0.2], start[start < 0.2])
    moved = stopped[start >= 0.2]
    assert len(moved) > 10 and (moved < 0.2).all() and (moved > 0.1).all()
    assert residuals(0.0).median() < 0.02


def test_images_stay_in_their_range_unless_they_are_not_clipped(g2, observe, double_noise):
    obs = observe((False, False), rows=50)
    assert DMPlug(0).draw(obs, g2("vp"), double_noise(50)).abs().max() <= 1
    assert DMPlug(0, clip=False).draw(obs, g2("vp"), double_noise(50)).abs().max() > 1


def test_noise_follows_from_the_clipped_image(g2, observe, double_noise):
    """A chain of two steps, whose first clips."""
    prior, noise = g2("vp"), double_noise(50)
    levels = prior.grid(2, start=prior.level(9.49))
    z = noise.normal((1, 1, 2))
    for t, s in pairwise(levels):
        x0 = prior.denoise(z, t).clamp(-1, 1)
        z = s.alpha * x0 + s.sigma * (z - t.alpha * x0) / t.sigma
    x = DMPlug(0, steps=2).draw(observe((False, False), rows=50), prior, double_noise(50))
    torch.testing.assert_close(x, z)


def test_calls(latent_g2, observe, double_noise):
    prior = latent_g2("vp", TURN)
    with prior.metered() as meter, torch.no_grad():
        x = DMPlug(4).draw(observe((True, False), rows=3), prior, double_noise(3))
    expected = {"nfe": 3 * 5, "nge": 3 * 4, "decode": 5, "decode_grad": 4}
    counts = {name: 3 * count for name, count in expected.items()}
    assert meter.counts() == {**counts, "encode": 0, "encode_grad": 0}
    assert not x.requires_grad


def test_a_swap_between_latents_and_images_changes_nothing(isometry, observe):
    """Adam treats numbers one by one, so this holds for signed permutations, not for all
    rotations."""
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    obs = observe((True, False), torch.linspace(-1, 1, 4), rows=4)
    solver = DMPlug(20, 0.05, clip=False)
    latent, pixel = (solver.draw(obs, prior, noise) for prior, noise in isometry("vp", quarter, 4))
    torch.testing.assert_close(latent, pixel, atol=1e-9, rtol=0)


def test_the_seed_is_a_state_of_vp_coordinates_for_every_prior(g2, observe, double_noise):
    obs, solver = observe((True, False), 0.5, rows=3), DMPlug(10, 0.1)
    native = solver.draw(obs, g2("ve"), double_noise(3))
    torch.testing.assert_close(native, solver.draw(obs, g2("ve").view("vp"), double_noise(3)))


def test_a_row_does_not_depend_on_its_batch(g2, observe, seeded_noise):
    prior, solver, y = g2("ve"), DMPlug(20, 0.05), torch.linspace(-1, 1, 8)
    obs = observe((True, False), y, rows=8)
    batch = solver.draw(replace(obs, y=obs.y.float()), prior, seeded_noise(range(8)))
    for i in (0, 5):
        one = observe((True, False), y[i : i + 1])
        alone = solver.draw(replace(one, y=one.y.float()), prior, seeded_noise([i]))
        torch.testing.assert_close(batch[i : i + 1], alone, atol=1e-5, rtol=0)


def test_a_broken_row_breaks_no_other(g2, observe, double_noise):
    found = [
        DMPlug(8, 0.1).draw(
            observe((True, False), torch.tensor([0.1, second, 0.3]), rows=3),
            g2("ve"),
            double_noise(3),
        )
        for second in (math.nan, 0.2)
    ]
    assert torch.equal(found[0][[0, 2]], found[1][[0, 2]])


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(DMPlug(2, guidance=2.5))
    assert len(seen) == 3 * 3
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"iterations": -1}, "iterations must be 0 or more, got -1"),
        ({"stop": -1.0}, "stop must be 0 or more, got -1.0"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"ratio_max": math.nan}, "ratio_max must be positive, got nan"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        DMPlug(**setting)


def test_shipped_presets_are_complete(presets):
    built = presets("dmplug")
    assert built["authors"] == DMPlug()
    assert built["authors_nonlinear"] == DMPlug(10000)
