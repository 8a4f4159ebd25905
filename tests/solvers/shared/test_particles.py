"""Particles: drawn as often as they weigh, and denoised a few at a time in any coordinates."""

from __future__ import annotations

import math

import pytest
import torch

from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.operators.projection import Projection
from posterior_bench.operators.super_resolution import SuperResolution
from posterior_bench.priors.base import Condition
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.process import VE
from posterior_bench.solvers.shared.particles import denoise_coordinates, per_particle, resample

SHAPE = (1, 4, 4)


def test_a_state_is_chosen_as_often_as_it_weighs():
    weight = torch.tensor([[0.1, 0.0, 0.6, 0.3], [0.0, 1.0, 0.0, 0.0]]).log()
    state = torch.arange(8.0).view(2, 4, 1).expand(2, 4, 3)
    uniform = (torch.arange(1000) + 0.5).expand(2, 1000) / 1000
    chosen, again = resample(weight + 7.0, uniform, state, state[..., 0])
    assert torch.equal(chosen[..., 0], again)
    assert torch.bincount(again[0].long(), minlength=4).tolist() == [100, 0, 600, 300]
    assert (again[1] == 5).all()


def test_a_particle_that_is_no_number_is_not_chosen():
    weight = torch.tensor([[0.0, math.nan, 0.0], [math.nan, math.nan, 0.0]])
    uniform = torch.linspace(0, 1 - 1e-7, 99).expand(2, 99)
    (chosen,) = resample(weight, uniform, torch.arange(3.0).expand(2, 3))
    assert set(chosen[0].tolist()) == {0, 2}
    assert set(chosen[1].tolist()) == {2}


@pytest.fixture(name="prior")
def _prior() -> MixturePrior:
    lag = (torch.arange(16)[:, None] - torch.arange(16)).abs()
    return MixturePrior(VE(), torch.ones(1), torch.full((1, 16), 0.3), 0.8 ** lag[None], SHAPE)


@pytest.mark.parametrize(
    "operator",
    [
        Inpainting(torch.ones(2, 1, 4, 4, dtype=torch.bool)),
        SuperResolution(SHAPE, 2),
        Projection(SHAPE, 0.4),
    ],
    ids=lambda operator: type(operator).__name__,
)
@pytest.mark.parametrize("together", [1, 2, 9])
def test_particles_are_images_in_other_coordinates(operator, together, prior):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, *SHAPE, dtype=torch.float64, generator=generator)
    spectrum, level = operator.spectrum(images), prior.level(0.7)
    z = torch.stack([spectrum.coordinates(images[:, k]) for k in range(3)], 1)
    found = denoise_coordinates(prior, spectrum, z, level, together)
    for k in range(3):
        x0 = prior.denoise(images[:, k], level)
        torch.testing.assert_close(spectrum.image(found[:, k]), x0, atol=1e-12, rtol=0)
        clipped = denoise_coordinates(prior, spectrum, z, level, together, clip=True)[:, k]
        torch.testing.assert_close(spectrum.image(clipped), x0.clamp(-1, 1), atol=1e-12, rtol=0)


def test_every_particle_has_the_condition_of_its_row(prior, monkeypatch):
    seen = []
    monkeypatch.setattr(
        prior,
        "denoise",
        lambda z, level, cond, guidance: seen.append((len(z), cond, guidance)) or z,
    )
    cond = Condition({"label": torch.tensor([3, 5])})
    spectrum = Inpainting(torch.ones(2, 1, 4, 4, dtype=torch.bool)).spectrum(torch.zeros(1))
    denoise_coordinates(prior, spectrum, torch.zeros(2, 3, *SHAPE), prior.level(1.0), 2, cond, 2.5)
    assert [rows for rows, *_ in seen] == [4, 2]
    assert [given.values["label"].tolist() for _, given, _ in seen] == [[3, 3, 5, 5], [3, 5]]
    assert {guidance for *_, guidance in seen} == {2.5}


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (1, 1, 4, 4), (4, 4)])
def test_numbers_of_rows_meet_their_particles(shape):
    values = torch.rand(shape)
    both = per_particle(values) * torch.ones(2, 3, *SHAPE)
    for k in range(3):
        torch.testing.assert_close(both[:, k], values * torch.ones(2, *SHAPE))
