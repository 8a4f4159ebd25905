"""Every operator: all of its methods, and the gradient, as on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tests.pretended_gpu import DEVICE, KIND
from torch import Tensor

from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.engine.measurement import build_operator
from posterior_bench.operators import nonlinear_blur
from posterior_bench.operators.base import Operator

OPERATORS = sorted(options("operator"))


def _values(operator: Operator, device: str) -> Iterator[tuple[str, Tensor]]:
    """Return what every method gives, by name."""
    numbers = torch.Generator().manual_seed(0)
    operator = operator.to(device)
    x = torch.rand(2, 3, 16, 16, generator=numbers).mul(2).sub(1).to(device)
    clean = operator.A(x)
    noise = torch.randn(clean.shape, generator=numbers).to(device)
    y = operator.observe(x, noise)
    methods: dict[str, Callable[[], Tensor]] = {
        "A": lambda: clean,
        "observe": lambda: y,
        "residual": lambda: operator.residual(x, y),
        "paste": lambda: operator.paste(x, y),
        "first_guess": lambda: operator.first_guess(y),
        "repeat": lambda: operator.repeat(2).A(x.repeat_interleave(2, 0)),
    }
    if "linear" in operator.caps:
        methods["At"] = lambda: operator.At(y)
    if "pinv" in operator.caps:
        methods["pinv"] = lambda: operator.pinv(y)
        methods["prox at 0"] = lambda: operator.prox(x, y, 0.0)
    if "prox" in operator.caps:
        methods["prox"] = lambda: operator.prox(x, y, 0.1)
        rows = torch.tensor([0.2, 0.1], dtype=torch.float64).view(-1, 1, 1, 1)
        methods["prox of rows"] = lambda: operator.prox(x, y, rows.to(device))
    if "svd" in operator.caps:
        spectrum = operator.spectrum(y)
        methods["coordinates"] = lambda: spectrum.image(spectrum.coordinates(x))
        methods["solution"] = lambda: spectrum.solution(y)
    yield from ((name, method()) for name, method in methods.items())
    z = x.clone().requires_grad_()
    yield "gradient", torch.autograd.grad(operator.residual(z, y).square().sum(), z)[0]


def _built(name: str, monkeypatch: pytest.MonkeyPatch) -> Operator:
    node: dict[str, Any] = dict(options("operator")[name].content)
    if name == "nonlinear_blur":
        # in place of the network in the user's file
        monkeypatch.setattr(nonlinear_blur, "_network", lambda *file: _squared)
        node |= {"path": __file__, "trust_file": True, "kernel": [1, 1, 1]}
    mask = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1)) > 0.3
    return build_operator(node, mask, channels=3)


def _squared(x: Tensor, kernel: Tensor) -> Tensor:
    return x.square() * kernel


@pytest.mark.parametrize("name", OPERATORS)
def test_methods_stay_on_the_gpu_and_equal_those_of_the_cpu(name, monkeypatch):
    operator = _built(name, monkeypatch)
    there, here = _values(operator, DEVICE), _values(operator, "cpu")
    for (method, found), (_, expected) in zip(there, here, strict=True):
        assert found.device.type == KIND, method
        assert torch.equal(found.cpu(), expected), method
