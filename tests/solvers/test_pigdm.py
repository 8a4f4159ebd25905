"""PiGDM, against closed forms on Gaussian priors and against MMPS where both are exact."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.process import VE, VP, Flow
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.mmps import MMPS
from posterior_bench.solvers.pigdm import PiGDM

EXACT = [("vp", 0.8532, 0.2024), ("ve", 0.8530, 0.2049)]
EXACT_1000 = [("vp", 0.8538, 0.2108), ("ve", 0.8537, 0.2118)]
PRACTICAL = [("vp", 0.990, 0.143), ("ve", 0.985, 0.148)]
PRACTICAL_1000 = [("vp", 0.993, 0.150), ("ve", 0.991, 0.152)]


def _agrees(solver, prior, law, mean, var, tolerance):
    x, covariance = law(solver, prior)
    assert x[1].item() == pytest.approx(mean, abs=tolerance)
    assert covariance[1, 1].item() == pytest.approx(var, abs=tolerance)


@pytest.mark.parametrize(("kind", "mean", "var"), EXACT)
def test_law_of_the_exact_form(kind, mean, var, g2, law):
    _agrees(PiGDM(250), g2(kind), law, mean, var, 1e-4)


@pytest.mark.parametrize(("kind", "mean", "var"), PRACTICAL)
def test_law_with_the_practical_weight(kind, mean, var, g2, law):
    _agrees(PiGDM(250, weight="practical"), g2(kind), law, mean, var, 0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "mean", "var"), EXACT_1000)
def test_law_of_the_exact_form_with_many_steps(kind, mean, var, g2, law):
    _agrees(PiGDM(1000), g2(kind), law, mean, var, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "mean", "var"), PRACTICAL_1000)
def test_law_with_the_practical_weight_and_many_steps(kind, mean, var, g2, law):
    _agrees(PiGDM(1000, weight="practical"), g2(kind), law, mean, var, 0.01)


@pytest.mark.parametrize(
    "process", [VE(), VP.scheduled("linear", 1e-4, 0.02), Flow()], ids=["ve", "vp", "flow"]
)
@pytest.mark.parametrize("std", [1.0, 0.5])
def test_a_prior_of_independent_pixels_is_solved_exactly_and_equals_mmps(
    process, std, double_noise
):
    """``N(0, s^2 I)`` has the assumed variance ``r_t^2`` and no other."""
    prior = MixturePrior(
        process, torch.ones(1), torch.zeros(1, 4), std**2 * torch.eye(4)[None], (1, 2, 2)
    )
    mask = torch.tensor([[True, False], [True, True]]).expand(6, 1, 2, 2)
    y = torch.randn(6, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    obs = Observation(torch.where(mask, y, 0.0), Inpainting(mask, 0.3))
    x = PiGDM(25, data_std=std).draw(obs, prior, double_noise(6))
    # the system is a multiple of the identity, which one conjugate gradient solves
    exact = MMPS(25, iterations=1, tolerance=0).draw(obs, prior, double_noise(6))
    torch.testing.assert_close(x, exact, atol=1e-9, rtol=0)


def test_the_exact_form_does_not_depend_on_the_coordinates(g2, law):
    vp, view = law(PiGDM(60), g2("vp")), law(PiGDM(60), g2("vp").view("ve"))
    torch.testing.assert_close(vp, view, atol=1e-6, rtol=0)


@pytest.mark.parametrize("weight", ["exact", "practical"])
def test_nothing_observed_and_boundless_noise_are_no_guidance(weight, g2, observe, double_noise):
    prior, solver = g2("ve"), PiGDM(30, weight=weight)
    free = solver.draw(observe((False, False), rows=4), prior, double_noise(4))
    obs = observe((True, False), rows=4)
    deaf = replace(obs, operator=Inpainting(obs.operator.mask, 1e9))
    torch.testing.assert_close(solver.draw(deaf, prior, double_noise(4)), free, atol=1e-9, rtol=0)


def test_a_single_step_with_noise_in_closed_form(g2, observe, double_noise):
    """From sigma = 80 to clean: ``x = K z + (y - e1' K z) K e1 80^2 / (r^2 + sigma_y^2)`` with unit
    data_std."""
    top, noise_y = 80.0, 0.5
    obs = observe((True, False), 0.7, rows=5)
    noisy = replace(obs, operator=Inpainting(obs.operator.mask, noise_y))
    S = g2("ve").covariances[0]
    K = S @ torch.linalg.inv(S + top**2 * torch.eye(2).double())
    x0 = top * double_noise(5).normal((2,)) @ K
    weight = top**2 / (top**2 / (1 + top**2) + noise_y**2)
    expected = x0 + weight * (0.7 - x0[:, :1]) * K[:1]
    torch.testing.assert_close(PiGDM(1).draw(noisy, g2("ve"), double_noise(5)).flatten(1), expected)


def test_clipping_stays_outside_the_gradient(observe, double_noise):
    """A prior around 3 is clipped to 1, and the observation of 2 still pulls: by a Jacobian that is
    not cut off."""
    prior = MixturePrior(
        VE(), torch.ones(1), torch.full((1, 2), 3.0), 0.25 * torch.eye(2)[None], (1, 1, 2)
    )
    x = PiGDM(1, data_std=0.5, clip=True).draw(
        observe((True, False), 2.0, rows=3), prior, double_noise(3)
    )
    torch.testing.assert_close(x[..., 0], torch.full((3, 1, 1), 2.0).double())
    torch.testing.assert_close(x[..., 1], torch.full((3, 1, 1), 1.0).double())


def test_a_row_does_not_depend_on_its_batch(g2, observe, seeded_noise):
    prior, solver, y = g2("ve"), PiGDM(30), torch.linspace(-1, 1, 8)
    batch = solver.draw(observe((True, False), y, rows=8), prior, seeded_noise(range(8)))
    for i in (0, 5):
        alone = solver.draw(observe((True, False), y[i : i + 1]), prior, seeded_noise([i]))
        torch.testing.assert_close(batch[i : i + 1], alone, atol=1e-6, rtol=0)


def test_a_broken_row_breaks_no_other(g2, observe, double_noise):
    prior, y = g2("ve"), torch.tensor([0.1, torch.nan, 0.3])
    x = PiGDM(20).draw(observe((True, False), y, rows=3), prior, double_noise(3))
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_one_network_call_and_one_backward_per_step_even_without_grad_mode(
    g2, observe, double_noise
):
    prior = g2("ve")
    with prior.metered() as meter, torch.no_grad():
        x = PiGDM(30).draw(observe((True, False), rows=4), prior, double_noise(4))
    assert (meter.nfe, meter.nge) == (4 * 30, 4 * 30)
    assert not x.requires_grad


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(PiGDM(3, guidance=2.5))
    assert len(seen) == 3
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("eta", 2.0, r"eta 2\.0 is outside"),
        ("weight", "odd", "unknown weight 'odd'; valid: "),
        ("data_std", 0.0, "data_std must be positive"),
        ("compat", "authors", "unknown compat 'authors'; valid: none, released"),
        ("compat", "released", "no code was released for weight 'exact'"),
    ],
)
def test_bad_settings_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(PiGDM(), **{field: value})


def test_shipped_presets_are_complete(presets):
    built = presets("pigdm")
    assert built["authors"] == PiGDM()
    assert built["practical"].weight == "practical"
    assert built["practical_released"] == replace(built["practical"], compat="released")
