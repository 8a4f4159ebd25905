"""Semantic masks, on label maps small enough to count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from posterior_bench.masks.semantic import PARTS, Semantic

LABELS = np.zeros((16, 16), dtype=np.uint8)
LABELS[2:6, 4:12] = 13  # hair
LABELS[6:14, 4:12] = 1  # skin
LABELS[8:9, 5:7] = 4  # left eye


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One label map, for the image ``face.jpg``."""
    Image.fromarray(LABELS).save(tmp_path / "face.png")
    return tmp_path


def _read(
    masks: Semantic, image_id: str = "face.jpg", index: int = 0, side: int = 16
) -> NDArray[np.bool_]:
    return masks.for_image(image_id, index).generate(
        np.random.Generator(np.random.PCG64(0)), side, side
    )


def test_objects_are_kept_or_hidden(folder: Path) -> None:
    assert np.array_equal(_read(Semantic(str(folder), ("hair",))), LABELS == 13)
    assert np.array_equal(
        _read(Semantic(str(folder), (13, "l_eye"))), (LABELS == 13) | (LABELS == 4)
    )
    assert np.array_equal(_read(Semantic(str(folder), (1,), labelled="hole")), LABELS != 1)
    assert np.array_equal(_read(Semantic(str(folder), (0,))), LABELS == 0)


def test_parts_of_celebamask_hq_have_their_published_numbers() -> None:
    assert len(PARTS) == 18
    published = {"skin": 1, "nose": 2, "l_eye": 4, "mouth": 10, "hair": 13, "hat": 14, "cloth": 18}
    assert {name: PARTS.index(name) + 1 for name in published} == published


def test_parts_are_put_together_where_later_ones_count(tmp_path: Path) -> None:
    """Image 2012 lies in folder 1; the file of the skin covers the eye too, and hair that falls
    over the skin wins."""
    part = tmp_path / "1"
    part.mkdir()
    skin, eye, hair = (np.zeros((16, 16), dtype=np.uint8) for _ in range(3))
    skin[4:14, 4:12], eye[8:9, 5:7], hair[2:6, 4:12] = 255, 255, 255
    for name, plane in (("skin", skin), ("l_eye", eye), ("hair", hair)):
        Image.fromarray(plane).convert("RGB").save(part / f"02012_{name}.png")
    for image in ("2012.jpg", "CelebA-HQ-img/2012.jpg", "02012"):
        for label, number in (("skin", 1), ("l_eye", 4), ("hair", 13)):
            assert np.array_equal(_read(Semantic(str(tmp_path), (label,)), image), number == LABELS)
    with pytest.raises(
        ValueError, match=r"label map of image '7.jpg': image '7.jpg' has no file '7.png'"
    ):
        _read(Semantic(str(tmp_path), ("hair",)), "7.jpg")


def test_stack_and_palette(tmp_path: Path) -> None:
    np.save(tmp_path / "maps.npy", np.stack([LABELS, LABELS.T]))
    masks = Semantic(str(tmp_path / "maps.npy"), ("hair",))
    assert np.array_equal(_read(masks, "any", 3), LABELS.T == 13)
    indexed = Image.fromarray(LABELS, "L")
    indexed.putpalette([255, 0, 0] * 256)  # every label of the same colour: the numbers count
    indexed.save(tmp_path / "face.png")
    assert np.array_equal(_read(Semantic(str(tmp_path), ("hair",))), LABELS == 13)


@pytest.mark.parametrize("side", [28, 32, 8])
def test_any_size(side: int, folder: Path) -> None:
    """Hair covers 32 of 256 pixels, and as large a share at every size."""
    mask = _read(Semantic(str(folder), ("hair",)), side=side)
    assert mask.shape == (side, side) and mask.mean() == pytest.approx(32 / 256)


