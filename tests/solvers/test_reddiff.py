"""RED-Diff, against the paper's loss by automatic differentiation, a fixed point and
published-algorithm laws."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.process import VE, VP, Flow, Process
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.reddiff import WEIGHTS, REDDiff

PROCESSES = {"ve": VE(), "vp": VP.scheduled("linear", 1e-4, 0.02), "flow": Flow()}
PAPER_WEIGHTS = {
    "linear": lambda ratio: ratio,
    "sqrt": lambda ratio: ratio**0.5,
    "log": lambda ratio: torch.log1p(ratio),
    "square": lambda ratio: ratio**2,
    "const": torch.ones_like,
}


def _gaussian(process: Process, d: int = 2, correlation: float = 0.9) -> MixturePrior:
    S = correlation ** (torch.arange(d)[:, None] - torch.arange(d)).abs()
    return MixturePrior(process, torch.ones(1), torch.zeros(1, d), S[None], (1, 1, d))


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_prior_gradient_is_that_of_the_papers_loss(process, weight, double_noise):
    """``lam w_t mean(sg[eps - xi] x)`` by automatic differentiation; and with the measurement's,
    one Adam step."""
    prior, lam = _gaussian(PROCESSES[process], 4), 0.7
    solver = REDDiff(1, lam=lam, weight=weight, lr=0.3, sigma0=0.2)
    mask = torch.tensor([True, False, True, False]).expand(3, 1, 1, 4)
    y = torch.where(mask, torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 1, 1, 4), 0.0)
    t, noise = prior.level(3.0), double_noise(3)
    mu = y.clone().requires_grad_()
    x, xi = mu + 0.2 * noise.normal((1, 1, 4)), noise.normal((1, 1, 4))
    z = t.alpha * x.detach() + t.sigma * xi
    eps = (z - t.alpha * prior.denoise(z, t)) / t.sigma
    ratio = torch.tensor(t.sigma / t.alpha, dtype=torch.float64)
    data = torch.where(mask, y - x, 0.0).square().flatten(1).mean(1) / 2
    loss = lam * PAPER_WEIGHTS[weight](ratio) * ((eps - xi) * x).flatten(1).mean(1) + data
    gradient = torch.autograd.grad(loss.sum(), mu)[0]
    # Adam's first step is lr g / (|g| + 1e-8)
    expected = y - 0.3 * gradient / (gradient.abs() + 1e-8)
    prior.grid = lambda *_, **__: [t, None]
    torch.testing.assert_close(
        solver.draw(Observation(y, Inpainting(mask)), prior, double_noise(3)), expected
    )


@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_random_levels_settle_where_the_mean_gradient_vanishes(kind, g2, observe, seeded_noise):
    """``mu = (M + lam C)^-1 M y`` with ``C`` the mean of ``I - alpha K_t`` over the grid."""
    prior, lam, rows, steps = g2(kind), 0.25, 256, 400
    S, C = prior.covariances[0], torch.zeros(2, 2, dtype=torch.float64)
    for t in prior.grid(steps)[:-1]:
        K = t.alpha * S @ torch.linalg.inv(t.alpha**2 * S + t.sigma**2 * torch.eye(2).double())
        C += (torch.eye(2).double() - t.alpha * K) / steps
    M = torch.diag(torch.tensor([1.0, 0.0])).double()
    fixed = torch.linalg.inv(M + lam * C) @ torch.tensor([1.0, 0.0]).double()
    # Adam divides by a running size of the gradient; only one that hardly changes leaves the fixed
    # point in place
    solver = REDDiff(steps, lam=lam, times="random", lr=0.05, betas=(0.9, 0.9999))
    x = solver.draw(observe((True, False), rows=rows), prior, seeded_noise(range(rows)))
    torch.testing.assert_close(x.flatten(1).mean(0), fixed, atol=0.03, rtol=0)


def _moments(
    solver: REDDiff, prior: MixturePrior, observe, seeded_noise, rows: int
) -> tuple[Tensor, Tensor]:
    x = solver.draw(observe((True, False), rows=rows), prior, seeded_noise(range(rows))).flatten(1)
    return x.mean(0), x.var(0)


@pytest.mark.parametrize(
    ("kind", "lam", "mean", "var"),
    [
        ("vp", 0.25, (1.0, 0.876), 0.040),
        pytest.param("ve", 0.25, (1.0, 0.891), 0.049, marks=pytest.mark.slow),
    ],
)
def test_law_of_annealed_levels(kind, lam, mean, var, g2, observe, seeded_noise):
    x, spread = _moments(REDDiff(1000, lam), g2(kind), observe, seeded_noise, 1000)
    assert x.tolist() == pytest.approx(mean, abs=0.02)
    assert spread[1].item() == pytest.approx(var, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "lam", "times", "mean"),
    [
        ("vp", 50.0, "annealed", (0.35, 0.176)),
        ("ve", 50.0, "annealed", (0.95, 0.298)),
        ("vp", 0.25, "random", (0.840, 0.113)),
        ("ve", 0.25, "random", (0.866, 0.095)),
        ("vp", 50.0, "random", (0.03, 0.009)),
        ("ve", 50.0, "random", (0.02, 0.000)),
    ],
)
def test_law_of_strong_weights_and_random_levels(kind, lam, times, mean, g2, observe, seeded_noise):
    x, _ = _moments(REDDiff(1000, lam, times), g2(kind), observe, seeded_noise, 1000)
    assert x.tolist() == pytest.approx(mean, abs=0.04)  # deviations of up to 0.36 over 1000 runs


def test_without_a_prior_the_first_guess_stays(g2, observe, double_noise):
    obs = observe((True, False), 0.4, rows=3)
    assert torch.equal(REDDiff(5, lam=0.0).draw(obs, g2("ve"), double_noise(3)), obs.y)


def test_released_output_is_one_step_old(g2, observe, double_noise):
    """Of one image, where the batch does not count: after n steps it is what n - 1 of them gave."""
    prior, obs = g2("ve"), observe((True, False))
    levels = prior.grid(6)
    released = REDDiff(6, compat="released").draw(obs, prior, double_noise(1))
    prior.grid = lambda *_, **__: levels[:5] + levels[-1:]
    torch.testing.assert_close(REDDiff(5).draw(obs, prior, double_noise(1)), released)


def test_released_means_run_over_the_batch(g2, observe, double_noise):
    """A gradient of the size of Adam's 1e-8, divided by the batch, makes a shorter step."""
    prior, rows, tiny = g2("ve"), 4, 1e-8
    obs, levels = observe((True, False), rows=rows), prior.grid(2)
    released = REDDiff(2, lam=tiny, compat="released").draw(obs, prior, double_noise(rows))
    prior.grid = lambda *_, **__: [levels[0], levels[-1]]
    one, fourth = (
        REDDiff(1, lam=lam).draw(obs, prior, double_noise(rows)) for lam in (tiny, tiny / rows)
    )
    torch.testing.assert_close(released, fourth)
    assert (released - one).abs().max() > 0.01


