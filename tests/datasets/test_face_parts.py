"""Where hair, eyes, mouth, glasses and face are in the test images, and which show glasses."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from posterior_bench.datasets import face_parts
from posterior_bench.datasets.face_parts import PARTS, drawn_part
from posterior_bench.datasets.faces import Faces

ROOT = Path(__file__).parents[2]
FILE = ROOT / "datasets" / "assets" / "faces" / "parts.png"

# read off the sheet of the test images by eye, of rows 0 and 3
WITH_GLASSES = {"personas_test_00000", "personas_test_00003"}
WITHOUT = {"adventurer_test_00000", "big-smile_test_00003", "micah_test_00000"}


def test_embedded_file() -> None:
    with Image.open(FILE) as file:
        planes = np.asarray(file)
    assert planes.shape == (64 * 64, 8 * 64) and planes.max() < 2 ** len(PARTS)
    assert hashlib.sha256(planes.tobytes()).hexdigest() in (
        (FILE.parents[1] / "README.md").read_text()
    )
    assert FILE.stat().st_size < 300_000
    # row 3, column 3: an image of micah, its mouth is the third bit
    tile = planes[3 * 64 : 4 * 64, 3 * 64 : 4 * 64]
    assert np.array_equal(Faces().part("micah_test_00003", "mouth"), tile & 4 > 0)


def test_every_test_image_has_hair_and_a_face() -> None:
    data = Faces()
    sizes = {part: [data.part(image, part).sum() for image in data.ids] for part in PARTS}
    assert min(sizes["hair"]) > 0 and min(sizes["face"]) > 100
    assert np.mean(np.array(sizes["eyes"]) > 0) > 0.99
    assert np.median(sizes["hair"]) > np.median(sizes["eyes"]) > 10
    # styles without glasses
    for image, size in zip(data.ids, sizes["glasses"], strict=True):
        if image.partition("_")[0] in ("big-ears", "toon-head"):
            assert size == 0


def test_parts_lie_where_the_eye_sees_them() -> None:
    """The middle of a mouth lies below that of the eyes, and the hair reaches highest."""
    data = Faces()
    for image in data.ids[:64]:
        if image.startswith("open-peeps"):  # eyes and mouth are one component
            continue
        rows = {part: np.nonzero(data.part(image, part))[0] for part in ("eyes", "mouth", "hair")}
        if rows["eyes"].size and rows["mouth"].size:
            assert rows["eyes"].mean() < rows["mouth"].mean()
        assert rows["hair"].min() < rows["eyes"].min(initial=64)


def test_images_that_show_a_part() -> None:
    with_glasses = Faces(showing="glasses")
    assert len(with_glasses) == 80 and with_glasses.ids[0] == "personas_test_00000"
    assert with_glasses.name == "faces" and len(Faces(showing="hair")) == 512
    assert {*with_glasses.ids} >= WITH_GLASSES and not {*with_glasses.ids} & WITHOUT
    image = with_glasses.ids[40]
    assert torch.equal(with_glasses.images([image]), Faces().images([image]))
    with pytest.raises(ValueError, match="unknown part 'nose'; valid: hair, eyes, mouth, glasses"):
        Faces(showing="nose")
    with pytest.raises(ValueError, match="no image 'x'"):
        Faces().part("x", "hair")


def test_a_changed_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Image.open(FILE) as file:
        planes = np.array(file)
    planes[100, 100] ^= 1
    Image.fromarray(planes).save(tmp_path / "parts.png")
    monkeypatch.setattr(face_parts, "_ASSET", tmp_path / "parts.png")
    face_parts._embedded.cache_clear()
    try:
        with pytest.raises(ValueError, match="does not hold the parts of the test images"):
            Faces().part("micah_test_00003", "hair")
    finally:
        face_parts._embedded.cache_clear()


def test_the_packages_draw_the_embedded_parts() -> None:
    pytest.importorskip("dicebear")
    data = Faces()
    for image in data.ids[40:48]:
        for part in PARTS:
            assert np.array_equal(drawn_part(image, part), data.part(image, part))
