"""PnP-Flow, against the exact law of its run on a Gaussian prior and against its limits."""

from __future__ import annotations

import pytest
import torch

from posterior_bench.operators.phase_retrieval import PhaseRetrieval
from posterior_bench.priors.mixtures import g2 as named_g2
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.pnpflow import PnPFlow

# settings, then mean1, mean2, sd1, var2 and cov12 of the released loop, carried as an affine map
GOLDEN = [
    (PnPFlow(20, 1, 0.5), [0.8831, 0.6340, 0.1691, 0.1710, 0.0439]),
    (PnPFlow(20, 5, 0.5), [0.8831, 0.6340, 0.0756, 0.0342, 0.0088]),
    (PnPFlow(20, 5, 0.01), [0.9949, 0.7632, 0.0234, 0.0242]),
    (PnPFlow(20, 5, 1.0), [0.6480, 0.4754, 0.1558, 0.0479]),
]
GOLDEN_100 = [(PnPFlow(100, 5, 0.5), [0.9804, 0.8061, 0.0301, 0.0242, 0.0016])]


def _numbers(mean, covariance):
    """The numbers of a row of the table."""
    return [
        *(mean[0].item(), mean[1].item(), covariance[0, 0].sqrt().item()),
        *(covariance[1, 1].item(), covariance[0, 1].item()),
    ]


@pytest.mark.parametrize(("solver", "golden"), GOLDEN)
@pytest.mark.parametrize("kind", ["flow", "vp", "ve"])
def test_law_on_two_pixels(solver, golden, kind, law):
    """In other coordinates the noisiest level is at a ratio of 157 or 80, not at pure noise."""
    found = _numbers(*law(solver, named_g2(kind)))[: len(golden)]
    assert found == pytest.approx(golden, abs=1e-4 if kind == "flow" else 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "golden"), GOLDEN_100)
def test_law_with_many_steps(solver, golden, law):
    assert _numbers(*law(solver, named_g2("flow"))) == pytest.approx(golden, abs=1e-4)


def test_more_samples_shrink_the_spread_and_leave_the_mean(law):
    (one, spread), (five, shrunk) = (
        law(PnPFlow(10, samples, 0.5), named_g2("flow")) for samples in (1, 5)
    )
    torch.testing.assert_close(five, one, atol=1e-12, rtol=0)
    torch.testing.assert_close(shrunk, spread / 5, atol=1e-12, rtol=0)


def test_a_step_of_one_length_at_every_level_makes_observed_pixels_those_of_the_measurement(
    observe, double_noise
):
    """With weight 0 and step 1 the denoiser sees ``alpha y + sigma xi`` where y was observed."""
    prior, obs, seen = named_g2("flow"), observe((True, False), 0.7, rows=2), []
    add_noise = prior.process.add_noise

    class Spying(type(prior.process)):
        @staticmethod
        def add_noise(x0, level, noise):
            seen.append(x0)
            return add_noise(x0, level, noise)

    prior.process = Spying()
    PnPFlow(5, weight=0.0).draw(obs, prior, double_noise(2))
    assert len(seen) == 5
    assert all((x[..., 0] - 0.7).abs().max() < 1e-12 for x in seen)


def test_without_a_step_the_measurement_does_not_enter(observe, double_noise):
    free, other = (
        PnPFlow(10, step=0.0).draw(observe((True, False), y, rows=3), named_g2("ve"), noise)
        for y, noise in ((1.0, double_noise(3)), (-1.0, double_noise(3)))
    )
    torch.testing.assert_close(free, other, atol=0, rtol=0)


def test_a_single_level_is_the_mean_of_the_prior(observe, double_noise):
    """A flow starts at pure noise, where the denoiser knows nothing."""
    x = PnPFlow(1).draw(observe((True, False), rows=3), named_g2("flow"), double_noise(3))
    torch.testing.assert_close(x, torch.zeros(3, 1, 1, 2).double(), atol=1e-12, rtol=0)


def test_calls(observe, double_noise, unet_prior):
    for prior, shape in ((named_g2("ve"), (True, False)), (unet_prior(latent=True), None)):
        obs = observe(shape, rows=4) if shape else _latent_problem(4)
        with prior.metered() as meter, torch.no_grad():
            x = PnPFlow(6, samples=3).draw(obs, prior, _single(double_noise(4)))
        calls = meter.counts()
        assert (calls["nfe"], calls["nge"]) == (4 * 6 * 3, 0)
        # once a level for the gradient, and once for the image
        decoded = (4 * 7, 4 * 6) if prior.is_latent else (0, 0)
        assert (calls["decode"], calls["decode_grad"]) == decoded
        assert not x.requires_grad


def _latent_problem(rows):
    from posterior_bench.operators.inpainting import Inpainting

    mask = torch.rand(rows, 1, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.5
    return Observation(torch.where(mask, 0.3, 0.0), Inpainting(mask))


def _single(noise):
    class Single:
        def normal(self, shape):
            return noise.normal(shape).float()

    return Single()


def test_nonlinear_operators_run(double_noise):
    """The step is the gradient, so a modulus of frequencies is an operator like any other."""
    prior = named_g2("ve")
    operator = PhaseRetrieval((1, 1, 2))
    truth = torch.tensor([0.8, 0.6]).double().view(1, 1, 1, 2)
    obs = Observation(operator.A(truth), operator)
    before = operator.residual(torch.zeros_like(truth), obs.y).norm()
    x = PnPFlow(30, weight=0.1, step=0.2).draw(obs, prior, double_noise(1))
    assert operator.residual(x, obs.y).norm() < before / 3


def test_a_row_does_not_depend_on_its_batch(observe, seeded_noise):
    prior, solver, y = named_g2("flow"), PnPFlow(20, 2, 0.5), torch.linspace(-1, 1, 8)
    batch = solver.draw(observe((True, False), y, rows=8), prior, seeded_noise(range(8)))
    for i in (0, 5):
        alone = solver.draw(observe((True, False), y[i : i + 1]), prior, seeded_noise([i]))
        torch.testing.assert_close(batch[i : i + 1], alone, atol=1e-6, rtol=0)


def test_a_broken_row_breaks_no_other(observe, double_noise):
    y = torch.tensor([0.1, torch.nan, 0.3])
    obs = observe((True, False), y, rows=3)
    x = PnPFlow(20).draw(obs, named_g2("ve"), double_noise(3))
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(PnPFlow(3, samples=2, guidance=2.5))
    assert len(seen) == 6
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("samples", 0, "samples must be at least 1, got 0"),
        ("weight", -0.5, r"weight must be 0 or more, got -0\.5"),
        ("step", -1.0, r"step must be 0 or more, got -1\.0"),
    ],
)
def test_bad_settings_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        PnPFlow(**{field: value})


def test_shipped_presets(presets):
    shipped = presets("pnpflow")
    assert shipped["authors"] == PnPFlow(100, samples=5, weight=0.5)
    assert shipped["authors_random_afhq"] == PnPFlow(200, samples=5, weight=0.01)
    assert shipped["authors_denoise"].weight == 0.8
    assert shipped["authors_sr"].weight == 0.3
