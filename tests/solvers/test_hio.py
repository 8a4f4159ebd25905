"""Hybrid input-output, on images that are determined by their amplitudes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from posterior_bench.operators.phase_retrieval import PhaseRetrieval
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.hio import HIO
from posterior_bench.solvers.shared.likelihood import residual_norm

PRIOR: Any = SimpleNamespace(image_shape=(1, 8, 8))


class Starts:
    """Uniform numbers, the same for a row whatever the batch."""

    def __init__(self, rows: Sequence[int]):
        self.generators = [torch.Generator().manual_seed(100 + row) for row in rows]

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return torch.stack([torch.rand(shape, generator=g) for g in self.generators])


def _problem(
    domain: str = "unit", oversample: float = 4.0, rows: int = 4, sigma: float = 0.0
) -> tuple[Tensor, Observation]:
    x = 2 * torch.rand(rows, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 1
    operator = PhaseRetrieval((1, 8, 8), oversample, domain, sigma)
    noise = torch.randn(operator.A(x).shape, generator=torch.Generator().manual_seed(1))
    return x, Observation(operator.observe(x, noise), operator)


def _drawn(solver: HIO, obs: Observation, rows: Sequence[int] | None = None) -> Tensor:
    return solver.draw(obs, PRIOR, Starts(range(obs.n) if rows is None else rows))


def _error(x: Tensor, truth: Tensor, signs: Sequence[int]) -> Tensor:
    """The largest error of every image against the nearest of the truth's equals."""
    equal = [s * t for s in signs for t in (truth, truth.flip(-1, -2))]
    return torch.stack([(x - t).abs().flatten(1).amax(1) for t in equal]).amin(0)


@pytest.mark.parametrize(("domain", "signs"), [("unit", [1]), ("signed", [1, -1])])
def test_oversampled_amplitudes_give_the_image_back_up_to_a_turn(domain, signs):
    truth, obs = _problem(domain)
    x = _drawn(HIO(300, 50, restarts=6), obs)
    assert _error(x, truth, signs).max() < 3e-3
    assert residual_norm(x, obs).max() < 2e-3


def _by_hand(y: np.ndarray, start: np.ndarray, beta: float, steps: int, ends: int) -> np.ndarray:
    """Fienup's two iterations for one image of 8 x 8 pixels in the middle of 16 x 16, no bound but
    0."""
    amplitude, g = np.fft.ifftshift(y), np.pad(start, 4)
    support = np.pad(np.ones((8, 8), bool), 4)
    for k in range(steps + ends + 1):
        spectrum = np.fft.fft2(g, norm="ortho")
        out = np.fft.ifft2(amplitude * np.exp(1j * np.angle(spectrum)), norm="ortho").real
        good = support & (out >= 0)
        g = np.where(good, out, g - beta * out if k < steps else 0)
    return np.maximum(out[4:12, 4:12], 0)


@pytest.mark.parametrize(("steps", "ends"), [(5, 0), (0, 5), (4, 3)])
def test_iterations_are_fienups(steps, ends):
    _, obs = _problem(rows=1)
    obs = replace(obs, y=obs.y.double())
    start = Starts([0]).uniform((1, 8, 8))
    expected = _by_hand(obs.y[0, 0].numpy(), 2 * start[0, 0].double().numpy(), 0.7, steps, ends)
    x = _drawn(HIO(steps, ends, beta=0.7, restarts=1), obs)
    np.testing.assert_allclose(x[0, 0].numpy() + 1, expected, atol=1e-6)


def test_error_reduction_never_raises_the_residual():
    """Fienup's theorem, for images in the support before the bounds; and input-output may."""
    _, obs = _problem(rows=3)

    def left(iterations: int, reductions: int) -> Tensor:
        solver = HIO(iterations, reductions, restarts=1, bounds="none")
        return residual_norm(_drawn(solver, obs), obs)

    falls = torch.stack([left(0, n) for n in range(1, 30)])
    assert (falls.diff(dim=0) < 1e-5).all() and (falls[-1] < 0.9 * falls[0]).all()
    assert (torch.stack([left(n, 0) for n in range(1, 30)]).diff(dim=0) > 1e-3).any()


def test_the_start_with_the_smallest_residual_is_kept():
    truth, obs = _problem(oversample=2.0, sigma=0.02)
    starts = Starts(range(4))
    alone = torch.stack([HIO(60, 10, restarts=1).draw(obs, PRIOR, starts) for _ in range(5)])
    residuals = torch.stack([residual_norm(x, obs) for x in alone])
    x = _drawn(HIO(60, 10, restarts=5), obs)
    assert torch.equal(x, alone[residuals.argmin(0), torch.arange(4)])
    # the best of the starts is another one than the nearest to the truth, for some image
    errors = torch.stack([(a - truth).square().flatten(1).mean(1) for a in alone])
    assert (errors.argmin(0) != residuals.argmin(0)).any()
    assert len(residuals.argmin(0).unique()) > 1


@pytest.mark.parametrize(("bounds", "low", "high"), [("lower", -1, 9), ("both", -1, 1)])
def test_samples_keep_their_bounds(bounds, low, high):
    _, obs = _problem("signed", 2.0, sigma=0.3)
    x = _drawn(HIO(20, 5, restarts=2, bounds=bounds), obs)
    assert x.min() >= low and x.max() <= high
    free = _drawn(HIO(20, 5, restarts=2, bounds="none"), obs)
    assert free.min() < low or free.max() > high


def test_a_row_has_its_own_starts_and_a_broken_one_breaks_no_other():
    _, obs = _problem()
    solver = HIO(20, 5, restarts=3)
    whole = _drawn(solver, obs)
    assert torch.equal(_drawn(solver, replace(obs, y=obs.y[2:3]), [2]), whole[2:3])
    broken = obs.y.clone()
    broken[1] = torch.nan
    x = _drawn(solver, replace(obs, y=broken))
    assert torch.equal(x[[0, 2, 3]], whole[[0, 2, 3]]) and x[1].isnan().all()
    assert not torch.equal(_drawn(solver, obs, [9, 1, 2, 3])[0], whole[0])


def test_amplitudes_are_given_and_phases_kept():
    _, obs = _problem("signed")
    operator, wide = obs.operator, torch.randn(4, 1, 16, 16, dtype=torch.float64)
    y = obs.y.double()
    given = operator.with_amplitudes(wide, y)
    found, before = torch.fft.fft2(given, norm="ortho"), torch.fft.fft2(wide, norm="ortho")
    torch.testing.assert_close(torch.fft.fftshift(found, dim=(-2, -1)).abs(), y)
    torch.testing.assert_close(found * before.abs(), before * found.abs(), atol=1e-9, rtol=0)
    x = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(operator.extract(operator.embed(x)), x)
    assert torch.equal(operator.with_amplitudes(0 * wide, 0 * y), 0 * wide)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": -1}, "iterations must be at least 0, got -1"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"beta": 0.0}, r"beta 0\.0 is outside \(0, 1\]; the usual value is 0\.9"),
        ({"bounds": "upper"}, "unknown bounds 'upper'; valid: lower, both, none"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        HIO(**settings)


def test_other_operators_are_refused():
    assert HIO().lacks(frozenset({"nonlinear", "pixel"}), 0.0) == {"amplitudes"}
    assert not HIO().lacks(PhaseRetrieval.caps, 0.1)


def test_shipped_presets_are_complete(presets):
    assert presets("hio") == {"default": HIO()}
