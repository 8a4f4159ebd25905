"""The pretended GPU for every case of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.pretended_gpu import DEVICE, PretendedGPU, pretended_gpu
from torch.nn.attention import SDPBackend, sdpa_kernel

from posterior_bench.bench.core.isolation import isolated
from posterior_bench.bench.engine.device import repeatable


@pytest.fixture(autouse=True)
def gpu() -> Iterator[PretendedGPU]:
    """The GPU, as a worker uses it: what has no deterministic kernel there is refused.

    Attention takes the same path on both devices, so that their bits can be equal.
    """
    with isolated(), sdpa_kernel(SDPBackend.MATH), pretended_gpu() as gpu:
        repeatable(DEVICE)
        yield gpu
