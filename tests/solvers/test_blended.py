"""Blended, against its exact law on a Gaussian prior."""

from __future__ import annotations

import pytest
import torch

from posterior_bench.solvers.blended import Blended

# mean and variance of the hidden pixel, deviation of the observed one: exact propagation of the
# affine map
GOLDEN = {
    ("vp", 250, 1.0): (0.6221, 0.3003, 0.0100),
    ("ve", 250, 1.0): (0.6200, 0.3025, 0.0020),
    ("vp", 250, 0.0): (0.4472, 0.4285, 0.0100),
    ("ve", 250, 0.0): (0.4440, 0.4305, 0.0020),
    ("vp", 1000, 1.0): (0.6256, 0.3078, 0.0100),
    ("ve", 1000, 1.0): (0.6251, 0.3087, 0.0020),
    ("vp", 1000, 0.0): (0.4470, 0.4338, 0.0100),
    ("ve", 1000, 0.0): (0.4462, 0.4345, 0.0020),
}


@pytest.mark.parametrize(("kind", "steps", "eta"), GOLDEN)
def test_law_on_a_gaussian(kind, steps, eta, g2, law):
    mean, covariance = law(Blended(steps, eta), g2(kind))
    hidden_mean, hidden_var, observed_sd = GOLDEN[kind, steps, eta]
    assert mean[1].item() == pytest.approx(hidden_mean, abs=1e-4)
    assert covariance[1, 1].item() == pytest.approx(hidden_var, abs=1e-4)
    assert covariance[0, 0].sqrt().item() == pytest.approx(observed_sd, abs=1e-4)
    assert mean[0].item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "steps", "var"), [("vp", 250, 0.9690), ("ve", 250, 0.9585), ("ve", 1000, 0.9894)]
)
def test_nothing_observed_is_unconditional_sampling(kind, steps, var, g2, law):
    mean, covariance = law(Blended(steps), g2(kind), mask=(False, False))
    assert not mean.any()
    assert covariance.diagonal().tolist() == pytest.approx([var, var], abs=1e-4)


def test_everything_observed_gives_the_observation_back(g2, law, observe, double_noise):
    prior, obs = g2("ve"), observe((True, True), 0.7, rows=4)
    x = Blended(50).draw(obs, prior, double_noise(4))
    torch.testing.assert_close(x, obs.y, atol=5 * 0.002, rtol=0)
    assert torch.equal(obs.operator.paste(x, obs.y), obs.y)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_coordinates_do_not_matter(eta, g2, observe, double_noise):
    prior, obs, solver = g2("vp"), observe((True, False), rows=3), Blended(40, eta, grid="karras")
    native = solver.draw(obs, prior, double_noise(3))
    torch.testing.assert_close(
        solver.draw(obs, prior.view("ve"), double_noise(3)), native, atol=1e-6, rtol=0
    )


def test_one_network_call_per_step(g2, observe, double_noise):
    prior = g2("ve")
    with prior.metered() as meter:
        Blended(30).draw(observe((True, False), rows=4), prior, double_noise(4))
    assert (meter.nfe, meter.nge) == (4 * 30, 0)


def test_a_row_does_not_depend_on_its_batch(g2, observe, seeded_noise):
    prior, solver, y = g2("ve"), Blended(30), torch.linspace(-1, 1, 5)
    batch = solver.draw(observe((True, False), y, rows=5), prior, seeded_noise(range(5)))
    alone = solver.draw(observe((True, False), y[3:4]), prior, seeded_noise([3]))
    torch.testing.assert_close(batch[3:4], alone, atol=1e-6, rtol=0)


def test_a_broken_row_breaks_no_other(g2, observe, double_noise):
    prior, y = g2("ve"), torch.tensor([0.1, torch.nan, 0.3])
    x = Blended(30).draw(observe((True, False), y, rows=3), prior, double_noise(3))
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_clipped_predictions_stay_in_the_image_range(g2, observe, double_noise):
    prior, obs = g2("ve"), observe((False, False), rows=50)
    assert Blended(20, clip=False).draw(obs, prior, double_noise(50)).abs().max() > 1
    assert Blended(20, clip=True).draw(obs, prior, double_noise(50)).abs().max() <= 1


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(Blended(3, guidance=2.5))
    assert len(seen) == 3
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


def test_eta_outside_the_family_is_refused():
    with pytest.raises(ValueError, match=r"eta 1.5 is outside \[0, 1\]"):
        Blended(eta=1.5)


def test_shipped_presets_are_complete(presets):
    assert presets("blended")["authors"].steps == 1000


@pytest.mark.parametrize("kind", ["ve", "vp"])
def test_latents_of_an_autoencoder_that_scales_are_scaled_images(
    kind, g2, latent_g2, observe, double_noise
):
    """The law of the latents is g2 and the decoder doubles them, so its images are twice those of
    g2, for an observation that is twice as large."""
    solver = Blended(40, clip=True)
    latent = solver.draw(
        observe((True, False), 2.0, rows=3), latent_g2(kind, 2 * torch.eye(2)), double_noise(3)
    )
    pixel = Blended(40).draw(observe((True, False), 1.0, rows=3), g2(kind), double_noise(3))
    torch.testing.assert_close(latent, 2 * pixel, atol=1e-9, rtol=0)
    assert latent.abs().max() > 1  # latents are not clipped
