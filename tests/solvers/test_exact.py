"""Exact posterior draws, against conditional Gaussians written out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from posterior_bench.operators.base import Operator
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.mixtures import smooth, two_modes
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.exact import Exact


@dataclass(frozen=True)
class Sums(Operator):
    """Two sums of a row's two pixels, with weights of its own: a linear operator that is not a
    mask."""

    caps: ClassVar[frozenset[str]] = frozenset({"linear"})
    mask: ClassVar[None] = None

    weights: Tensor  # (N, M, 2)
    sigma: float

    def A(self, x: Tensor) -> Tensor:
        return torch.einsum("nmd,nd->nm", self.weights.to(x), x.flatten(1))


class UnitNoise:
    """Uniforms of 0.5; normals that are zero, then every unit vector of two pixels: the columns of
    an affine map."""

    def draws(self, draws: Sequence[int]) -> UnitNoise:
        return self

    def __init__(self, rows: int):
        self.rows = rows

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return torch.full((3 * self.rows,), 0.5)

    def normal(self, shape: Sequence[int]) -> Tensor:
        units = torch.cat([torch.zeros(1, 2), torch.eye(2)]).double()
        return units.view(3, 1, 1, 2).repeat(self.rows, 1, 1, 1)


def _laws(solver: Exact, obs: Observation, prior) -> list[tuple[Tensor, Tensor]]:
    """Mean and covariance of every row's draws."""
    x = solver.fit(obs, prior, UnitNoise(obs.n)).sample([0, 1, 2]).x.flatten(2)
    columns = x[:, 1:] - x[:, :1]
    return [(x[i, 0], columns[i].T @ columns[i]) for i in range(obs.n)]


def test_two_pixels_have_the_textbook_posterior(g2, observe):
    y = torch.tensor([1.0, -0.4])
    for (mean, covariance), value in zip(
        _laws(Exact(), observe((True, False), y, 2), g2("ve")), y, strict=True
    ):
        torch.testing.assert_close(mean, torch.tensor([1.0, 0.9]).double() * value.double())
        torch.testing.assert_close(
            covariance, torch.tensor([[0, 0], [0, 0.19]]).double(), atol=1e-7, rtol=0
        )


def test_noise_on_the_measurement_shrinks_to_the_prior(g2, observe):
    obs = observe((True, False))
    noisy = Observation(obs.y, Inpainting(obs.operator.mask, 0.5))
    for solver, seen in ((Exact(), noisy), (Exact(sigma_floor=0.5), obs)):
        ((mean, covariance),) = _laws(solver, seen, g2("ve"))
        torch.testing.assert_close(mean, torch.tensor([0.8, 0.72]).double())
        assert covariance[1, 1].item() == pytest.approx(0.352)


def test_rows_with_masks_of_their_own(g2):
    mask = torch.tensor([[True, False], [False, True], [False, False]]).view(3, 1, 1, 2)
    obs = Observation(torch.where(mask, torch.ones(3, 1, 1, 2), 0.0), Inpainting(mask))
    means = torch.stack([mean for mean, _ in _laws(Exact(), obs, g2("ve"))])
    torch.testing.assert_close(
        means, torch.tensor([[1.0, 0.9], [0.9, 1.0], [0.0, 0.0]]).double(), atol=1e-7, rtol=0
    )


def test_any_linear_operator(g2):
    weights = torch.tensor([[[1.0, 1.0]], [[2.0, -1.0]]])
    y, S = torch.tensor([[0.7], [-0.2]]), torch.tensor([[1.0, 0.9], [0.9, 1.0]]).double()
    for i, (mean, covariance) in enumerate(
        _laws(Exact(), Observation(y, Sums(weights, 0.3)), g2("vp"))
    ):
        a = weights[i].double()
        precision = torch.linalg.inv(S) + a.T @ a / 0.3**2
        torch.testing.assert_close(covariance, torch.linalg.inv(precision))
        torch.testing.assert_close(
            mean, torch.linalg.inv(precision) @ (a.T @ y[i].double()) / 0.3**2
        )


def test_modes_are_weighted_by_their_evidence(observe, seeded_noise):
    """Observed 0.1 between 0.3 and -0.3 with spread 0.2: the log odds are 2 * 0.3 * 0.1 / 0.2^2 =
    1.5."""
    x = (
        Exact()
        .fit(observe((True, False), 0.1), two_modes(), seeded_noise([0]))
        .sample(range(4000))
        .x
    )
    share = (x[..., 1] > 0).double().mean().item()
    assert share == pytest.approx(1 / (1 + math.exp(-1.5)), abs=0.02)
    assert x[..., 0].sub(0.1).abs().max() < 1e-6


def test_a_floor_lets_a_smooth_prior_take_any_measurement(seeded_noise):
    """White noise is not among the images of a smooth prior: without noise there is no posterior to
    draw from."""
    prior = smooth((1, 6, 6), length=8.0)
    mask = torch.ones(1, 1, 6, 6, dtype=torch.bool)
    obs = Observation(
        torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(0)), Inpainting(mask)
    )
    with pytest.raises(ValueError, match="use sigma > 0"):
        Exact().fit(obs, prior, seeded_noise([0]))
    x = Exact(1e-3).fit(obs, prior, seeded_noise([0])).sample([0, 1]).x
    assert x.isfinite().all()


def test_a_draw_depends_on_its_image_and_index_alone(g2, observe, seeded_noise):
    y = torch.linspace(-1, 1, 4)
    batch = (
        Exact()
        .fit(observe((True, False), y, 4), g2("ve"), seeded_noise(range(4)))
        .sample([0, 1, 2])
        .x
    )
    alone = Exact().fit(observe((True, False), y[2:3]), g2("ve"), seeded_noise([2])).sample([1]).x
    assert torch.equal(batch[2:3, 1:2], alone)


def test_a_broken_row_breaks_no_other(g2, observe, seeded_noise):
    y = torch.tensor([0.1, torch.nan, 0.3])
    x = Exact().fit(observe((True, False), y, 3), g2("ve"), seeded_noise(range(3))).sample([0]).x
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_no_network_call(g2, observe, seeded_noise):
    prior = g2("ve")
    with prior.metered() as meter:
        Exact().fit(observe((True, False), rows=2), prior, seeded_noise(range(2))).sample([0])
    assert (meter.nfe, meter.nge) == (0, 0)


def test_bad_settings_and_priors_are_refused(observe, seeded_noise):
    with pytest.raises(ValueError, match="not a noise level; give 0 or more"):
        Exact(-0.1)
    with pytest.raises(ValueError, match="need a Gaussian mixture, not a str"):
        Exact().fit(observe((True, False)), "a prior", seeded_noise([0]))


def test_shipped_presets_are_complete(presets):
    assert presets("exact")["noiseless"] == Exact()
