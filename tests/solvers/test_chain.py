"""VIPaint's variational chain, against closed forms, golden values and the exact posterior of Gaussian priors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from priors.process import VP, Level, Process
from solvers.chain import Chain, intervals, seen_from
from solvers.vipaint_released import Released

CIN256 = VP.scheduled("scaled_linear", 0.0015, 0.0195)


def at(*indices: float) -> list[Level]:
    return [CIN256.level_at_index(k) for k in indices]


def rho_grid(count: int = 1000) -> list[int]:
    """EDM's rho grid with exponent 7 on the time itself, from 0.002 to 0.999, cut to whole steps of 1000, ascending."""
    low, high = 0.002 ** (1 / 7), 0.999 ** (1 / 7)
    # single precision, in which the golden values were made, ends a hair below 2 and 999
    return sorted({int(1000 * (low + i / (count - 1) * (high - low)) ** 7 - 1e-6) for i in range(count)})


def above(top: int = 550) -> list[Level]:
    return at(*[k for k in reversed(rho_grid()) if k > top], top)


def chain_of(
    levels: Sequence[Level],
    grid: Sequence[Level] = (),
    eta: float = 1.0,
    switches: Sequence[str] = (),
    law: str = "uniform",
) -> Chain:
    """A chain for one image of one scalar in float64, all parameters zero."""
    kept = (Process(), list(levels), list(grid or above()), eta)
    chain = Released(*kept, frozenset(switches), 5) if switches else Chain(*kept, law)
    zeros = torch.zeros(1, len(levels), 1, 1, 1, dtype=torch.float64)
    chain.mu, chain.log_var, chain.logit = (zeros.clone().requires_grad_() for _ in range(3))
    return chain


def fill(parameter: Tensor, *values: float) -> None:
    """One value per keypoint."""
    with torch.no_grad():
        parameter.copy_(torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1, 1).expand_as(parameter))


def state(*values: float) -> Tensor:
    """Rows of one scalar."""
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


def unit_normal(z: Tensor, level: Level) -> Tensor:
    """The exact denoiser of data ``N(0, 1)``."""
    alpha, sigma = (torch.as_tensor(v, dtype=torch.float64) for v in (level.alpha, level.sigma))
    return alpha / (alpha**2 + sigma**2) * z


# -- closed forms -----------------------------------------------------------------------------------------------------


def test_kl_is_the_one_of_the_textbook():
    value = chain_of(at(550)).kl(state(0.5), 0.25, 0.64).item()
    assert value == pytest.approx(0.360629, abs=1e-6)
    assert value == pytest.approx(kl_divergence(Normal(0.3, 0.5), Normal(-0.2, 0.8)).item(), abs=1e-7)


def test_kl_sums_elements_and_keeps_rows():
    shift = torch.arange(12, dtype=torch.float64).view(2, 1, 2, 3) / 7
    var_q, var_p = torch.linspace(0.1, 2, 12, dtype=torch.float64).view(2, 1, 2, 3), 0.7
    expected = kl_divergence(Normal(shift, var_q.sqrt()), Normal(torch.zeros_like(shift), math.sqrt(var_p)))
    torch.testing.assert_close(chain_of(at(550)).kl(shift, var_q, var_p), expected.flatten(1).sum(1))


def test_conditional_above_the_top_keypoint():
    t, s, top = at(700, 600, 550)
    top_t, top_s = seen_from(top, t), seen_from(top, s)
    step = Process.transition(top_s, top_t)
    assert top_t.sigma**2 == pytest.approx(0.791762, abs=1e-6)
    assert (step.c0, step.ct, step.var) == pytest.approx((0.664854, 0.274242, 0.316354), abs=1e-6)


