"""D-Flow, against the optimum in closed form, moments of the released loop and counts by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.solvers.moments import OneGenerator, first_seen, moments

from posterior_bench.priors.mixtures import g2
from posterior_bench.solvers.dflow import DFlow

DECODER = torch.tensor([[1.2, 0.3], [-0.4, 0.8]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("lam", "published", "spread"), [(0.001, 0.8991, 0.0017), (0.01, 0.9004, 0.0001)]
)
def test_moments_of_the_released_loop(lam, published, spread):
    """Their L-BFGS stops early on some rows, which is all of their spread."""
    mean1, mean2, sd1, var2 = moments(DFlow(60, lam=lam), g2("flow"), 100)
    assert (mean1, mean2) == pytest.approx((1.0, published), abs=3e-3)
    assert sd1 < 1e-3
    assert var2 < spread


@pytest.mark.parametrize("kind", ["flow", "vp", "ve"])
def test_it_finds_the_optimum(kind):
    """The flow of a Gaussian is linear, eps -> M eps, so the loss is one of two numbers. With a
    small lam its optimum is the noise on the line that fits whose length is nearest to 1."""
    prior, solver = g2(kind), DFlow(iterations=60, lam=1e-4, inversion_steps=4)
    obs = first_seen(3)
    basis = torch.eye(2, dtype=torch.float64).view(2, 1, 1, 2)
    flow = prior.view("flow")
    M = solver._image(basis, obs, flow).flatten(1).T
    nearest = M[0] / M[0].square().sum()
    assert nearest.norm() == pytest.approx(1, abs=0.1)
    x = solver.draw(obs, prior, OneGenerator(3)).flatten(1)
    torch.testing.assert_close(x, (M @ nearest).expand(3, 2), atol=5e-3, rtol=0)


def test_the_flow_is_the_midpoint_rule():
    """Of the velocity eps_hat - x0 in flow coordinates, from u = 1 to 0."""
    prior, steps = g2("flow"), 5
    S, one = prior.covariances[0], torch.eye(2, dtype=torch.float64)

    def velocity(z, u):
        x0 = z @ ((1 - u) * S @ torch.linalg.inv((1 - u) ** 2 * S + u**2 * one))
        return (z - x0) / u

    z = eps = OneGenerator(4).normal((2,))
    for k in range(steps):
        u = 1 - k / steps
        half = z - velocity(z, u) / (2 * steps)
        z = z - velocity(half, u - 1 / (2 * steps)) / steps
    x = DFlow(steps=steps)._image(eps.view(4, 1, 1, 2), first_seen(4), prior)
    torch.testing.assert_close(x.flatten(1), z)


@pytest.mark.parametrize("kind", ["flow", "ve"])
def test_the_noise_of_the_first_guess_leads_back_to_it(kind):
    prior, obs = g2(kind).view("flow"), first_seen(2, y=0.7)
    solver = DFlow(steps=200, inversion_steps=200)
    eps = solver._noise_of_first_guess(obs, prior)
    torch.testing.assert_close(solver._image(eps, obs, prior), obs.y, atol=0.01, rtol=0)


def test_the_start_is_a_blend(observe, double_noise):
    """One evaluation moves nothing, so the image is that of the start."""
    prior, obs = g2("flow"), observe((True, False), 0.7, rows=3)
    noise = double_noise(3).normal((1, 1, 2))
    for blend in (0.0, 0.1, 1.0):
        solver = DFlow(iterations=1, blend=blend)
        found = solver._noise_of_first_guess(obs, prior)
        start = (1 - blend) ** 0.5 * noise + blend**0.5 * found
        expected = solver._image(start, obs, prior)
        torch.testing.assert_close(solver.draw(obs, prior, double_noise(3)), expected)


def test_the_length_of_the_noise_is_likeliest_at_its_mode():
    """|eps|^2 / 2 - (d - 1) log |eps| has its minimum at sqrt(d - 1); the released one its
    maximum."""
    lengths = torch.linspace(0.5, 6, 56, dtype=torch.float64)
    eps = torch.zeros(56, 1, 1, 10, dtype=torch.float64)
    eps[:, 0, 0, 0] = lengths
    for compat, best in (("none", "argmin"), ("released", "argmax")):
        values = DFlow(compat=compat)._improbable(eps)
        assert lengths[getattr(values, best)()] == pytest.approx(3.0)


def test_released_noise_grows():
    x, clean = (
        DFlow(iterations=30, lam=0.1, compat=compat).draw(
            first_seen(5), g2("flow"), OneGenerator(5)
        )
        for compat in ("released", "none")
    )
    assert x.abs().max() > 10 > 2 > clean.abs().max()


@pytest.mark.parametrize(("blend", "back"), [(0.1, 2 * 7), (0.0, 0)])
def test_calls_through_a_decoder(blend, back, latent_g2, observe, double_noise):
    """12 evaluations of 2 x 4 calls, one flow more for the image, and the flow back."""
    prior = latent_g2("vp", DECODER)
    solver = DFlow(iterations=12, steps=4, inversion_steps=7, blend=blend)
    with prior.metered() as meter, torch.no_grad():
        x = solver.draw(observe((True, False), rows=3), prior, double_noise(3))
    assert meter.counts() == {
        "nfe": 3 * (8 * 13 + back),
        "nge": 3 * 8 * 12,
        "decode": 3 * 13,
        "decode_grad": 3 * 12,
        "encode": 3 * (blend > 0),
        "encode_grad": 0,
    }
    assert not x.requires_grad


FEW = DFlow(iterations=8, steps=2, inversion_steps=3)


def test_a_row_does_not_depend_on_its_batch(observe, seeded_noise):
    prior, y = g2("flow"), torch.linspace(-1, 1, 5)
    batch = FEW.draw(observe((True, False), y, rows=5), prior, seeded_noise(range(5)))
    alone = FEW.draw(observe((True, False), y[3:4]), prior, seeded_noise([3]))
    torch.testing.assert_close(batch[3:4], alone, atol=1e-9, rtol=0)


def test_a_broken_row_breaks_no_other(observe, seeded_noise):
    y, good = torch.tensor([0.1, torch.nan, 0.3]), torch.tensor([0.1, 0.2, 0.3])
    x, clean = (
        FEW.draw(observe((True, False), value, rows=3), g2("flow"), seeded_noise(range(3)))
        for value in (y, good)
    )
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]
    assert torch.equal(x[[0, 2]], clean[[0, 2]])


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(replace(FEW, guidance=2.5))
    assert len(seen) == 2 * 3 + 4 * 9
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("compat", "odd", "unknown compat 'odd'; valid: none, released"),
        ("iterations", 0, "iterations must be at least 1, got 0"),
        ("steps", 0, "steps must be at least 1, got 0"),
        ("inversion_steps", 0, "inversion_steps must be at least 1, got 0"),
        ("lam", -1.0, "lam must be 0 or more, got -1.0"),
        ("history", -1, "history must be 0 or more, got -1"),
        ("blend", 1.5, r"blend 1.5 is outside \[0, 1\]; it is a share of the start"),
    ],
)
def test_bad_settings_are_refused(setting, value, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        replace(DFlow(), **{setting: value})


def test_shipped_presets(presets):
    shipped, authors = presets("dflow"), DFlow(225, 5, 0.001, 0.1, history=100)
    expected = {
        "authors": {},
        "authors_random": {"iterations": 25 * 20},
        "authors_sr": {"iterations": 25 * 10},
        "authors_deblur": {"iterations": 25 * 7},
        "authors_denoise": {"iterations": 25 * 3},
        "authors_afhq": {"lam": 0.01},
        "authors_afhq_sr": {"iterations": 25 * 20},
        "authors_afhq_deblur": {"iterations": 25 * 20, "lam": 0.01, "blend": 0.5},
    }
    shipped = {name: made for name, made in shipped.items() if not name.startswith("fast")}
    paper = {name: replace(authors, **values) for name, values in expected.items()}
    twins = {f"{name}_released": replace(s, compat="released") for name, s in paper.items()}
    assert shipped == {**paper, **twins}
