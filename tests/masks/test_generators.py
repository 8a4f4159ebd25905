"""What every mask generator promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from posterior_bench.masks.base import MaskGenerator
from posterior_bench.masks.box import Box
from posterior_bench.masks.checkerboard import Checkerboard
from posterior_bench.masks.comod import CoMod
from posterior_bench.masks.palette import Palette
from posterior_bench.masks.pixels import Pixels
from posterior_bench.masks.rotated import RotatedWindow

CONF = Path(__file__).parents[2] / "conf" / "mask"
YAML = {
    RotatedWindow: "rotated",
    CoMod: "comod",
    Palette: "palette",
    Box: "box",
    Pixels: "pixels",
    Checkerboard: "checkerboard",
}
GENERATORS = [
    RotatedWindow(),
    CoMod(),
    CoMod(low=0.3, high=0.7, strokes=False),
    Palette(),
    Palette(variant="vipaint_release"),
    Palette(variant="palette_0_30"),
    Palette(variant="palette_raw"),
    Box(),
    Box(side=0.25, margin=0, position="centre", observed="inside"),
    Pixels(),
    Checkerboard(),
]
FIXED = [
    Box(side=0.25, margin=0, position="centre", observed="inside"),
    Checkerboard(),
]
Make = Callable[[int], np.random.Generator]


@pytest.mark.parametrize("masks", GENERATORS, ids=repr)
@pytest.mark.parametrize(("height", "width"), [(28, 28), (64, 64), (33, 47), (90, 32), (256, 256)])
def test_any_resolution(masks: MaskGenerator, height: int, width: int, rng: Make) -> None:
    mask = masks.generate(rng(3), height, width)
    assert mask.shape == (height, width) and mask.dtype == np.bool_
    assert 0 < mask.mean() < 1


@pytest.mark.parametrize("masks", GENERATORS, ids=repr)
def test_the_generator_alone_decides(masks: MaskGenerator, rng: Make) -> None:
    first, state = masks.generate(rng(11), 28, 28), np.random.get_state()[1]
    masks.generate(rng(12), 64, 64)
    assert np.array_equal(masks.generate(rng(11), 28, 28), first)
    # NumPy's global generator was left alone
    assert np.array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("masks", [m for m in GENERATORS if m not in FIXED], ids=repr)
def test_seeds_give_different_masks(masks: MaskGenerator, rng: Make) -> None:
    assert len({masks.generate(rng(seed), 64, 64).tobytes() for seed in range(20)}) >= 15


@pytest.mark.parametrize(
    ("masks", "golden"),
    [
        (RotatedWindow(), "9ebd560685bc89634b78775ac4c7be69011372bf25fde9c8fcdcc1589fc2b51f"),
        (CoMod(), "92e443bc7141c660f62089055151268d6fb6dda1895bf899822bfd201f94d107"),
        (Palette(), "79e3e6886386906f4f3e359064d2ae619623142a04e5945e8bc17020f15c2feb"),
        (
            Palette(variant="vipaint_release"),
            "cc2180c2c620dca4cef58467015ad7917ac56ea1b188a9b98512acfbac4b04fb",
        ),
        (Box(), "0b236292aeff8b2fae80c2c48bc3a187d68fefe0e699af90f9285e1a11497214"),
    ],
    ids=repr,
)
def test_masks_never_change(
    masks: MaskGenerator, golden: str, rng: Make, fingerprint: Callable[[NDArray[np.bool_]], str]
) -> None:
    """A change of these values changes every published result with this mask."""
    assert fingerprint(masks.generate(rng(2024), 64, 64)) == golden


@pytest.mark.parametrize("masks", GENERATORS, ids=repr)
def test_frozen(masks: MaskGenerator) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(masks, fields(masks)[0].name, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", YAML, ids=lambda kind: kind.__name__)
def test_yaml_spells_out_the_defaults(kind: type[MaskGenerator]) -> None:
    text = (CONF / f"{YAML[kind]}.yaml").read_text()
    node = yaml.safe_load(text)
    assert text.startswith("# ")
    assert node.pop("_target_") == f"{kind.__module__}.{kind.__qualname__}".removeprefix(
        "posterior_bench."
    )
    assert node.pop("shared") is False  # the benchmark reads it, not the class
    assert kind(**node) == kind()
    assert node.keys() == {field.name for field in fields(kind)}  # type: ignore[arg-type]
