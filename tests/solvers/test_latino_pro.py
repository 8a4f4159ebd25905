"""LATINO-PRO, against its formulas on a network whose output is linear in the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from posterior_bench.bench.conformance.small_priors import small_prior
from posterior_bench.bench.engine.budget import weightless
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.base import Prior
from posterior_bench.priors.nets import Contexts
from posterior_bench.priors.process import CLEAN, VP
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.latino import LATINO
from posterior_bench.solvers.latino_pro import LATINOPro

TOKENS, WIDTH = 6, 3
MOVE = 0.08 * 3
"""The longest way of a token in one round of four levels."""


class Told(Contexts):
    """``x0 = 0.5 z + sum_l B c_l``: each token of the prompt pushes both pixels."""

    def __init__(self) -> None:
        super().__init__((2, TOKENS, WIDTH))
        generator = torch.Generator().manual_seed(0)
        self.push = torch.randn(TOKENS, WIDTH, 2, generator=generator, dtype=torch.float64)
        self.contexts.data = torch.randn(2, TOKENS, WIDTH, generator=generator)

    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        context = self.rows("contexts", x, cond).double()
        return 0.5 * x + torch.einsum("nld,ldp->np", context, self.push).view_as(x)


@pytest.fixture
def told() -> Prior:
    process = VP.scheduled("scaled_linear", 0.00085, 0.012)
    return Prior(process, Told(), (1, 1, 2), "x0", num_classes=1, null_label=1)


@pytest.fixture
def obs() -> Observation:
    mask = torch.tensor([True, False]).view(1, 1, 1, 2).expand(3, 1, 1, 2)
    y = torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64).view(3, 1, 1, 1)
    return Observation(torch.where(mask, y, 0.0), Inpainting(mask, 0.05))


def fitted(solver: LATINOPro, obs: Observation, prior: Prior, noise) -> Tensor:
    """The way that the tokens went in the fit, ``(N, L, D)``."""
    end = solver.fit(obs, prior, noise).obs.cond.values["contexts"]
    return end - prior.embedded(obs.cond, obs.n).values["contexts"]


def test_one_round_by_hand(told, obs, double_noise):
    """``(alpha_s / sigma_s^2) B^T (z_s - alpha_s G)``, with length 1 for every token."""
    solver, noise, net = LATINOPro(rounds=1, delta=0.5), double_noise(3), told.net
    levels = solver.levels(told, 4)
    shape, y, mask = (1, 1, 2), obs.y, obs.operator.mask
    z = levels[0].alpha * y.clamp(-1, 1) + levels[0].sigma * noise.normal(shape)
    pushed = torch.einsum("ld,ldp->p", net.contexts[-1].double(), net.push)
    climb = torch.zeros(3, TOKENS, WIDTH, dtype=torch.float64)
    for t, s in pairwise(levels):
        mean = 0.5 * z + pushed
        gamma = 0.5 * t.sigma**2 / 0.05**2
        x0 = mean.clamp(-1, 1)
        x0 = torch.where(mask, (gamma * y + x0) / (gamma + 1), x0).clamp(-1, 1)
        z = s.alpha * x0 + s.sigma * noise.normal(shape)
        if s is not CLEAN:
            residual = (s.alpha / s.sigma**2) * (z - s.alpha * mean).flatten(1)
            gradient = torch.einsum("ldp,np->nld", net.push, residual)
            climb += gradient / gradient.norm(dim=-1, keepdim=True)
    climb[:, :4] = 0
    way = fitted(solver, obs, told, double_noise(3))
    torch.testing.assert_close(way.double(), 0.08 * climb, atol=1e-6, rtol=0)
    assert way[:, 4:].norm(dim=-1).min() > 0.01


@pytest.mark.parametrize("compat", ["none", "released"])
def test_a_round_moves_a_token_by_no_more_than_published(compat, told, obs, double_noise):
    """0.24 in round 0; with the released sum of all rounds at most 0.24 (j + 1) in round j."""
    for rounds in (1, 4, 15):
        way = fitted(LATINOPro(rounds=rounds, compat=compat), obs, told, double_noise(3))
        growth = [1 if compat == "none" else j + 1 for j in range(rounds)]
        decay = [0.9 ** max(0, j - 10) for j in range(rounds)]
        bound = MOVE * sum(a * b for a, b in zip(growth, decay, strict=True))
        length = way.norm(dim=-1)
        assert length.max() <= bound + 1e-6 and length[:, 4:].min() > 0
        assert torch.equal(length[:, :4], torch.zeros(3, 4))
    reached = MOVE * torch.arange(1, 16).cumsum(0)
    assert (reached < 15).sum() == 10, "radius 15 is reached in round 11 at the earliest"


def test_the_released_sum_is_kept_between_rounds(told, obs, double_noise):
    one = fitted(LATINOPro(rounds=1), obs, told, double_noise(3))
    two, released = (
        fitted(LATINOPro(rounds=2, compat=compat), obs, told, double_noise(3))
        for compat in ("none", "released")
    )
    torch.testing.assert_close(released, two + one, atol=1e-6, rtol=0)


def test_the_ball(told, obs, double_noise):
    free = fitted(LATINOPro(rounds=3, kept_tokens=0), obs, told, double_noise(3)).norm(dim=-1)
    near = fitted(LATINOPro(rounds=3, kept_tokens=0, radius=0.1), obs, told, double_noise(3))
    assert free.max() > 0.1
    assert near.norm(dim=-1).max().item() == pytest.approx(0.1, rel=1e-5)


def test_the_fitted_prompt_is_more_likely(told, obs, double_noise):
    """``x0 = 0.5 z + b``: the fit moves ``b`` towards what the measurement asks for."""
    net = told.net

    def shift(contexts: Tensor) -> Tensor:
        return torch.einsum("nld,ldp->np", contexts.double(), net.push)[:, 0]

    start = told.embedded(None, 3).values["contexts"]
    end = start + fitted(LATINOPro(), obs, told, double_noise(3))
    wanted = 0.5 * obs.y[:, 0, 0, 0]
    assert ((shift(end) - wanted).abs() < (shift(start) - wanted).abs()).all()


def test_calls_by_hand(seeded_noise):
    """15 rounds of 4 levels and 8 levels more: 68 passes; 3 gradients a round; every level is
    decoded and encoded, the start is encoded, the sample is decoded."""
    prior = small_prior("text")
    mask = torch.ones(2, 1, *prior.image_shape[1:], dtype=torch.bool)
    obs = Observation(torch.zeros(2, *prior.image_shape), Inpainting(mask, 0.1))
    with weightless(prior, whole=False), prior.metered() as meter:
        posterior = LATINOPro().fit(obs, prior, seeded_noise(range(2)))
        fit = meter.counts()
        posterior.sample([0, 1, 2])
        draw = {name: n - fit[name] for name, n in meter.counts().items()}
    assert {k: n / 2 for k, n in fit.items() if n} == {
        "nfe": 60,
        "nge": 45,
        "decode": 60,
        "encode": 61,
    }
    assert {k: n / 6 for k, n in draw.items() if n} == {"nfe": 8, "decode": 9, "encode": 8}


def test_a_row_does_not_depend_on_its_batch(told, seeded_noise):
    mask = torch.tensor([True, False]).view(1, 1, 1, 2)
    y = torch.linspace(-1, 1, 4).view(4, 1, 1, 1)
    whole = Observation(torch.where(mask, y, 0.0), Inpainting(mask.expand(4, 1, 1, 2)))
    alone = Observation(whole.y[2:3], Inpainting(mask))
    solver = LATINOPro(rounds=3, delta="blur")
    x = solver.fit(whole, told, seeded_noise(range(4))).sample([0, 1]).x
    one = solver.fit(alone, told, seeded_noise([2])).sample([0, 1]).x
    torch.testing.assert_close(x[2:3], one, atol=1e-6, rtol=0)


def test_a_broken_row_breaks_no_other(told, obs, seeded_noise):
    broken = replace(obs, y=obs.y.index_fill(0, torch.tensor(1), torch.nan).float())
    x = LATINOPro(rounds=2).fit(broken, told, seeded_noise(range(3))).sample([0]).x
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_without_a_step_it_is_latino_from_the_last_state(told, obs, double_noise):
    """A prompt that stays where it is: the last chain is LATINO under the first prompt."""
    solver = LATINOPro(rounds=1, kept_tokens=TOKENS)
    posterior = solver.fit(obs, told, double_noise(3))
    noise = double_noise(3)
    z = solver.noised(posterior.z0, solver.levels(told, 8)[0], told, noise)
    plain = LATINO().chain(z, solver.levels(told, 8), obs, told, noise)
    found = replace(posterior, noise=Same(double_noise(3))).sample([0]).x
    torch.testing.assert_close(found[:, 0], plain, atol=1e-9, rtol=0)


class Same:
    """Noise that gives itself for the draws."""

    def __init__(self, noise):
        self.noise = noise

    def draws(self, _):
        return self.noise


def test_priors_without_prompts_are_refused():
    for name in ("exact", "network", "latent"):
        has = small_prior(name).caps | Inpainting.caps
        assert LATINOPro().lacks(has, 0.0) == {"prompt_grad"}
    assert not LATINOPro().lacks(small_prior("text").caps | Inpainting.caps, 0.0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"round_steps": 1}, "round_steps must be 2 to 1000, got 1"),
        ({"round_delta": "deblur"}, "unknown round_delta 'deblur'; give"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"radius": -1.0}, "radius must be positive, got -1.0"),
        ({"kept_tokens": -1}, "kept_tokens must be 0 or more, got -1"),
        ({"compat": "authors"}, "unknown compat 'authors'; valid: none, released"),
        ({"steps": 0}, "steps must be 1 to 1000, got 0"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        LATINOPro(**setting)


def test_shipped_presets_are_complete(presets):
    built = presets("latino_pro")
    assert built["authors"] == LATINOPro()
    for name in ("authors", "authors_blur"):
        assert built[f"{name}_released"] == replace(built[name], compat="released")
