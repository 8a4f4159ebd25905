"""CoPaint, against DDIM, its own loss by hand, published counts and the laws of an exact
denoiser."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.process import VE
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.copaint import CoPaint

TURN = torch.tensor(
    [[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]], dtype=torch.float64
)


@pytest.mark.parametrize("kind", ["vp", "ve"])
@pytest.mark.parametrize("view", ["native", "vp", "ve"])
def test_without_optimisation_it_is_ddim_up_to_the_cleanest_noisy_level(
    kind, view, g2, observe, double_noise
):
    prior, noise = g2(kind).view(view), double_noise(4)
    levels = prior.grid(40)[:-1]
    z = levels[0].sigma * noise.normal((1, 1, 2))
    for t, s in pairwise(levels):
        z = prior.process.bridge(z, prior.denoise(z, t), t, s, 0.0, None)
    solver = CoPaint(40, iterations=0, view=view, clip=False)
    torch.testing.assert_close(
        solver.draw(observe((True, False), rows=4), g2(kind), double_noise(4)), z
    )


def test_step_size_pull_and_raw_noise_by_hand(g2, observe, double_noise):
    """Two levels, two gradient steps, clipping, growing weights: every formula written out for the
    VP prior."""
    prior, lr, w, decay = g2("vp"), 50.0, 0.3, 1.1  # times an alpha of 0.006
    obs, rows = observe((True, False), 0.7, rows=5), 5
    top, bottom, _ = prior.grid(2)
    z_t = (top.sigma * double_noise(rows).normal((2,))).clone()
    S = prior.covariances[0]
    K = top.alpha * S @ torch.linalg.inv(top.alpha**2 * S + top.sigma**2 * torch.eye(2).double())
    z = z_t.clone()
    for _ in range(2):
        x0 = z @ K
        inside = (x0[:, :1].abs() <= 1).double()
        slope = -2 * inside * (0.7 - x0[:, :1].clamp(-1, 1)) * K[:1] + 2 * w * (z - z_t)
        z = z - lr * top.alpha / bottom.alpha * slope
    x0 = z @ K
    eps = (z - top.alpha * x0) / top.sigma
    solver = CoPaint(2, 2, lr, decay, weight=w, weight_decay=decay)
    expected = bottom.alpha * x0.clamp(-1, 1) + bottom.sigma * eps
    torch.testing.assert_close(solver.draw(obs, prior, double_noise(rows)).flatten(1), expected)
    constant = replace(solver, scale_lr=False, lr=lr * top.alpha / bottom.alpha)
    torch.testing.assert_close(constant.draw(obs, prior, double_noise(rows)).flatten(1), expected)


def test_growth_counts_levels_from_the_noisiest(g2, observe, double_noise):
    """With three levels the second has ``lr decay``; a first one without effect leaves only
    that."""
    prior, obs = g2("vp"), observe((True, False), 0.7, rows=5)
    grown = CoPaint(3, 1, 1e-30, 1e29, weight=0.0, scale_lr=False, clip=False)
    z = grown.draw(obs, prior, double_noise(5)).flatten(1)
    top, middle, bottom, _ = prior.grid(3)
    state = prior.process.bridge(
        start := top.sigma * double_noise(5).normal((1, 1, 2)),
        prior.denoise(start, top),
        top,
        middle,
        0.0,
        None,
    ).flatten(1)
    S = prior.covariances[0]
    K = (
        middle.alpha
        * S
        @ torch.linalg.inv(middle.alpha**2 * S + middle.sigma**2 * torch.eye(2).double())
    )
    moved = state + 0.1 * 2 * (0.7 - (state @ K)[:, :1]) * K[:1]
    x0 = moved @ K
    expected = bottom.alpha * x0 + bottom.sigma * (moved - middle.alpha * x0) / middle.sigma
    torch.testing.assert_close(z, expected)


LAWS = [
    ("vp", "vp", 1, 1.040, 0.137),
    ("ve", "native", 1, 0.997, 0.136),  # EDM coordinates, where alpha_t / alpha_0 is 1
    ("vp", "vp", 2, 0.998, 0.139),
]


@pytest.mark.parametrize(("kind", "view", "resamples", "mean", "var"), LAWS)
def test_law_on_two_pixels(kind, view, resamples, mean, var, g2, law):
    x, covariance = law(CoPaint(resamples=resamples, view=view, clip=False), g2(kind))
    assert x.tolist() == pytest.approx([1.0, mean], abs=0.02)
    assert covariance[1, 1].item() == pytest.approx(var, abs=0.02)


@pytest.mark.parametrize(
    ("resamples", "forwards", "backwards"),
    [(1, 249 * 3, 249 * 2), (2, (489 + 24) * 3, (489 + 24) * 2)],
)
def test_cost_of_the_published_settings(resamples, forwards, backwards, g2, observe, double_noise):
    """One optimisation per step down and one before each climb, 1 + 2 network calls and 2 backwards
    each."""
    prior = g2("vp")
    with prior.metered() as meter, torch.no_grad():
        x = CoPaint(resamples=resamples, line_search=0).draw(
            observe((True, False), rows=2), prior, double_noise(2)
        )
    assert (meter.nfe, meter.nge) == (2 * forwards, 2 * backwards)
    assert not x.requires_grad


def test_a_try_that_no_gradient_step_follows_keeps_no_graph(g2, observe, double_noise, monkeypatch):
    prior, graphs = g2("vp"), []
    denoise = type(prior).denoise

    def spied(*arguments):
        graphs.append(torch.is_grad_enabled())
        return denoise(*arguments)

    monkeypatch.setattr(type(prior), "denoise", spied)
    CoPaint(3, line_search=0).draw(observe((True, False)), prior, double_noise(1))
    assert graphs == 2 * [True, True, False]


def _worst(
    solver: CoPaint, prior: MixturePrior, obs: Observation, z_t: Tensor, lr: float
) -> tuple[Tensor, Tensor]:
    """The loss of each row before and after one optimisation at ratio 0.5."""
    t = prior.view("vp").level(0.5)

    def loss(z: Tensor) -> Tensor:
        x0 = prior.view("vp").denoise(z, t)
        return (
            (obs.operator.residual(x0, obs.y).square() + 0.01 * (z - z_t).square())
            .flatten(1)
            .sum(1)
        )

    z, _ = solver._optimise(z_t, t, lr, 0.01, obs, prior.view("vp"))
    return loss(z_t), loss(z)


@pytest.mark.parametrize("lr", [0.1, 1.5, 3.0, 1e3])
def test_no_row_ends_worse_than_it_began(lr, g2, observe, double_noise):
    prior, obs = g2("ve"), observe((True, False), torch.linspace(-2, 2, 6), rows=6)
    z_t = double_noise(6).normal((1, 1, 2))
    before, after = _worst(CoPaint(iterations=3, clip=False), prior, obs, z_t, lr)
    assert (after <= before).all()
    if lr > 2:
        free = _worst(CoPaint(iterations=3, clip=False, line_search=0), prior, obs, z_t, lr)
        assert (free[1] > free[0]).any(), (
            "a step this long must overshoot, or the line search is not tested"
        )


def test_a_step_that_stays_too_long_is_not_taken(g2, observe, double_noise):
    """0.8^2 of a step a million times too long is still too long: one call at first, one per try,
    and one to stay."""
    prior, obs, z_t = g2("ve"), observe((True, False), rows=3), double_noise(3).normal((1, 1, 2))
    solver = CoPaint(iterations=1, line_search=2, clip=False)
    with prior.metered() as meter:
        z, _ = solver._optimise(z_t, prior.view("vp").level(0.5), 1e6, 0.01, obs, prior.view("vp"))
    assert torch.equal(z, z_t)
    assert (meter.nfe, meter.nge) == (3 * (1 + 3 + 1), 3)


def test_only_the_row_that_overshoots_takes_a_shorter_step(g2, double_noise):
    """Rows see one or no pixel; the one that sees none has no slope but the pull, and no reason to
    shrink."""
    mask = torch.tensor([[True, False], [False, False]]).view(2, 1, 1, 2)
    obs = Observation(torch.where(mask, torch.ones(2, 1, 1, 2).double(), 0.0), Inpainting(mask))
    prior, z_t = g2("ve"), double_noise(2).normal((1, 1, 2))
    t, solver = prior.view("vp").level(0.5), CoPaint(iterations=1, clip=False)
    both, _ = solver._optimise(z_t, t, 3.0, 0.0, obs, prior.view("vp"))
    assert torch.equal(both[1], z_t[1])
    one = Observation(obs.y[:1], Inpainting(mask[:1]))
    alone, _ = solver._optimise(z_t[:1], t, 3.0, 0.0, one, prior.view("vp"))
    torch.testing.assert_close(both[:1], alone)


def test_a_heavy_pull_keeps_the_state(g2, observe, double_noise):
    prior, obs = g2("vp"), observe((True, False), rows=4)
    held = CoPaint(40, weight=1e8, clip=False).draw(obs, prior, double_noise(4))
    free = CoPaint(40, iterations=0, clip=False).draw(obs, prior, double_noise(4))
    torch.testing.assert_close(held, free, atol=1e-3, rtol=0)


def test_nothing_observed_is_ddim(g2, observe, double_noise):
    prior, obs = g2("vp"), observe((False, False), rows=4)
    optimised, ddim = (CoPaint(40, iterations=n).draw(obs, prior, double_noise(4)) for n in (2, 0))
    torch.testing.assert_close(optimised, ddim)


def test_the_step_in_other_coordinates(g2, observe, double_noise):
    """``z_ve = c z_vp`` with ``c = sqrt(1 + sigma^2)``: the lr grows by ``c^2`` and the pull
    shrinks by it."""
    prior, obs = g2("ve"), observe((True, False), 0.5, rows=5)
    top, bottom, _ = prior.view("vp").grid(2)
    c2 = 1 + 80.0**2
    in_vp = CoPaint(2, 2, 0.3, weight=0.2, clip=False).draw(obs, prior, double_noise(5))
    lr = 0.3 * top.alpha / bottom.alpha * c2
    in_ve = CoPaint(2, 2, lr, weight=0.2 / c2, view="ve", clip=False).draw(
        obs, prior, double_noise(5)
    )
    torch.testing.assert_close(in_vp * math.sqrt(1 + bottom.ratio**2), in_ve)


class Doubling(MixturePrior):
    """A latent prior whose decoder multiplies by two."""

    is_latent = True

    def decode(self, z: Tensor) -> Tensor:
        return 2 * z


def test_latents_are_compared_as_images_and_never_clipped(observe, double_noise):
    covariance = torch.tensor([[[1.0, 0.9], [0.9, 1.0]]])
    prior = Doubling(VE(), torch.ones(1), torch.full((1, 2), 4.0), covariance, (1, 1, 2))
    x = CoPaint(100).draw(observe((True, False), 9.0, rows=5), prior, double_noise(5))
    torch.testing.assert_close(x[..., 0], torch.full((5, 1, 1), 9.0).double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_a_rotation_between_latents_and_images_changes_nothing(kind, isometry, observe):
    obs = observe((True, False), torch.linspace(-1, 1, 4), rows=4)
    latent, pixel = (
        CoPaint(40, clip=False).draw(obs, prior, noise) for prior, noise in isometry(kind, TURN, 4)
    )
    torch.testing.assert_close(latent, pixel, atol=1e-9, rtol=0)


def test_calls_through_a_decoder(latent_g2, observe, double_noise):
    """Eleven optimisations of 1 + 2 predictions and 2 gradients, every one decoded; then the
    sample."""
    prior = latent_g2("vp", TURN)
    with prior.metered() as meter:
        CoPaint(12, line_search=0).draw(observe((True, False), rows=3), prior, double_noise(3))
    expected = {"nfe": 3 * 33, "nge": 3 * 22, "decode": 3 * 33 + 3, "decode_grad": 3 * 22}
    assert meter.counts() == {**expected, "encode": 0, "encode_grad": 0}


@pytest.mark.parametrize("compat", ["none", "released"])
@pytest.mark.parametrize("resamples", [1, 2])
def test_a_row_does_not_depend_on_its_batch(resamples, compat, g2, observe, seeded_noise):
    """Also where the line search works: a step size that overshoots near the end."""
    prior, y = g2("ve"), torch.linspace(-1, 1, 6)
    solver = CoPaint(20, lr=0.2, lr_decay=1.15, jump_length=4, resamples=resamples, compat=compat)
    batch = solver.draw(observe((True, False), y, rows=6), prior, seeded_noise(range(6)))
    for i in (0, 4):
        alone = solver.draw(observe((True, False), y[i : i + 1]), prior, seeded_noise([i]))
        torch.testing.assert_close(batch[i : i + 1], alone, atol=1e-5, rtol=0)


def test_a_broken_row_breaks_no_other_and_nobody_waits_for_it(g2, observe, double_noise):
    prior, cost = g2("ve"), []
    bad, good = torch.tensor([0.1, torch.nan, 0.3]), torch.tensor([0.1, 0.2, 0.3])
    results = []
    for y in (bad, good):
        with prior.metered() as meter:
            results.append(
                CoPaint(20).draw(observe((True, False), y, rows=3), prior, double_noise(3))
            )
        cost.append(meter.nfe)
    x, clean = results
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]
    assert torch.equal(x[[0, 2]], clean[[0, 2]])
    assert cost[0] == cost[1] == 3 * 19 * 3


@pytest.mark.parametrize(("compat", "tries"), [("none", 10), ("released", 200)])
def test_a_prediction_that_turns_nan_ends_the_search(compat, tries, g2, observe, double_noise):
    """A prior that breaks wherever the state moves: the row stays, after a bounded number of
    calls."""

    class Brittle(MixturePrior):
        first = None

        def denoise(self, z, level, cond=None, guidance=1.0):
            if self.first is None:
                self.first = z.detach().clone()
            x0 = super().denoise(z, level, cond, guidance)
            return torch.where((z.detach() == self.first).all(), x0, x0 * torch.nan)

    brittle = Brittle(VE(), torch.ones(1), torch.zeros(1, 2), g2("ve").covariances, (1, 1, 2))
    z_t = double_noise(2).normal((1, 1, 2))
    with brittle.metered() as meter:
        z, x0 = CoPaint(iterations=1, view="native", compat=compat)._optimise(
            z_t, brittle.level(1.0), 0.1, 0.01, observe((True, False), rows=2), brittle
        )
    assert torch.equal(z, z_t)
    assert x0.isfinite().all()
    # the start, the full step, the tries until it is too short to move a state, or the last one
    assert 2 * (1 + 1 + tries / 2) < meter.nfe <= 2 * (1 + 1 + tries + 1)


def test_released_a_shrunk_step_stays_shrunk_and_the_search_has_no_bound(g2, observe, double_noise):
    """On two pixels with slope 2 K and no pull, a step is too long while ``1 - 2 lr |K|^2`` is
    below -1. From a million times too long that is more than the ten tries of none."""
    prior, obs, z_t = g2("ve"), observe((True, False), rows=3), double_noise(3).normal((1, 1, 2))
    view = prior.view("vp")
    t, lr = view.level(0.5), 1e6
    S, eye = prior.covariances[0], torch.eye(2).double()
    K = t.alpha * S @ torch.linalg.inv(t.alpha**2 * S + t.sigma**2 * eye)
    curvature = 2 * K[0].square().sum().item()
    shrinks = math.ceil(math.log(2 / (lr * curvature)) / math.log(0.8))
    assert shrinks > 10
    z = z_t.flatten(1)
    for _ in range(3):
        z = z + 0.8**shrinks * lr * 2 * (1 - z @ K[:, :1]) * K[:1]
    solver = CoPaint(iterations=3, clip=False, compat="released")
    with prior.metered() as meter:
        found, _ = solver._optimise(z_t, t, lr, 0.0, obs, view)
    torch.testing.assert_close(found.flatten(1), z)
    assert meter.nfe == 3 * (1 + 3 + shrinks)  # the shrinks are paid once
    assert meter.nge == 3 * 3


def test_released_clips_images_and_no_latents(g2, latent_g2, observe, double_noise):
    plain, released = CoPaint(5, clip=False), CoPaint(5, clip=False, compat="released")
    obs = observe((False, False), rows=8)
    free = plain.draw(obs, g2("vp"), double_noise(8))
    assert free.abs().max() > 1
    assert torch.equal(released.draw(obs, g2("vp"), double_noise(8)), free.clamp(-1, 1))


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(CoPaint(3, iterations=1, guidance=2.5, line_search=0))
    assert len(seen) == 4
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"view": "odd"}, "unknown view 'odd'; valid: "),
        ({"compat": "paper"}, "unknown compat 'paper'; valid: none, released"),
        ({"steps": 1}, "steps must be 2 or more"),
        ({"lr": -1.0}, r"lr must be 0 or more, got -1\.0"),
        ({"resamples": 0}, "resamples must be at least 1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CoPaint(**settings)


def test_shipped_presets_are_complete(presets):
    plain, travel = presets("copaint"), presets("copaint_tt")
    assert plain["authors"] == CoPaint()
    assert travel["authors"] == CoPaint(resamples=2)
