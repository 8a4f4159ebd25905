"""The variational chain of VIPaint and its prior term, against Gaussian closed forms and printed
values."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.process import VE, VP, Flow, Level, Process
from posterior_bench.solvers.shared.levels import seen_from
from posterior_bench.solvers.vipaint.chain import Chain, Denoiser
from posterior_bench.solvers.vipaint.intervals import Intervals
from posterior_bench.solvers.vipaint.released import SWITCHES, Released, levels_above, parse

LDM = VP.scheduled("scaled_linear", 0.0015, 0.0195)
TE = LDM.level_at_index(550)


def rho_grid() -> list[Level]:
    """The released code's levels above index 550: EDM's rho grid of 1000 points on t / 1000, as
    integers."""
    times = np.linspace(0.999 ** (1 / 7), 0.002 ** (1 / 7), 1000) ** 7 * 1000
    above = sorted({int(t) for t in times if int(t) > 550}, reverse=True)
    assert (len(above), above[0], above[-1]) == (139, 998, 551)
    return [*map(LDM.level_at_index, above), TE]


def gaussian(process: Process, mean: Tensor, variance: Tensor) -> MixturePrior:
    covariance = torch.diag(torch.as_tensor(variance, dtype=torch.float64))[None]
    return MixturePrior(
        process, torch.ones(1), torch.as_tensor(mean)[None], covariance, (1, 1, len(mean))
    )


UNIT = gaussian(LDM, torch.zeros(1), torch.ones(1))


def with_parameters(chain: Chain, mu: Tensor, var: Tensor, gamma: Tensor | float = 0.5) -> Chain:
    """``chain`` with ``mu`` and ``var`` ``(K, d)`` for one image of shape ``(1, 1, d)``."""
    logit = torch.logit(torch.as_tensor(gamma, dtype=torch.float64)).expand_as(mu)
    names = {"mu": mu, "log_var": var.log(), "logit": logit}
    for name, value in names.items():
        setattr(chain, name, value.double()[None, :, None, None].clone().requires_grad_())
    return chain


def one_level(
    mu: float, var: float, law: str = "uniform", whole: bool = False, switches: str | None = None
) -> Chain:
    intervals = Intervals(LDM, TE, rho_grid(), law, whole)
    chain = Chain(LDM, [TE], 1.0, intervals)
    if switches is not None:
        chain = Released(LDM, [TE], 1.0, intervals, parse(switches.split("+")), 1)
    return with_parameters(chain, torch.tensor([[mu]]), torch.tensor([[var]]))


def expected_prior_term(chain: Chain, denoise: Denoiser = UNIT.denoise) -> Tensor:
    """The mean of the prior term over its two normals and its interval, exactly: every term is
    quadratic in them.

    Three Gauss-Hermite points per normal, and each interval in turn, weighted by its probability.
    """
    points, weights = torch.tensor([-(3**0.5), 0.0, 3**0.5]), torch.tensor([1 / 6, 2 / 3, 1 / 6])
    p = chain.intervals.probabilities
    inside = (p.cumsum(0) - p / 2)[:, None]  # a uniform that picks interval k
    total = torch.zeros((), dtype=torch.float64)
    per_interval = Chain.__new__(type(chain))
    per_interval.__dict__.update(chain.__dict__)
    for name in ("mu", "log_var", "logit"):  # one image per interval, all of them the same
        setattr(per_interval, name, getattr(chain, name).expand(len(p), -1, -1, -1, -1))
    for a, wa in zip(points, weights, strict=True):
        z = per_interval.top(torch.full((len(p), 1, 1, 1), a.item(), dtype=torch.float64))
        for b, wb in zip(points, weights, strict=True):
            values = per_interval.prior_term(
                z, denoise, inside, torch.full_like(z, b.item()).detach()
            )
            total = total + wa * wb * (p * values).sum()
    return total


def gradients(value: Tensor, chain: Chain) -> tuple[float, float]:
    """With respect to the mean and to tau^2 at the top."""
    mu, log_var = torch.autograd.grad(value, (chain.mu, chain.log_var), allow_unused=True)
    var = chain.log_var.detach().exp()
    return mu.sum().item(), 0.0 if log_var is None else (log_var / var).sum().item()


# -- Gaussian identities ---------------------------------------------------------------------------


@pytest.mark.parametrize(("switches", "value"), [(None, 0.360629), ("kl_mean_term", 0.245316)])
def test_kl_of_two_gaussians(switches: str | None, value: float) -> None:
    """Closed form, and the value of the released formula."""
    got = one_level(0.0, 0.9, switches=switches).kl(
        torch.full((1, 1, 1, 1), 0.5).double(), 0.25, 0.64
    )
    assert got.item() == pytest.approx(value, abs=1e-6)
    if switches is None:
        reference = kl_divergence(Normal(0.3, 0.5), Normal(-0.2, 0.8))
        assert got.item() == pytest.approx(reference.item(), rel=1e-6)


def test_conditional_between_levels_given_the_top() -> None:
    """q(z_600 | z_700, z_550) on the schedule of latent diffusion, against Bayes' rule done with
    covariances."""
    t, s = (seen_from(TE, LDM.level_at_index(k)) for k in (700, 600))
    step = LDM.transition(s, t)
    assert [step.c0, step.ct, step.var] == pytest.approx([0.664854, 0.274242, 0.316354], abs=1e-6)
    assert t.sigma**2 == pytest.approx(0.791762, abs=1e-6)
    assert step.v + step.a**2 * s.sigma**2 == pytest.approx(t.sigma**2, rel=1e-12)
    # joint law of (z_s, z_t) given z_top = 0: regression of z_s on z_t
    covariance = step.a * s.sigma**2
    assert step.ct == pytest.approx(covariance / t.sigma**2, rel=1e-12)
    assert step.var == pytest.approx(s.sigma**2 - covariance**2 / t.sigma**2, rel=1e-12)
    assert step.c0 == pytest.approx(s.alpha - step.ct * t.alpha, rel=1e-12)
    # the KL between two of them is the information between s and t times the squared distance of
    # the tops
    half = 0.5 * step.c0**2 / step.var
    assert half == pytest.approx(0.698632, abs=1e-6)
    assert half == pytest.approx(0.5 * (s.ratio**-2 - t.ratio**-2), rel=1e-12)


def test_the_models_prediction_of_the_top_is_its_own_transition() -> None:
    z, x0, t = torch.tensor(0.7).double(), torch.tensor(-0.4).double(), LDM.level_at_index(700)
    relative = seen_from(TE, t)
    tweedie = (z - relative.sigma**2 / t.sigma * LDM.eps(z, x0, t)) / relative.alpha
    assert tweedie.item() == pytest.approx(LDM.posterior(z, x0, TE, t)[0].item(), rel=1e-12)


@pytest.mark.parametrize(
    ("eta", "c_z", "c_x", "var"),
    [(1.0, 0.469028, 0.355531, 0.562121), (0.2, 0.840405, 0.253652, 0.112424)],
)
def test_the_priors_step_between_keypoints(eta: float, c_z: float, c_x: float, var: float) -> None:
    """From index 550 to 400; eta multiplies the variance."""
    s, one, zero = LDM.level_at_index(400), torch.ones(1).double(), torch.zeros(1).double()
    from_z, got = LDM.bridge_moments(one, zero, TE, s, math.sqrt(eta))
    from_x, _ = LDM.bridge_moments(zero, one, TE, s, math.sqrt(eta))
    assert [from_z.item(), from_x.item(), got] == pytest.approx([c_z, c_x, var], abs=1e-6)


# -- the hierarchy ---------------------------------------------------------------------------------


def two_levels(
    process: Process = LDM, ratios: tuple[float, float] = (3.5, 1.8), eta: float = 0.2
) -> Chain:
    levels = [process.level(r) for r in ratios]
    above = [*[process.level(r) for r in (60.0, 30.0, 12.0, 6.0)], levels[0]]
    return Chain(process, levels, eta, Intervals(process, levels[0], above, "importance", True))


def draw_down(chain: Chain, prior: MixturePrior, seed: int = 0) -> tuple[Tensor, Tensor]:
    d = chain.mu.shape[-1]
    xi = torch.randn(
        2, 3, 1, 1, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return chain.down(1, chain.top(xi[0]), prior.denoise, xi[1])


def test_all_gamma_is_the_priors_own_step() -> None:
    """gamma = 1 and tau at the prior's own variance: the KL is zero, and mu has no say."""
    chain = two_levels()
    t, s = chain.levels
    var = 0.2 * LDM.transition(s, t).var
    with_parameters(
        chain, torch.tensor([[0.3], [9.0]]), torch.tensor([[0.9], [var]]), gamma=1 - 1e-15
    )
    _, kl = draw_down(chain, UNIT)
    (slope,) = torch.autograd.grad(kl.sum(), chain.mu)
    assert kl.abs().max().item() < 1e-9
    assert slope.abs().max().item() < 1e-9


