"""Where VIPaint's posterior starts, and what each switch of its released code changes there and in
the draws."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.base import Prior
from posterior_bench.priors.latents import Latent
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.process import VE, VP, Process
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.vipaint import VIPaint
from posterior_bench.solvers.vipaint.chain import Chain

LDM = VP.scheduled("scaled_linear", 0.0015, 0.0195)
MEAN = torch.tensor([0.5, -1.0, 0.3], dtype=torch.float64)
VAR = torch.tensor([0.25, 1.0, 2.0], dtype=torch.float64)
Y = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64)
SEEN = torch.tensor([True, True, False])


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


def gaussian(process: Process = LDM) -> MixturePrior:
    return MixturePrior(process, torch.ones(1), MEAN[None], torch.diag(VAR)[None], (1, 1, 3))


def observed(images: int) -> Observation:
    shape = (images, 1, 1, 3)
    return Observation(Y.expand(shape).clone(), Inpainting(mask=SEEN.expand(shape)))


def start(*switches: str, **settings: object) -> Chain:
    """The initial chain of 1000 images with the same observation."""
    named = {"compat": list(switches)} if switches else {}
    common = {
        "keypoints": (),
        "keypoint_indices": (550, 400),
        "iterations": 0,
        "prior_law": "uniform",
    }
    return (
        VIPaint(**{**common, **named, **settings})
        .fit(observed(1000), gaussian(), QuickNoise(1000))
        .chain
    )


def check_noise(noise: Tensor, scales: Sequence[float]) -> None:
    """``(N, K, 3)``: independent keypoints, with these standard deviations."""
    torch.testing.assert_close(
        noise.std((0, 2)), torch.tensor(scales, dtype=torch.float64), rtol=0.06, atol=0
    )
    assert abs(torch.corrcoef(noise.transpose(0, 1).flatten(1))[0, 1].item()) < 0.08


def alphas(chain: Chain) -> Tensor:
    return torch.tensor([level.alpha for level in chain.levels], dtype=torch.float64)[:, None]


# -- the start -------------------------------------------------------------------------------------


def test_the_start_is_that_of_the_papers_table():
    chain = start(mean_noise=(0.8, 1.0), spread=0.7, gamma=0.98)
    check_noise(chain.mu.detach().flatten(2) - alphas(chain) * Y, [0.8 * 0.961637, 0.874959])
    std = chain.log_var.detach().mul(0.5).exp()[0].flatten(1)
    assert std[0].tolist() == pytest.approx([0.961637] * 3, abs=1e-6)
    assert std[1].tolist() == pytest.approx([0.524823] * 3, abs=1e-6)
    assert chain.logit.detach().sigmoid().unique().item() == pytest.approx(0.98)


@pytest.mark.parametrize(
    ("keypoints", "std"),
    [((5.0, 2.0), (5.0, 1.83303)), ((5.0, 4.0, 3.5, 2.5, 2.0), (5.0, 2.4, 1.69443, 1.74964, 1.2))],
    ids=["two", "five"],
)
def test_on_edm_the_lower_spread_is_that_of_the_whole_reverse_step(keypoints, std):
    solver = VIPaint(keypoints=keypoints, iterations=0)
    chain = solver.fit(observed(1), gaussian(VE()), QuickNoise(1)).chain
    assert chain.log_var.detach().mul(0.5).exp()[0, :, 0, 0, 0].tolist() == pytest.approx(
        list(std), abs=1e-5
    )


def test_indices_name_the_same_keypoints_as_their_ratios():
    ratios = [LDM.level_at_index(k).ratio for k in (550, 400)]
    settings = {"iterations": 3, "prior_levels": 10, "refine_steps": 3}
    by_index = VIPaint(keypoints=(), keypoint_indices=(550, 400), **settings)
    by_ratio = VIPaint(keypoints=ratios, **settings)
    x = [v.fit(observed(2), gaussian(), QuickNoise(2)).sample([0]).x for v in (by_index, by_ratio)]
    torch.testing.assert_close(x[0], x[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("keypoints", [(2.0,), (5.0, 2.0)], ids=len)
def test_only_the_posterior_gets_gradients(keypoints):
    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

        def forward(self, x: Tensor, t: Tensor, values: object) -> Tensor:
            return self.weight * x

    net = Scaled()
    prior = Prior(VE(), net, (1, 1, 3))
    net.requires_grad_(True)  # whatever others did to the network
    before = VIPaint(keypoints=keypoints, iterations=0).fit(observed(2), prior, QuickNoise(2)).chain
    after = VIPaint(keypoints=keypoints, iterations=2, refine_steps=2).fit(
        observed(2), prior, QuickNoise(2)
    )
    assert net.weight.grad is None
    assert not torch.equal(before.mu, after.chain.mu) and not torch.equal(
        before.log_var, after.chain.log_var
    )
    assert not after.sample([0]).x.requires_grad


# -- one step of the refinement --------------------------------------------------------------------


@pytest.mark.parametrize("order", ["after", "before"])
def test_one_guided_step_in_closed_form(order):
    """From the keypoint to clean in two levels: the first moves the state, the second is the
    sample."""
    settings = {
        "iterations": 0,
        "refine_steps": 2,
        "refine_scale": 0.7,
        "refine_eta": 0.0,
        "refine_order": order,
    }
    posterior = VIPaint(keypoints=(), keypoint_indices=(400,), **settings).fit(
        observed(3), gaussian(), QuickNoise(3)
    )
    top = LDM.level_at_index(400)
    t, s = gaussian().grid(2, start=top)[:2]
    with torch.no_grad():
        z = (
            posterior.chain.mu[:, 0] + top.sigma * posterior.noise.draws([0]).normal((1, 1, 3))
        ).flatten(1)
    gain = [level.alpha * VAR / (level.alpha**2 * VAR + level.sigma**2) for level in (t, s)]
    x0 = MEAN + gain[0] * (z - t.alpha * MEAN)
    residual = SEEN * (Y - x0)
    slope = -gain[0] * residual / residual.norm(dim=1, keepdim=True)
    if order == "before":
        z = z - 0.7 * slope
        x0 = MEAN + gain[0] * (z - t.alpha * MEAN)
    z = s.alpha * x0 + s.sigma / t.sigma * (z - t.alpha * x0)
    z = z - 0.7 * slope if order == "after" else z
    torch.testing.assert_close(
        posterior.sample([0]).x.flatten(1), MEAN + gain[1] * (z - s.alpha * MEAN)
    )


# -- the switches ----------------------------------------------------------------------------------


def test_encode_noise_adds_a_unit_normal_to_the_encoding_of_every_keypoint():
    chain = start("encode_noise", mean_noise=(0.0, 0.0))
    check_noise(chain.mu.detach().flatten(2) / alphas(chain) - Y, [1.0, 1.0])


def test_encode_noise_is_scaled_as_the_encoding_is():
    """The released unit noise stands on what the encoder puts out; a latent prior's state is a
    multiple of that."""

    class Scaled(Latent):
        def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
            return x * torch.tensor([0.5, 1.0, 2.0]).view(-1, 1, 1)

    prior = MixturePrior(LDM, torch.ones(1), MEAN[None], torch.diag(VAR)[None], (3, 1, 1))
    prior.latent = Scaled({}, 0.0, [0.5, 1.0, 2.0])
    seen = torch.ones(4000, 1, 1, 1, dtype=torch.bool)
    obs = Observation(Y.view(1, 3, 1, 1).expand(4000, 3, 1, 1), Inpainting(seen))
    solver = VIPaint(
        keypoints=(),
        keypoint_indices=(550, 400),
        iterations=0,
        mean_noise=(0.0, 0.0),
        prior_law="uniform",
        compat=["encode_noise"],
    )
    chain = solver.fit(obs, prior, QuickNoise(4000)).chain
    encoded = chain.mu.detach().flatten(2) / alphas(chain)
    expected = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(encoded.std(0), expected.expand(2, 3), rtol=0.05, atol=0)
    torch.testing.assert_close(encoded.mean(0), (expected * Y).expand(2, 3), rtol=0, atol=0.12)


def test_top_param_starts_in_clean_units():
    chain = start("top_param", mean_noise=(0.8, 1.0))
    check_noise(
        chain.mu.detach().flatten(2) - torch.cat([torch.ones(1, 1), alphas(chain)[1:]]) * Y,
        [0.8, 0.874959],
    )


def test_lower_mu_scale_multiplies_by_alpha_once_more():
    zero = torch.zeros(1000, 1, 1, 3, dtype=torch.float64)
    plain, scaled = (
        start(*s, gamma=1e-12).down(1, zero, lambda z, _: z, zero)[0]
        for s in ((), ("lower_mu_scale",))
    )
    torch.testing.assert_close(scaled, 0.484197 * plain, rtol=1e-5, atol=0)


def test_reduction_takes_means_and_a_hundredfold_likelihood():
    plain, mean = start(), start("reduction")
    shift = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 1, 1, 3)
    torch.testing.assert_close(mean.kl(shift, 0.3, 0.7), plain.kl(shift, 0.3, 0.7) / 3)
    torch.testing.assert_close(mean.entropy(plain.mu[:, 0]), plain.entropy(plain.mu[:, 0]) / 3)
    assert mean.data_term(
        torch.tensor([3.0, 6.0]), torch.zeros(2, 3, 4, 5)
    ).tolist() == pytest.approx([5.0, 10.0])


def test_prior_entropy_removes_the_entropy():
    plain, without = start(), start("prior_entropy")
    expected = 3 * Normal(0, 0.961637).entropy().item()
    assert plain.entropy(plain.mu[:, 0])[0].item() == pytest.approx(expected, abs=1e-5)
    assert without.entropy(plain.mu[:, 0]).abs().max().item() == 0


def test_refine_grad_gives_every_draw_its_share_of_a_batch():
    common = {
        "keypoints": (),
        "keypoint_indices": (400,),
        "iterations": 0,
        "refine_steps": 10,
        "monte_carlo": 5,
    }
    common |= {"prior_law": "uniform", "refine_term": "nll", "scale": 0.3, "likelihood": "gaussian"}

    def draw(**settings: object) -> Tensor:
        return (
            VIPaint(**common, **settings)
            .fit(observed(2), gaussian(), QuickNoise(2))
            .sample([0, 1])
            .x
        )

    shared = draw(refine_scale=0.2, compat=["refine_grad"])
    torch.testing.assert_close(shared, draw(refine_scale=0.04))
    assert not torch.allclose(shared, draw(refine_scale=0.2))


def test_the_lower_means_lose_their_minimum_in_every_iteration():
    """With Adam at rest nothing else moves; the top keypoint keeps its mean."""
    common = {"keypoints": (), "keypoint_indices": (550, 400), "prior_law": "uniform"}

    def mu(iterations: int) -> Tensor:
        solver = VIPaint(**common, iterations=iterations, lr=(0.0, 0.0, 0.0), compat=["mu_shift"])
        return solver.fit(observed(3), gaussian(), QuickNoise(3)).chain.mu.detach().flatten(2)

    before, after = mu(0), mu(1)
    assert torch.equal(after[:, 0], before[:, 0])
    assert torch.equal(after[:, 1], before[:, 1] - before[:, 1].amin(1, keepdim=True))
    assert before[:, 1].amin(1).unique().numel() == 3


def test_the_released_refinement_visits_every_index_and_ends_at_one(monkeypatch):
    prior, seen = gaussian(), []
    denoise = prior.denoise

    def spy(z, level, cond=None, guidance=1.0):
        seen.append(level.t)
        return denoise(z, level, cond, guidance)

    common = {"keypoints": (), "keypoint_indices": (550, 7), "prior_law": "uniform"}
    solver = VIPaint(**common, iterations=0, refine_steps=3, compat=["refine_levels"])
    fitted = solver.fit(observed(1), prior, QuickNoise(1))
    monkeypatch.setattr(prior, "denoise", spy)
    fitted.sample([0])
    assert seen == [550, 7, 6, 5, 4, 3, 2, 1]


def test_the_released_refinement_needs_indices():
    solver = VIPaint((5.0, 2.0), prior_law="uniform", compat=["refine_levels"])
    with pytest.raises(ValueError, match="refine_levels needs a prior with native indices"):
        solver.fit(observed(1), gaussian(VE()), QuickNoise(1))


def test_the_released_code_as_a_whole_stays_finite():
    solver = VIPaint(
        keypoints=(),
        keypoint_indices=(550, 400),
        eta=0.2,
        mean_noise=(0.8, 1.0),
        spread=0.7,
        gamma=0.9933,
        iterations=20,
        monte_carlo=5,
        lr=(0.1, 0.01, 0.001),
        beta=100.0,
        scale=0.6407,
        prior_levels=139,
        prior_law="uniform",
        refine_steps=20,
        refine_scale=2.0,
        refine_eta=0.2,
        refine_term="nll",
        compat="released",
    )
    samples = solver.fit(observed(4), gaussian(), QuickNoise(4)).sample([0, 1])
    assert samples.x.isfinite().all() and samples.trace["loss"].isfinite().all()
