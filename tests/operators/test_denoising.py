"""Denoising, where a measurement is the image with noise."""

from __future__ import annotations

import pytest
import torch

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.catalog import option
from posterior_bench.operators.denoising import Denoising


def test_the_measurement_is_the_image_with_noise_of_the_published_size() -> None:
    operator = build(option("operator", "denoising").content, shape=(3, 8, 12))
    x = torch.rand(2, 3, 8, 12) * 2 - 1
    noise = torch.randn(2, 3, 8, 12)
    assert torch.equal(operator.observe(x, noise), x + 0.2 * noise)
    # 20.00 dB on images in [0, 1], the degraded row of the benchmark of PnP-Flow
    error = (operator.observe(x, torch.ones_like(x)) - x).square().mean() / 4
    assert -10 * torch.log10(error) == pytest.approx(20.0, abs=1e-4)


def test_nothing_is_hidden_and_nothing_is_put_back() -> None:
    operator, x = Denoising((1, 4, 6), sigma=0.1), torch.rand(1, 1, 4, 6)
    y = torch.rand(1, 1, 4, 6)
    assert operator.mask is None and operator.paste(x, y) is x
    assert operator.repeat(3) is operator and torch.equal(operator.first_guess(y), y)


def test_prox_is_the_weighted_mean() -> None:
    x, y = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    rho = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    found = Denoising((1, 2, 2)).prox(x, y, rho)
    torch.testing.assert_close(found[:, 0, 0, 0], torch.tensor([0.5, 0.25]))


def test_a_negative_noise_level_is_refused() -> None:
    with pytest.raises(ValueError, match="sigma -1 is not a noise level"):
        Denoising((1, 2, 2), sigma=-1)