def test_sums_and_means_differ_by_the_share_of_adams_epsilon(g2, observe, double_noise):
    mean, total = (
        REDDiff(30, reduction=how).draw(observe((True, False), rows=3), g2("ve"), double_noise(3))
        for how in ("mean", "sum")
    )
    torch.testing.assert_close(mean, total, atol=1e-5, rtol=0)


class Doubling(MixturePrior):
    """A latent prior whose decoder multiplies by two."""

    is_latent = True

    def encode(self, x: Tensor) -> Tensor:
        return x / 2

    def decode(self, z: Tensor) -> Tensor:
        return 2 * z


def test_latents_are_fitted_through_the_decoder(observe, double_noise):
    prior = Doubling(
        VE(), torch.ones(1), torch.zeros(1, 2), torch.tensor([[[1.0, 0.9], [0.9, 1.0]]]), (1, 1, 2)
    )
    x = (
        REDDiff(500)
        .draw(observe((True, False), 1.6, rows=200), prior, double_noise(200))
        .flatten(1)
        .mean(0)
    )
    # with six seeds: within 7e-5, and between 1.39 and 1.45 with a deviation of 0.02
    assert x[0].item() == pytest.approx(1.6, abs=2e-4)
    assert x[1].item() == pytest.approx(0.9 * 1.6, abs=0.08)


