"""Prior samples, against the exact law of an ancestral chain."""

from __future__ import annotations

import pytest
import torch

from posterior_bench.solvers.blended import Blended
from posterior_bench.solvers.unconditional import PriorSamples


@pytest.mark.parametrize(("kind", "var"), [("vp", 0.9690), ("ve", 0.9585)])
def test_law_of_ancestral_sampling(kind, var, g2, law):
    mean, covariance = law(PriorSamples(250), g2(kind))
    assert mean.tolist() == [0, 0]
    assert covariance[1, 1].item() == pytest.approx(var, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "var"), [("vp", 0.9918), ("ve", 0.9894)])
def test_law_of_ancestral_sampling_with_many_steps(kind, var, g2, law):
    assert law(PriorSamples(1000), g2(kind))[1][1, 1].item() == pytest.approx(var, abs=1e-4)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_blended_sampling_observes_nothing_as_this_does(eta, g2, observe, double_noise):
    """The same law, not the same numbers: blended sampling also draws noise for the observation."""

    class Shared:
        """The n-th of every kind of draw: Blended draws twice a step, this once."""

        def __init__(self, per_step):
            self.base, self.per_step, self.calls = double_noise(3), per_step, 0

        def normal(self, shape):
            self.calls += 1
            if self.per_step == 2 and self.calls > 1 and self.calls % 2 == 0:
                return torch.zeros(3, *shape, dtype=torch.float64)
            return self.base.normal(shape)

    nothing = observe((False, False), rows=3)
    blended = Blended(20, eta).draw(nothing, g2("vp"), Shared(2))
    assert torch.equal(PriorSamples(20, eta).draw(nothing, g2("vp"), Shared(1)), blended)


def test_the_observation_changes_nothing(g2, observe, double_noise):
    x = [
        PriorSamples(20).draw(observe((True, False), y, rows=3), g2("ve"), double_noise(3))
        for y in (1.0, -5.0, torch.nan)
    ]
    assert torch.equal(x[0], x[1])
    assert torch.equal(x[0], x[2])


def test_clipped_predictions_stay_inside(g2, observe, double_noise):
    x = PriorSamples(60, clip=True).draw(
        observe((True, False), rows=50), g2("ve"), double_noise(50)
    )
    assert x.abs().max() <= 1


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(PriorSamples(3, guidance=2.5))
    assert len(seen) == 3
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


def test_cost(g2, observe, double_noise):
    prior = g2("ve")
    with prior.metered() as meter:
        PriorSamples(30).draw(observe((True, False), rows=4), prior, double_noise(4))
    assert (meter.nfe, meter.nge) == (4 * 30, 0)


def test_latents_are_decoded_once_and_never_clipped(latent_g2, observe, double_noise):
    decoder = torch.tensor([[1.2, 0.3], [-0.4, 0.8]])
    obs, prior = observe((True, False), rows=50), latent_g2("vp", decoder)
    with prior.metered() as meter:
        x = PriorSamples(30, clip=True).draw(obs, prior, double_noise(50))
    z = PriorSamples(30).draw(obs, latent_g2("vp"), double_noise(50))
    torch.testing.assert_close(x.flatten(1), z.flatten(1) @ decoder.double().T)
    assert z.abs().max() > 1
    assert meter.counts() == {
        "nfe": 1500,
        "nge": 0,
        "decode": 50,
        "decode_grad": 0,
        "encode": 0,
        "encode_grad": 0,
    }


def test_an_eta_outside_the_family_is_refused():
    with pytest.raises(ValueError, match=r"eta 1\.5 is outside"):
        PriorSamples(eta=1.5)


def test_shipped_presets_are_complete(presets):
    assert presets("prior")["fast"].steps == 50
