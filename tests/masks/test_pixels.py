"""Single pixels, against hand counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from posterior_bench.masks.pixels import ListedPixels, Pixels

Make = Callable[[int], np.random.Generator]


@pytest.mark.parametrize(
    ("observed", "shape", "count"),
    [
        (0.5, (1, 8), 4),
        (0.25, (4, 4), 4),
        (1, (1, 2), 1),
        (3, (8, 8), 3),
        (0.01, (1, 8), 1),
        (16, (4, 4), 16),
    ],
)
@pytest.mark.parametrize("place", ["random", "first"])
def test_exactly_so_many_are_observed(
    observed: float, shape: tuple[int, int], count: int, place: str, rng: Make
) -> None:
    for seed in range(5):
        mask = Pixels(observed, place).generate(rng(seed), *shape)
        assert mask.shape == shape and mask.dtype == np.bool_ and mask.sum() == count
        if place == "first":
            assert mask.flatten()[:count].all()


def test_every_pixel_is_as_likely(rng: Make) -> None:
    """400 masks of 2 in 8 pixels: a count of 100 each with deviation 8.7."""
    counts = sum(Pixels(2).generate(rng(seed), 2, 4).astype(int) for seed in range(400))
    assert counts.sum() == 800 and np.abs(counts - 100).max() < 35


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"observed": 0}, "give a fraction between 0 and 1"),
        ({"observed": 2.5}, "give a fraction between 0 and 1"),
        ({"observed": float("nan")}, "give a fraction between 0 and 1"),
        ({"observed": float("inf")}, "give a fraction between 0 and 1"),
        ({"place": "last"}, "unknown place 'last'; valid: random, first"),
    ],
)
def test_bad_settings(settings: dict[str, float | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pixels(**settings)  # type: ignore[arg-type]


def test_more_pixels_than_there_are(rng: Make) -> None:
    with pytest.raises(ValueError, match="9 observed pixels are more than 2 x 4 images have"):
        Pixels(9).generate(rng(0), 2, 4)


def test_listed_pixels_are_observed_and_no_others(rng: Make) -> None:
    mask = ListedPixels([0, 5, 3]).generate(rng(0), 2, 3)
    assert mask.tolist() == [[True, False, False], [True, False, True]]


@pytest.mark.parametrize("listed", [[], [1, 1], [-1]])
def test_impossible_lists_are_refused(listed: list[int]) -> None:
    with pytest.raises(ValueError, match="name each observed pixel once"):
        ListedPixels(listed)


def test_a_list_beyond_the_image_is_refused(rng: Make) -> None:
    with pytest.raises(ValueError, match="pixel 6 is outside an image of 2 x 3"):
        ListedPixels([0, 6]).generate(rng(0), 2, 3)
