"""OpenCV's fillings, against cv2.inpaint itself; skipped where it is not installed."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from posterior_bench.bench.external.folder import NoPrior
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.opencv import NavierStokes, Telea

BOTH = pytest.mark.parametrize("method", [Telea, NavierStokes])


@pytest.fixture
def cv2():
    return pytest.importorskip("cv2", reason="the extra opencv is not installed")


def _problem(channels: int = 3, rows: int = 2) -> tuple[torch.Tensor, Observation]:
    """Smooth pictures whose colours differ, and a hole in the middle of each, larger every time."""
    at = torch.linspace(-1, 1, 24)
    x = torch.stack(
        [torch.stack([(at * (c + 1) + at[:, None] * i).sin() for c in range(channels)])
         for i in range(rows)]
    )  # fmt: skip
    mask = torch.ones(rows, 1, 24, 24, dtype=torch.bool)
    for i in range(rows):
        mask[i, :, 8 : 13 + i, 9:15] = False
    operator = Inpainting(mask)
    return x, Observation(operator.A(x), operator)


def _filled(solver, obs: Observation) -> torch.Tensor:
    posterior = solver.fit(obs, NoPrior(tuple(obs.y.shape[1:])), None)
    x = posterior.sample([0, 1]).x
    assert torch.equal(x[:, 0].nan_to_num(), x[:, 1].nan_to_num())
    return x[:, 0]


@BOTH
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_library_is_given_bytes_and_the_hole(method, channels, monkeypatch):
    """With a stand-in for the library: it paints what it is told to paint with 204."""
    calls = []

    def inpaint(image: np.ndarray, hole: np.ndarray, radius: float, flag: int) -> np.ndarray:
        calls.append((image.shape, image.dtype, hole.sum(), radius, flag))
        filled = image.copy()
        filled[hole > 0] = 204
        return filled

    stub = SimpleNamespace(inpaint=inpaint, INPAINT_TELEA=1, INPAINT_NS=0)
    monkeypatch.setitem(sys.modules, "cv2", stub)
    _, obs = _problem(channels)
    x = _filled(method(7.0), obs)
    torch.testing.assert_close(x, torch.where(obs.operator.mask, obs.y, 0.6))
    times, together = (1, 3) if channels == 3 else (channels, 1)
    flag = 1 if method is Telea else 0
    expected = [((24, 24, together), np.uint8, 30 + 6 * row, 7.0, flag) for row in (0, 1)]
    assert calls == [call for call in expected for _ in range(times)]


@BOTH
@pytest.mark.parametrize("channels", [1, 3])
def test_the_hole_is_what_the_library_fills(cv2, method, channels):
    _, obs = _problem(channels)
    x = _filled(method(radius=5.0), obs)
    flag = cv2.INPAINT_TELEA if method is Telea else cv2.INPAINT_NS
    for row, (y, mask) in enumerate(zip(obs.y, obs.operator.mask, strict=True)):
        image = ((y + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        image = image if channels == 3 else image[..., 0]
        theirs = torch.from_numpy(cv2.inpaint(image, (~mask[0]).byte().numpy(), 5.0, flag))
        theirs = theirs.view(24, 24, channels).permute(2, 0, 1) / 127.5 - 1
        torch.testing.assert_close(x[row], torch.where(mask, y, theirs), atol=1e-6, rtol=0)


@BOTH
def test_a_smooth_picture_is_continued_better_than_by_grey(cv2, method):
    truth, obs = _problem()
    hole = ~obs.operator.mask.expand_as(truth)
    assert (_filled(method(), obs) - truth)[hole].abs().mean() < 0.5 * truth[hole].abs().mean()


@BOTH
def test_observed_pixels_are_not_rounded(cv2, method):
    _, obs = _problem()
    x = _filled(method(), obs)
    mask = obs.operator.mask.expand_as(x)
    assert torch.equal(x[mask], obs.y[mask]) and x.dtype == torch.float32
    assert not torch.equal(x[mask], (x[mask] * 127.5).round() / 127.5)


@BOTH
def test_rows_are_filled_alone_and_a_broken_one_breaks_no_other(cv2, method):
    _, obs = _problem(rows=3)
    whole = _filled(method(), obs)
    broken = obs.y.clone()
    broken[1, :, 0, 0] = torch.nan
    x = _filled(method(), replace(obs, y=broken))
    assert torch.equal(x[[0, 2]], whole[[0, 2]]) and x[1].isnan().any()
    alone = replace(obs, y=obs.y[2:], operator=Inpainting(obs.operator.mask[2:]))
    assert torch.equal(_filled(method(), alone), whole[2:])


@BOTH
def test_nothing_observed_is_grey_and_everything_comes_back(cv2, method):
    truth, obs = _problem()
    for mask, expected in ((True, truth), (False, torch.zeros_like(truth))):
        operator = Inpainting(torch.full_like(obs.operator.mask, mask))
        x = _filled(method(), Observation(operator.A(truth), operator))
        torch.testing.assert_close(x, expected, atol=0.004, rtol=0)


def test_the_two_methods_and_two_radii_differ(cv2):
    _, obs = _problem()
    a, b, c = (_filled(s, obs) for s in (Telea(), NavierStokes(), Telea(9.0)))
    assert not torch.equal(a, b) and not torch.equal(a, c)


@BOTH
def test_a_missing_package_is_one_line(method, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r'pip install "posterior-bench\[opencv\]"') as error:
        method()
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"radius must be positive, got 0\.0"):
        method(0.0)


def test_shipped_presets_are_complete(cv2, presets):
    assert presets("telea") == {"default": Telea()}
    assert presets("navier_stokes") == {"default": NavierStokes()}
