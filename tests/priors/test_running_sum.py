from __future__ import annotations

import pytest
import torch

from posterior_bench.priors.running_sum import running_sum


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 1), (5, 64), (2, 1000)])
def test_the_bits_are_those_of_cumsum_on_the_cpu(shape: tuple[int, ...]) -> None:
    weights = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = weights.softmax(-1)
    assert torch.equal(running_sum(weights), weights.cumsum(-1))


def test_the_sums_of_three_numbers() -> None:
    assert running_sum(torch.tensor([[1.0, 2.0, 4.0]])).tolist() == [[1.0, 3.0, 7.0]]
