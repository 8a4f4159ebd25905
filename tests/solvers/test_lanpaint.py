"""LanPaint, against its exact law on a Gaussian prior, runs of the authors' loops and its
equations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from posterior_bench.priors.base import Condition
from posterior_bench.priors.mixtures import g2 as named_g2
from posterior_bench.priors.process import CLEAN, VP
from posterior_bench.solvers.blended import Blended
from posterior_bench.solvers.lanpaint import LanPaint, _Overdamped, _Springs, _Underdamped

NODE = LanPaint()
BENCH = LanPaint(
    lam=8.0, step=0.15, dynamics="underdamped", ramp="step", early_stop=0, known="chain"
)


def on_levels(prior, ratios: Sequence[float]):
    """Return the prior with a grid of these noise levels, whatever is asked for."""
    levels = [*map(prior.level, ratios), CLEAN]
    vp = prior.view("vp")
    seen = [*map(vp.level, ratios), CLEAN]
    prior.grid = lambda *_: levels
    vp.grid = lambda *_: seen
    prior.view = lambda kind: vp
    return prior


def even_flow(n: int):
    """Times 1 - k / n of a flow, from pure noise on."""
    times = [1 - k / n for k in range(n)]
    return on_levels(named_g2("flow"), [u / (1 - u) if u < 1 else math.inf for u in times])


def euler(n: int):
    """The levels of diffusers' Euler scheduler for linear betas, which lie between training
    steps."""
    sigmas = VP.scheduled("linear", 1e-4, 0.02).log_ratio.exp().tolist()
    ratios = []
    for k in range(n):
        at = 999 - 999 * k / (n - 1)
        low = min(int(at), 998)
        ratios.append(sigmas[low] + (at - low) * (sigmas[low + 1] - sigmas[low]))
    return on_levels(named_g2("ve"), ratios)


# mean and variance of the hidden pixel, and network calls, where the observed pixel is 1 and the
# posterior N(0.9, 0.19): the affine map, exact
EXACT = {
    "node": (NODE, 20, 0.7470, 0.2785, 71),
    "twice the steps": (replace(NODE, inner=10), 20, 0.8228, 0.1899, 125),
    "five times the levels": (replace(NODE, steps=100), 100, 0.7943, 0.2527, 351),
    "shorter steps, not fewer": (replace(NODE, ramp="step"), 20, 0.8555, 0.1971, 115),
    "no step": (replace(NODE, inner=0), 20, 0.4371, 0.4707, 20),
}


@pytest.mark.parametrize("name", EXACT)
def test_law_of_the_node_on_a_gaussian(name, law):
    solver, levels, mean, var, calls = EXACT[name]
    prior = even_flow(levels)
    with prior.metered() as meter:
        found_mean, found = law(solver, prior)
    rows = meter.nfe / calls
    assert rows == round(rows)  # the law makes a run of one row and one of all
    assert found_mean.tolist() == pytest.approx([1, mean], abs=1e-4)
    assert found[1, 1].item() == pytest.approx(var, abs=1e-4)
    assert found[0].abs().max() == 0  # what is observed comes back


# 1e5 runs of the authors' loops; the tolerance is 3 standard errors
RUNS = {
    "node": (NODE, 20, 0.7530, 0.2282, 92),
    "node, 10 steps": (replace(NODE, inner=10), 20, 0.7990, 0.2089, 162),
    "bench, 5 steps": (BENCH, 20, 0.8254, 0.1827, 120),
    "bench, 10 steps": (replace(BENCH, inner=10), 20, 0.8733, 0.1698, 220),
    "bench, 50 levels": (replace(BENCH, steps=50), 50, 0.8632, 0.1944, 300),
    "bench, no guidance": (replace(BENCH, lam=0.0), 20, 0.6725, 0.2839, 120),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (RUNS[n][1] > 20)) for n in RUNS]
)
def test_law_is_that_of_the_authors_loops(name, law, observe, double_noise):
    solver, levels, mean, var, calls = RUNS[name]
    prior, runs = euler(levels), 1e5
    found_mean, found = law(solver, prior)
    assert found_mean[1].item() == pytest.approx(mean, abs=3 * math.sqrt(var / runs))
    assert found[1, 1].item() == pytest.approx(var, abs=3 * var * math.sqrt(2 / runs))
    with prior.metered() as meter:
        solver.draw(observe((True, False), rows=2), prior, double_noise(2))
    assert (meter.nfe, meter.nge) == (2 * calls, 0)


class Many:
    """Normals of one generator for all rows, which is quick."""

    def __init__(self, rows: int):
        self.rows, self.generator = rows, torch.Generator().manual_seed(0)

    def normal(self, shape: Sequence[int]) -> Tensor:
        size = (self.rows, *shape)
        return torch.randn(size, generator=self.generator, dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("dynamics", ["overdamped", "underdamped"])
def test_many_steps_reach_the_posterior(dynamics, observe):
    """Without guidance the hidden pixel's Langevin steps are exact: N(0.9, 0.19)."""
    solver = LanPaint(20, 60, 0.0, 0.2, dynamics, 2.0, "step", 0, "chain")
    x = solver.draw(observe((True, False), rows=4000), even_flow(20), Many(4000))[..., 1]
    assert (x.mean().item(), x.var().item()) == pytest.approx((0.9, 0.19), abs=0.03)


