"""Phase retrieval, against numpy's transform and the symmetries of a modulus."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from posterior_bench.operators.phase_retrieval import PhaseRetrieval

SHAPE = (2, 16, 24)


def _random(*shape: int) -> Tensor:
    return (
        torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    )


@pytest.mark.parametrize(("domain", "offset"), [("signed", 0.0), ("unit", 1.0)])
def test_against_numpy(domain: str, offset: float) -> None:
    x = _random(3, *SHAPE)
    wide = np.zeros((3, 2, 24, 36))
    wide[..., 4:20, 6:30] = x.numpy() + offset
    expected = np.abs(
        np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(wide, (-2, -1)), norm="ortho"), (-2, -1))
    )
    np.testing.assert_allclose(
        PhaseRetrieval(shape=SHAPE, domain=domain).A(x).numpy(), expected, atol=1e-12
    )


@pytest.mark.parametrize(
    ("size", "oversample", "side"), [(256, 2.0, 384), (28, 2.0, 42), (64, 1.0, 80), (64, 0.0, 64)]
)
def test_size(size: int, oversample: float, side: int) -> None:
    operator = PhaseRetrieval(shape=(1, size, size), oversample=oversample)
    assert operator.A(torch.zeros(2, 1, size, size)).shape == (2, 1, side, side)


def test_energy_stays() -> None:
    x = _random(3, *SHAPE)
    energy = PhaseRetrieval(shape=SHAPE).A(x).square().sum((1, 2, 3))
    torch.testing.assert_close(energy, x.square().sum((1, 2, 3)))


def test_what_it_cannot_tell_apart() -> None:
    x = _random(3, *SHAPE)
    signed, unit = (PhaseRetrieval(shape=SHAPE, domain=domain) for domain in ("signed", "unit"))
    for operator in (signed, unit):
        torch.testing.assert_close(operator.A(x.flip(-1, -2)), operator.A(x))
    torch.testing.assert_close(signed.A(-x), signed.A(x))
    assert not torch.allclose(unit.A(-x), unit.A(x), atol=0.1)


def test_first_guess_of_an_image_without_phases() -> None:
    # a symmetric image whose transform is positive has no phases to lose
    rows, columns = (torch.arange(size) - size // 2 for size in SHAPE[1:])
    peak = torch.exp(-(rows[:, None] ** 2 + columns**2) / 4.0).double().expand(1, *SHAPE)
    for domain, x in (("signed", peak), ("unit", peak - 1)):
        operator = PhaseRetrieval(shape=SHAPE, domain=domain)
        torch.testing.assert_close(operator.first_guess(operator.A(x)), x, rtol=0, atol=1e-5)


def test_gradients_are_finite_where_nothing_is_measured() -> None:
    x = torch.zeros(1, *SHAPE, requires_grad=True)
    (gradient,) = torch.autograd.grad(PhaseRetrieval(shape=SHAPE).A(x).sum(), x)
    assert gradient.isfinite().all()


def test_noise_and_capabilities() -> None:
    operator, x = PhaseRetrieval(shape=SHAPE, sigma=0.3), _random(3, *SHAPE)
    noise = _random(*operator.A(x).shape)
    torch.testing.assert_close(operator.observe(x, noise) - operator.A(x), 0.3 * noise)
    assert operator.caps == {"nonlinear", "amplitudes"} and operator.mask is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"oversample": -1.0}, "outside"),
        ({"domain": "phase"}, "unknown domain 'phase'. Valid: signed, unit"),
        ({"sigma": -1.0}, "not a noise level"),
    ],
)
def test_bad_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PhaseRetrieval(shape=SHAPE, **settings)  # type: ignore[arg-type]
