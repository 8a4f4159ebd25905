"""Sampling of a model trained for inpainting, against DDIM and Euler steps written out."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.conformance.small_priors import small_prior
from posterior_bench.bench.conformance.small_problem import SmallProblem
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.base import Prior
from posterior_bench.priors.nets import Inpainter
from posterior_bench.priors.process import Flow
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.conditional import Conditional
from posterior_bench.solvers.dps import DPS

INPAINTING = {"_target_": "operators.inpainting.Inpainting"}


class Velocity(Inpainter):
    """A flow that is affine in the state, the time and what the mask keeps; its hole is 3."""

    def inpainting(self, y: Tensor, mask: Tensor, encode) -> Tensor:
        return encode(torch.where(mask, y, 3.0))

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return 0.5 * x - cond["inpaint"] + (t / 1000).view(-1, 1, 1, 1)


def test_ddim_steps_written_out():
    prior = small_prior("inpainting")
    problem = SmallProblem(prior, INPAINTING)
    measured = problem.measure((0, 1), ("box", "nothing"))
    obs, noise, same = problem.observe(measured), problem.noise(measured), problem.noise(measured)
    x = Conditional(steps=4, grid="index", guidance=2.0).draw(obs, prior, noise)

    # the released order: encode with a draw, start, then predict and step
    hole = (~measured.operator.mask).float()
    mean, deviation = prior.latent.moments(measured.y)
    seen = mean + deviation * same.normal((2, 8, 12))
    z = prior.level_at_index(999).sigma * same.normal((2, 8, 12))
    abar = torch.cumprod(
        1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0
    )
    table, unet = prior.net.contexts, prior.net.unet
    for t, s in pairwise([999, 666, 333, 0, None]):
        alpha, sigma = abar[t].sqrt().item(), (1 - abar[t]).sqrt().item()
        given = torch.cat([z, hole[:, :, ::2, ::2], seen], 1)
        own, null = (
            unet(given, float(t) * torch.ones(2), table[rows]).sample for rows in ([0, 1], [3, 3])
        )
        v = null + 2.0 * (own - null)
        x0, eps = alpha * z - sigma * v, sigma * z + alpha * v
        z = x0 if s is None else abar[s].sqrt().item() * x0 + (1 - abar[s]).sqrt().item() * eps
    torch.testing.assert_close(x, prior.decode(z), atol=1e-4, rtol=1e-4)


def test_euler_steps_of_a_shifted_flow(double_noise):
    prior = Prior(Flow(3.0, u_min=0.003 / 1.002), Velocity(), (1, 2, 2), "flow")
    mask = torch.tensor([[True, False], [False, True]]).expand(3, 1, 2, 2)
    y = torch.where(mask, 0.7, 0.0).double()
    x = Conditional(steps=5, grid="index").draw(
        Observation(y, Inpainting(mask)), prior, double_noise(3)
    )
    same = double_noise(3)
    same.normal((1, 2, 2))
    z = same.normal((1, 2, 2))
    # sigma = 3 t / (1 + 2 t) at times that run down evenly from 1 to 0.001, in whole thousandths
    times = [1.0, 0.75, 0.5, 0.251, 0.001]
    sigmas = [3 * t / (1 + 2 * t) for t in times] + [0.0]
    for now, then in pairwise(sigmas):
        z = z + (then - now) * (0.5 * z - torch.where(mask, 0.7, 3.0).double() + now)
    torch.testing.assert_close(x, z, atol=1e-6, rtol=1e-6)


def test_the_hidden_pixels_change_nothing_and_the_seen_ones_do(double_noise):
    prior = Prior(Flow(), Velocity(), (1, 2, 2), "flow")
    mask = torch.tensor([[True, False], [False, True]]).expand(1, 1, 2, 2)

    def draw(seen: float, hidden: float) -> Tensor:
        y = torch.where(mask, seen, hidden).double()
        return Conditional(steps=4).draw(Observation(y, Inpainting(mask)), prior, double_noise(1))

    assert torch.equal(draw(0.0, 0.0), draw(0.0, 9.0))
    assert not torch.equal(draw(0.0, 0.0), draw(0.7, 0.0))


def test_it_and_ordinary_solvers_refuse_each_others_priors():
    ordinary, trained = (
        small_prior(name).caps | Inpainting.caps for name in ("latent", "inpainting")
    )
    assert Conditional().lacks(ordinary, 0.0) == {"inpaint"}
    assert Conditional().lacks(trained, 0.0) == set()
    assert Conditional().lacks(trained - {"mask"}, 0.0) == {"mask"}
    assert DPS().lacks(ordinary, 0.0) == set()
    assert DPS().lacks(trained, 0.0) == {"unconditional"}


# of files, and of optional packages
OTHERS = {"conditional", "folder", "torchscript", "deepinv", "dpir", "telea", "navier_stokes"}


@pytest.mark.parametrize("name", sorted(options("solver").keys() - OTHERS))
def test_no_other_solver_runs_an_inpainting_model(name, presets):
    trained = small_prior("inpainting").caps | Inpainting.caps
    assert all("unconditional" in solver.lacks(trained, 0.0) for solver in presets(name).values())


def test_an_impossible_eta_is_refused():
    with pytest.raises(ValueError, match=r"eta 1.5 is outside \[0, 1\]"):
        Conditional(eta=1.5)


def test_shipped_presets_are_complete(presets):
    built = presets("conditional")
    assert built["fast"] == Conditional()
    assert (built["authors_sd3"].steps, built["authors_sd3"].guidance) == (28, 7.0)
    assert built["authors_flux"] == Conditional(steps=50, grid="index")