def test_no_gamma_ignores_the_prior() -> None:
    chain = with_parameters(
        two_levels(), torch.tensor([[0.3], [9.0]]), torch.tensor([[0.9], [0.04]]), gamma=1e-15
    )
    z, _ = draw_down(chain, UNIT)
    moved, _ = draw_down(chain, gaussian(LDM, torch.full((1,), 5.0), torch.ones(1)))
    torch.testing.assert_close(z, moved)
    assert (z - 9.0).abs().max().item() < 5 * 0.2


def test_hierarchical_kl_is_that_of_the_two_steps() -> None:
    """Against torch.distributions, with the prior's step written out."""
    chain = with_parameters(
        two_levels(), torch.tensor([[0.3], [-1.1]]), torch.tensor([[0.9], [0.3]]), gamma=0.7
    )
    xi = torch.full((1, 1, 1, 1), 0.4).double()
    z = chain.top(xi)
    _, kl = chain.down(1, z, UNIT.denoise, xi)
    t, s = chain.levels
    x0 = t.alpha * z / (t.alpha**2 + t.sigma**2)
    var = 0.2 * LDM.transition(s, t).var
    zbar = s.alpha * x0 + math.sqrt(s.sigma**2 - var) * (z - t.alpha * x0) / t.sigma
    reference = kl_divergence(Normal(0.7 * zbar + 0.3 * -1.1, 0.3**0.5), Normal(zbar, var**0.5))
    assert kl.item() == pytest.approx(reference.item(), rel=1e-6)


