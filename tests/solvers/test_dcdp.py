"""DCDP, against SDEdit, exact laws of the released loop and calls counted by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.dcdp import DCDP

TURN = torch.tensor(
    [[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]], dtype=torch.float64
)
V1, V2 = {"purification": "ddim"}, {"purification": "denoise"}

# Runs of the released loop with 2e4 draws: levels count training steps, losses are means over two
# scalars. Here they are exact laws.
RELEASED = [
    (400, DCDP(10, 100, 0.5, **V1), (0.9997, 0.6805), (0.0001, 0.0003, 0.3061)),
    (400, DCDP(10, 100, 0.5, **V2), (0.9997, 0.6970), (0.0001, 0.0001, 0.1382)),
    pytest.param(
        *(700, DCDP(20, 50, 0.5, **V1), (0.9983, 0.7024), (0.0002, 0.0013, 0.3008)),
        marks=pytest.mark.slow,
    ),
    pytest.param(
        *(1000, DCDP(20, 50, 0.5, **V1), (0.9968, 0.6474), (0.0003, 0.0025, 0.3369)),
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("first", "solver", "mean", "var"), RELEASED)
def test_laws_of_the_released_loop(first, solver, mean, var, g2, law):
    prior = g2("vp")
    ratio = prior.level_at_index(first - 1).ratio
    found, cov = law(replace(solver, clip=False, ratio_max=ratio), prior)
    # four standard errors of the released runs, and their last digit
    assert found[0].item() == pytest.approx(mean[0], abs=4 * (var[0] / 2e4) ** 0.5 + 1e-4)
    assert found[1].item() == pytest.approx(mean[1], abs=4 * (var[2] / 2e4) ** 0.5)
    assert cov[0, 0].item() == pytest.approx(var[0], abs=1e-4)
    assert cov[0, 1].item() == pytest.approx(var[1], abs=4 * (var[0] * var[2] / 2e4) ** 0.5 + 1e-4)
    assert cov[1, 1].item() == pytest.approx(var[2], abs=4 * var[2] * (2 / 2e4) ** 0.5)


@pytest.mark.parametrize("purification", ["ddim", "denoise"])
@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_without_data_steps_it_is_sdedit_again_and_again(
    purification, kind, g2, observe, double_noise
):
    prior, noise = g2(kind), double_noise(3)
    x = torch.zeros(3, 1, 1, 2, dtype=torch.float64)
    for t in prior.grid(4, start=prior.level(5.0))[:-1]:
        z = t.alpha * x + t.sigma * noise.normal((1, 1, 2))
        index = {"vp": round(float(t.t)), "ve": 99}[kind]
        count = min(6, index + 1) if purification == "ddim" else 1
        for a, b in pairwise(prior.grid(count, start=t)):
            x0 = prior.denoise(z, a)
            z = b.alpha * x0 + b.sigma * (z - a.alpha * x0) / a.sigma
        x = z
    solver = DCDP(4, 0, ratio_max=5.0, purification=purification, purify_steps=6, clip=False)
    for y in (0.3, math.nan):
        found = solver.draw(observe((True, False), y, rows=3), prior, double_noise(3))
        torch.testing.assert_close(found, x)


class Silence:
    """No noise."""

    def __init__(self, rows: int):
        self.rows = rows

    def normal(self, shape: Sequence[int]) -> Tensor:
        return torch.zeros(self.rows, *shape, dtype=torch.float64)


def _fitted(solver: DCDP, prior, obs: Observation, monkeypatch) -> Tensor:
    """What the only round hands on to the purification."""
    monkeypatch.setattr(DCDP, "_purified", lambda self, z, t, obs, prior: z / t.alpha)
    return solver.draw(obs, prior, Silence(obs.n)).flatten(1)


def test_gradient_steps_are_those_of_torchs_sgd(g2, observe, monkeypatch):
    """Heavy ball on half the sum of squares, from zero."""
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    sgd = torch.optim.SGD([x], lr=0.07, momentum=0.8)
    for _ in range(5):
        sgd.zero_grad()
        (0.5 * (x[0] - 0.7) ** 2).backward()
        sgd.step()
    solver = DCDP(1, 5, 0.07, 0.8)
    found = _fitted(solver, g2("vp"), observe((True, False), 0.7, rows=2), monkeypatch)
    torch.testing.assert_close(found, x.detach().expand(2, 2))


class Half(Inpainting):
    """Half of the observed pixels, and not said to be linear: the slope comes from autograd."""

    caps = frozenset({"nonlinear"})

    def A(self, x: Tensor) -> Tensor:
        return super().A(x) / 2


def test_a_slope_without_an_adjoint_and_one_through_a_decoder(g2, latent_g2, observe, monkeypatch):
    """``A^T (A x - y)`` for ``A = P / 2``, and for ``A = P`` times the decoder."""
    y = torch.tensor([0.7, 0.0], dtype=torch.float64)
    obs = observe((True, False), 0.7, rows=1)
    P = torch.diag(torch.tensor([1.0, 0.0])).double()
    half = replace(obs, operator=Half(obs.operator.mask))
    decoder = torch.tensor([[1.2, 0.3], [-0.4, 0.8]]).double()
    for prior, given, A in ((g2("vp"), half, P / 2), (latent_g2("vp", decoder), obs, P @ decoder)):
        x = torch.zeros(2, dtype=torch.float64)
        for _ in range(4):
            x = x - 0.1 * A.T @ (A @ x - y)
        found = _fitted(DCDP(1, 4, 0.1, 0.0), prior, given, monkeypatch)
        torch.testing.assert_close(found[0], decoder @ x if prior.is_latent else x)


def test_one_round_at_the_cleanest_level_is_one_prediction_of_the_observed(g2, observe):
    """Without noise, and with steps enough to meet y."""
    prior, obs = g2("vp"), observe((True, False), 0.7)
    t = prior.level_at_index(0)
    solver = DCDP(1, 1, 1.0, 0.0, ratio_max=t.ratio, clip=False)
    x = solver.draw(obs, prior, Silence(1))
    torch.testing.assert_close(x, prior.denoise(t.alpha * obs.y, t))


def test_calls_and_levels(g2, observe, double_noise, monkeypatch):
    """``K min(20, T_k)`` calls for version 1: nine chains of 20 and one of a single training
    step."""
    prior, seen = g2("vp"), []
    denoise = prior.denoise

    def spy(z: Tensor, level: Level, *more: object) -> Tensor:
        seen.append(float(level.t))
        return denoise(z, level)

    monkeypatch.setattr(prior, "denoise", spy)
    ratio = prior.level_at_index(399).ratio
    obs = observe((True, False), rows=2)
    DCDP(10, 3, ratio_max=ratio).draw(obs, prior, double_noise(2))
    assert len(seen) == 9 * 20 + 1
    tops = [399, 355, 310, 266, 222, 177, 133, 89, 44, 0]
    assert [round(t) for t in seen[::20]] == tops
    assert all(a > b for i, (a, b) in enumerate(pairwise(seen)) if (i + 1) % 20)
    seen.clear()
    DCDP(10, 3, ratio_max=ratio, purification="denoise").draw(obs, prior, double_noise(2))
    assert [round(t) for t in seen] == tops


def test_calls_through_a_decoder(latent_g2, observe, double_noise):
    prior = latent_g2("ve", TURN)
    with prior.metered() as meter, torch.no_grad():
        x = DCDP(4, 5, purify_steps=6).draw(observe((True, False), rows=3), prior, double_noise(3))
    expected = {"nfe": 24, "nge": 0, "decode": 4 * 5 + 1, "decode_grad": 4 * 5}
    counts = {name: 3 * count for name, count in expected.items()}
    assert meter.counts() == {**counts, "encode": 0, "encode_grad": 0}
    assert not x.requires_grad


def test_a_turn_between_latents_and_images_changes_nothing(isometry, observe):
    obs = observe((True, False), torch.linspace(-1, 1, 4), rows=4)
    solver = DCDP(5, 10, 0.1, clip=False)
    latent, pixel = (solver.draw(obs, prior, noise) for prior, noise in isometry("vp", TURN, 4))
    torch.testing.assert_close(latent, pixel, atol=1e-9, rtol=0)


def test_coordinates_do_not_matter(g2, observe, double_noise):
    prior, solver = g2("vp"), DCDP(5, 10, 0.1, grid="karras")
    obs = observe((True, False), torch.linspace(-1, 1, 3), rows=3)
    native = solver.draw(obs, prior, double_noise(3))
    torch.testing.assert_close(
        solver.draw(obs, prior.view("ve"), double_noise(3)), native, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("purification", ["ddim", "denoise"])
def test_images_stay_in_their_range_unless_they_are_not_clipped(
    purification, g2, observe, double_noise
):
    obs, solver = observe((False, False), rows=50), DCDP(3, purification=purification)
    assert solver.draw(obs, g2("vp"), double_noise(50)).abs().max() <= 1
    free = replace(solver, clip=False, ratio_max=100.0)
    assert free.draw(obs, g2("vp"), double_noise(50)).abs().max() > 1


def test_a_row_does_not_depend_on_its_batch(g2, observe, seeded_noise):
    prior, solver, y = g2("ve"), DCDP(5, 10, 0.1), torch.linspace(-1, 1, 8)
    batch = solver.draw(observe((True, False), y, rows=8), prior, seeded_noise(range(8)))
    for i in (0, 5):
        alone = solver.draw(observe((True, False), y[i : i + 1]), prior, seeded_noise([i]))
        torch.testing.assert_close(batch[i : i + 1], alone, atol=1e-6, rtol=0)


def test_a_broken_row_breaks_no_other(g2, observe, double_noise):
    y = torch.tensor([0.1, torch.nan, 0.3])
    x = DCDP(5, 10, clip=False).draw(observe((True, False), y, rows=3), g2("ve"), double_noise(3))
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(DCDP(3, 2, purify_steps=4, guidance=2.5))
    assert len(seen) == 3 * 4
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"purification": "odd"}, "unknown purification 'odd'; valid: ddim, denoise"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"purify_steps": 0}, "purify_steps must be positive, got 0"),
        ({"ratio_max": math.nan}, "ratio_max must be positive, got nan"),
        ({"momentum": 1.0}, r"need inner_steps of 0 or more and momentum in \[0, 1\), got 50"),
        ({"inner_steps": -1}, "need inner_steps of 0 or more .*, got -1 and 0.9"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        DCDP(**setting)


def test_shipped_presets_have_the_published_steps(presets):
    """1000 and 100000 on means: over 3 x 256 x 256 scalars, and 3 x 64 x 64 of super-resolution."""
    built = presets("dcdp")
    assert built["authors"] == DCDP()
    for name, rate, side in (
        ("authors", 1e3, 256),
        ("authors_super_resolution", 1e3, 64),
        ("authors_blur", 1e5, 256),
    ):
        assert built[name].lr == pytest.approx(2 * rate / (3 * side**2), rel=5e-3)
        assert built[f"{name}_v2"] == replace(built[name], purification="denoise")
