"""Metrics of the second arena: hand counts, plain loops, scipy, and exact draws as the zero."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy import stats
from scipy.spatial.distance import cdist
from torch import Tensor

from posterior_bench.bench.core.environment import ROOT
from posterior_bench.metrics.base import Draws, reference_draws
from posterior_bench.metrics.bipsda import (
    BANDWIDTHS,
    CMD,
    MMD,
    RANGES,
    central_moment_discrepancy,
    squared_mmd,
)
from posterior_bench.metrics.hpd_coverage import HPDCoverage, ReleasedHPDCoverage
from posterior_bench.metrics.mmse_gap import MMSEGap
from posterior_bench.metrics.modes import ModeWeight
from posterior_bench.metrics.score_ksd import ScoreKSD, stein_kernel

OPTIONS = ["mmse_gap", "hpd_coverage", "hpd_coverage_released", "score_ksd", "mode_weights"]
OPTIONS += [f"bipsda_{problem}" for problem in BANDWIDTHS]


def draws(x: Tensor, truth: Tensor, **more: object) -> Draws:
    d = x.shape[1]
    return Draws(x, truth, torch.ones(d, dtype=torch.bool), torch.zeros(d), **more)  # type: ignore[arg-type]


def gaussian(seed: int, n: int = 16, scale: float = 1.0) -> Draws:
    """Draws and a truth of a standard normal in three dimensions."""
    x = scale * torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)).double()
    truth = torch.randn(3, generator=torch.Generator().manual_seed(10_000 + seed)).double()

    def densities() -> Tensor:
        return torch.cat([truth[None], x]).square().sum(1) / -2

    mean = torch.zeros(3, dtype=torch.float64)
    return draws(x, truth, mean=mean, log_densities=densities, scores=lambda: -x)


@pytest.mark.parametrize("option", OPTIONS)
def test_columns_are_named_by_their_cards_and_give_their_reference(option: str) -> None:
    for name, node in OmegaConf.load(ROOT / "conf" / "metrics" / f"{option}.yaml").items():
        metric = instantiate(node)
        assert metric.card.id == name and metric.card.level == "draws"
        metric.check()


def test_the_gap_by_hand() -> None:
    x = torch.tensor([[1.0, 0.0], [3.0, 2.0]]).double()  # mean (2, 1)
    truth = torch.zeros(2).double()
    one = draws(x, truth, mean=torch.tensor([0.5, 0.0]).double())
    assert MMSEGap().score(one) == pytest.approx(10 * math.log10(5 / 0.25))
    assert math.isnan(MMSEGap().score(replace(one, mean=truth)))
    assert MMSEGap().score(replace(one, truth=torch.tensor([2.0, 1.0]).double())) == -math.inf


def test_the_gap_of_exact_draws() -> None:
    """Draws of the posterior have 10 log10(1 + 1 / D) of excess, as a ratio of mean squares."""
    found = [gaussian(seed) for seed in range(800)]
    errors = [(one.x.mean(0) - one.truth).square().sum().item() for one in found]
    least = [one.truth.square().sum().item() for one in found]
    assert np.mean(errors) / np.mean(least) == pytest.approx(1 + 1 / 16, abs=0.04)
    ratio = [MMSEGap().score(one) for one in found]
    expected = 10 * np.log10(np.divide(errors, least))
    assert ratio == pytest.approx(expected.tolist())


def region(densities: list[float], truth: float, released: bool = False) -> float:
    values = torch.tensor([truth, *densities]).double()
    one = draws(torch.zeros(len(densities), 1).double(), torch.zeros(1).double())
    metric = ReleasedHPDCoverage() if released else HPDCoverage()
    return metric.score(replace(one, log_densities=lambda: values))


def test_the_region_by_hand() -> None:
    ten = [float(-i) for i in (3, 0, 9, 1, 2, 7, 5, 4, 6, 8)]
    # nine of ten draws are reached at the density -8
    assert region(ten, -8.0) == 1 and region(ten, -8.1) == 0
    # weights 0.63, 0.23, 0.09: the third draw passes 0.9
    assert region(ten, -2.0, released=True) == 1 and region(ten, -2.1, released=True) == 0
    assert math.isnan(HPDCoverage().score(draws(torch.zeros(2, 1), torch.zeros(1))))


def test_the_coverage_of_exact_draws() -> None:
    """A truth is one more draw: it is among the first 15 of 17 with probability 15 / 17."""
    found = np.mean([HPDCoverage().score(gaussian(seed)) for seed in range(800)])
    assert found == pytest.approx(15 / 17, abs=4 * math.sqrt(15 / 17 * 2 / 17 / 800))
    narrow = [HPDCoverage().score(gaussian(seed, scale=0.5)) for seed in range(100)]
    released = [ReleasedHPDCoverage().score(gaussian(seed)) for seed in range(100)]
    assert np.mean(narrow) < 0.5 and np.mean(released) < found - 0.05


def test_the_stein_kernel_by_automatic_derivatives() -> None:
    generator = torch.Generator().manual_seed(0)
    x, score = torch.randn(2, 4, 3, generator=generator).double()
    width = 0.7

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (width**2 + (a - b).square().sum()) ** -0.5

    for i in range(4):
        for j in range(4):
            a, b = x[i].clone().requires_grad_(), x[j].clone().requires_grad_()
            of_a, of_b = torch.autograd.grad(kernel(a, b), (a, b), create_graph=True)
            mixed = sum(
                torch.autograd.grad(of_a[k], b, retain_graph=True)[0][k].item() for k in range(3)
            )
            expected = score[i] @ score[j] * kernel(a, b) + score[i] @ of_b + score[j] @ of_a
            found = stein_kernel(x, score, width)[i, j].item()
            assert found == pytest.approx(expected.item() + mixed, rel=1e-9)


def test_the_discrepancy_of_exact_draws_is_zero_on_average() -> None:
    values = {
        scale: np.array([ScoreKSD().score(gaussian(seed, 12, scale)) for seed in range(150)])
        for scale in (1.0, 0.6, 2.5)
    }
    exact = values[1.0]
    assert abs(exact.mean()) < 4 * exact.std() / 12
    for scale in (0.6, 2.5):
        assert values[scale].mean() > 4 * values[scale].std() / 12
    assert math.isnan(ScoreKSD().score(gaussian(0, 1)))
    assert math.isnan(ScoreKSD().score(replace(gaussian(0), scores=None)))


def test_both_distances_of_the_benchmark_have_its_golden_values() -> None:
    a = torch.linspace(-1, 1, 40).double().view(20, 2)
    b = 1.2 * a + 0.1
    assert squared_mmd(a, b, 1.0).item() == pytest.approx(0.0764704, abs=2e-7)
    assert central_moment_discrepancy(a, b, 4.0).item() == pytest.approx(0.0503063, abs=2e-7)


@pytest.mark.parametrize("problem", list(BANDWIDTHS))
def test_both_distances_by_scipy(problem: str) -> None:
    one = reference_draws().images[1]
    x, z = 12 * one.x.numpy(), 12 * one.exact.numpy()

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        widths = [BANDWIDTHS[problem] * factor for factor in (0.25, 0.5, 1, 2, 4)]
        return float(sum(np.exp(-cdist(a, b, "sqeuclidean") / width).mean() for width in widths))

    expected = kernel(x, x) + kernel(z, z) - 2 * kernel(x, z)
    assert MMD(problem).score(one) == pytest.approx(expected, rel=1e-9)
    r = RANGES[problem]
    moments = [np.linalg.norm(stats.moment(x, k) - stats.moment(z, k)) / r**k for k in range(2, 6)]
    expected = np.linalg.norm(x.mean(0) - z.mean(0)) / r + sum(moments)
    assert CMD(problem).score(one) == pytest.approx(expected, rel=1e-9)
    # in other units of the image the same numbers
    other = replace(one, x=2 * one.x, reference=2 * one.exact)
    assert MMD(problem, unit=6.0).score(other) == pytest.approx(MMD(problem).score(one))


def test_unknown_problems_and_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown problem 'mri'"):
        MMD("mri")
    with pytest.raises(ValueError, match="unit 0 must be above 0"):
        CMD("low", unit=0)
    with pytest.raises(ValueError, match="counted from 0"):
        ModeWeight(-1)


def test_weights_of_modes() -> None:
    shares = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0, 0, 1], [1, 0, 0]]).double()
    weights = torch.tensor([0.2, 0.3, 0.5]).double()
    one = draws(torch.zeros(4, 1), torch.zeros(1), mode_weights=weights, assign=lambda: shares)
    assert [ModeWeight(k).score(one) for k in range(3)] == [0.625, 0.125, 0.25]
    assert math.isnan(ModeWeight(3).score(one))