@pytest.mark.parametrize("family", [VE(), Flow()], ids=["ve", "flow"])
def test_all_terms_are_the_same_in_all_coordinates(family: Process) -> None:
    """The same posterior, rescaled by alpha, has the same KL terms in VE and flow as in VP, and
    scaled draws."""
    mean, var = torch.tensor([0.5, -1.0, 0.2]), torch.tensor([0.25, 1.0, 0.04])
    g = torch.Generator().manual_seed(1)
    xi = torch.randn(3, 4, 1, 1, 3, generator=g, dtype=torch.float64)
    u = torch.rand(1, 1, generator=g)
    outcome = []
    for process in (LDM, family):
        chain = two_levels(process)
        alpha = torch.tensor([level.alpha for level in chain.levels], dtype=torch.float64)[:, None]
        x = torch.tensor([[0.2, -0.5, 1.0], [0.4, 0.1, -0.3]]).double()
        with_parameters(
            chain,
            alpha * x,
            (alpha * torch.tensor([[3.0], [1.2]])) ** 2 * torch.ones(1, 3),
            gamma=0.8,
        )
        prior = gaussian(process, mean, var)
        top = chain.top(xi[0])
        z, kl = chain.down(1, top, prior.denoise, xi[1])
        # the entropy of a rescaled variable moves by log alpha per element; the first interval
        # moves against it
        outcome.append(
            (z / chain.levels[1].alpha, kl, chain.prior_term(top, prior.denoise, u, xi[2]))
        )
    for vp, other in zip(*outcome, strict=True):
        torch.testing.assert_close(other, vp, rtol=1e-10, atol=1e-10)


