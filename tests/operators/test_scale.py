"""Operators on images of 256 x 256 x 3: no matrix between all values."""

from __future__ import annotations

import pytest
import torch

from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.engine.measurement import build_operator
from posterior_bench.bench.estimate.live_tensors import Live
from posterior_bench.operators.base import Operator

SIZE = 256
NAMES = [
    name
    for name in options("operator")
    # a network of the user; and dense matrices, which random projections and signals have
    if name not in ("fourier", "nonlinear_blur", "projection", "squared_projection", "xray")
]


def _operator(name: str) -> Operator:
    node = dict(options("operator")[name].content)
    mask = torch.ones(1, 1, SIZE, SIZE, dtype=torch.bool)
    mask[..., :100] = False
    # a few iterations take the memory of many
    few = {"iterations": 2} if "iterations" in node else {}
    return build_operator({**node, **few}, mask, 3)


@pytest.mark.parametrize("name", NAMES)
def test_memory(name: str) -> None:
    x = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with Live() as live:
        operator = _operator(name)
        y = operator.A(x)
        if "linear" in operator.caps:
            operator.At(y)
        if "pinv" in operator.caps:
            operator.pinv(y)
        if "prox" in operator.caps:
            operator.prox(x, y, 0.1)
        if "svd" in operator.caps:
            spectrum = operator.spectrum(y)
            spectrum.image(spectrum.coordinates(x))
            assert spectrum.values.shape[-2:] == (SIZE, SIZE)
            assert spectrum.values.numel() == SIZE**2
    # the largest, of motion blur, is 19 MiB
    assert live.peak < 64 * 2**20