def test_dilation_in_every_direction(folder: Path) -> None:
    expected = np.zeros((16, 16), dtype=bool)
    expected[0:8, 2:14] = True
    assert np.array_equal(_read(Semantic(str(folder), ("hair",), dilate=2)), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"labels": ("hat",)},
            r"labels hat cover 0.0000 of image 'face.jpg', not between 0.0 and 1.0; leave it out",
        ),
        ({"labels": ("hair",), "min_area": 0.2}, "cover 0.1250"),
        ({"labels": ("hair",), "max_area": 0.1}, "cover 0.1250"),
    ],
)
def test_refused_images(settings: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        _read(Semantic(str(folder), **settings))
    with pytest.raises(ValueError, match=message):
        Semantic(str(folder), **settings).content(["face.jpg"], 16, 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ("beard",)}, "unknown label 'beard'; valid: numbers, skin, nose"),
        ({"labels": ()}, "give a list of numbers or names"),
        ({"labels": "hair"}, "give a list of numbers or names"),
        ({"labels": 13}, "give a list of numbers or names"),
        ({"labels": (1,), "labelled": "kept"}, "unknown labelled 'kept'; valid: observed, hole"),
        ({"labels": (1,), "pair": "name"}, "unknown pair"),
        ({"labels": (1,), "dilate": -1}, "dilate >= 0"),
        ({"labels": (1,), "min_area": 0.5, "max_area": 0.5}, "min_area < max_area"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Semantic("maps", **settings)


def test_maps_that_are_none(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "face.png")
    with pytest.raises(
        ValueError, match="is an image of mode RGB; save it with one channel of label numbers"
    ):
        _read(Semantic(str(tmp_path), (1,)))
    np.save(tmp_path / "maps.npy", np.ones((16, 16)))
    with pytest.raises(ValueError, match="holds float64 values; label maps are whole numbers"):
        _read(Semantic(str(tmp_path / "maps.npy"), (1,)))


def test_masks_never_change(folder: Path) -> None:
    """Rows 2 to 5 and columns 4 to 11: 0x0f 0xf0 in each of these rows."""
    mask = _read(Semantic(str(folder), ("hair",)))
    assert np.packbits(mask).tobytes() == b"\0\0" * 2 + b"\x0f\xf0" * 4 + b"\0\0" * 10


@pytest.mark.parametrize("name", ["semantic", "hair", "face_part", "files", "text"])
def test_yaml_names_every_setting(name: str) -> None:
    from posterior_bench.masks.files import Files

    text = (Path(__file__).parents[2] / "conf" / "mask" / f"{name}.yaml").read_text()
    node = yaml.safe_load(text)
    kind: Any = {"masks.semantic.Semantic": Semantic, "masks.files.Files": Files}[
        node.pop("_target_")
    ]
    # label maps and parts that the images know exclude each other
    unused = {"hair": {"part"}, "face_part": {"path", "labels", "pair"}}.get(name, set())
    assert text.startswith("# ") and node.keys() == kind.__dataclass_fields__.keys() - unused
    asked = {"path": "p", "white": "hole", "labels": (1,), "part": "hair"}
    given = {k: asked[k] if v == "???" else v for k, v in node.items()}
    kind(**(given | {"part": "hair"} if name == "semantic" else given))


class _Photos:
    """Two images of which the first shows glasses, two pixels wide."""

    def frame(self, image: str) -> None:
        return None

    def part(self, image: str, name: str) -> NDArray[np.bool_]:
        shown = np.zeros((16, 16), dtype=bool)
        shown[8, 5:7] = image == "a" and name == "glasses"
        return shown


def test_parts_that_the_images_know() -> None:
    expected = np.zeros((16, 16), dtype=bool)
    expected[8, 5:7] = True
    kept = Semantic(part="glasses").beside(_Photos())
    assert np.array_equal(_read(kept, "a"), expected)
    hidden = Semantic(part="glasses", labelled="hole", dilate=1).beside(_Photos())
    expected[7:10, 4:8] = True
    assert np.array_equal(_read(hidden, "a"), ~expected)
    with pytest.raises(ValueError, match=r"glasses covers 0.0000 of image 'b', not between 0"):
        _read(kept, "b")
    with pytest.raises(
        ValueError,
        match=r"^1 of the 2 images show no glasses: b; data.showing=glasses takes images that do$",
    ):
        kept.content(["a", "b"], 16, 16)
    assert kept.content(["a"], 16, 16) != hidden.content(["a"], 16, 16)


def test_parts_need_images_that_know_them() -> None:
    with pytest.raises(ValueError, match="these images have no parts that are known; choose data="):
        Semantic(part="hair").content(["a"], 16, 16)
    with pytest.raises(ValueError, match=r"mask.part=hair needs no label maps"):
        Semantic("maps", part="hair")
    with pytest.raises(ValueError, match=r"give mask.path and mask.labels, .*mask.part=hair, eyes"):
        Semantic()