def test_conditional_above_the_top_keypoint_by_conditioning_a_joint_gaussian():
    t, s, top = at(700, 600, 550)
    a_s, a_ts = s.alpha / top.alpha, t.alpha / s.alpha
    var_s = s.sigma**2 - a_s**2 * top.sigma**2
    var_t = a_ts**2 * var_s + t.sigma**2 - a_ts**2 * s.sigma**2
    gain = a_ts * var_s / var_t  # regression of z_s on z_t, given the top state
    step = Process.transition(seen_from(top, s), seen_from(top, t))
    assert (step.c0, step.ct, step.var) == pytest.approx((a_s - gain * a_ts * a_s, gain, var_s - gain * a_ts * var_s))


def test_kl_of_two_guesses_of_the_top_state_is_half_the_snr_difference():
    t, s, top = at(700, 600, 550)
    top_t, top_s = seen_from(top, t), seen_from(top, s)
    z_t, z, guess = state(0.4), state(1.3), state(-0.2)
    (mean, var), (other, _) = (Process.posterior(z_t, x, top_s, top_t) for x in (z, guess))
    value = chain_of([top]).kl(mean - other, var, var).item()
    half = 0.5 * (top_s.ratio**-2 - top_t.ratio**-2)
    assert half == pytest.approx(0.698632, abs=1e-6)
    assert value == pytest.approx(half * 1.5**2)


@pytest.mark.parametrize("eta", [0.2, 1.0])
def test_the_prior_itself_costs_nothing_below_the_top(eta):
    t, s = at(550, 400)
    chain = chain_of([t, s], eta=eta)
    fill(chain.mu, 0.0, 3.0)
    fill(chain.logit, 0.0, 50.0)
    fill(chain.log_var, 0.0, math.log(eta * Process.transition(s, t).var))
    _, kl = chain.down(1, state(0.3, -1.0), unit_normal, state(0.1, 0.2))
    (slope,) = torch.autograd.grad(kl.sum(), chain.mu)
    assert kl.tolist() == pytest.approx([0, 0], abs=1e-12)
    assert slope.abs().max().item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("eta", "c_z", "c_x0"), [(1.0, 0.469028, 0.355531), (0.2, 0.840405, 0.253652)])
def test_draws_lie_around_the_mix_of_the_priors_step_and_the_free_mean(eta, c_z, c_x0):
    chain = chain_of(at(550, 400), eta=eta)
    fill(chain.mu, 0.0, 2.0)
    fill(chain.logit, 0.0, math.log(3))
    fill(chain.log_var, 0.0, math.log(0.25))
    z, _ = chain.down(1, state(0.7), lambda z, _: 0 * z + 1.1, state(-0.4))
    assert z.item() == pytest.approx(0.75 * (c_z * 0.7 + c_x0 * 1.1) + 0.25 * 2.0 - 0.5 * 0.4, abs=1e-6)


def test_gamma_zero_ignores_the_prior():
    chain = chain_of(at(550, 400))
    fill(chain.mu, 0.0, 2.0)
    fill(chain.logit, 0.0, -50.0)
    z, _ = chain.down(1, state(0.7, -5.0), unit_normal, state(0.5, 0.5))
    assert z.flatten().tolist() == pytest.approx([2.5, 2.5])


def test_gradients_reach_the_upper_keypoint_through_the_kl_below():
    chain = chain_of(at(550, 400))
    z = chain.top(state(0.3))
    (slope,) = torch.autograd.grad(chain.down(1, z, unit_normal, state(0.2))[1].sum(), chain.mu)
    assert slope[0, 0].abs().item() > 1e-3


