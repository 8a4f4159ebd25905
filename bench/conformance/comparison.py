"""Comparisons of samples, bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor

from posterior_bench.bench.conformance.promise import Broken


def bits(x: Tensor) -> bytes:
    """Return the memory of a tensor, whatever its device and strides."""
    return x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have the same shape and the same bits, NaN included."""
    return a.shape == b.shape and bits(a) == bits(b)


def demand_same_bits(a: Tensor, b: Tensor, what: str) -> None:
    """Raise Broken if two tensors differ; ``what`` begins the message."""
    if not same_bits(a, b):
        difference = (
            (a - b).abs().nan_to_num(torch.inf).max().item() if a.shape == b.shape else torch.inf
        )
        raise Broken(f"{what}: bits differ, by up to {difference:.2g}")


def demand_finite(x: Tensor, what: str) -> None:
    """Raise Broken if a value is not finite; ``what`` begins the message."""
    wrong = (~x.isfinite()).sum().item()
    if wrong:
        raise Broken(f"{what}: {wrong} of {x.numel()} values are not finite")