@pytest.mark.parametrize("kind", ["ve", "vp", "flow"])
def test_round_off_does_not_choose_the_number_of_steps(kind):
    """At equal shares of noise and image, 2.5 steps are rounded to 2, whatever the coordinates."""
    view = named_g2(kind).view("vp")
    for ratio in (1 - 1e-12, 1.0, 1 + 1e-12):
        assert LanPaint()._count(view.level(ratio), 9) == 2
    assert LanPaint()._count(view.level(1.01), 9) == 3
    assert LanPaint(early_stop=9)._count(view.level(1.01), 9) == 0
    assert LanPaint(ramp="step")._count(view.level(0.01), 9) == 5


def test_without_steps_it_is_replacement_with_one_noise(g2, observe, double_noise):
    """Blended with eta 0 and all noise after the first draw frozen."""

    class Frozen:
        def __init__(self):
            base = double_noise(3)
            self.first, self.kept, self.calls = base.normal((1, 1, 2)), base.normal((1, 1, 2)), 0

        def normal(self, shape: Sequence[int]) -> Tensor:
            self.calls += 1
            return self.first if self.calls == 1 else self.kept

    obs = observe((True, False), torch.linspace(-1, 1, 3), rows=3)
    blended = Blended(30, 0.0).draw(obs, g2("vp"), Frozen())
    x = LanPaint(30, inner=0).draw(obs, g2("vp"), double_noise(3))
    torch.testing.assert_close(x, obs.operator.paste(blended, obs.y), atol=1e-9, rtol=0)


@pytest.mark.parametrize("known", ["frozen", "chain"])
def test_the_observation_is_noised_to_the_level_of_the_state(known, g2, observe, monkeypatch):
    """One noise is the same at every level; a path has the correlation sqrt(...) of the process."""
    rows, prior = 20000, g2("vp")
    view, seen = prior.view("vp"), []
    monkeypatch.setattr(prior, "view", lambda kind: view)
    denoise = view.denoise

    def spy(z, level, cond=None, guidance=1.0):
        seen.append(((z[..., 0] - level.alpha) / level.sigma, level))
        return denoise(z, level)

    monkeypatch.setattr(view, "denoise", spy)
    LanPaint(4, inner=0, known=known).draw(observe((True, False), rows=rows), prior, Many(rows))
    (first, t), (second, s) = seen[1:3]
    expected = 1.0 if known == "frozen" else s.ratio / t.ratio
    assert (first * second).mean().item() == pytest.approx(expected, abs=0.03)
    assert first.var().item() == pytest.approx(1, abs=0.03)


# -- the dynamics ----------------------------------------------------------------------------------


class Zeros:
    def normal(self, shape: Sequence[int]) -> Tensor:
        return torch.zeros(1, *shape, dtype=torch.float64)


def _dynamics(name: str, x: Tensor, noise, friction: float = 3.0):
    springs = _Springs(2.0, 12.0, torch.tensor([[0.0, 1.0]], dtype=torch.float64))
    return (
        _Overdamped(x, springs, noise)
        if name == "overdamped"
        else _Underdamped(x, springs, noise, friction)
    )


