"""Image folders, with files written by the tests."""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image, ImageOps

from posterior_bench.datasets.ffhq import FFHQ
from posterior_bench.datasets.folder import Folder

CONF = Path(__file__).parents[2] / "conf" / "data" / "folder.yaml"


def _noise(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def _save(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.squeeze()).save(path)
    return path


def _grey_levels(data: Folder, name: str) -> NDArray[np.float64]:
    """One image back in 0..255, ``(C, H, W)``."""
    return ((data.images([name])[0].double() + 1) * 127.5).numpy()


def _png16(path: Path, samples: NDArray[np.uint16]) -> None:
    """A 16-bit PNG; Pillow cannot write every kind."""
    height, width, channels = samples.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def test_ids_are_sorted_relative_paths(tmp_path: Path) -> None:
    names = ["b/2.PNG", "b/10.png", "a.JPG", "c/d/e.webp", "z.bmp", "Y.jpeg", "b.png"]
    for name in names:
        _save(tmp_path / name, _noise(9, 9))
    for other in ("notes.txt", ".hidden.png", ".cache/x.png", "b/tool.svg"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_bytes(b"nothing")
    (tmp_path / "folder.png").mkdir()
    data = Folder(str(tmp_path), size=8)
    assert list(data.ids) == [
        "Y.jpeg",
        "a.JPG",
        "b.png",
        "b/10.png",
        "b/2.PNG",
        "c/d/e.webp",
        "z.bmp",
    ]
    assert len(data) == 7 and data.num_classes == 0 and data.labels(data.ids) is None
    assert data.images(data.ids).shape == (7, 3, 8, 8)
    assert data.name == "folder:" + hashlib.sha256("\n".join(data.ids).encode()).hexdigest()[:12]


def test_name_follows_the_ids_and_not_the_place(tmp_path: Path) -> None:
    for place in ("one", "two/deeper", "three"):
        for name in ("a.png", "b.png"):
            _save(tmp_path / place / name, _noise(8, 8))
    _save(tmp_path / "three" / "c.png", _noise(8, 8))
    one, two, three = (
        Folder(str(tmp_path / place), size=8) for place in ("one", "two/deeper", "three")
    )
    assert one.name == two.name != three.name


def test_range_shape_and_order(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    pixels[0, 1] = (255, 51, 0)
    _save(tmp_path / "a.png", pixels)
    _save(tmp_path / "b.png", 255 - pixels)
    data = Folder(str(tmp_path), size=4)
    image = data.images(["a.png"])
    assert image.dtype == torch.float32 and data.shape == (3, 4, 4)
    assert (
        image[0, :, 0, 1].tolist() == pytest.approx([1, 51 / 127.5 - 1, -1])
        and image[0, :, 1, 0].tolist() == [-1] * 3
    )
    assert torch.equal(data.images(["b.png", "a.png"])[1:], image)


# --- kinds of files
# -----------------------------------------------------------------------------------------------


def test_grey_files(tmp_path: Path) -> None:
    pixels = _noise(8, 8, 1)
    _save(tmp_path / "a.png", pixels)
    rgb, grey = Folder(str(tmp_path), size=8), Folder(str(tmp_path), size=8, mode="grey")
    assert np.allclose(
        _grey_levels(rgb, "a.png"), np.repeat(pixels.transpose(2, 0, 1), 3, 0), atol=1e-4
    )
    assert grey.shape == (1, 8, 8) and np.allclose(
        _grey_levels(grey, "a.png"), pixels.transpose(2, 0, 1), atol=1e-4
    )


def test_grey_mode_is_luma(tmp_path: Path) -> None:
    pixels = _noise(8, 8)
    _save(tmp_path / "a.png", pixels)
    found = _grey_levels(Folder(str(tmp_path), size=8, mode="grey"), "a.png")[0]
    assert np.abs(found - pixels @ np.array([0.299, 0.587, 0.114])).max() < 0.51


def test_sixteen_bit(tmp_path: Path) -> None:
    grey = np.random.default_rng(1).integers(0, 65536, (8, 8, 1)).astype(np.uint16)
    grey[0, :3, 0] = (0, 65535, 255)
    _png16(tmp_path / "grey.png", grey)
    colour = np.random.default_rng(2).integers(0, 65536, (8, 8, 3)).astype(np.uint16)
    _png16(tmp_path / "rgb.png", colour)
    data = Folder(str(tmp_path), size=8)
    found = _grey_levels(data, "grey.png")
    assert np.abs(found - grey.transpose(2, 0, 1) / 257).max() < 0.501
    assert np.abs(_grey_levels(data, "rgb.png") - colour.transpose(2, 0, 1) / 257).max() < 1.001


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 4), dtype=np.uint8)
    pixels[..., 0] = 200
    pixels[0, 0, 3], pixels[0, 1, 3] = 255, 128
    _save(tmp_path / "rgba.png", pixels)
    _save(tmp_path / "la.png", pixels[..., [0, 3]])
    found = _grey_levels(Folder(str(tmp_path), size=8), "rgba.png")
    assert np.allclose(found[:, 0, 0], (200, 0, 0), atol=1e-4)
    assert np.allclose(found[:, 0, 1], [128 / 255 * c + 127 for c in (200, 0, 0)], atol=1)
    assert np.allclose(found[:, 1:], 255, atol=1e-4)
    grey = _grey_levels(Folder(str(tmp_path), size=8, mode="grey"), "la.png")
    assert grey[0, 0, 0] == pytest.approx(200, abs=1e-4) and grey[0, 5, 5] == pytest.approx(
        255, abs=1e-4
    )


def test_palette(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) % 3, mode="P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "see-through.png", transparency=1)
    data = Folder(str(tmp_path), size=8)
    assert np.allclose(_grey_levels(data, "opaque.png")[:, 0, :3], 255 * np.eye(3), atol=1e-4)
    found = _grey_levels(data, "see-through.png")
    assert np.allclose(found[:, 0, 1], 255, atol=1e-4) and np.allclose(
        found[:, 0, 2], (0, 0, 255), atol=1e-4
    )


def test_cmyk(tmp_path: Path) -> None:
    ink = np.zeros((16, 16, 4), dtype=np.uint8)
    ink[..., 0], ink[..., 3] = 255, 51  # full cyan and a fifth of black
    Image.fromarray(ink, mode="CMYK").save(tmp_path / "a.jpg", quality=100)
    found = _grey_levels(Folder(str(tmp_path), size=16), "a.jpg").mean((1, 2))
    assert np.allclose(found, (0, 204, 204), atol=3)


def test_bilevel(tmp_path: Path) -> None:
    Image.fromarray(np.eye(8, dtype=bool)).save(tmp_path / "a.png")
    assert np.allclose(
        _grey_levels(Folder(str(tmp_path), size=8), "a.png"), 255 * np.eye(8), atol=1e-4
    )


@pytest.mark.parametrize("form", ["png", "webp", "tif", "avif", "jpg"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_photographs_are_turned_as_viewers_do(tag: int, form: str, tmp_path: Path) -> None:
    """Pillow's own ``exif_transpose`` says what is upright; the frame says the sizes before and
    after."""
    exif = Image.Exif()
    exif[0x0112] = tag
    more = {"lossless": True} if form == "webp" else {"quality": 100}
    Image.fromarray(_noise(8, 12)).save(tmp_path / f"a.{form}", exif=exif, **more)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / f"a.{form}").convert("RGB")))
    if form == "tif":
        upright = np.asarray(Image.open(tmp_path / "a.tif"))  # Pillow turns these itself
    expected = upright[:, 2:10] if tag < 5 else upright[2:10]
    data = Folder(str(tmp_path), size=8)
    assert np.allclose(_grey_levels(data, f"a.{form}"), expected.transpose(2, 0, 1), atol=1e-4)
    frame = data.frame(f"a.{form}")
    assert frame is not None and frame.seen == ((8, 12) if tag < 5 else (12, 8))
    assert frame.stored == ((8, 12) if form != "tif" else frame.seen)


