"""The list of operations that a GPU refuses, and the ones that are written out for it.

Every solver, operator and metric runs on a pretended GPU that refuses them (``tests/on_gpu``).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tests.unordered import Unordered, refused
from torch import Tensor

from posterior_bench.bench.conformance.small_priors import small_prior
from posterior_bench.metrics.perceptual import as_rgb
from posterior_bench.metrics.stlpips import _halve

RANDOM = torch.Generator().manual_seed(0)


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=RANDOM)


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    out = function(x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((out * weights).sum(), x)[0]


@pytest.mark.parametrize(
    "call",
    [
        lambda: images(3).cumsum(0),
        lambda: images(3).long().cumsum(0, dtype=torch.float64),
        lambda: images(2, 3).median(1),
        lambda: images(3).histc(4),
        lambda: torch.bincount(torch.tensor([0, 1]), weights=images(2)),
        lambda: gradient(lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), images(1, 1, 4, 4)),
        lambda: gradient(lambda x: F.adaptive_avg_pool2d(x, 3), images(1, 1, 4, 4)),
        lambda: gradient(
            lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), images(1, 1, 4, 4)
        ),
    ],
)
def test_what_a_gpu_refuses_is_refused(call: Callable[[], object]) -> None:
    with refused(), pytest.raises(Unordered):
        call()


def test_what_a_gpu_takes_is_taken() -> None:
    with refused():
        images(3).long().cumsum(0)
        images(3).median()
        torch.bincount(torch.tensor([0, 1]))
        F.pad(images(1, 1, 4, 4), (1, 1, 1, 1), mode="reflect")
    assert not torch.are_deterministic_algorithms_enabled()


def test_exact_draws() -> None:
    prior = small_prior("exact")
    uniform = torch.rand(3, generator=RANDOM)
    with refused():
        prior.sample(uniform, images(3, *prior.image_shape))


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 4, 3, 3)])
def test_the_mirrored_border_of_stlpips(shape: tuple[int, ...]) -> None:
    """Values are those of torch's padding; a gradient adds up in another order."""
    z = images(*shape)
    plain, slope = _halve(z), gradient(_halve, z)
    with refused():
        assert torch.equal(_halve(z), plain)
        torch.testing.assert_close(gradient(_halve, z), slope, atol=1e-6, rtol=1e-6)


def test_small_images_of_a_perceptual_loss() -> None:
    with refused():
        gradient(lambda x: as_rgb(x, 31), images(1, 1, 28, 28))
