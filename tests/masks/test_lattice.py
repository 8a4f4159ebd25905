"""Lattices, halves and random drops: hand counts and published shares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from posterior_bench.masks.base import MaskGenerator
from posterior_bench.masks.box import Box
from posterior_bench.masks.lama import LaMa
from posterior_bench.masks.lattice import Lattice
from posterior_bench.masks.pixels import PixelDrop
from posterior_bench.masks.rotated import RotatedWindow

CONF = Path(__file__).parents[2] / "conf" / "mask"
Make = Callable[[int], np.random.Generator]


def test_lines_and_nearest_pixels(rng: Make) -> None:
    lines = Lattice(rows=2, columns=1).generate(rng(0), 4, 3)
    assert lines.tolist() == [[False] * 3, [True] * 3, [False] * 3, [True] * 3]
    nearest = Lattice().generate(rng(0), 4, 4)
    assert np.argwhere(nearest).tolist() == [[1, 1], [1, 3], [3, 1], [3, 3]]
    assert np.argwhere(Lattice(4, 2, first_row=0).generate(rng(0), 5, 3)).tolist() == [
        [0, 1],
        [4, 1],
    ]


@pytest.mark.parametrize(
    ("name", "expected", "hidden"),
    [
        ("expand", Box(side=0.25, margin=0, position="centre", observed="inside"), 0.9375),
        ("box_daps", Box(side=0.5, margin=0.125), 0.25),
        ("half", RotatedWindow(angle=90), 0.5),
        ("lines", Lattice(rows=2, columns=1), 0.5),
        ("nearest", Lattice(), 0.75),
        ("drop", PixelDrop(), None),
        ("drop70", PixelDrop(low=0.7, high=0.71), None),
        ("drop92", PixelDrop(low=0.92, high=0.92), 0.92),
        ("lama_thin", LaMa("thin"), None),
        ("lama_medium", LaMa("medium"), None),
        ("lama_thick", LaMa("thick"), None),
    ],
)
@pytest.mark.parametrize("side", [28, 32, 64])
def test_yaml(
    name: str, expected: MaskGenerator, hidden: float | None, side: int, rng: Make
) -> None:
    text = (CONF / f"{name}.yaml").read_text()
    node = yaml.safe_load(text)
    assert (
        text.startswith("# ")
        and node.pop("_target_")
        == f"masks.{type(expected).__module__.rpartition('.')[2]}.{type(expected).__name__}"
    )
    assert node.pop("shared") is False
    masks = type(expected)(**node)
    assert masks == expected
    mask = masks.generate(rng(2), side, side)
    assert mask.shape == (side, side) and mask.dtype == np.bool_ and 0 < mask.mean() < 1
    if hidden is not None:
        assert (~mask).mean() == pytest.approx(hidden, abs=1 / side**2)


def test_half_is_the_left_one(rng: Make) -> None:
    mask = RotatedWindow(angle=90).generate(rng(0), 28, 28)
    assert mask[:, :14].all() and not mask[:, 14:].any()


def test_drop_has_the_published_shares(rng: Make) -> None:
    hidden = np.array([(~PixelDrop().generate(rng(seed), 64, 64)).mean() for seed in range(500)])
    assert hidden.min() + 1 / 4096 >= 0.3 and hidden.max() < 0.7
    # uniform: 0.4 / sqrt(12)
    assert hidden.mean() == pytest.approx(0.5, abs=4 * 0.1155 / np.sqrt(500))
    assert hidden.std() == pytest.approx(0.1155, abs=0.012)
    place = np.mean([PixelDrop().generate(rng(seed), 8, 8) for seed in range(2000)], axis=0)
    # every pixel alike; sd of one of 64 means
    assert np.abs(place - 0.5).max() < 4.5 * 0.5 / np.sqrt(2000)


def test_drop_hides_whole_numbers_of_pixels(rng: Make) -> None:
    assert (
        ~PixelDrop(low=0.92, high=0.92).generate(rng(0), 256, 256)
    ).sum() == 60293  # int(0.92 * 65536)


@pytest.mark.parametrize(
    ("masks", "golden"),
    [
        (PixelDrop(), "fb81abd31c8be68641a0a5f35fcd7f26779cf18a303d339e6a344f0a259225c7"),
        (Lattice(), "cc2c9c77bd0ef99808e94e6f2c0f8bab3e9de343db8d50309ef899023b711912"),
    ],
    ids=repr,
)
def test_masks_never_change(
    masks: MaskGenerator, golden: str, rng: Make, fingerprint: Callable[..., str]
) -> None:
    """A change of these values changes every published result with this mask."""
    assert fingerprint(masks.generate(rng(2024), 64, 64)) == golden


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": 0}, "rows=0: give 1 for every row, 2 for every other one"),
        ({"rows": 1, "columns": 1}, "hide nothing"),
        ({"first_column": 2}, "first_column=2 is not below columns=2"),
    ],
)
def test_bad_lattices(settings: dict[str, int], message: str, rng: Make) -> None:
    with pytest.raises(ValueError, match=message):
        Lattice(**settings)


def test_too_small_images(rng: Make) -> None:
    with pytest.raises(ValueError, match="no pixel of 1 x 8 lies on this lattice"):
        Lattice().generate(rng(0), 1, 8)
    with pytest.raises(ValueError, match="hides no pixel of 1 x 1"):
        PixelDrop().generate(rng(0), 1, 1)
    for low, high in [(0.7, 0.3), (-0.1, 0.5), (0.5, 1.0)]:
        with pytest.raises(ValueError, match="0 <= low <= high < 1"):
            PixelDrop(low=low, high=high)
