"""Fourier sampling of signals, against NumPy's transform."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from posterior_bench.bench.config.catalog import option
from posterior_bench.operators.fourier import Fourier

LEVY = tuple(option("operator", "fourier").content["bins"])


def signals(length: int, rows: int = 3) -> torch.Tensor:
    return torch.randn(
        rows, 1, 1, length, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize(
    ("length", "bins", "rows"), [(64, LEVY, 36), (7, (0, 2, 3), 5), (8, (4,), 1), (8, (1, 3), 4)]
)
def test_real_then_imaginary_parts(length: int, bins: tuple[int, ...], rows: int) -> None:
    x = signals(length)
    y = Fourier((1, 1, length), bins).A(x)
    assert y.shape == (3, rows)
    waves = np.fft.rfft(x.flatten(1).numpy(), norm="ortho")
    single = [k for k in bins if k == 0 or 2 * k == length]
    double = [k for k in bins if k not in single]
    weight = [1.0 if k in single else np.sqrt(2) for k in bins]
    real = waves.real[:, list(bins)] * weight
    imaginary = waves.imag[:, double] * np.sqrt(2)
    np.testing.assert_allclose(y, np.concatenate([real, imaginary], 1), atol=1e-12)


def test_rows_are_orthonormal_and_the_pseudo_inverse_is_the_adjoint() -> None:
    operator = Fourier((1, 1, 64), LEVY)
    y = torch.eye(36, dtype=torch.float64)
    torch.testing.assert_close(operator.A(operator.At(y)), y)
    torch.testing.assert_close(operator.pinv(y), operator.At(y))


def test_all_frequencies_lose_nothing() -> None:
    x = signals(10)
    operator = Fourier((1, 1, 10), tuple(range(6)))
    torch.testing.assert_close(operator.At(operator.A(x)), x)


@pytest.mark.parametrize("bins", [(), (1, 1), (2, 1), (33,), (-1, 2)])
def test_wrong_frequencies(bins: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="give rising numbers of frequencies, 0 to 32"):
        Fourier((1, 1, 64), bins)