# -- the prior term --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mu", "var", "value"), [(0.5, 0.9, 0.1278), (1.0, 0.5, 0.5969), (0.0, 0.3, 0.2516)]
)
@pytest.mark.parametrize("law", ["uniform", "importance"])
def test_full_bound_is_the_true_kl(mu: float, var: float, value: float, law: str) -> None:
    """Published-grid value, and within 1e-3 of the KL to the prior's marginal, which is N(0, 1)
    here."""
    got = expected_prior_term(one_level(mu, var, law, whole=True)).item()
    assert got == pytest.approx(value, abs=1e-4)
    truth = kl_divergence(Normal(mu, var**0.5), Normal(0.0, 1.0)).item()
    assert got == pytest.approx(truth, abs=1e-3)


def test_gradients_of_the_full_bound() -> None:
    chain = one_level(0.5, 0.9, whole=True)
    assert gradients(expected_prior_term(chain), chain) == pytest.approx(
        (0.5005, -0.0550), abs=2e-4
    )


@pytest.mark.parametrize("law", ["uniform", "importance"])
def test_gradients_of_the_sum_of_kls(law: str) -> None:
    """Without the two end terms and with the entropy taken out again, whatever the law of the
    intervals."""
    chain = one_level(0.5, 0.9, law)
    assert gradients(expected_prior_term(chain), chain) == pytest.approx(
        (0.4951, 0.4951 - 0.5 / 0.9), abs=2e-4
    )


@pytest.mark.parametrize(
    ("switches", "d_mu", "d_var"),
    [("prior_entropy", 0.4951, 0.4951), ("prior_entropy+prior_cond", 4.38, 4.38)],
)
def test_gradients_of_the_paper(switches: str, d_mu: float, d_var: float) -> None:
    """The printed conditionals pull nine times too hard."""
    chain = one_level(0.5, 0.9, switches=switches)
    assert gradients(expected_prior_term(chain), chain) == pytest.approx((d_mu, d_var), rel=2e-3)


def test_gradients_of_the_released_code() -> None:
    chain = one_level(0.5, 0.9, switches="prior_entropy+prior_cond+kl_mean_term")
    assert gradients(expected_prior_term(chain), chain) == pytest.approx((0.197, 0.197), rel=1e-2)


def test_printed_variance_of_the_conditional() -> None:
    """Eq. 41 at (700, 600, 550): 0.278019, where Bayes' rule gives 0.316354."""
    chain = one_level(0.5, 0.9, switches="prior_cond")
    t, s = LDM.level_at_index(700), LDM.level_at_index(600)
    top_s = seen_from(TE, s)
    one = torch.ones(1).double()
    _, var = chain._conditional(one, one, s, t, one * top_s.alpha, one * top_s.sigma**2)
    assert var.item() == pytest.approx(0.278019, abs=1e-6)


def test_a_finer_grid_changes_nothing() -> None:
    values = []
    for n in (100, 200):
        above = UNIT.grid(n, "karras", end=TE)
        chain = Chain(LDM, [TE], 1.0, Intervals(LDM, TE, above, "importance", True))
        with_parameters(chain, torch.tensor([[0.5]]), torch.tensor([[0.9]]))
        values.append(expected_prior_term(chain).item())
    assert values[0] == pytest.approx(values[1], abs=1e-3)


@pytest.mark.parametrize("law", ["uniform", "importance"])
def test_intervals_are_drawn_as_often_as_their_probability(law: str) -> None:
    intervals = Intervals(LDM, TE, rho_grid(), law, True)
    expected = torch.ones(139, dtype=torch.float64)
    if (
        law == "importance"
    ):  # the root of what each end says of the top level, 1 / variance, and of its difference
        precise = [1 / (level.ratio**2 - TE.ratio**2) for level in rho_grid()[:-1]]
        last = 1 / TE.ratio**2 - 1 / rho_grid()[-2].ratio ** 2
        expected = torch.tensor([b - a for a, b in pairwise(precise)] + [last]).double().sqrt()
    expected = (expected / expected.sum()).float()
    u = (torch.arange(20000)[:, None] + 0.5) / 20000
    t, s, weight = intervals.draw(u, len(u))
    steps = {a.t: (i, b.t) for i, (a, b) in enumerate(pairwise(intervals.levels))}
    drawn = [steps[a] for a in t.t.tolist()]
    assert [b for _, b in drawn] == s.t.tolist()
    counts = torch.bincount(torch.tensor([i for i, _ in drawn]), minlength=139)
    torch.testing.assert_close(counts / 20000, expected, atol=1.01e-4, rtol=0)
    assert weight.mean().item() == pytest.approx(139, abs=0.07)