def test_a_turned_photograph_is_another_picture_and_an_upright_one_is_not(tmp_path: Path) -> None:
    """Cells of photographs without a tag keep their names: their hash is that of the bytes."""
    exif = Image.Exif()
    Image.fromarray(_noise(8, 8)).save(tmp_path / "a.png", exif=exif)
    plain = hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()[:32]
    assert Folder(str(tmp_path)).content(["a.png"]) == [plain]
    exif[0x0112] = 6
    Image.fromarray(_noise(8, 8)).save(tmp_path / "a.png", exif=exif)
    plain = hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()[:32]
    assert Folder(str(tmp_path)).content(["a.png"]) != [plain]


def test_published_data_sets_ignore_the_orientation_tag(tmp_path: Path) -> None:
    """As the code of their priors does."""
    pixels, exif = _noise(8, 8), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "00000.png", exif=exif)
    found = (FFHQ(str(tmp_path), size=8).images(["00000"])[0].double() + 1) * 127.5
    assert np.allclose(found, pixels.transpose(2, 0, 1), atol=1e-4)


# --- errors
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "bmp"])
def test_damaged_files_are_named(extension: str, tmp_path: Path) -> None:
    path = _save(tmp_path / "sub" / f"broken.{extension}", _noise(32, 32))
    content = path.read_bytes()
    data = Folder(str(tmp_path), size=8)
    for damaged in (b"", b"<html>not found</html>", content[:20], content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=rf"cannot read image '.*sub.broken\.{extension}'.*repair or remove it"
        ):
            data.images(data.ids)