@pytest.mark.parametrize("kind", ["ve", "flow"])
def test_every_term_is_the_same_in_other_coordinates(kind):
    ratios = [60.0, 12.0, 7.0, 3.5, 1.8]
    coordinates = {
        "vp": [Level(1 / math.hypot(1, r), r / math.hypot(1, r)) for r in ratios],
        "ve": [Level(1.0, r) for r in ratios],
        "flow": [Level(1 / (1 + r), r / (1 + r)) for r in ratios],
    }

    def terms(levels: list[Level]) -> Tensor:
        def denoise(z: Tensor, level: Level) -> Tensor:
            alpha, ratio = (torch.as_tensor(v, dtype=torch.float64) for v in (level.alpha, level.ratio))
            return (z / alpha / (1 + ratio)).tanh()

        chain = chain_of(levels[3:], levels[:4], eta=0.3)
        fill(chain.mu, *(m * level.alpha for m, level in zip((0.4, -0.9), levels[3:], strict=True)))
        fill(chain.log_var, *(math.log(v * level.alpha**2) for v, level in zip((5.0, 0.8), levels[3:], strict=True)))
        z = chain.top(state(0.3, -1.2))
        x0 = denoise(z, levels[3])
        u, xi = torch.tensor([[0.1]]), state(0.6, -0.5)
        prior = chain.prior_term(z, lambda z, _: 0 * z + x0, u, xi) + chain.entropy(z)
        prior_exact = chain.prior_term(z, denoise, u, xi) + chain.entropy(z)
        lower, kl = chain.down(1, z, denoise, state(0.2, 0.9))
        return torch.stack([prior, prior_exact, kl, lower.flatten() / levels[4].alpha])

    torch.testing.assert_close(terms(coordinates[kind]), terms(coordinates["vp"]), rtol=1e-10, atol=1e-10)


def test_a_flow_may_start_at_alpha_zero():
    levels = [Level(1 - u, u) for u in (1.0, 0.9, 0.8, 0.75)]
    chain = chain_of(levels[3:], levels)
    z = chain.top(state(0.3, 0.1))
    value = chain.prior_term(z, unit_normal, torch.tensor([[0.2]]), state(0.5, 0.4))
    assert torch.isfinite(value + chain.boundary_terms(z, unit_normal, state(0.5, 0.4))).all()


# -- the prior term ---------------------------------------------------------------------------------------------------


