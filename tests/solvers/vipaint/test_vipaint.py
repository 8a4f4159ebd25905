"""VIPaint, against exact posteriors of Gaussian priors (backward messages, and printed values) and
hand counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from posterior_bench.bench.core.streams import Key
from posterior_bench.bench.core.streams import Noise as SeededNoise
from posterior_bench.operators.base import Operator
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.base import Condition, Prior
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.process import VE, VP, Flow, Level, Process
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.vipaint import VIPaint
from posterior_bench.solvers.vipaint.chain import Chain
from posterior_bench.solvers.vipaint.refinement import Refinement
from posterior_bench.solvers.vipaint.released import SWITCHES

LDM = VP.scheduled("scaled_linear", 0.0015, 0.0195)
MEAN = torch.tensor([0.5, -1.0, 0.0, 0.3, 1.2, -0.4], dtype=torch.float64)
DEVIATION = torch.tensor([0.5, 1.0, 0.2, 0.8, 0.3, 1.5], dtype=torch.float64)
Y = torch.tensor([1.0, -2.0, 0.4, 0.0, 0.0, 0.0], dtype=torch.float64)
SEEN = torch.tensor([True, True, True, False, False, False])
B = 0.3


class DoubleNoise:
    """The harness's own noise in float64, one row per image number."""

    def __init__(self, base: SeededNoise):
        self.base = base

    @classmethod
    def of(cls, images: Sequence[int]) -> DoubleNoise:
        return cls(SeededNoise([Key(0, "test", str(i)) for i in images], "solver"))

    def normal(self, shape: Sequence[int]) -> Tensor:
        return self.base.normal(shape).double()

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return self.base.uniform(shape).double()

    host_uniform = uniform

    def draws(self, draws: Sequence[int]) -> DoubleNoise:
        return DoubleNoise(self.base.draws(draws))


