from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from posterior_bench.metrics.base import Batch, from_uint8, to_uint8


def _images(count: int, channels: int, size: int, seed: int) -> torch.Tensor:
    """Smooth random fields: some structure, every image with its own contrast."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, channels, size // 4, size // 4, generator=generator)
    coarse = coarse * torch.linspace(0.2, 1.2, count).view(-1, 1, 1, 1)
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(-1, 1)


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """Images, truth and random masks as a worker hands them to a metric."""

    def make(count: int = 3, channels: int = 3, size: int = 32, seed: int = 0) -> Batch:
        truth = from_uint8(to_uint8(_images(count, channels, size, seed)))
        exact = (truth + 0.2 * _images(count, channels, size, seed + 1)).clamp(-1.1, 1.1)
        mask = (
            torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(seed + 2))
            > 0.4
        )
        raw = from_uint8(to_uint8(exact))
        y = truth * mask
        return Batch(raw, torch.where(mask, truth, raw), truth, mask, y, exact * mask)

    return make


@pytest.fixture
def rows() -> Callable[[Batch], list[Batch]]:
    """A batch as batches of one."""

    def split(batch: Batch) -> list[Batch]:
        fields = [
            getattr(batch, name).split(1) for name in ("raw", "pasted", "truth", "mask", "y", "Ax")
        ]
        return [Batch(*row) for row in zip(*fields, strict=True)]

    return split
