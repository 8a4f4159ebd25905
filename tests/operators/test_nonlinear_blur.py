"""The nonlinear blur against a network whose answer is known by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from posterior_bench.operators.nonlinear_blur import NonlinearBlur


class Gamma(nn.Module):
    """Raises an image in [0, 1] to a power that the kernel decides."""

    def forward(self, image: Tensor, kernel: Tensor) -> Tensor:
        return image ** (1 + kernel.abs().mean(dim=(1, 2, 3)).view(-1, 1, 1, 1))


class Halves(nn.Module):
    def forward(self, image: Tensor, kernel: Tensor) -> Tensor:
        return image[..., ::2]


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "blur.pt"
    torch.jit.script(Gamma()).save(str(path))
    return str(path)


def blur(file: str, **settings: object) -> NonlinearBlur:
    return NonlinearBlur((3, 8, 8), file, **{"trust_file": True, "kernel": (4, 2, 2), **settings})  # type: ignore[arg-type]


def test_one_kernel_blurs_all_images(file):
    operator = blur(file, seed=3)
    # as DAPS and ReSample draw it: numpy.random.seed(3), numpy.random.randn(1, 4, 2, 2)
    kernel = 1.2 * torch.from_numpy(np.random.RandomState(3).randn(1, 4, 2, 2)).float()
    x = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = 2 * ((x + 1) / 2) ** (1 + kernel.abs().mean()) - 1
    torch.testing.assert_close(operator.A(x), expected)
    torch.testing.assert_close(operator.A(x[2:3]), expected[2:3])
    assert not torch.allclose(blur(file, seed=4).A(x), expected)


def test_gradients_go_through_the_network(file):
    operator, x = blur(file), torch.full((1, 3, 8, 8), 0.2, requires_grad=True)
    (slope,) = torch.autograd.grad(operator.A(x).sum(), x)
    with torch.no_grad():
        numeric = (operator.A(x.double() + 1e-6) - operator.A(x.double() - 1e-6)) / 2e-6
    torch.testing.assert_close(slope.double(), numeric, rtol=0, atol=3e-7)


def test_capabilities_and_first_guess(file):
    operator = blur(file)
    assert operator.caps == {"nonlinear"}
    y = torch.tensor([-1.5, 0.3, 2.0])
    assert operator.first_guess(y).tolist() == pytest.approx([-1, 0.3, 1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trust_file": False}, "set operator.trust_file=true"),
        ({"sigma": -1.0}, "sigma -1.0 is not a noise level"),
        ({"sha256": "0" * 64}, "has changed: its sha256 is"),
        ({"kernel": (4,)}, "does not work on images"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(file, settings, message):
    with pytest.raises(ValueError, match=message) as refusal:
        blur(file, **settings)
    assert "\n" not in str(refusal.value)


def test_files_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        blur(str(tmp_path / "none.pt"))
    (tmp_path / "junk.pt").write_bytes(b"junk")
    with pytest.raises(ValueError, match="cannot be loaded as TorchScript"):
        blur(str(tmp_path / "junk.pt"))
    torch.jit.script(Halves()).save(str(tmp_path / "halves.pt"))
    with pytest.raises(ValueError, match="it must keep the size"):
        blur(str(tmp_path / "halves.pt"))