@pytest.mark.parametrize("friction", [0.5, 2.0, 3.0, 15.0])
def test_the_flow_of_underdamped_steps_solves_their_equation(friction):
    """Against many small steps without noise: oscillating, critical and damped."""
    x, force = torch.tensor([[1.0, -1.0]], dtype=torch.float64), torch.tensor([[0.7, 3.0]])
    state = _dynamics("underdamped", x, Zeros(), friction)
    state.v = torch.tensor([[0.4, -2.0]], dtype=torch.float64)
    stiffness = torch.tensor([[2.0, 12.0]], dtype=torch.float64)
    g, v, steps, time = friction * stiffness.sqrt(), state.v, 1000, 0.05

    def rate(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return g * v, g * (force - stiffness * x) - g**2 * v

    for _ in range(steps):  # by midpoints
        h = time / steps
        dx, dv = rate(x, v)
        dx, dv = rate(x + h / 2 * dx, v + h / 2 * dv)
        x, v = x + h * dx, v + h * dv
    state.flow(force, time)
    torch.testing.assert_close(state.x, x, atol=1e-3, rtol=0)
    torch.testing.assert_close(state.v, v, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["overdamped", "underdamped"])
def test_a_flow_keeps_the_law_at_rest_and_two_halves_are_one(name):
    """N(C / A, 1 / A) stays, and two steps of half the time have the covariance of one."""
    rows, force = 40000, torch.tensor([[4.0, 6.0]], dtype=torch.float64)
    noise = Many(rows)
    stiffness = torch.tensor([[2.0, 12.0]], dtype=torch.float64)
    start = force / stiffness + noise.normal((2,)) / stiffness.sqrt()
    state = _dynamics(name, start, noise)
    state.flow(force, 0.1)
    torch.testing.assert_close(state.x.mean(0), (force / stiffness)[0], atol=0.02, rtol=0)
    torch.testing.assert_close(state.x.var(0), (1 / stiffness)[0], atol=0, rtol=0.03)
    whole = _dynamics(name, torch.zeros(rows, 2, dtype=torch.float64), noise)
    halves = _dynamics(name, torch.zeros(rows, 2, dtype=torch.float64), noise)
    whole.flow(force, 0.2)
    halves.flow(force, 0.1)
    halves.flow(force, 0.1)
    torch.testing.assert_close(halves.x.mean(0), whole.x.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(halves.x.var(0), whole.x.var(0), atol=0, rtol=0.05)


def test_high_friction_is_overdamped(law):
    over, under = (
        law(replace(BENCH, dynamics=name, friction=300.0), euler(20))
        for name in ("overdamped", "underdamped")
    )
    for a, b in zip(over, under, strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=0)


# -- rows and conditions -----------------------------------------------------------------

BOTH = pytest.mark.parametrize("solver", [LanPaint(10), replace(BENCH, steps=6)], ids=["node", "b"])


@BOTH
def test_a_row_does_not_depend_on_its_batch(solver, g2, observe, seeded_noise):
    prior, y = g2("ve"), torch.linspace(-1, 1, 5)
    batch = solver.draw(observe((True, False), y, rows=5), prior, seeded_noise(range(5)))
    alone = solver.draw(observe((True, False), y[3:4]), prior, seeded_noise([3]))
    torch.testing.assert_close(batch[3:4], alone, atol=1e-6, rtol=0)


@BOTH
def test_a_broken_row_breaks_no_other(solver, g2, observe, double_noise):
    y = torch.tensor([0.1, torch.nan, 0.3])
    x = solver.draw(observe((True, False), y, rows=3), g2("ve"), double_noise(3))
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_condition_and_guidance_reach_the_prior(asked):
    solver = LanPaint(3, guidance=2.5)
    cond, seen = asked(solver)
    assert len(seen) > 3
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


def test_two_weights_of_guidance_come_from_one_pair_of_calls(g2, observe, double_noise):
    """The null condition shifts predictions by 1 and the condition by 2, so weight w shifts them by
    1 + w; in the hole that is 3.5 and the pull on what is observed is 0.5."""
    prior, shifts = g2("ve"), {3: 2.0, 0: 1.0}
    denoise, labels = prior.denoise, []

    def shifted(z, level, cond=None, guidance=1.0):
        label = int(cond.values["label"][0])
        labels.append((label, guidance))
        return denoise(z, level) + shifts[label]

    prior.denoise = shifted
    cond = Condition({"label": torch.tensor([3])}, {"label": torch.tensor([0])})
    solver, z = LanPaint(guidance=2.5, guidance_known=-0.5), torch.zeros(1, 1, 1, 2).double()
    hole, known = solver._predictions(z, prior.level(1.0), cond, prior)
    torch.testing.assert_close(hole, torch.full_like(z, 3.5))
    torch.testing.assert_close(known, torch.full_like(z, 0.5))
    assert labels == [(3, 1.0), (0, 1.0)]
    with pytest.raises(ValueError, match=r"guidance_known -0\.5 needs a condition and a trained"):
        solver._predictions(z, prior.level(1.0), None, prior)


def test_latents_of_an_autoencoder_that_scales_are_scaled_images(
    g2, latent_g2, observe, double_noise
):
    latent = NODE.draw(
        observe((True, False), 2.0, rows=3), latent_g2("vp", 2 * torch.eye(2)), double_noise(3)
    )
    pixel = NODE.draw(observe((True, False), 1.0, rows=3), g2("vp"), double_noise(3))
    torch.testing.assert_close(latent, 2 * pixel, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dynamics": "critical"}, "unknown dynamics 'critical'; valid: overdamped, underdamped"),
        ({"ramp": "none"}, "unknown ramp 'none'; valid: count, step"),
        ({"known": "fresh"}, "unknown known 'fresh'; valid: frozen, chain"),
        ({"inner": -1}, "inner must be 0 or more, got -1"),
        ({"lam": math.nan}, "lam must be 0 or more, got nan"),
        ({"step": 0.0}, "step must be positive, got 0.0"),
        ({"friction": -1.0}, "friction must be positive, got -1.0"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        LanPaint(**settings)
    assert "\n" not in str(error.value)


def test_presets_have_the_constants_of_the_two_algorithms(presets):
    shipped = presets("lanpaint")
    assert shipped["authors"] == BENCH
    assert shipped["authors_10"] == replace(BENCH, inner=10)
    assert shipped["authors_node"] == NODE
