"""Streams: a number depends on what it is for, and on nothing else."""

from hashlib import blake2b

import pytest
import torch
from scipy import stats

from posterior_bench.bench.core.streams import Key, Noise, seed_of


def keys(*images: str, study: int = 0, data: str = "fashion") -> list[Key]:
    return [Key(study, data, image) for image in images]


def test_seed_is_the_documented_hash() -> None:
    digest = blake2b(b"7\x1ffashion\x1ftest-00003\x1fsolver\x1f2", digest_size=8).digest()
    assert seed_of(7, "fashion", "test-00003", "solver", 2) == int.from_bytes(digest, "big") >> 1


def test_every_part_of_the_key_matters() -> None:
    parts = [(0, "a", "b", "mask", None), (1, "a", "b", "mask", None), (0, "c", "b", "mask", None)]
    parts += [(0, "a", "c", "mask", None), (0, "a", "b", "noise", None)]
    parts += [(0, "a", "b", "mask", 0), (0, "a", "b", "mask", 1)]
    assert len({seed_of(*p) for p in parts}) == len(parts)
    assert seed_of(0, "a", "bc", "mask") != seed_of(0, "ab", "c", "mask")


def test_unknown_stream_names_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="mask, noise, solver, metric"):
        seed_of(0, "a", "b", "sover")


@pytest.mark.parametrize("shape", [(15,), (1, 28, 28), (3, 5)])
def test_a_row_does_not_depend_on_its_batch(shape: tuple[int, ...]) -> None:
    together = Noise(keys("x", "y", "z"), "solver")
    alone = Noise(keys("y"), "solver")
    for _ in range(3):
        assert torch.equal(together.normal(shape)[1], alone.normal(shape)[0])
        assert torch.equal(together.uniform(shape)[1], alone.uniform(shape)[0])


def test_a_draw_does_not_depend_on_the_other_draws() -> None:
    four = Noise(keys("x", "y"), "solver").draws([0, 1, 2, 3]).normal((2, 2))
    one = Noise(keys("x", "y"), "solver").draws([2]).normal((2, 2))
    assert torch.equal(four.view(2, 4, 2, 2)[:, 2], one)
    # eight streams, not one eight times: no number comes twice
    assert len(four.unique()) == four.numel()


def test_drawing_from_the_fit_moves_no_draw() -> None:
    used, fresh = Noise(keys("x"), "solver"), Noise(keys("x"), "solver")
    used.normal((100,))
    assert torch.equal(used.draws([0]).normal((4,)), fresh.draws([0]).normal((4,)))


def test_fit_and_draws_are_different_streams() -> None:
    """None of the eight is correlated with another: 1 / sqrt(2000) is one standard error."""
    noise = Noise(keys("x", "y"), "solver")
    together = torch.cat([noise.draws([0, 1, 2]).normal((2000,)), noise.normal((2000,))])
    off_diagonal = together.corrcoef().fill_diagonal_(0)
    assert off_diagonal.abs().max() < 4 / 2000**0.5


def test_rows_are_independent_standard_normals() -> None:
    x = Noise(keys(*map(str, range(200))), "solver").normal((64,)).double().numpy()
    assert stats.kstest(x.ravel(), "norm").pvalue > 1e-3
    # the mean of each row is N(0, 1/64) if rows share nothing
    assert stats.kstest(x.mean(1) * 8, "norm").pvalue > 1e-3
