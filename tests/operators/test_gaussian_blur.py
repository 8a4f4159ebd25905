"""Gaussian blur, against scipy's filter and published numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import torch

from posterior_bench.operators.gaussian_blur import GaussianBlur

# what scipy calls the borders; its "mirror" is numpy's "reflect", and mirrors as often as it takes
MODES = {"reflect": "mirror", "circular": "wrap", "zero": "constant"}


@pytest.mark.parametrize(
    ("height", "width", "deviation"),
    [(64, 40, 3.0), (28, 28, 3.0), (9, 11, 3.0), (28, 28, 1.0), (5, 1, 0.7), (20, 30, (0.8, 3.0))],
)
@pytest.mark.parametrize("border", MODES)
def test_against_scipy(
    height: int, width: int, deviation: float | tuple[float, float], border: str
) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (height, width))
    expected = scipy.ndimage.gaussian_filter(x, deviation, mode=MODES[border])
    operator = GaussianBlur(shape=(1, height, width), deviation=deviation, border=border)
    y = operator.A(torch.from_numpy(x)[None, None])
    np.testing.assert_allclose(y[0, 0].numpy(), expected, atol=1e-12)


def test_published_window() -> None:
    impulse = torch.zeros(1, 1, 101, 101, dtype=torch.float64)
    impulse[..., 50, 50] = 1
    window = GaussianBlur(shape=(1, 101, 101)).A(impulse)[0, 0]
    assert window[50, 50].item() == pytest.approx(0.0176849, abs=1e-7)
    assert window.sum().item() == pytest.approx(1.0) and window.count_nonzero() == 25 * 25


def test_the_window_ends_at_its_kernel() -> None:
    line = GaussianBlur(shape=(1, 9, 9), kernel=3, deviation=1.0).line(9, 0)
    edge = math.exp(-0.5) / (1 + 2 * math.exp(-0.5))
    expected = torch.tensor([edge, 1 - 2 * edge, edge], dtype=torch.float64)
    torch.testing.assert_close(line[4, 3:6], expected)
    assert line[4].count_nonzero() == 3 and line[0, 1].item() == pytest.approx(2 * edge)


def test_most_singular_values_are_small() -> None:
    values = torch.linalg.svdvals(GaussianBlur(shape=(1, 256, 256)).line(256, 0))
    assert values[0].item() == pytest.approx(1.002, abs=1e-3) and values[-1] < 1e-6
    assert (values > 1e-2).double().mean().item() == pytest.approx(0.32, abs=0.01)
    root = values.outer(values)
    kept = root > 0.1 * root.max()
    # what the docstring says of white noise: its pseudo-inverse has 0.93 of its size
    amplified = (root[kept] ** -2).sum().div(root.numel()).sqrt().item()
    assert amplified == pytest.approx(0.934, abs=1e-3)
    assert GaussianBlur.caps == {"linear", "pinv", "prox", "svd"}
    operator, y = GaussianBlur(shape=(1, 8, 8)), torch.ones(1, 1, 8, 8)
    assert torch.equal(operator.first_guess(y), operator.At(y))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": 4}, "no central pixel"),
        ({"kernel": -1}, "no central pixel"),
        ({"deviation": 0.0}, "no width"),
        ({"deviation": (1.0, -1.0)}, "no width"),
        ({"deviation": (1.0, 2.0, 3.0)}, "give one number, or two"),
        ({"border": "mirror"}, "unknown border 'mirror'. Valid: reflect, circular, zero"),
        ({"sigma": -1.0}, "not a noise level"),
        ({"rcond": -0.1}, r"outside \[0, 1\)"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianBlur(shape=(1, 28, 28), **settings)  # type: ignore[arg-type]