def test_a_file_that_vanished(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.png", _noise(8, 8))
    data = Folder(str(tmp_path), size=8)
    path.unlink()
    with pytest.raises(ValueError, match=r"cannot read image '.*a\.png'"):
        data.images(["a.png"])


def test_no_folder_and_no_images(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder '.*missing'; set data\.root"):
        Folder(str(tmp_path / "missing"))
    (tmp_path / "readme.txt").write_text("no image")
    with pytest.raises(
        ValueError, match=r"holds no images; looked for folder: \.jpg, \.jpeg, \.png, \.webp, \.bmp"
    ):
        Folder(str(tmp_path))


def test_bad_settings(tmp_path: Path) -> None:
    _save(tmp_path / "a.png", _noise(8, 8))
    with pytest.raises(ValueError, match="unknown mode 'bgr'; valid: rgb, grey"):
        Folder(str(tmp_path), mode="bgr")
    with pytest.raises(
        ValueError,
        match="unknown crop 'squash'; valid: guided, edm, bicubic, bilinear, square_bilinear",
    ):
        Folder(str(tmp_path), crop="squash")
    with pytest.raises(ValueError, match="size=0"):
        Folder(str(tmp_path), size=0)
    with pytest.raises(ValueError, match=r"there is no image '\.\./a\.png'"):
        Folder(str(tmp_path)).images(["../a.png"])


def test_yaml_spells_out_the_defaults(tmp_path: Path) -> None:
    _save(tmp_path / "a.png", _noise(8, 8))
    node = yaml.safe_load(CONF.read_text())
    assert node.pop("_target_") == "datasets.folder.Folder" and node.pop("root") == "???"
    # bench/config/image_folders.py fills in what follows from the folder, and size and mode
    assert node.pop("images") is None
    assert Folder(str(tmp_path), **node) == Folder(str(tmp_path))
    assert node.keys() == {f.name for f in fields(Folder)} - {
        "root",
        "layout",
    }  # there is but one layout