class QuickNoise:
    """One float64 generator for all rows: fast where rows need not be told apart."""

    def __init__(self, rows: int, seed: int = 0):
        self.rows, self.generator = rows, torch.Generator().manual_seed(seed)

    def normal(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(self.rows, *shape, generator=self.generator, dtype=torch.float64)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return torch.rand(self.rows, *shape, generator=self.generator, dtype=torch.float64)

    host_uniform = uniform

    def draws(self, draws: Sequence[int]) -> QuickNoise:
        return QuickNoise(self.rows * len(draws), 1)


def gaussian(
    process: Process = LDM, mean: Tensor = MEAN, deviation: Tensor = DEVIATION
) -> MixturePrior:
    return MixturePrior(
        process, torch.ones(1), mean[None], torch.diag(deviation**2)[None], (1, 1, len(mean))
    )


def observation(rows: int = 1, y: Tensor = Y, seen: Tensor = SEEN) -> Observation:
    mask = seen.view(1, 1, 1, -1).expand(rows, 1, 1, -1)
    return Observation(torch.where(mask, y.expand(rows, -1)[:, None, None], 0.0), Inpainting(mask))


def settings(indices: Sequence[float] = (550, 400), eta: float = 0.2, **more: object) -> VIPaint:
    """VIPaint on the six dimensions of the exact-posterior problem."""
    common: dict[str, object] = {
        "keypoints": (),
        "keypoint_indices": indices,
        "eta": eta,
        "mean_noise": (0.8, 1.0),
        "spread": 0.7,
        "gamma": 0.9,
        "likelihood": "gaussian",
        "scale": B,
        "prior_levels": 40,
        "full_bound": True,
    }
    return VIPaint(**{**common, **more})  # type: ignore[arg-type]


# -- the exact posterior ---------------------------------------------------------------------------


@dataclass
class Exact:
    """The exact posterior of independent dimensions: the family contains it."""

    evidence: float
    mean: Tensor
    var: Tensor
    gammas: list[Tensor]
    means: list[Tensor]
    variances: list[Tensor]

    def put_into(self, chain: Chain) -> Chain:
        """The chain at the exact posterior, the same for every image."""
        like = chain.mu
        for name, values in (
            ("mu", [self.mean, *self.means]),
            ("log_var", [self.var.log(), *(v.log() for v in self.variances)]),
            (
                "logit",
                [torch.zeros_like(self.mean), *(torch.logit(g, eps=1e-15) for g in self.gammas)],
            ),
        ):
            value = torch.stack(values)[None, :, None, None].expand_as(like)
            setattr(chain, name, value.clone().requires_grad_())
        return chain


def exact_posterior(
    levels: Sequence[Level], eta: float, y: Tensor = Y, seen: Tensor = SEEN
) -> Exact:
    """Backward messages ``exp(h z - P z^2 / 2)`` from the likelihood up to the top keypoint."""
    m, S = MEAN, DEVIATION**2

    def denoiser(level: Level) -> tuple[Tensor, Tensor]:
        c = level.alpha * S / (level.alpha**2 * S + level.sigma**2)
        return c, m - c * level.alpha * m

    c, d = denoiser(levels[-1])
    P = torch.where(seen, c**2 / B**2, 0.0)
    h = torch.where(seen, c * (y - d) / B**2, 0.0)
    steps = []
    for t, s in pairwise(levels):
        v = eta * LDM.transition(s, t).var
        k, j = denoiser(t)
        noise = math.sqrt(s.sigma**2 - v) / t.sigma
        steps.append((noise + (s.alpha - noise * t.alpha) * k, (s.alpha - noise * t.alpha) * j, v))
    gammas, means, variances = [], [], []
    for a, b, v in reversed(steps):
        gammas.insert(0, 1 / (1 + v * P))
        means.insert(0, torch.where(seen, h / P, 0.0))
        variances.insert(0, v / (1 + v * P))
        P, h = P / (1 + v * P), h / (1 + v * P)
        P, h = a**2 * P, a * h - a * b * P
    top = levels[0]
    marginal = top.alpha**2 * S + top.sigma**2
    precision = 1 / marginal + P
    # the evidence, by the forward pass
    mu, var = top.alpha * m, marginal
    for a, b, v in steps:
        mu, var = a * mu + b, a**2 * var + v
    law = torch.distributions.Normal(c * mu + d, (c**2 * var + B**2).sqrt())
    evidence = law.log_prob(y)[seen].sum().item()
    return Exact(
        evidence,
        (top.alpha * m / marginal + h) / precision,
        1 / precision,
        gammas,
        means,
        variances,
    )


TWO, FOUR = (550, 400), (550, 500, 450, 400)
PRINTED = {  # log p(y); first three of: mean and tau^2 at the top, gamma and tau^2 at T_s
    (TWO, 0.2): (
        -3.513227,
        (0.691071, -1.693381, 0.086454),
        (0.811703, 0.374745, 0.923528),
        (0.973760, 0.773478, 0.999220),
        (0.109474, 0.086958, 0.112337),
    ),
    (TWO, 1.0): (
        -3.566061,
        (0.457306, -1.197852, 0.048510),
        (0.899647, 0.746653, 0.926424),
        (0.881262, 0.405794, 0.996114),
        (0.495376, 0.228105, 0.559937),
    ),
    (FOUR, 0.2): (
        -3.481215,
        (0.676410, -1.640970, 0.083854),
        (0.818339, 0.403494, 0.923779),
        (0.987602, 0.879945, 0.999637),
        (0.051725, 0.046087, 0.052356),
    ),
    (FOUR, 1.0): (
        -3.499434,
        (0.456046, -1.147295, 0.048509),
        (0.899820, 0.760522, 0.926425),
        (0.940938, 0.594469, 0.998186),
        (0.246407, 0.155676, 0.261399),
    ),
}


@pytest.mark.parametrize(("indices", "eta"), PRINTED)
def test_the_reference_has_the_printed_values(indices: tuple[int, ...], eta: float) -> None:
    exact = exact_posterior([LDM.level_at_index(k) for k in indices], eta)
    evidence, mean, var, gamma, lower = PRINTED[indices, eta]
    assert exact.evidence == pytest.approx(evidence, abs=1e-6)
    for got, printed in zip(
        (exact.mean, exact.var, exact.gammas[-1], exact.variances[-1]),
        (mean, var, gamma, lower),
        strict=True,
    ):
        assert got[:3].tolist() == pytest.approx(printed, abs=1e-6)
    assert exact.mean[3:].tolist() == pytest.approx((0.082298, 0.329192, -0.109731), abs=1e-6)
    assert exact.var[3:].tolist() == pytest.approx((0.972908, 0.931518, 1.094069), abs=1e-6)
    assert exact.means[-1][:3].tolist() == pytest.approx((3.64635, -2.54947, 16.0044), rel=1e-5)


def at_the_posterior(
    solver: VIPaint, rows: int, seen: Tensor = SEEN
) -> tuple[Chain, Exact, Tensor]:
    """The chain at the exact posterior, that posterior, and the loss of every row there."""
    prior, obs, noise = gaussian(), observation(rows, seen=seen), QuickNoise(rows)
    chain = solver._start(obs, prior, noise)
    exact = exact_posterior(chain.levels, solver.eta, seen=seen)
    loss, _ = solver._loss(exact.put_into(chain), obs.repeat(solver.monte_carlo), prior, noise)
    return chain, exact, loss


def standard_errors(samples: Tensor, target: float | Tensor = 0.0) -> Tensor:
    """How many standard errors the mean over images is away from ``target``."""
    return (samples.mean(0) - target).abs() / (samples.std(0) / len(samples) ** 0.5 + 1e-12)


CASES = [((400,), 1.0), *PRINTED]


@pytest.mark.parametrize(("indices", "eta"), CASES)
def test_the_loss_at_the_posterior_is_the_evidence_and_flat(
    indices: tuple[int, ...], eta: float
) -> None:
    """-loss = log p(y) and all gradients vanish, within Monte Carlo error, for one to four
    keypoints."""
    chain, exact, loss = at_the_posterior(settings(indices, eta, monte_carlo=40), rows=250)
    assert standard_errors(-loss.detach(), exact.evidence).item() < 4
    assert (loss.std() / 250**0.5).item() < 0.15
    slopes = torch.autograd.grad(
        loss.sum(), (chain.mu, chain.log_var, chain.logit), allow_unused=True
    )
    for slope in slopes:
        if slope is not None:
            assert standard_errors(slope).max().item() < 4.5


def test_the_posterior_of_nothing_observed_is_the_prior() -> None:
    """With an empty mask log p(y) = 0, at gamma = 1 and the prior's marginal."""
    nothing = torch.zeros(6, dtype=torch.bool)
    _, exact, loss = at_the_posterior(settings(monte_carlo=40), rows=250, seen=nothing)
    assert exact.gammas[0].tolist() == [1.0] * 6
    assert exact.evidence == 0
    assert standard_errors(loss.detach()).item() < 4
    assert (loss.std() / 250**0.5).item() < 0.15


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_a_bound_everywhere(seed: int) -> None:
    """-loss <= log p(y) at arbitrary parameters; a wrong sign or weight breaks it somewhere."""
    rows, solver, prior = 200, settings(FOUR, monte_carlo=10), gaussian()
    obs, noise = observation(rows), QuickNoise(rows, seed)
    chain = solver._start(obs, prior, noise)
    exact = exact_posterior(chain.levels, solver.eta).put_into(chain)
    g = torch.Generator().manual_seed(seed)
    for parameter, scale in ((exact.mu, 0.5), (exact.log_var, 0.4), (exact.logit, 0.5)):
        shift = torch.randn(1, *parameter.shape[1:], generator=g, dtype=torch.float64)
        parameter.data += scale * shift
    bound = -solver._loss(chain, obs.repeat(10), prior, noise)[0].detach()
    evidence = exact_posterior(chain.levels, solver.eta).evidence
    assert (bound.mean() - 3 * bound.std() / rows**0.5).item() < evidence
    assert bound.mean().item() < evidence - 0.1, (
        "the parameters should have been moved away from the optimum"
    )


def check_fit(chain: Chain, exact: Exact, mean: float, var: float, gamma: float) -> None:
    """Parameters averaged over images that are copies of each other, against the exact
    posterior."""
    mu, log_var, logit = (
        p.detach().mean(0)[:, 0, 0] for p in (chain.mu, chain.log_var, chain.logit)
    )
    assert (mu[0] - exact.mean).abs().max().item() < mean
    assert (log_var[0].exp() / exact.var - 1).abs().max().item() < var
    for i in range(1, len(mu)):
        assert (logit[i].sigmoid() - exact.gammas[i - 1])[:3].abs().max().item() < gamma
        assert (log_var[i].exp() / exact.variances[i - 1] - 1)[:3].abs().max().item() < var
        free = (1 - logit[i].sigmoid()) * mu[i]  # mu alone is ill-determined where gamma is near 1
        assert (free - (1 - exact.gammas[i - 1]) * exact.means[i - 1])[:3].abs().max().item() < mean


@pytest.mark.parametrize(("indices", "eta"), [(TWO, 0.2), (FOUR, 1.0)])
def test_the_fit_finds_the_posterior(indices: tuple[int, ...], eta: float) -> None:
    prior, rows = gaussian(), 12
    solver = settings(indices, eta, iterations=300, monte_carlo=16, lr=(0.15, 0.1, 0.05))
    fitted = solver.fit(observation(rows), prior, QuickNoise(rows))
    exact = exact_posterior(fitted.chain.levels, eta)
    check_fit(fitted.chain, exact, mean=0.15, var=0.15, gamma=0.03)
    late = torch.stack(list(fitted.losses))[-50:].mean().item()
    assert -late == pytest.approx(exact.evidence, abs=0.4)


@pytest.mark.slow
@pytest.mark.parametrize("law", ["importance", "uniform"])
@pytest.mark.parametrize(("indices", "eta"), PRINTED)
def test_the_fit_converges_to_the_posterior(indices: tuple[int, ...], eta: float, law: str) -> None:
    prior, rows = gaussian(), 4
    solver = settings(
        indices,
        eta,
        iterations=4000,
        monte_carlo=64,
        lr=(0.05, 0.05, 0.05),
        prior_levels=139,
        prior_law=law,
    )
    fitted = solver.fit(observation(rows), prior, QuickNoise(rows))
    exact = exact_posterior(fitted.chain.levels, eta)
    check_fit(fitted.chain, exact, mean=0.04, var=0.04, gamma=0.005)
    late = torch.stack(list(fitted.losses))[-1000:].mean().item()
    assert -late == pytest.approx(exact.evidence, abs=0.11)


def test_without_the_entropy_tau_collapses() -> None:
    """The paper's objective: the variance at the top falls far below the posterior's, in every
    dimension."""
    prior, rows = gaussian(), 2
    common = {
        "iterations": 300,
        "monte_carlo": 16,
        "lr": (0.1, 0.1, 0.1),
        "prior_law": "uniform",
        "full_bound": False,
    }
    fitted = settings(compat=["prior_entropy"], **common).fit(
        observation(rows), prior, QuickNoise(rows)
    )
    exact = exact_posterior(fitted.chain.levels, 0.2)
    assert (fitted.chain.log_var[:, 0].exp().flatten(1) / exact.var).max().item() < 0.1


def test_everything_observed_is_explained() -> None:
    """A full mask and a narrow likelihood: one denoising step from T_s gives y."""
    y = torch.tensor([0.4, -0.7, 0.1], dtype=torch.float64)
    prior = gaussian(VE(), torch.zeros(3).double(), torch.full((3,), 0.5).double())
    solver = VIPaint(
        (5.0, 2.0), iterations=200, monte_carlo=4, lr=(1.0, 1.0, 0.1), scale=0.01, prior_levels=20
    )
    obs, noise = observation(2, y, torch.ones(3, dtype=torch.bool)), QuickNoise(2)
    fitted = solver.fit(obs, prior, noise)
    z = fitted.chain.top(noise.normal((1, 1, 3)))
    z, _ = fitted.chain.down(1, z, prior.denoise, noise.normal((1, 1, 3)))
    assert (prior.denoise(z, fitted.chain.levels[1]) - y).abs().max().item() < 0.05


# -- sampling --------------------------------------------------------------------------------------


class StepNoise:
    """Row 0 gets no noise; row ``i`` gets ones at the i-th request: the columns of an affine map,
    per dimension."""

    def __init__(self, rows: int):
        self.rows, self.used = rows, 0

    def normal(self, shape: Sequence[int]) -> Tensor:
        out = torch.zeros(self.rows, *shape, dtype=torch.float64)
        self.used += 1
        if self.used < self.rows:
            out[self.used] = 1.0
        return out

    def draws(self, draws: Sequence[int]) -> StepNoise:
        return StepNoise(self.rows)


def refined_law(refine_eta: float, **more: object) -> tuple[Tensor, Tensor]:
    """Mean of refined samples of N(0.3, S), S in (1, 0.25, 0.05), and variance of the state they
    were predicted from.

    The refinement starts from the exact marginal at index 400.
    """
    S = torch.tensor([1.0, 0.25, 0.05], dtype=torch.float64)
    prior, rows = gaussian(mean=torch.full((3,), 0.3).double(), deviation=S.sqrt()), 401
    solver = settings(
        (400,), iterations=0, refine_steps=400, refine_scale=0.0, refine_eta=refine_eta, **more
    )
    obs = observation(rows, torch.zeros(3).double(), torch.zeros(3, dtype=torch.bool))
    fitted = solver.fit(obs, prior, QuickNoise(rows))
    top = fitted.chain.levels[0]
    marginal = (top.alpha**2 * S + top.sigma**2).log()
    fitted.chain.mu = torch.full_like(fitted.chain.mu, top.alpha * 0.3)
    fitted.chain.log_var = marginal.view(1, 1, 1, 1, 3).expand_as(fitted.chain.log_var)
    x = replace(fitted, noise=StepNoise(rows)).sample([0]).x.flatten(1)
    last = LDM.level_at_index(0)
    predicted = last.alpha * S / (last.alpha**2 * S + last.sigma**2)
    return x[0], (x[1:] - x[0]).square().sum(0) / predicted**2


@pytest.mark.parametrize("eta", [0.0, 0.2, 1.0])
def test_refinement_without_guidance_keeps_the_prior(eta: float) -> None:
    mean, var = refined_law(eta)
    assert mean.tolist() == pytest.approx([0.3] * 3, abs=1e-3)
    assert var[:2].tolist() == pytest.approx([1.0, 0.25], rel=0.01 if eta < 1 else 0.02)


def test_released_refinement_shrinks() -> None:
    """Without the noise its variance asks for, the printed 0.9409, 0.2245 and 0.0427."""
    _, var = refined_law(0.2, compat=["refine_noise"], full_bound=False, prior_law="uniform")
    assert var.tolist() == pytest.approx([0.9409, 0.2245, 0.0427], rel=0.01)


def test_guidance_pulls_towards_the_observation() -> None:
    """One refined step from T_s to the end, written out: x0 of (prior step - scale times the norm's
    gradient)."""
    prior = gaussian(VE(), torch.zeros(2).double(), torch.tensor([0.5, 0.5]).double())
    solver = VIPaint(
        (2.0,), iterations=0, monte_carlo=1, refine_steps=2, refine_scale=0.3, refine_eta=0.0
    )
    obs = observation(1, torch.tensor([0.8, 0.0]).double(), torch.tensor([True, False]))
    noise = QuickNoise(1)
    fitted = solver.fit(obs, prior, noise)
    fitted.chain.mu.data.fill_(1.0)
    fitted.chain.log_var.data.fill_(-80.0)
    t, s = 2.0, 0.002
    x0 = 0.25 / (0.25 + t**2)
    z = (
        x0 + s / t * (1 - x0) + torch.tensor([0.3 * 0.25 / (0.25 + t**2), 0.0])
    )  # the residual is 0.8 - x0 > 0
    expected = 0.25 / (0.25 + s**2) * z
    assert fitted.sample([0]).x.flatten().tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_samples_of_nothing_observed_look_unconditional() -> None:
    prior, nothing = gaussian(), torch.zeros(6, dtype=torch.bool)
    chain, _, _ = at_the_posterior(settings(monte_carlo=1), rows=4000, seen=nothing)
    obs, solver = (
        observation(4000, seen=nothing),
        settings(monte_carlo=1, refine_steps=60, refine_eta=0.0),
    )
    x = Refinement(solver, chain, obs, prior, QuickNoise(4000), []).sample([0]).x.flatten(1)
    assert standard_errors(x, MEAN).max().item() < 4
    assert (x.std(0) / DEVIATION).tolist() == pytest.approx(
        [1.0] * 6, rel=0.09
    )  # one long step between keypoints


# -- a result belongs to its image alone -----------------------------------------------------------


def small(**more: object) -> VIPaint:
    return settings(FOUR, iterations=5, monte_carlo=3, refine_steps=6, refine_scale=0.5, **more)


RELEASED = {"compat": "released", "full_bound": False, "prior_law": "uniform", "eta": 0.2}


def three_images() -> Observation:
    y = torch.stack([Y, -Y, Y.flip(0)])
    seen = torch.stack([SEEN, ~SEEN, torch.ones(6, dtype=torch.bool)])
    mask = seen.view(3, 1, 1, 6)
    return Observation(torch.where(mask, y.view(3, 1, 1, 6), 0.0), Inpainting(mask))


def row(obs: Observation, i: int) -> Observation:
    return Observation(obs.y[i : i + 1], Inpainting(obs.operator.mask[i : i + 1]))


@pytest.mark.parametrize("more", [{}, RELEASED], ids=["default", "released"])
def test_an_image_does_not_depend_on_its_neighbours(more: dict[str, object]) -> None:
    prior, obs, solver = gaussian(), three_images(), small(**more)
    together = solver.fit(obs, prior, DoubleNoise.of(range(3))).sample([0, 1])
    for i in range(3):
        alone = solver.fit(row(obs, i), prior, DoubleNoise.of([i])).sample([0, 1])
        torch.testing.assert_close(alone.x[0], together.x[i], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            alone.trace["loss"][0], together.trace["loss"][i], rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("more", [{}, RELEASED], ids=["default", "released"])
def test_a_nan_stays_in_its_image(more: dict[str, object]) -> None:
    prior, obs, solver = gaussian(), three_images(), small(**more)
    broken = replace(obs, y=obs.y.clone())
    broken.y[1, 0, 0, 3] = math.nan
    clean = solver.fit(obs, prior, DoubleNoise.of(range(3))).sample([0]).x
    hurt = solver.fit(broken, prior, DoubleNoise.of(range(3))).sample([0]).x
    assert hurt[1].isnan().any()
    assert torch.equal(hurt[[0, 2]], clean[[0, 2]])


def test_a_draw_does_not_depend_on_the_others() -> None:
    fitted = small().fit(three_images(), gaussian(), DoubleNoise.of(range(3)))
    block = fitted.sample([0, 1, 2]).x
    assert block.shape == (3, 3, 1, 1, 6)
    torch.testing.assert_close(fitted.sample([2]).x[:, 0], block[:, 2], rtol=1e-9, atol=1e-9)
    assert (block[:, 0] - block[:, 1]).abs().min().item() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_have_the_precision_of_the_observation(dtype: torch.dtype) -> None:
    obs = three_images()
    samples = (
        small()
        .fit(replace(obs, y=obs.y.to(dtype)), gaussian(), DoubleNoise.of(range(3)))
        .sample([0])
    )
    assert samples.x.dtype == samples.trace["loss"].dtype == dtype


# -- cost, conditions, other priors and operators --------------------------------------------------


@pytest.mark.parametrize("indices", [(400,), TWO, FOUR])
@pytest.mark.parametrize("full_bound", [False, True])
def test_cost(indices: tuple[int, ...], full_bound: bool) -> None:
    """K + 1 batches per step, with gradients through all of them; then K - 1 steps down and the
    guided ones."""
    prior, K = gaussian(), len(indices)
    solver = settings(indices, iterations=5, monte_carlo=3, refine_steps=6, full_bound=full_bound)
    with prior.metered() as meter:
        fitted = solver.fit(three_images(), prior, DoubleNoise.of(range(3)))
    assert (meter.nfe, meter.nge) == (5 * (K + 1) * 9, 5 * (K + 1) * 9)
    with prior.metered() as meter:
        fitted.sample([0, 1])
    assert (meter.nfe, meter.nge) == ((K - 1 + 6) * 6, 5 * 6)


@pytest.mark.parametrize("more", [{}, RELEASED], ids=["default", "released"])
def test_guidance_is_asked_for_where_it_belongs(
    more: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    prior, asked = gaussian(), []
    denoise = prior.denoise

    def spy(
        z: Tensor, level: Level, cond: Condition | None = None, guidance: float = 1.0
    ) -> Tensor:
        assert cond is not None
        assert len(cond.values["label"]) == len(z)
        asked.append(guidance)
        return denoise(z, level)

    monkeypatch.setattr(prior, "denoise", spy)
    obs = replace(three_images(), cond=Condition({"label": torch.tensor([3, 1, 4])}))
    fitted = small(guidance_fit=1.5, guidance_sample=3.0, **more).fit(
        obs, prior, DoubleNoise.of(range(3))
    )
    assert set(asked) == {1.5}
    asked.clear()
    fitted.sample([0])
    down = (
        [3.0] * 3 if more else [1.5] * 3
    )  # the released code draws the keypoints with the guidance of sampling
    assert asked == down + [3.0] * (400 if more else 6)  # with refine_levels: one per index


class Doubled(MixturePrior):
    """A latent prior: an image shows every latent pixel twice."""

    is_latent = True

    def __init__(self) -> None:
        super().__init__(
            LDM, torch.ones(1), torch.zeros(1, 3), 0.25 * torch.eye(3)[None], (1, 1, 3)
        )
        self.image_shape = (1, 1, 6)

    def encode(self, x: Tensor) -> Tensor:
        return x.unflatten(3, (3, 2)).mean(4)

    def decode(self, z: Tensor) -> Tensor:
        return z.repeat_interleave(2, 3)


def test_a_latent_prior_fills_what_its_decoder_knows() -> None:
    """One of two equal pixels is observed; the decoder carries it over to the other."""
    y = torch.tensor([0.5, 0.0, -0.5, 0.0, 0.3, 0.0]).double()
    seen = torch.tensor([True, False] * 3)
    solver = settings(
        TWO,
        1.0,
        iterations=60,
        monte_carlo=4,
        lr=(0.3, 0.3, 0.05),
        likelihood="laplace",
        scale=0.02,
        refine_steps=60,
        refine_scale=0.1,
    )
    x = solver.fit(observation(2, y, seen), Doubled(), QuickNoise(2)).sample([0, 1]).x
    assert x.shape == (2, 2, 1, 1, 6)
    assert (x[..., 1::2] - y[::2]).abs().max().item() < 0.15


class Sum(Operator):
    """The sum of all pixels: linear, no mask, no pseudo-inverse."""

    caps = frozenset({"linear"})
    mask = None

    def A(self, x: Tensor) -> Tensor:
        return x.sum((1, 2, 3), keepdim=True)

    def At(self, y: Tensor) -> Tensor:
        return y.expand(-1, 1, 1, 3)


@pytest.mark.parametrize("process", [LDM, VE(), Flow()], ids=["vp", "ve", "flow"])
def test_any_operator_and_any_process(process: Process) -> None:
    """The sum of three pixels is steered to an unlikely value; every family of noise gets there."""
    prior: Prior = gaussian(process, torch.zeros(3).double(), torch.full((3,), 0.5).double())
    solver = VIPaint(
        (5.0, 2.0),
        iterations=60,
        monte_carlo=4,
        lr=(0.3, 0.3, 0.05),
        prior_levels=20,
        refine_steps=100,
        refine_scale=0.1,
    )
    obs = Observation(torch.full((4, 1, 1, 1), 2.0).double(), Sum())
    x = solver.fit(obs, prior, QuickNoise(4)).sample([0, 1]).x
    assert x.sum((2, 3, 4)).flatten().tolist() == pytest.approx([2.0] * 8, abs=0.5)


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keypoints": (5.0, 2.0), "keypoint_indices": (550, 400)}, "set the other to"),
        ({"keypoints": ()}, "set the other to"),
        ({"keypoints": (2.0, 5.0)}, "from the noisiest down"),
        ({"keypoints": (2.0, 2.0)}, "from the noisiest down"),
        ({"lr": (0.1, 0.1)}, "lr three"),
        ({"gamma": 1.0}, "0 < gamma < 1"),
        ({"prior_levels": 1}, "prior_levels >= 2"),
        ({"likelihood": "cauchy"}, "laplace, gaussian"),
        ({"refine_term": "mean"}, "norm or nll"),
        ({"refine_order": "first"}, "after or before"),
        ({"perceptual_weight": -1.0}, "perceptual_weight is 0 or more"),
        ({"prior_law": "random"}, "importance, uniform"),
        ({"compat": "relased"}, "unknown compat relased; valid: none, released"),
        (
            {"compat": "released", "prior_law": "importance", "full_bound": False},
            "prior_law=uniform",
        ),
    ],
)
def test_bad_settings_are_refused_in_one_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        VIPaint(**changes)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_released_top_needs_sigma_below_one() -> None:
    solver = VIPaint((5.0, 2.0), compat="released", prior_law="uniform", full_bound=False)
    prior = gaussian(VE(), torch.zeros(6).double(), DEVIATION)
    with pytest.raises(ValueError, match="top_param needs a prior with sigma below 1"):
        solver.fit(observation(), prior, QuickNoise(1))


def test_every_switch_is_on_the_card() -> None:
    assert list(VIPaint.card.compat) == ["released", *SWITCHES]


@pytest.mark.parametrize("name", ["vipaint1", "vipaint2", "vipaint4"])
def test_shipped_presets(name, presets) -> None:
    shipped = presets(name)
    keypoints = {"vipaint1": 1, "vipaint2": 2, "vipaint4": 5}[name]
    in_ratios = [shipped[key].keypoints for key in ("fast", "fast_latent", "vipaint_paper")]
    assert [len(k) for k in in_ratios] == [keypoints] * 3
    in_indices = {key: solver for key, solver in shipped.items() if solver.keypoint_indices}
    assert {len(solver.keypoint_indices) for solver in in_indices.values()} == {min(keypoints, 4)}
    assert all(
        solver.perceptual == "lpips_vgg" and solver.refine_term == "nll"
        for solver in in_indices.values()
    )
    assert {key for key, solver in shipped.items() if solver.compat != "none"} == {
        "authors_released",
        "authors_lsun_released",
    }


@pytest.mark.parametrize("name", ["vipaint1", "vipaint2", "vipaint4"])
@pytest.mark.parametrize(
    ("preset", "scalars"), [("authors", 3 * 64 * 64), ("authors_lsun", 4 * 32 * 32)]
)
def test_the_authors_settings_are_the_released_ones_in_other_units(name, preset, scalars, presets):
    """The released loss is 100 times a mean over pixels and beta times a mean over the latent."""
    ours, released = (presets(name)[key] for key in (preset, f"{preset}_released"))
    pixels = 3 * 256 * 256
    beta = released.beta * pixels / (100 * scalars)
    assert ours.beta == pytest.approx(beta, rel=1e-3)
    changed = {"beta": released.beta, "refine_scale": released.refine_scale, "compat": "released"}
    assert replace(ours, **changed) == released


def test_the_papers_guiding_step_is_the_released_one_per_sample(presets):
    """``scale / B`` times the gradient of 100 (mean|r| / b + LPIPS), in the units of a sum over the
    image."""
    shipped, scalars = presets("vipaint2"), 3 * 256 * 256
    for paper, released in (
        ("vipaint_paper_latent", "authors_released"),
        ("vipaint_paper_lsun", "authors_lsun_released"),
        ("authors", "authors_released"),
        ("authors_lsun", "authors_lsun_released"),
    ):
        per_sample = 100 * shipped[released].refine_scale / shipped[released].monte_carlo
        assert shipped[paper].refine_scale * scalars == pytest.approx(per_sample, rel=1e-3)