@pytest.mark.parametrize("times", ["annealed", "random"])
def test_a_swap_between_latents_and_images_changes_nothing(times, isometry, observe):
    """Adam treats numbers one by one, so this holds for signed permutations, not for all
    rotations."""
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    obs = observe((True, False), torch.linspace(-1, 1, 4), rows=4)
    solver = REDDiff(40, times=times, sigma0=0.1)
    latent, pixel = (solver.draw(obs, prior, noise) for prior, noise in isometry("vp", quarter, 4))
    torch.testing.assert_close(latent, pixel, atol=1e-9, rtol=0)


def test_calls_through_a_decoder(latent_g2, observe, double_noise):
    """One encoding to start from, and a decoder's gradient per step; the network is called and
    never differentiated."""
    prior = latent_g2("vp", torch.tensor([[1.2, 0.3], [-0.4, 0.8]]))
    with prior.metered() as meter, torch.no_grad():
        x = REDDiff(20).draw(observe((True, False), rows=3), prior, double_noise(3))
    expected = {"nfe": 3 * 20, "nge": 0, "decode": 3 * 21, "decode_grad": 3 * 20}
    assert meter.counts() == {**expected, "encode": 3, "encode_grad": 0}
    assert not x.requires_grad


@pytest.mark.parametrize("times", ["annealed", "random"])
def test_a_row_does_not_depend_on_its_batch(times, g2, observe, seeded_noise):
    prior, solver, y = g2("ve"), REDDiff(30, times=times), torch.linspace(-1, 1, 8)
    batch = solver.draw(observe((True, False), y, rows=8), prior, seeded_noise(range(8)))
    for i in (0, 5):
        alone = solver.draw(observe((True, False), y[i : i + 1]), prior, seeded_noise([i]))
        torch.testing.assert_close(batch[i : i + 1], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("times", ["annealed", "random"])
def test_a_broken_row_breaks_no_other(times, g2, observe, seeded_noise):
    y, good = torch.tensor([0.1, torch.nan, 0.3]), torch.tensor([0.1, 0.2, 0.3])
    x, clean = (
        REDDiff(20, times=times).draw(
            observe((True, False), value, rows=3), g2("ve"), seeded_noise(range(3))
        )
        for value in (y, good)
    )
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]
    assert torch.equal(x[[0, 2]], clean[[0, 2]])


def test_the_observation_is_not_written_to(g2, observe, double_noise):
    obs = observe((True, True), 0.4, rows=2)
    before = obs.y.clone()
    REDDiff(5).draw(obs, g2("ve"), double_noise(2))
    assert torch.equal(obs.y, before)


def test_one_network_call_per_step_and_no_backward(g2, observe, double_noise):
    prior = g2("ve")
    with prior.metered() as meter, torch.no_grad():
        x = REDDiff(30).draw(observe((True, False), rows=4), prior, double_noise(4))
    assert (meter.nfe, meter.nge) == (4 * 30, 0)
    assert not x.requires_grad


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(REDDiff(3, guidance=2.5))
    assert len(seen) == 3
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


@pytest.mark.parametrize("field", ["times", "weight", "reduction", "compat"])
def test_an_unknown_name_is_refused_with_the_valid_ones(field):
    with pytest.raises(ValueError, match=f"unknown {field} 'odd'; valid: "):
        replace(REDDiff(), **{field: "odd"})


@pytest.mark.parametrize(("field", "value"), [("lam", -1.0), ("sigma0", -0.1), ("lr", 0.0)])
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} {value}"):
        replace(REDDiff(), **{field: value})


def test_shipped_presets_are_complete(presets):
    annealed, random = presets("reddiff"), presets("reddiff_v")
    assert replace(annealed["authors"], betas=(0.9, 0.99)) == REDDiff()
    assert annealed["vipaint_paper"].lam == random["vipaint_paper"].lam == 50
    assert {s.times for s in annealed.values()} == {"annealed"}
    assert {s.times for s in random.values()} == {"random"}
