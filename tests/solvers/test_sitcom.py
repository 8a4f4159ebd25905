"""SITCOM, against its update by hand, the laws of the released loop and calls counted by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from posterior_bench.solvers.sitcom import SITCOM

TURN = torch.tensor(
    [[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]], dtype=torch.float64
)
EYE = torch.eye(2, dtype=torch.float64)


def gain(prior, t) -> Tensor:
    """``K`` with ``E[x0 | z] = z K`` under the prior ``N(0, S)``."""
    S = prior.covariances[0]
    return t.alpha * S @ torch.linalg.inv(t.alpha**2 * S + t.sigma**2 * EYE)


def adam(z: Tensor, slope, lr: float, steps: int) -> Tensor:
    """Kingma and Ba 2015, Algorithm 1."""
    m = v = torch.zeros_like(z)
    for k in range(1, steps + 1):
        g = slope(z)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        z = z - lr * m / (1 - 0.9**k) / ((v / (1 - 0.999**k)).sqrt() + 1e-8)
    return z


@pytest.mark.parametrize("proximity", [0.0, 0.3])
def test_two_levels_by_hand(proximity, g2, observe, double_noise):
    """Gradients written out, a fresh Adam at each level, and fresh noise between them."""
    prior, noise, y = g2("vp"), double_noise(5), 0.7
    levels = prior.grid(2)
    z = levels[0].sigma * noise.normal((2,))
    for t, s in pairwise(levels):
        K, start = gain(prior, t), z

        def slope(v: Tensor, K: Tensor = K, start: Tensor = start) -> Tensor:
            return -2 * (y - (v @ K)[:, :1]) * K[:, :1].T + 2 * proximity * (v - start)

        z = s.alpha * adam(z, slope, 0.3, 3) @ K + s.sigma * noise.normal((2,))
    solver = SITCOM(2, 3, 0.3, slack=0.0, proximity=proximity, clip=False)
    x = solver.draw(observe((True, False), y, rows=5), prior, double_noise(5)).flatten(1)
    torch.testing.assert_close(x, z, atol=1e-9, rtol=0)


# the released loop with 2e4 draws (the last with 4000): means; variances and covariance
RELEASED = [
    pytest.param(
        SITCOM(20, 30, 0.02), (0.9999, 0.9987), (0.0001, 0.0000, 0.0702), marks=pytest.mark.slow
    ),
    pytest.param(
        SITCOM(20, 20, 0.01), (0.7871, 0.7859), (0.1173, 0.1018, 0.1564), marks=pytest.mark.slow
    ),
    (SITCOM(10, 10, 0.02), (0.5751, 0.5734), (0.2031, 0.1830, 0.2179)),
]


def _assert_law(x: Tensor, mean: tuple[float, ...], var: tuple[float, ...], others: int) -> None:
    """Compare with a law measured by ``others`` draws: four standard errors and the last digit."""
    expected, share = torch.tensor(var), 1 / len(x) + 1 / others
    cov = x.T.cov()
    spread = torch.stack([cov[0, 0], cov[0, 1], cov[1, 1]])
    errors = 4 * (expected[[0, 2]] * share).sqrt() + 1e-4
    assert ((x.mean(0) - torch.tensor(mean)).abs() < errors).all()
    assert ((spread - expected).abs() < 4 * expected * (2 * share) ** 0.5 + 1e-4).all()


@pytest.mark.parametrize(("solver", "mean", "var"), RELEASED)
def test_laws_of_the_released_loop(solver, mean, var, g2, observe, double_noise):
    rows = 4000
    solver = replace(solver, slack=0.0, clip=False, compat="released")
    x = solver.draw(observe((True, False), rows=rows), g2("vp"), double_noise(rows))
    _assert_law(x.flatten(1), mean, var, 20_000)


def test_law_of_the_released_loop_with_its_stop(g2, observe, double_noise):
    """The released runs stop at ``3 (0.1 + 0.001)^2``, where one scalar is observed."""
    rows, obs = 4000, observe((True, False), rows=4000)
    obs = replace(obs, operator=replace(obs.operator, sigma=0.1))
    solver = SITCOM(10, 9, 0.02, slack=0.101 * 3**0.5 - 0.1, clip=False, grid="leading")
    x = solver.draw(obs, g2("vp"), double_noise(rows)).flatten(1)
    _assert_law(x, (0.5426, 0.5395), (0.1897, 0.1716, 0.2066), 4000)


def test_without_adam_steps_it_never_reads_the_measurement(g2, observe, double_noise):
    """And it is the chain that noises the prediction again at every level."""
    prior, noise = g2("vp"), double_noise(3)
    levels = prior.grid(8)
    z = levels[0].sigma * noise.normal((1, 1, 2))
    for t, s in pairwise(levels):
        z = s.alpha * prior.denoise(z, t) + s.sigma * noise.normal((1, 1, 2))
    for y in (0.3, math.nan):
        obs = observe((True, False), y, rows=3)
        x = SITCOM(8, 0, clip=False).draw(obs, prior, double_noise(3))
        torch.testing.assert_close(x, z)


def test_no_residual_is_no_move(g2, observe, double_noise):
    """Nothing is observed, so no prediction can differ from the measurement."""
    nothing = observe((False, False), rows=3)
    still, moved = (
        SITCOM(8, n, slack=0.0, clip=False).draw(nothing, g2("ve"), double_noise(3)) for n in (0, 5)
    )
    assert torch.equal(still, moved)


@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_a_row_stands_still_once_it_fits(sigma, g2, observe, double_noise):
    """With a tolerance that every prediction meets nothing moves; with one that none meets, all do;
    between, a row stops where the root mean square of its observed residual is that small."""
    prior, obs = g2("vp"), observe((True, False), 0.5, rows=40)
    obs = replace(obs, operator=replace(obs.operator, sigma=sigma))

    def residuals(slack: float, inner: int = 80) -> Tensor:
        solver = SITCOM(1, inner, 0.02, slack=slack, clip=False)
        prior.grid = lambda *_, **__: [prior.level(0.3), replace(prior.level(0.3), sigma=0.0)]
        x = solver.draw(obs, prior, double_noise(40)) / prior.level(0.3).alpha
        return (x[:, 0, 0, 0] - 0.5).abs()

    free = residuals(1e9)
    assert torch.equal(free, residuals(0.0, inner=0))
    limit = sigma + 0.1
    stopped = residuals(0.1)
    assert (stopped < limit).all()
    # a row that had to move stops just inside the limit
    assert (free >= limit).sum() > 10
    assert (stopped[free >= limit] > limit - 0.03).all()
    assert torch.equal(stopped[free < limit], free[free < limit])


def test_released_leaves_the_last_adam_step_out(g2, observe, double_noise):
    prior, obs = g2("vp"), observe((True, False), rows=3)
    released = SITCOM(10, 6, slack=0.0, compat="released").draw(obs, prior, double_noise(3))
    ours = SITCOM(10, 5, slack=0.0, grid="leading").draw(obs, prior, double_noise(3))
    assert torch.equal(released, ours)


def test_released_stop_divides_by_hidden_scalars_too(g2, observe, double_noise):
    """One of two scalars is observed: the squared limit is twice as large."""
    prior, obs = g2("vp"), observe((True, False), rows=30)
    limits = {"released": 0.1, "none": 0.1 * 2**0.5}
    found = [
        SITCOM(10, 6 - (how == "none"), 0.05, limit, grid="leading", compat=how).draw(
            obs, prior, double_noise(30)
        )
        for how, limit in limits.items()
    ]
    torch.testing.assert_close(*found, atol=1e-12, rtol=0)
    tighter = SITCOM(10, 5, 0.05, 0.1, grid="leading").draw(obs, prior, double_noise(30))
    assert (found[0] - tighter).abs().max() > 1e-3


def test_predictions_are_clipped_inside_the_gradient(g2, observe, double_noise):
    """Where the clipped prediction does not move, no gradient comes back."""
    prior, obs = g2("vp"), observe((True, False), 5.0, rows=50)
    x = SITCOM(10, 5).draw(obs, prior, double_noise(50))
    assert x.abs().max() == 1
    assert SITCOM(10, 5, clip=False).draw(obs, prior, double_noise(50)).abs().max() > 1


def test_calls(g2, observe, double_noise):
    prior, obs = g2("ve"), observe((True, False), rows=3)
    for compat, calls in (("none", 6 * 5), ("released", 6 * 4)):
        with prior.metered() as meter, torch.no_grad():
            x = SITCOM(6, 4, compat=compat).draw(obs, prior, double_noise(3))
        backwards = {"none": 6 * 4, "released": 6 * 3}[compat]
        assert (meter.nfe, meter.nge) == (3 * calls, 3 * backwards)
        assert not x.requires_grad


def test_calls_through_a_decoder(latent_g2, observe, double_noise):
    prior = latent_g2("vp", TURN)
    with prior.metered() as meter:
        SITCOM(6, 4).draw(observe((True, False), rows=3), prior, double_noise(3))
    expected = {"nfe": 30, "nge": 24, "decode": 24 + 1, "decode_grad": 24}
    counts = {name: 3 * count for name, count in expected.items()}
    assert meter.counts() == {**counts, "encode": 0, "encode_grad": 0}


def test_a_swap_between_latents_and_images_changes_nothing(isometry, observe):
    """Adam treats numbers one by one, so this holds for signed permutations, not for all
    rotations."""
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    obs = observe((True, False), torch.linspace(-1, 1, 4), rows=4)
    solver = SITCOM(10, 5, clip=False)
    latent, pixel = (solver.draw(obs, prior, noise) for prior, noise in isometry("vp", quarter, 4))
    torch.testing.assert_close(latent, pixel, atol=1e-9, rtol=0)


def test_the_state_is_that_of_vp_coordinates_for_every_prior(g2, observe, double_noise):
    obs, solver = observe((True, False), 0.5, rows=3), SITCOM(10, 5)
    native = solver.draw(obs, g2("ve"), double_noise(3))
    torch.testing.assert_close(native, solver.draw(obs, g2("ve").view("vp"), double_noise(3)))


def test_a_row_does_not_depend_on_its_batch(g2, observe, seeded_noise):
    prior, solver, y = g2("ve"), SITCOM(10, 5, slack=0.1), torch.linspace(-1, 1, 8)
    obs = observe((True, False), y, rows=8)
    obs = replace(obs, y=obs.y.float())
    batch = solver.draw(obs, prior, seeded_noise(range(8)))
    for i in (0, 5):
        one = observe((True, False), y[i : i + 1])
        alone = solver.draw(replace(one, y=one.y.float()), prior, seeded_noise([i]))
        torch.testing.assert_close(batch[i : i + 1], alone, atol=1e-6, rtol=0)


def test_a_broken_row_breaks_no_other(g2, observe, double_noise):
    found = [
        SITCOM(8, 4).draw(
            observe((True, False), torch.tensor([0.1, second, 0.3]), rows=3),
            g2("ve"),
            double_noise(3),
        )
        for second in (math.nan, 0.2)
    ]
    assert torch.equal(found[0][[0, 2]], found[1][[0, 2]])


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(SITCOM(3, 2, guidance=2.5))
    assert len(seen) == 3 * 3
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"inner_steps": -1}, "inner_steps must be 0 or more, got -1"),
        ({"slack": -0.1}, "slack must be 0 or more, got -0.1"),
        ({"proximity": math.nan}, "proximity must be 0 or more, got nan"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"compat": "odd"}, "unknown compat 'odd'; valid: none, released"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        SITCOM(**setting)


def test_shipped_presets_are_complete(presets):
    built = presets("sitcom")
    assert built["authors"] == SITCOM()
    assert built["authors_readme"] == SITCOM(inner_steps=30, lr=0.02)
    assert all(solver.proximity == 0 for solver in built.values())