def test_rows_of_an_image_spread_evenly_and_images_do_not_mix() -> None:
    intervals = Intervals(LDM, TE, rho_grid(), "uniform", False)  # 138 intervals
    u = torch.tensor([[0.003], [0.9]])
    t, _, _ = intervals.draw(u, 2 * 6)
    alone, _, _ = intervals.draw(u[1:], 6)
    places = [[level.t for level in intervals.levels].index(x) for x in t.t.tolist()]
    assert places[:6] == [0, 23, 46, 69, 92, 115]
    assert t.t[6:].tolist() == alone.t.tolist()


def test_a_flow_counts_its_pure_noise() -> None:
    """The noisiest level of a flow has alpha = 0: no term divides by it."""
    process = Flow()
    top = process.level(3.0)
    above = [process.level(math.inf), process.level(10.0), top]
    assert above[0].alpha == 0
    chain = Chain(process, [top], 1.0, Intervals(process, top, above, "importance", True))
    with_parameters(chain, torch.tensor([[0.1]]), torch.tensor([[0.5]]))
    prior = gaussian(process, torch.zeros(1), torch.ones(1))
    variance = top.alpha**2 + top.sigma**2
    truth = kl_divergence(Normal(0.1, 0.5**0.5), Normal(0.0, variance**0.5)).item()
    value = expected_prior_term(chain, prior.denoise).item()
    assert value == pytest.approx(truth, abs=0.01)  # two coarse intervals


# -- switches --------------------------------------------------------------------------------------


def test_compat_names() -> None:
    assert parse("none") == frozenset()
    assert parse("released") == frozenset(SWITCHES)
    assert parse(["kl_mean_term", "refine_noise"]) == {"kl_mean_term", "refine_noise"}
    with pytest.raises(
        ValueError, match="unknown compat kl_maen_term; valid: none, released, or a list"
    ):
        parse(["kl_maen_term"])


def test_released_top_is_coupled_to_tau() -> None:
    """z = sqrt(1 - tau^2) mu + tau eps."""
    chain = one_level(0.5, 0.36, switches="top_param")
    got = chain.top(torch.tensor([-1.0, 2.0]).double().view(2, 1, 1, 1)).flatten()
    assert got.tolist() == pytest.approx([0.8 * 0.5 - 0.6, 0.8 * 0.5 + 1.2])


def test_released_grid_moves_with_tau_of_its_own_image() -> None:
    """Levels with sigma above the largest tau, less the two lowest intervals; a neighbour's tau
    does not count."""
    chain = one_level(0.5, 0.5, switches="prior_grid")
    sigmas = torch.tensor([level.sigma for level in chain.intervals.levels[:-1]])
    tau = torch.tensor([0.5, 0.97])
    chain.log_var = (2 * tau.log()).double().view(2, 1, 1, 1, 1)
    kept = (chain._kept_intervals(torch.zeros(2, 1)) > 0).sum(1)
    assert kept.tolist() == [139 - 2, int((sigmas > 0.97).sum()) - 2]
    assert kept[1] < kept[0]


def test_released_levels_follow_the_law_of_the_index() -> None:
    assert levels_above(LDM, TE) == rho_grid()
    assert levels_above(VE(), VE().level(5.0)) is None


def test_released_weight_is_half_the_time_above() -> None:
    assert one_level(0.5, 0.9, switches="prior_weight")._half_time() == 225
