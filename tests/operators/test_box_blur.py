"""Uniform blur, against scipy's filter."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch

from posterior_bench.operators.box_blur import BoxBlur

MODES = {"reflect": "mirror", "circular": "wrap", "zero": "constant"}


@pytest.mark.parametrize(("height", "width", "kernel"), [(40, 30, 9), (6, 5, 9), (12, 12, 3)])
@pytest.mark.parametrize("border", MODES)
def test_against_scipy(height: int, width: int, kernel: int, border: str) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (height, width))
    expected = scipy.ndimage.uniform_filter(x, kernel, mode=MODES[border])
    operator = BoxBlur(shape=(1, height, width), kernel=kernel, border=border)
    y = operator.A(torch.from_numpy(x)[None, None])
    np.testing.assert_allclose(y[0, 0].numpy(), expected, atol=1e-12)
    assert operator.caps == {"linear", "pinv", "prox", "svd"}
    assert torch.equal(operator.first_guess(y), operator.At(y))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": 4}, "no central pixel"),
        ({"border": "none"}, "unknown border"),
        ({"sigma": -1.0}, "not a noise level"),
        ({"rcond": 2.0}, "outside"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BoxBlur(shape=(1, 28, 28), **settings)  # type: ignore[arg-type]
