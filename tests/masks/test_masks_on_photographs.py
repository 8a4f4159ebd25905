"""Masks drawn on photographs of any size: they go exactly the way of the photograph, as Pillow and
paint show."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from posterior_bench.datasets.base import Frame
from posterior_bench.datasets.crops import CROPS, places
from posterior_bench.datasets.folder import Folder
from posterior_bench.masks.files import Files
from posterior_bench.masks.semantic import Semantic

Mask = NDArray[np.bool_]
# width, height: landscape, portrait, odd, square, panorama, smaller than the image, and of just
# twice its size
SIZES = [
    (640, 480),
    (300, 451),
    (97, 64),
    (65, 129),
    (96, 96),
    (1000, 333),
    (31, 20),
    (20, 31),
    (129, 128),
    (64, 64),
]


def _read(masks: Any, data: Folder, image: str, index: int = 0) -> Mask:
    own = masks.beside(data).for_image(image, index)
    return own.generate(np.random.Generator(np.random.PCG64(0)), data.size, data.size)


def _drawn(width: int, height: int) -> Image.Image:
    """An ellipse off the centre and a bar, white on black."""
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    draw.ellipse([0.4 * width, 0.3 * height, 0.8 * width, 0.6 * height], fill=255)
    draw.rectangle([0.3 * width, 0.7 * height, 0.5 * width, 0.8 * height], fill=255)
    return image


# -- the geometry ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 28])
@pytest.mark.parametrize("crop", CROPS)
def test_places_are_where_the_crop_takes_its_pixels_from(crop: str, size: int) -> None:
    """A photograph whose values are its own coordinates comes out of the crop with those of every
    new pixel's centre.

    Filters keep a straight ramp straight, but at the borders, where they lack one side.
    """
    for width, height in SIZES:
        for along in (0, 1):
            length, shape = (height, width)[along], (height, width)
            ramp = np.arange(length, dtype=np.float32) + 0.5
            picture = np.broadcast_to(ramp[:, None] if along == 0 else ramp[None], shape)
            out = np.asarray(CROPS[crop](Image.fromarray(np.ascontiguousarray(picture)), size))
            centres = out[:, size // 2] if along == 0 else out[size // 2]
            found = places(crop, height, width, size)[along]
            off = np.abs(centres - (found + 0.5))[4:-4]
            scale = min(width, height) / size
            most = (
                0.5
                + 0.02 * scale
                + (_jitter(length, min(width, height), size) if crop == "guided" else 0)
            )
            assert found.shape == (size,) and off.max() <= most, (width, height, along)


def _jitter(length: int, short: int, size: int) -> float:
    """How far the box filter of ``guided`` puts a pixel off its place: where it halves an odd
    length, by half a pixel.

    It averages whole pixels, two for most of the new ones.
    """
    off, step = 0.0, 1
    while short >= 2 * size:
        off += 0.5 * step * (length % 2)
        length, short, step = length // 2, short // 2, 2 * step
    return off


@pytest.mark.parametrize("crop", CROPS)
def test_masks_are_those_that_pillow_crops_and_resizes(crop: str, rng: Any) -> None:
    """Random pixels, by the steps of docs/data.md written with Pillow's own crop and nearest
    resize.

    Where a new centre lies between two old pixels, both are nearest; Pillow's sums of floats then
    choose by chance, unless the sizes divide each other.
    """
    for width, height in SIZES:
        for size in (64, 28):
            plane = rng(width).random((height, width)) < 0.5
            image = Image.fromarray(plane.astype(np.uint8))
            w, h = width, height
            if crop == "guided":
                while min(w, h) >= 2 * size:
                    w, h = w // 2, h // 2
                w, h = round(w * size / min(w, h)), round(h * size / min(w, h))
            elif crop == "bilinear":
                w, h = size * w // min(w, h), size * h // min(w, h)
            else:
                side = min(w, h)
                left, top = (w - side) // 2, (h - side) // 2
                image, w, h = image.crop((left, top, left + side, top + side)), size, size
            middle = round if crop == "bilinear" else math.floor
            left, top = middle((w - size) / 2), middle((h - size) / 2)
            expected = image.resize((w, h), Image.Resampling.NEAREST).crop(
                (left, top, left + size, top + size)
            )
            frame = Frame((height, width), (height, width), *places(crop, height, width, size))
            clear = np.outer(_clear(image.height, h, top, size), _clear(image.width, w, left, size))
            same = frame.carry(plane) == np.asarray(expected, dtype=bool)
            assert clear.mean() > 0.6 and same[clear].all(), (width, height, size)


def _clear(old: int, new: int, first: int, count: int) -> Mask:
    """Which of ``count`` new pixels from the ``first`` on have their centre clearly in one old
    pixel."""
    return np.array(
        [old % new == 0 or (2 * i + 1) * old % (2 * new) != 0 for i in range(first, first + count)]
    )


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
@pytest.mark.parametrize(("width", "height"), [(640, 480), (301, 500), (96, 96), (20, 31)])
def test_a_hole_painted_into_the_photograph_is_the_hole_of_its_mask(
    width: int, height: int, turn: int, tmp_path: Path
) -> None:
    """Through the files: the photograph is black, and white where its mask is. Turned by EXIF or
    not.

    The mask is as large as the photograph looks or, of one that was turned, as large as its file.
    """
    mask, exif = _drawn(width, height), Image.Exif()
    exif[0x0112] = turn
    back = {
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
    }
    stored = mask.transpose(back[turn]) if turn in back else mask
    for folder in ("photos", "seen", "stored"):
        (tmp_path / folder).mkdir()
    stored.save(tmp_path / "photos" / "IMG 1.PNG", exif=exif)
    mask.save(tmp_path / "seen" / "IMG 1.png")
    stored.save(tmp_path / "stored" / "IMG 1.png")
    data = Folder(str(tmp_path / "photos"), size=48, mode="grey")
    pixels = data.images(data.ids)[0, 0].numpy()
    hidden = ~_read(Files(str(tmp_path / "seen")), data, "IMG 1.PNG")
    sure = np.abs(pixels) > 0.999  # elsewhere the filter has mixed both sides of an edge
    assert sure.mean() > 0.5 and 0.05 < hidden.mean() < 0.4
    assert np.array_equal(hidden[sure], pixels[sure] > 0)
    if stored.size != mask.size:
        assert np.array_equal(~_read(Files(str(tmp_path / "stored")), data, "IMG 1.PNG"), hidden)


def test_label_maps_go_along_too(tmp_path: Path) -> None:
    mask = _drawn(300, 200)
    for folder in ("photos", "maps"):
        (tmp_path / folder).mkdir()
    mask.save(tmp_path / "photos" / "a.png")
    mask.point(lambda level: level // 255 * 7).save(tmp_path / "maps" / "a.png")
    data = Folder(str(tmp_path / "photos"), size=32, mode="grey")
    pixels = data.images(data.ids)[0, 0].numpy()
    seen = _read(Semantic(str(tmp_path / "maps"), (7,)), data, "a.png")
    sure = np.abs(pixels) > 0.999
    assert sure.mean() > 0.5 and np.array_equal(seen[sure], pixels[sure] > 0)


# -- which sizes are understood --------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Folder:
    """One landscape of 60 x 40 and one portrait of 40 x 61 pixels, as images of 16."""
    for name, size in (("a.jpg", (60, 40)), ("b.jpg", (40, 61))):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", size, "grey").save(tmp_path / "photos" / name)
    return Folder(str(tmp_path / "photos"), size=16)


def _left_half(width: int, height: int) -> Image.Image:
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).rectangle([0, 0, width // 2 - 1, height], fill=255)
    return image


def test_a_mask_of_the_size_of_the_image_is_used_as_it_is(
    photos: Folder, tmp_path: Path, rng: Any
) -> None:
    plane = rng(0).random((16, 16)) < 0.5
    Image.fromarray(plane).save(tmp_path / "one.png")
    for image in photos.ids:
        assert np.array_equal(
            _read(Files(str(tmp_path / "one.png"), "observed"), photos, image), plane
        )


@pytest.mark.parametrize("size", [(60, 40), (16, 16), (30, 20), (181, 121), (32, 32)])
def test_masks_of_other_sizes_but_the_same_proportions(
    size: tuple[int, int], photos: Folder, tmp_path: Path
) -> None:
    """The left half stays the left half; sizes of neither photograph nor image need ``resize``."""
    _left_half(*size).save(tmp_path / "a.png")
    exact = size in ((60, 40), (16, 16))
    if not exact:
        with pytest.raises(
            ValueError,
            match=r"its photograph 60 x 40 and the image 16 x 16; set mask.resize=true to",
        ):
            _read(Files(str(tmp_path)), photos, "a.jpg")
    seen = _read(Files(str(tmp_path), resize=not exact), photos, "a.jpg")
    assert not seen[:, :8].any() and seen[:, 8:].all()


@pytest.mark.parametrize("resize", [False, True])
def test_a_mask_of_another_size_is_refused_with_every_size(
    resize: bool, photos: Folder, tmp_path: Path
) -> None:
    """The mask of the landscape for the portrait, or one for all of them."""
    _left_half(60, 40).save(tmp_path / "one.png")
    masks = Files(str(tmp_path / "one.png"), resize=resize)
    _read(masks, photos, "a.jpg")
    with pytest.raises(ValueError) as caught:
        _read(masks, photos, "b.jpg")
    message = str(caught.value)
    assert (
        "one.png': it has 60 x 40 pixels (width x height), its photograph 40 x 61 and the image 16 "
        "x 16" in message
    )
    assert "save it at one of these sizes" in message and "\n" not in message
    assert ("mask.resize=true" in message) is not resize


def test_masks_by_number_have_the_size_of_their_own_photograph(
    photos: Folder, tmp_path: Path
) -> None:
    (tmp_path / "masks").mkdir()
    for number, size in enumerate([(60, 40), (40, 61)]):
        _left_half(*size).save(tmp_path / "masks" / f"{number:03d}.png")
    for index, image in enumerate(photos.ids):
        seen = _read(Files(str(tmp_path / "masks"), pair="order"), photos, image, index)
        assert not seen[:, :8].any() and seen[:, 8:].all()


def test_the_hidden_share_is_that_of_the_image(photos: Folder, tmp_path: Path) -> None:
    """The left quarter of the landscape is hidden: 15 columns, of which the crop to 40 leaves 5, an
    eighth."""
    image = Image.new("L", (60, 40))
    ImageDraw.Draw(image).rectangle([0, 0, 14, 40], fill=255)
    image.save(tmp_path / "a.png")
    assert Files(str(tmp_path)).beside(photos).hidden(["a.jpg"], 16, 16) == [2 / 16]
    ImageDraw.Draw(image).rectangle([8, 0, 14, 40], fill=0)  # what is left lies beside the crop
    image.save(tmp_path / "a.png")
    with pytest.raises(
        ValueError,
        match=r"hides everything or nothing; draw it larger, within what is used of the ph",
    ):
        _read(Files(str(tmp_path)), photos, "a.jpg")


@pytest.mark.parametrize("ending", ["jpg", "JPEG", "bmp", "tif", "gif", "webp"])
def test_masks_of_any_ending_are_found(ending: str, photos: Folder, tmp_path: Path) -> None:
    """A PNG file of the name comes first, and a photograph is still no mask."""
    (tmp_path / "masks").mkdir()
    _left_half(60, 40).save(tmp_path / "masks" / f"a.{ending}")
    for pair in ("id", "order"):
        seen = _read(Files(str(tmp_path / "masks"), pair=pair), photos, "a.jpg")
        assert not seen[:, :7].any() and seen[:, 9:].all()
    right = Image.fromarray(255 - np.asarray(_left_half(60, 40)))
    right.save(tmp_path / "masks" / "a.png")
    for pair in ("id", "order"):
        assert _read(Files(str(tmp_path / "masks"), pair=pair), photos, "a.jpg")[:, :7].all()


def test_a_mask_file_that_is_turned_itself(photos: Folder, tmp_path: Path) -> None:
    """Some editors keep the tag of the photograph in the mask that they export."""
    exif = Image.Exif()
    exif[0x0112] = 6
    _left_half(60, 40).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    seen = _read(Files(str(tmp_path)), photos, "a.jpg")
    assert not seen[:, :8].any() and seen[:, 8:].all()
