"""Steps with a learned variance, against the closed forms of Nichol and Dhariwal (2021)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import CLEAN, VE, VP, Flow
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.dps import DPS
from posterior_bench.solvers.repaint import RePaint
from posterior_bench.solvers.unconditional import PriorSamples

VP_LINEAR = VP.scheduled("linear", 1e-4, 0.02)


class Learned(nn.Module):
    """Half of the state as the noise, and behind it a variance of its own."""

    def __init__(self, value: float):
        super().__init__()
        self.value = value

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return torch.cat([0.5 * x, torch.full_like(x, self.value)], 1)


def learned(value: float) -> Prior:
    return Prior(VP_LINEAR, Learned(value), (1, 2, 2), "eps", learned_var=True)


@pytest.mark.parametrize(("fraction", "power"), [(0.0, 1.0), (1.0, 0.0), (0.5, 0.5), (1.2, -0.2)])
def test_the_variance_lies_between_that_of_the_posterior_and_beta(fraction, power):
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    abar = (1 - betas).cumprod(0)
    k = 400
    beta, before, after = betas[k], abar[k - 1], abar[k]
    x0, z = torch.tensor(0.3, dtype=torch.float64), torch.tensor(-0.8, dtype=torch.float64)
    t, s = VP_LINEAR.level_at_index(k), VP_LINEAR.level_at_index(k - 1)

    def step(noise: float) -> Tensor:
        moved = torch.tensor(noise).double()
        return VP_LINEAR.learned_step(z, x0, t, s, torch.tensor(fraction), moved)

    mean = (before.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - before) * z) / (1 - after)
    deviation = (beta * ((1 - before) / (1 - after)) ** power).sqrt()
    assert step(0.0).item() == pytest.approx(mean.item(), rel=1e-6)
    assert (step(2.0) - step(0.0)).item() == pytest.approx(2 * deviation.item(), rel=1e-6)


@pytest.mark.parametrize("process", [VP_LINEAR, VE(), Flow()], ids=["vp", "ve", "flow"])
def test_a_long_step_at_fraction_0_is_the_ancestral_one_and_the_last_has_no_noise(process):
    x0, z, noise = torch.randn(
        3, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    t, s = process.level(3.0), process.level(0.5)
    step = process.learned_step(z, x0, t, s, torch.zeros_like(z), noise)
    torch.testing.assert_close(step, process.bridge(z, x0, t, s, 1.0, noise), atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(process.learned_step(z, x0, t, CLEAN, torch.ones_like(z), noise), x0)


def test_the_prior_gives_both_from_one_evaluation():
    prior, z = learned(0.2), torch.ones(3, 1, 2, 2, requires_grad=True)
    level = prior.level(1.0)
    with prior.metered() as meter:
        x0, fraction = prior.denoise_with_variance(z, level)
    assert meter.nfe == 3 and x0.requires_grad and not fraction.requires_grad
    assert torch.equal(x0, prior.denoise(z, level))
    torch.testing.assert_close(fraction, torch.full((3, 1, 2, 2), 0.6))
    view = prior.view("ve")
    there, same = view.denoise_with_variance(z / level.alpha, view.level(1.0))
    torch.testing.assert_close((there, same), (x0, fraction))


def test_a_prior_without_one_says_so():
    with pytest.raises(ValueError, match="has learned no variance; call denoise"):
        Prior(VE(), Learned(0.0), (1, 2, 2)).denoise_with_variance(
            torch.zeros(1, 1, 2, 2), VE().level(1.0)
        )


SOLVERS = {
    "repaint": lambda variance: RePaint(8, 2, 2, variance=variance),
    "dps": lambda variance: DPS(8, variance=variance),
    "prior": lambda variance: PriorSamples(8, variance=variance),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_use_it_where_they_are_told_to_and_there_is_one(name, double_noise):
    mask = torch.tensor([[True, False], [False, True]]).expand(4, 1, 2, 2)
    obs = Observation(torch.where(mask, 0.5, 0.0).double(), Inpainting(mask))

    def draw(variance, prior):
        return SOLVERS[name](variance).draw(obs, prior, double_noise(4))

    fixed = draw("fixed", learned(1.0))
    torch.testing.assert_close(
        draw("learned", learned(-1.0)), fixed, atol=1e-6, rtol=1e-6
    )  # fraction 0
    assert (draw("learned", learned(1.0)) - fixed).abs().max() > 1e-3
    none = Prior(VP_LINEAR, Learned(1.0), (1, 2, 2), "eps", learned_var=True)
    costs = []
    for variance in ("fixed", "learned"):
        with none.metered() as meter:
            draw(variance, none)
        costs.append(meter.counts())
    assert costs[0] == costs[1]


@pytest.mark.parametrize("name", SOLVERS)
def test_an_unknown_variance_is_refused(name):
    with pytest.raises(ValueError, match="unknown variance 'large'; valid: fixed, learned"):
        SOLVERS[name]("large")


def test_a_learned_variance_is_that_of_ancestral_steps():
    with pytest.raises(ValueError, match=r"eta=1, got eta=0\.0"):
        PriorSamples(eta=0.0, variance="learned")
