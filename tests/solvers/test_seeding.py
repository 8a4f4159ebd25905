"""Noise for code that knows the global generator only."""

from __future__ import annotations

import torch

from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.solvers.deepinv import Seeded, seeds


def _noise(*images: str) -> Noise:
    return Noise([Key(0, "data", image) for image in images], "solver")


def test_a_seed_is_that_of_its_row():
    together = seeds(_noise("a", "b", "c"))
    assert together == [seeds(_noise(image))[0] for image in "abc"]
    assert len(set(together)) == 3
    assert all(2**24 < seed < 2**48 for seed in together)


def test_global_normals_come_from_the_generator_and_leave_the_global_one_alone():
    before = torch.get_rng_state()
    like = torch.zeros(3, 2, dtype=torch.float64)
    with Seeded(torch.Generator().manual_seed(7)):
        drawn = [
            torch.randn(4),
            torch.randn(2, 2, generator=None),
            torch.randn_like(like),
            torch.empty(3).normal_(),
        ]
    assert torch.equal(torch.get_rng_state(), before)
    generator = torch.Generator().manual_seed(7)
    expected = [torch.randn(shape, generator=generator) for shape in ((4,), (2, 2))]
    expected += [
        torch.empty_like(like).normal_(generator=generator),
        torch.empty(3).normal_(generator=generator),
    ]
    for a, b in zip(drawn, expected, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


def test_a_generator_that_is_given_is_kept():
    with Seeded(torch.Generator().manual_seed(7)):
        x = torch.randn(4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(x, torch.randn(4, generator=torch.Generator().manual_seed(1)))
