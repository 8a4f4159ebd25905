"""OT-ODE, against the exact law of its run on a Gaussian prior, and as PiGDM."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from posterior_bench.operators.motion_blur import MotionBlur
from posterior_bench.priors.mixtures import correlated
from posterior_bench.priors.mixtures import g2 as named_g2
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.ot_ode import OTODE
from posterior_bench.solvers.pigdm import PiGDM

# settings, then mean1, mean2, sd1, var2 and cov12 of the released loop, carried as an affine map;
# 20 and 100 steps of the whole time axis
GOLDEN = [
    (OTODE(18), [0.9796, 0.7200, 0.0445, 0.2175, 0.0091]),
    (OTODE(18, gain="exact"), [0.9862, 0.8001, 0.0489, 0.2027, 0.0090]),
    (OTODE(90), [0.9756, 0.7248, 0.0617, 0.2421]),
    (OTODE(90, gain="exact"), [0.9838, 0.7973, 0.0656, 0.2274]),
]


@pytest.fixture
def observe(observe):
    """Measurements that are said to have the noise of the golden runs."""

    def build(*args, **kwargs):
        obs = observe(*args, **kwargs)
        return replace(obs, operator=replace(obs.operator, sigma=0.05))

    return build


@pytest.mark.parametrize(("solver", "golden"), GOLDEN)
@pytest.mark.parametrize("kind", ["flow", "vp", "ve"])
def test_law_on_two_pixels(solver, golden, kind, law):
    """The first level has a ratio of 9, which every process has."""
    mean, covariance = law(solver, named_g2(kind))
    found = [
        *(mean[0].item(), mean[1].item(), covariance[0, 0].sqrt().item()),
        *(covariance[1, 1].item(), covariance[0, 1].item()),
    ]
    assert found[: len(golden)] == pytest.approx(golden, abs=1e-4 if kind == "flow" else 1e-3)


@pytest.mark.parametrize("kind", ["flow", "vp", "ve"])
@pytest.mark.parametrize("std", [1.0, 0.5])
def test_from_pure_noise_and_without_a_gain_it_is_pigdm(kind, std, observe, double_noise):
    prior, obs = named_g2(kind), observe((True, False), torch.linspace(-1, 1, 4), rows=4)
    ode = OTODE(25, start=0.0, gain="exact", data_std=std, grid="flow")
    pigdm = PiGDM(25, data_std=std, eta=0.0, grid="flow")
    torch.testing.assert_close(
        ode.draw(obs, prior, double_noise(4)),
        pigdm.draw(obs, prior, double_noise(4)),
        atol=1e-8,
        rtol=0,
    )


def test_the_first_state_is_a_mixture_of_the_adjoint_and_noise(observe, double_noise):
    prior, obs, seen = named_g2("flow"), observe((True, False), 0.7, rows=2), []
    denoise = prior.denoise
    prior.denoise = lambda z, level, *rest: seen.append((z, level)) or denoise(z, level, *rest)
    OTODE(6, start=0.4).draw(obs, prior, double_noise(2))
    first = seen[0][0]
    expected = 0.4 * obs.y + 0.6 * double_noise(2).normal((1, 1, 2))
    torch.testing.assert_close(first.detach(), expected, atol=1e-12, rtol=0)
    assert [lev.sigma for _, lev in seen] == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_the_released_variance_multiplies_the_signal_by_the_number_of_steps():
    """At t = 0.1 of 100 steps 0.45 and not 0.99."""
    t = named_g2("flow").level(9.0)
    assert OTODE()._variance(t) == pytest.approx(0.81 / 0.82)
    assert OTODE(compat="released")._variance(t) == pytest.approx(0.81 / (0.81 + 100 * 0.01))


def test_the_released_variance_changes_samples(observe, double_noise):
    obs = observe((True, False), 0.7, rows=2)
    ours, released = (
        OTODE(18, compat=compat).draw(obs, named_g2("flow"), double_noise(2))
        for compat in ("none", "released")
    )
    assert (ours - released).abs().max() > 1e-3


def test_a_blur_without_closed_form_runs(double_noise):
    prior = correlated((1, 8, 8), "flow", deviation=1.0)
    operator = MotionBlur((1, 8, 8), kernel=3, sigma=0.05)
    truth = prior.sample(torch.full((2,), 0.5), double_noise(2).normal((1, 8, 8)))
    obs = Observation(operator.A(truth), operator)
    x = OTODE(18).draw(obs, prior, double_noise(2))
    residual = operator.residual(x, obs.y).square().mean().sqrt()
    assert residual < 0.2 * obs.y.square().mean().sqrt()


def test_one_network_call_and_one_backward_per_step_even_without_grad_mode(observe, double_noise):
    prior = named_g2("ve")
    with prior.metered() as meter, torch.no_grad():
        x = OTODE(9).draw(observe((True, False), rows=4), prior, double_noise(4))
    assert meter.counts() == dict.fromkeys(meter.counts(), 0) | {"nfe": 4 * 9, "nge": 4 * 9}
    assert not x.requires_grad


def test_a_row_does_not_depend_on_its_batch(observe, seeded_noise):
    prior, solver, y = named_g2("flow"), OTODE(18), torch.linspace(-1, 1, 8)
    batch = solver.draw(observe((True, False), y, rows=8), prior, seeded_noise(range(8)))
    for i in (0, 5):
        alone = solver.draw(observe((True, False), y[i : i + 1]), prior, seeded_noise([i]))
        torch.testing.assert_close(batch[i : i + 1], alone, atol=1e-6, rtol=0)


def test_a_broken_row_breaks_no_other(observe, double_noise):
    y = torch.tensor([0.1, torch.nan, 0.3])
    x = OTODE(18).draw(observe((True, False), y, rows=3), named_g2("ve"), double_noise(3))
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(OTODE(3, guidance=2.5))
    assert len(seen) == 3
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": 1.0}, r"start 1\.0 is outside \[0, 1\)"),
        ({"gain": "half"}, "unknown gain 'half'; valid: gamma_t, exact"),
        ({"data_std": 0.0}, "data_std must be positive"),
        ({"compat": "authors"}, "unknown compat 'authors'; valid: none, released"),
        ({"compat": "released", "data_std": 0.5}, "goes with data_std=1 only"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        OTODE(**settings)


def test_shipped_presets(presets):
    shipped = presets("ot_ode")
    assert shipped["authors"] == OTODE(90, 0.1, "gamma_t")
    assert shipped["authors_random"] == shipped["authors_sr"] == OTODE(90, 0.1, "exact")
    # 100 steps of the whole time axis
    assert all(
        round(solver.steps / (1 - solver.start)) == 100
        for name, solver in shipped.items()
        if name.startswith("authors")
    )
