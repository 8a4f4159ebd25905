"""FLAIR, against exact moments of the released loop on two pixels, closed forms and counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.solvers.moments import first_seen, moments

from posterior_bench.priors.mixtures import g2
from posterior_bench.solvers.flair import CALIBRATED, FLAIR

ROWS = 20_000
DECODER = torch.tensor([[1.2, 0.3], [-0.4, 0.8]], dtype=torch.float64)


@pytest.mark.parametrize("kind", ["flow", "vp", "ve"])
@pytest.mark.parametrize(
    ("steps", "dta", "published"),
    [
        (20, True, (0.9866, 0.7795, 0.0937, 0.2377, 0.0229)),
        (50, True, (0.9896, 0.8384, 0.0865, 0.2258, 0.0167)),
        (20, False, (0.9242, 0.7108, 0.1438, 0.2243, 0.0462)),
    ],
)
def test_exact_moments_without_a_stop(kind, steps, dta, published, law):
    """The published ones have all hundred weights; lines between twelve of them are near."""
    mean, C = law(FLAIR(steps, stop_rmse=0.0, dta=dta), g2(kind))
    found = [*mean.tolist(), C[0, 0].sqrt().item(), C[1, 1].item(), C[0, 1].item()]
    assert found == pytest.approx(published, abs=2e-3)


def test_moments_of_the_released_loop_with_its_stop():
    """Over 4000 runs, so their own error is 0.008."""
    found = moments(FLAIR(20), g2("flow"), ROWS)
    assert found == pytest.approx((0.9861, 0.7835, 0.0962, 0.2409), abs=0.012)


def test_without_a_measurement_it_samples_the_prior(law):
    mean, C = law(FLAIR(50, data_steps=0), g2("flow"), (False, False))
    assert mean.tolist() == [0, 0]
    torch.testing.assert_close(C, g2("flow").covariances[0], atol=0.03, rtol=0)


def test_two_levels_in_closed_form(latent_g2, double_noise):
    """mu moves by w (v - (n - mu)), which is w (mu - D) / u; then by 2 lr w times the residual."""
    prior, one = latent_g2("ve", DECODER), torch.eye(2, dtype=torch.float64)
    S, back = prior.covariances[0], torch.linalg.inv(DECODER)
    solver = FLAIR(2, data_steps=2, data_lr=0.3, stop_rmse=0.0, weights="flat", time_end=0.4)
    noise = double_noise(4)
    mu = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(4, 2) @ back.T
    n = noise.normal((2,))
    for u in (0.8, 0.6):
        n = (1 - u) * n + (1 - (1 - u) ** 2) ** 0.5 * noise.normal((2,))
        z = (1 - u) * mu + u * n
        D = z @ ((1 - u) * S @ torch.linalg.inv((1 - u) ** 2 * S + u**2 * one))
        v = (z - D) / u
        mu, n = mu - 0.5 * (v - (n - mu)), z + (1 - u) * v
        for _ in range(2):
            r = 1 - (mu @ DECODER.T)[:, :1]
            mu = mu + 0.3 * 0.5 * 2 * r * DECODER[:1]
    x = solver.draw(first_seen(4), prior, double_noise(4)).flatten(1)
    torch.testing.assert_close(x, mu @ DECODER.T)


def test_calibrated_weights_are_lines_between_those_that_were_published():
    at = FLAIR()._weight
    assert {u: at(u) for u in CALIBRATED} == pytest.approx(CALIBRATED)
    assert at(0.25) == pytest.approx((0.306 + 0.399) / 2)
    assert FLAIR(weights="flat")._weight(0.25) == 0.5


def test_levels_lie_between_the_ends():
    levels = FLAIR(4, time_end=0.5)._levels(g2("flow"))
    assert [level.sigma for level in levels] == pytest.approx([0.9, 0.8, 0.7, 0.6])


def test_every_row_stops_by_itself(observe, double_noise):
    """The row that agrees from the start is moved by the prior alone, beside rows that do not."""
    prior, y = g2("flow"), torch.tensor([0.6, 3.0, -2.0])
    obs = observe((True, False), y, rows=3)
    solver = FLAIR(3, stop_rmse=0.5)
    together = solver.draw(obs, prior, double_noise(3))
    free = replace(solver, data_steps=0).draw(obs, prior, double_noise(3))
    fitted = replace(solver, stop_rmse=0.0).draw(obs, prior, double_noise(3))
    near = (free[:, 0, 0, 0] - y).abs() < 0.5
    assert near.tolist() == [True, False, False]
    assert torch.equal(together[0], free[0])
    assert (together[0] - fitted[0]).abs().max() > 0.01
    assert ((together[1:, 0, 0, 0] - y[1:]).abs() < 0.5).all()


def test_the_stop_counts_observed_scalars_alone(observe, double_noise):
    """Two pixels, one of them hidden: with a residual of 0.4 the RMS is 0.4, not 0.28."""
    obs, solver = observe((True, False), 0.4), FLAIR(1, data_steps=1, stop_rmse=0.35)
    prior = g2("flow")
    mu = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    assert not torch.equal(solver._fitted(mu, 0.1, obs, prior), mu)
    assert torch.equal(replace(solver, stop_rmse=0.45)._fitted(mu, 0.1, obs, prior), mu)


def test_calls_through_a_decoder(latent_g2, observe, double_noise):
    """A row that has stopped is decoded too, so the counts do not depend on the data."""
    prior = latent_g2("vp", DECODER)
    with prior.metered() as meter, torch.no_grad():
        x = FLAIR(10).draw(observe((True, False), rows=3), prior, double_noise(3))
    expected = {"nfe": 3 * 10, "nge": 0, "decode": 3 * (15 * 10 + 1), "decode_grad": 3 * 15 * 10}
    assert meter.counts() == {**expected, "encode": 3, "encode_grad": 0}
    assert not x.requires_grad


def test_a_row_does_not_depend_on_its_batch(observe, seeded_noise):
    prior, solver, y = g2("flow"), FLAIR(10), torch.linspace(-1, 1, 5)
    batch = solver.draw(observe((True, False), y, rows=5), prior, seeded_noise(range(5)))
    alone = solver.draw(observe((True, False), y[3:4]), prior, seeded_noise([3]))
    torch.testing.assert_close(batch[3:4], alone, atol=1e-9, rtol=0)


def test_a_broken_row_breaks_no_other(observe, seeded_noise):
    y, good = torch.tensor([0.1, torch.nan, 0.3]), torch.tensor([0.1, 0.2, 0.3])
    x, clean = (
        FLAIR(10).draw(observe((True, False), value, rows=3), g2("flow"), seeded_noise(range(3)))
        for value in (y, good)
    )
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]
    assert torch.equal(x[[0, 2]], clean[[0, 2]])


def test_the_observation_is_not_written_to(observe, double_noise):
    obs = observe((True, True), 0.4, rows=2)
    before = obs.y.clone()
    FLAIR(5).draw(obs, g2("flow"), double_noise(2))
    assert torch.equal(obs.y, before)


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(FLAIR(3, guidance=2.5))
    assert len(seen) == 3
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("weights", "odd", "unknown weights 'odd'; valid: calibrated, flat"),
        ("data_steps", -1, "data_steps must be 0 or more, got -1"),
        ("data_lr", -1.0, "data_lr must be 0 or more, got -1.0"),
        ("stop_rmse", -1.0, "stop_rmse must be 0 or more, got -1.0"),
        ("time_end", 1.0, r"time_end 1.0 is outside \(0, 1\); 1 is pure noise"),
    ],
)
def test_bad_settings_are_refused(setting, value, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        replace(FLAIR(), **{setting: value})


def test_shipped_presets(presets):
    shipped = presets("flair")
    assert shipped["authors"] == FLAIR(50, 15, 0.1, 0.01, "calibrated", True, 0.18, 2.0)
    assert shipped["authors_sr"] == replace(shipped["authors"], data_lr=12.0)
    assert shipped["authors_unguided"] == FLAIR()