def expected(chain: Chain, *terms: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """The exact mean of terms ``(z, u, xi)``: all intervals once; +-1 has the moments that quadratics need."""
    count = len(chain.above) - 2
    u, ones = torch.full((1, 1), 0.5 / count, dtype=torch.float64), torch.ones(count, 1, 1, 1, dtype=torch.float64)
    signs = list(product((-1.0, 1.0), repeat=2))
    return sum(term(chain.top(a * ones), u, b * ones).mean() for a, b in signs for term in terms) / len(signs)


def top_chain(
    mu: float, var: float, grid: Sequence[Level] = (), switches: Sequence[str] = (), law: str = "uniform"
) -> Chain:
    chain = chain_of(at(550), grid or above(), switches=switches, law=law)
    fill(chain.mu, mu)
    fill(chain.log_var, math.log(var))
    return chain


def bound(chain: Chain) -> Tensor:
    return expected(
        chain,
        lambda z, u, xi: chain.prior_term(z, unit_normal, u, xi),
        lambda z, u, xi: chain.boundary_terms(z, unit_normal, xi),
    )


def sum_of_kls(chain: Chain) -> Tensor:
    return expected(chain, lambda z, u, xi: chain.prior_term(z, unit_normal, u, xi) + chain.entropy(z))


def test_the_grid_of_the_golden_values():
    assert len(rho_grid()) == 548
    assert [len(above()) - 1, above()[0].t, above()[-2].t] == [139, 998, 551]


@pytest.mark.parametrize(
    ("mu", "var", "golden", "true"), [(0.5, 0.9, 0.1278, 0.1277), (1, 0.5, 0.5969, 0.5966), (0, 0.3, 0.2516, 0.2520)]
)
def test_full_bound_is_the_kl_to_the_prior(mu, var, golden, true):
    value = bound(top_chain(mu, var)).item()
    assert kl_divergence(Normal(mu, math.sqrt(var)), Normal(0.0, 1.0)).item() == pytest.approx(true, abs=1e-4)
    assert value == pytest.approx(golden, abs=1e-4)


def test_a_finer_grid_does_not_change_the_bound():
    coarse = above()
    middle = [CIN256.level_at_index((a.t + b.t) / 2) for a, b in pairwise(coarse)]
    fine = [level for pair in zip(coarse, middle, strict=False) for level in pair] + coarse[-1:]
    assert len(fine) == 2 * len(coarse) - 1
    assert bound(top_chain(1.0, 0.5, fine)).item() == pytest.approx(bound(top_chain(1.0, 0.5)).item(), abs=1e-3)


@pytest.mark.parametrize(
    ("value", "switches", "slope_mu", "slope_var"),
    [
        (bound, (), 0.5005, -0.0550),
        (sum_of_kls, (), 0.4951, 0.4951),
        (sum_of_kls, ("prior_cond", "prior_entropy"), 4.38, 4.38),
        (sum_of_kls, ("prior_cond", "prior_entropy", "kl_mean_term"), 0.197, 0.197),
    ],
    ids=["full bound", "sum of KLs", "as printed", "as released"],
)
def test_gradients_of_the_prior_term(value, switches, slope_mu, slope_var):
    """True slopes are 0.5 and -0.0556; what the paper prints and what was released are far from them."""
    chain = top_chain(0.5, 0.9, switches=switches)
    by_mu, by_log_var = torch.autograd.grad(value(chain), (chain.mu, chain.log_var))
    assert by_mu.item() == pytest.approx(slope_mu, rel=3e-3)
    assert by_log_var.item() / 0.9 == pytest.approx(slope_var, rel=3e-3)


@pytest.mark.parametrize("law", ["uniform", "importance"])
def test_one_random_interval_estimates_the_sum_over_all(law):
    chain, rows, shots = top_chain(0.5, 0.9, law=law), 5, 3000
    chain.mu, chain.log_var = (p.detach().expand(shots, -1, -1, -1, -1) for p in (chain.mu, chain.log_var))
    u = (torch.arange(shots, dtype=torch.float64)[:, None] + 0.5) / shots
    xi = torch.ones(shots * rows, 1, 1, 1, dtype=torch.float64)
    signs = product((-1.0, 1.0), repeat=2)
    values = [chain.prior_term(chain.top(a * xi), unit_normal, u, b * xi).mean() for a, b in signs]
    single = top_chain(0.5, 0.9)
    exact = expected(single, lambda z, u, xi: single.prior_term(z, unit_normal, u, xi))
    assert torch.stack(values).mean().item() == pytest.approx(exact.item(), abs=1e-2)


def test_intervals_are_uniform_and_spread_evenly_within_an_image():
    u = (torch.arange(700, dtype=torch.float64)[:, None] + 0.5) / 700
    k, weight = intervals(u, 700 * 5, torch.full((700, 7), 1 / 7, dtype=torch.float64))
    drawn = torch.tensor(k).view(700, 5)
    assert drawn.flatten().bincount(minlength=7).tolist() == [500] * 7
    assert all(len(set(row)) == 5 for row in drawn.tolist())
    assert weight.unique().tolist() == pytest.approx([7])


def test_intervals_follow_their_probabilities():
    u = (torch.arange(1000, dtype=torch.float64)[:, None] + 0.5) / 1000
    k, weight = intervals(u, 2000, torch.tensor([[0.2, 0.0, 0.5, 0.3]], dtype=torch.float64).expand(1000, -1))
    assert torch.tensor(k).bincount(minlength=4).tolist() == [400, 0, 1000, 600]
    assert sorted(set(weight.tolist())) == pytest.approx([2, 1 / 0.3, 5])
    assert intervals(torch.tensor([[1 - 2**-24]]), 1, torch.full((1, 7), 1 / 7, dtype=torch.float64))[0] == [6]
