"""Convolutions that keep no input, against ``nn.Conv2d``."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from posterior_bench.priors.frozen_convolution import FrozenConv2d, freeze_convolutions

CASES = [
    *product((1, 2), (0, (2, 1)), (1, 2), (1, 4), (1, 3), (False, True), ("zeros",)),
    (2, (2, 1), 1, 1, 3, False, "circular"),
]


def pair(conv: nn.Conv2d) -> tuple[nn.Conv2d, nn.Conv2d]:
    frozen = copy.deepcopy(conv.requires_grad_(False))
    freeze_convolutions(frozen)
    assert type(frozen) is FrozenConv2d
    return conv, frozen


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups", "kernel", "channels_last", "mode"), CASES
)
def test_it_is_a_convolution_with_its_first_and_second_derivative(
    stride, padding, dilation, groups, kernel, channels_last, mode
) -> None:
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    both = pair(
        nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups, padding_mode=mode).to(
            memory_format=layout
        )
    )
    results = []
    for conv in both:
        x = noise(3, 4, 13, 11).contiguous(memory_format=layout).requires_grad_()
        out = conv(x)
        (first,) = torch.autograd.grad(out.sin().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        results.append((out.detach(), first.detach(), second))
    (out, first, second), (same, near, also) = results
    assert torch.equal(out, same)
    for a, b in ((first, near), (second, also)):
        assert (a - b).abs().max() <= 1e-6 * a.abs().max()


def test_derivatives_of_every_kind_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    _, frozen = pair(nn.Conv2d(2, 2, 2, padding=1, groups=2).double())
    x = noise(1, 2, 2, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(
        frozen, x, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert torch.autograd.gradgradcheck(frozen, x, check_batched_grad=True)


def test_under_autocast_it_computes_in_bf16_and_keeps_no_weight_of_its_own() -> None:
    torch.manual_seed(0)
    conv, frozen = pair(nn.Conv2d(4, 8, 3, padding=1))
    x = noise(2, 4, 8, 8).requires_grad_()
    kept: list[Tensor] = []
    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t),
    ):
        out = frozen(x)
    assert out.dtype == torch.bfloat16 and [t.data_ptr() for t in kept] == [
        frozen.weight.data_ptr()
    ]
    with torch.autocast("cpu", torch.bfloat16):
        usual = conv(x)
    assert torch.equal(out, usual)
    a, b = (torch.autograd.grad(y.float().square().sum(), x)[0] for y in (out, usual))
    assert a.dtype == torch.float32 and (a - b).norm() < 4e-3 * b.norm()  # bf16 has eight bits


def test_the_input_is_not_kept_and_the_state_stays() -> None:
    conv, frozen = pair(nn.Conv2d(4, 8, 3))
    x = noise(2, 4, 8, 8).requires_grad_()
    for module, count in ((conv, 2), (frozen, 1)):
        kept: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, kept=kept: (kept.append(t), t)[1], lambda t: t
        ):
            module(x)
        assert len(kept) == count
    assert list(frozen.state_dict()) == list(conv.state_dict())
    assert not any(p.requires_grad for p in frozen.parameters())


def test_weights_that_take_gradients_get_them_and_what_is_no_plain_convolution_stays() -> None:
    conv = nn.Conv2d(4, 8, 3)
    freeze_convolutions(conv)
    conv(noise(1, 4, 8, 8).requires_grad_()).sum().backward()
    assert conv.weight.grad is not None
    freeze_convolutions(conv, False)
    assert type(conv) is nn.Conv2d
    same = nn.Conv2d(4, 8, 3, padding="same")
    freeze_convolutions(same)
    assert type(same) is nn.Conv2d


def test_it_can_be_compiled_as_a_whole() -> None:
    conv, frozen = pair(nn.Conv2d(4, 8, 3))
    x = noise(1, 4, 8, 8).requires_grad_()
    program = torch.compile(frozen, backend="eager", fullgraph=True)
    assert torch.equal(program(x), conv(x))
