"""DAPS, against closed forms: the flow, the inner dynamics, and the whole with an exact inner
sampler."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from posterior_bench.operators.base import Operator
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.base import Prior
from posterior_bench.priors.mixtures import g2 as named_g2
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Noise, Observation
from posterior_bench.solvers.daps import DAPS


class ExactInner(DAPS):
    """DAPS whose inner sampler draws from ``N(x; x0, sigma_t^2) N(y; x1, tau^2)`` itself, in closed
    form."""

    def _inner(
        self, centre: Tensor, t: Level, lr: float, obs: Observation, prior: Prior, noise: Noise
    ) -> Tensor:
        assert 0 < lr <= self.lr
        v, w = t.sigma**2, self.tau**2
        seen, var = (w * centre + v * obs.y) / (v + w), v * w / (v + w)
        xi = noise.normal(centre.shape[1:])
        return torch.where(
            obs.operator.mask, seen + math.sqrt(var) * xi, centre + math.sqrt(v) * xi
        )


@pytest.fixture
def basis_law() -> Callable[[Callable[[int, Noise], Tensor]], tuple[Tensor, Tensor]]:
    """``basis_law(run)``: exact mean and covariance of an affine ``run(rows, noise)``, one row per
    unit of noise."""

    def measure(run: Callable[[int, Noise], Tensor]) -> tuple[Tensor, Tensor]:
        count = UnitNoise(1)
        run(1, count)
        rows = 1 + count.used
        x = run(rows, UnitNoise(rows)).flatten(1)
        columns = x[1:] - x[0]
        return x[0], columns.T @ columns

    return measure


class UnitNoise:
    """Row 0 gets no noise; every further row gets one unit of one noise scalar, each scalar
    once."""

    def __init__(self, rows: int):
        self.rows, self.used = rows, 0

    def normal(self, shape: Sequence[int]) -> Tensor:
        size = math.prod(shape)
        out = torch.zeros(self.rows, size, dtype=torch.float64)
        for i in range(size if self.rows > 1 else 0):
            out[1 + self.used + i, i] = 1
        self.used += size
        return out.view(self.rows, *shape)


class Squares(Operator):
    """A non-linear operator with neither mask nor adjoint."""

    caps = frozenset({"nonlinear"})
    sigma = 0.0
    mask = None

    def A(self, x: Tensor) -> Tensor:
        return x.square()


@pytest.mark.parametrize("kind", ["ve", "vp"])
def test_law_on_a_gaussian_with_an_exact_inner_sampler(kind, g2, law):
    """Published by simulation, good to 0.02: biased and over-dispersed against the truth (0.900,
    0.190)."""
    mean, covariance = law(ExactInner(), g2(kind))
    assert (mean[1].item(), covariance[1, 1].item()) == pytest.approx((0.859, 0.369), abs=0.02)
    assert covariance[0, 0].sqrt().item() == pytest.approx(0.01, abs=1e-4)


@pytest.mark.parametrize("compat", ["none", "released"])
def test_langevin_alone_has_the_law_of_its_recursion(compat, g2, observe, basis_law):
    """x <- a x + (1 - a) m + sqrt(2 lr) xi with a = 1 - lr lam: mean and variance after K steps,
    lam the precision."""
    lr, steps, sigma, tau, y, start = 0.02, 300, 1.5, 0.5, 1.0, -0.4
    solver = DAPS(inner_steps=steps, tau=tau, compat=compat)
    x0 = torch.full((1, 1, 1, 2), start, dtype=torch.float64)

    def run(rows, noise):
        return solver._inner(
            x0.expand(rows, -1, -1, -1),
            Level(1.0, sigma),
            lr,
            observe((True, False), y, rows),
            g2("ve"),
            noise,
        )

    mean, covariance = basis_law(run)
    data = (2 if compat == "released" else 1) / tau**2
    for i, (precision, centre) in enumerate(
        [
            (data + sigma**-2, (data * y + sigma**-2 * start) / (data + sigma**-2)),
            (sigma**-2, start),
        ]
    ):
        a = 1 - lr * precision
        assert mean[i].item() == pytest.approx(centre + a**steps * (start - centre), abs=1e-9)
        assert covariance[i, i].item() == pytest.approx(
            2 * lr * (1 - a ** (2 * steps)) / (1 - a**2), rel=1e-6
        )
    assert covariance[0, 1].item() == pytest.approx(0, abs=1e-12)


def test_langevin_with_small_steps_reproduces_the_gaussian(g2, observe, basis_law):
    """lr far below 1 / precision and enough steps: the product of both Gaussians itself, to the
    order of lr."""
    sigma, tau = 0.7, 0.5
    solver = DAPS(inner_steps=500, tau=tau)

    def run(rows, noise):
        return solver._inner(
            torch.zeros(rows, 1, 1, 2).double(),
            Level(1.0, sigma),
            0.005,
            observe((True, False), rows=rows),
            g2("ve"),
            noise,
        )

    mean, covariance = basis_law(run)
    precision = tau**-2 + sigma**-2
    assert mean.tolist() == pytest.approx([tau**-2 / precision, 0], abs=1e-3)
    assert covariance.diagonal().tolist() == pytest.approx([1 / precision, sigma**2], rel=0.02)


@pytest.mark.parametrize("kind", ["ve", "vp", "flow"])
def test_the_flow_of_a_gaussian_is_known(kind, observe):
    """Each eigendirection of the covariance is scaled by sqrt((lam + end^2) / (lam + start^2))."""
    prior = named_g2(kind).view("ve")
    z = torch.tensor([[3.0, -1.0], [0.5, 2.0]], dtype=torch.float64).view(2, 1, 1, 2)
    end = DAPS(ode_steps=800, ode_ratio=0.05)._flow(
        z, prior.level(5.0), observe((True, False), rows=2), prior
    )
    turn = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / math.sqrt(2)
    lam = torch.tensor([1.9, 0.1], dtype=torch.float64)
    scale = ((lam + 0.05**2) / (lam + 25)).sqrt()
    torch.testing.assert_close(
        end.flatten(1), z.flatten(1) @ turn * scale @ turn, rtol=0.01, atol=0
    )


def test_step_sizes_decay_over_the_levels(g2, observe, double_noise, monkeypatch):
    seen = []
    monkeypatch.setattr(
        DAPS, "_inner", lambda self, x0, t, lr, *_: seen.append((t.sigma, lr)) or x0
    )
    DAPS(steps=4, lr=0.4, lr_end=0.5).draw(observe((True, False)), g2("ve"), double_noise(1))
    assert [lr for _, lr in seen] == pytest.approx([0.4, 0.35, 0.3, 0.25])
    roots = [
        s ** (1 / 7) for s, _ in seen
    ]  # EDM's grid: evenly spaced seventh roots, from 80 towards 0.1
    assert [r - roots[0] for r in roots] == pytest.approx(
        [k * (0.1 ** (1 / 7) - 80 ** (1 / 7)) / 4 for k in range(4)]
    )


def test_released_step_sizes_divide_by_one_level_more(g2, observe, double_noise, monkeypatch):
    """1 - k / 5 of the way from 0.4 to 0.2, k = 0 to 3: the released scheduler counts its end."""
    seen = []
    monkeypatch.setattr(DAPS, "_inner", lambda self, x0, t, lr, *_: seen.append(lr) or x0)
    solver = DAPS(steps=4, lr=0.4, lr_end=0.5, compat="released")
    solver.draw(observe((True, False)), g2("ve"), double_noise(1))
    assert seen == pytest.approx([0.4, 0.36, 0.32, 0.28])


def test_any_differentiable_operator_is_followed(g2, double_noise):
    y = torch.tensor([[0.25, 0.64]], dtype=torch.float64).view(1, 1, 1, 2)
    solver = DAPS(steps=30, inner_steps=300, lr=2e-4, tau=0.05)
    x = solver.draw(Observation(y, Squares()), g2("ve"), double_noise(1))
    torch.testing.assert_close(x.square(), y, atol=4 * 0.05, rtol=0)


class Unnamed(Inpainting):
    """A mask that does not say so."""

    caps = frozenset({"linear"})


@pytest.mark.parametrize("compat", ["none", "released"])
def test_a_mask_needs_no_graph_for_the_bits_of_its_gradient(compat, g2, observe):
    obs, z = observe((True, False), rows=64), torch.randn(64, 1, 1, 2)
    obs = replace(obs, y=obs.y.float())
    z[0], z[1] = -0.0, torch.inf
    solver, prior = DAPS(compat=compat), g2("ve")
    graph = solver._data_slope(z, replace(obs, operator=Unnamed(obs.operator.mask)), prior)
    slope = solver._data_slope(z, obs, prior)
    assert torch.equal(slope.view(torch.int32), graph.view(torch.int32))
    assert slope[2:, ..., 0].ne(0).all()
    assert not slope.requires_grad


def test_a_flow_starts_where_its_data_still_show(observe, double_noise):
    x = DAPS(steps=5, inner_steps=2).draw(
        observe((True, False), rows=2), named_g2("flow"), double_noise(2)
    )
    assert x.isfinite().all()


def test_network_calls_and_no_gradient_through_the_network(g2, observe, double_noise):
    prior = g2("ve")
    with prior.metered() as meter:
        DAPS(steps=6, ode_steps=3, inner_steps=4).draw(
            observe((True, False), rows=4), prior, double_noise(4)
        )
    assert (meter.nfe, meter.nge) == (4 * 6 * 3, 0)


def test_a_row_does_not_depend_on_its_batch(g2, observe, seeded_noise):
    prior, solver, y = g2("ve"), DAPS(steps=10, inner_steps=5), torch.linspace(-1, 1, 5)
    batch = solver.draw(observe((True, False), y, rows=5), prior, seeded_noise(range(5)))
    alone = solver.draw(observe((True, False), y[3:4]), prior, seeded_noise([3]))
    torch.testing.assert_close(batch[3:4], alone, atol=1e-6, rtol=0)


def test_a_broken_row_breaks_no_other(g2, observe, double_noise):
    y = torch.tensor([0.1, torch.nan, 0.3])
    x = DAPS(steps=10, inner_steps=5).draw(
        observe((True, False), y, rows=3), g2("ve"), double_noise(3)
    )
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(DAPS(steps=3, ode_steps=2, inner_steps=1, guidance=2.5))
    assert len(seen) == 6
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"ode_steps": 0}, "ode_steps must be at least 1, got 0"),
        ({"tau": 0.0}, "tau must be positive, got 0.0"),
        ({"ratio_min": 0.001}, "levels in order: ode_ratio <= ratio_min < ratio_max"),
        ({"compat": "authors"}, "unknown compat 'authors'; valid: none, released"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        DAPS(**setting)


def test_shipped_presets_are_complete(presets):
    shipped = presets("daps")
    assert shipped["authors"].steps * shipped["authors"].ode_steps == 1000


# -- momentum and latents --------------------------------------------------------------------------


def test_the_dynamics_with_momentum_have_the_law_of_their_recursion(g2, observe, basis_law):
    """(z, u) is a linear recursion in each pixel, started at u ~ N(0, 1): its mean and covariance
    are iterated."""
    lr, steps, sigma, tau, mu, y, start = 0.03, 40, 1.5, 0.5, 0.7, 1.0, -0.4
    solver = DAPS(inner_steps=steps, tau=tau, momentum=mu)
    centre = torch.full((1, 1, 1, 2), start, dtype=torch.float64)

    def run(rows, noise):
        return solver._inner(
            centre.expand(rows, -1, -1, -1),
            Level(1.0, sigma),
            lr,
            observe((True, False), y, rows),
            g2("ve"),
            noise,
        )

    mean, covariance = basis_law(run)
    for i, (precision, centre_of_it) in enumerate(
        [
            (tau**-2 + sigma**-2, (tau**-2 * y + sigma**-2 * start) / (tau**-2 + sigma**-2)),
            (sigma**-2, start),
        ]
    ):
        h = math.sqrt(lr)
        move = torch.tensor(
            [[1 - lr * precision, h * mu], [-h * precision, mu]], dtype=torch.float64
        )
        kick = math.sqrt(2 * (1 - mu)) * torch.tensor([h, 1.0], dtype=torch.float64)
        m, c = (
            torch.tensor([start - centre_of_it, 0.0], dtype=torch.float64),
            torch.diag(torch.tensor([0.0, 1.0])).double(),
        )
        for _ in range(steps):
            m, c = move @ m, move @ c @ move.T + torch.outer(kick, kick)
        assert mean[i].item() == pytest.approx(centre_of_it + m[0].item(), abs=1e-9)
        assert covariance[i, i].item() == pytest.approx(c[0, 0].item(), rel=1e-6)


def test_a_decoder_is_part_of_the_data_term(latent_g2, observe, double_noise):
    decoder = torch.tensor([[1.2, 0.3], [-0.4, 0.8]], dtype=torch.float64)
    z, y, tau = (
        double_noise(3).normal((1, 1, 2)),
        torch.linspace(-1, 1, 3, dtype=torch.float64),
        0.1,
    )
    slope = DAPS(tau=tau)._data_slope(
        z, observe((True, False), y, rows=3), latent_g2("ve", decoder)
    )
    residual = z.flatten(1) @ decoder[0] - y
    torch.testing.assert_close(slope.flatten(1), residual[:, None] * decoder[0] / tau**2)


def test_released_latents_clamp_the_gradient_of_the_squared_residual(
    latent_g2, observe, double_noise
):
    tau, obs, z = (
        0.1,
        observe((True, False), torch.tensor([-0.2, 5.0]), rows=2),
        torch.zeros(2, 1, 1, 2).double(),
    )
    slope = DAPS(tau=tau, compat="released")._data_slope(z, obs, latent_g2("ve"))
    torch.testing.assert_close(
        slope[:, 0, 0] * tau**2, torch.tensor([[0.4, 0], [-1, 0]]).double(), atol=1e-7, rtol=0
    )


def test_latent_draws_are_images_and_cost_decoder_gradients_alone(latent_g2, observe, double_noise):
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    prior, obs = latent_g2("vp", turn), observe((True, False), 0.3, rows=4)
    solver = DAPS(20, 2, 30, lr=2e-4, momentum=0.7, tau=0.05, ratio_max=10.0)
    with prior.metered() as meter:
        x = solver.draw(obs, prior, double_noise(4))
    inner = 20 * 30
    counts = {
        "nfe": 40,
        "nge": 0,
        "decode": inner + 1,
        "decode_grad": inner,
        "encode": 0,
        "encode_grad": 0,
    }
    assert meter.counts() == {name: 4 * count for name, count in counts.items()}
    assert obs.operator.residual(x, obs.y).abs().max() < 5 * 0.05


def test_latent_presets_are_the_papers(presets):
    shipped = presets("daps")
    assert shipped["authors_latent"].steps * shipped["authors_latent"].ode_steps == 100
    assert (
        shipped["authors_random_latent"].momentum,
        shipped["authors_random_latent"].inner_steps,
    ) == (0.92, 38)
