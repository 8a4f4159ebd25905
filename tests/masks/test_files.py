"""Masks from files: every format, either polarity, and every way in which a file may not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from posterior_bench.masks.files import Files

Mask = NDArray[np.bool_]
HEIGHT, WIDTH = 8, 8


@pytest.fixture
def stack(rng: Callable[[int], np.random.Generator]) -> Mask:
    """Three masks of 8 x 8 pixels, True = white."""
    return rng(0).random((3, HEIGHT, WIDTH)) < 0.5


def _read(
    masks: Files, image_id: str = "a", index: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> Mask:
    return masks.for_image(image_id, index).generate(np.random.Generator(np.random.PCG64(0)), *size)


def _png(path: Path, white: Mask) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(white.astype(np.uint8) * 255).save(path)
    return path


@pytest.mark.parametrize("white", ["observed", "hole"])
def test_polarity(white: str, stack: Mask, tmp_path: Path) -> None:
    path = _png(tmp_path / "m.png", stack[0])
    assert np.array_equal(
        _read(Files(str(path), white)), stack[0] if white == "observed" else ~stack[0]
    )


def test_folder_by_image_id(stack: Mask, tmp_path: Path) -> None:
    for name, mask in zip(("a.png", "n01/b.png", "c.png"), stack, strict=True):
        _png(tmp_path / name, mask)
    masks = Files(str(tmp_path), "observed")
    assert np.array_equal(_read(masks, "a", 7), stack[0])
    assert np.array_equal(_read(masks, "n01/b.JPEG"), stack[1])
    assert np.array_equal(_read(masks, "c.png"), stack[2])
    with pytest.raises(
        ValueError,
        match=r"image 'd.jpg' has no file 'd.png' or .npy in .*; add it, or set pair=order",
    ):
        _read(masks, "d.jpg")


def test_full_name_comes_first(stack: Mask, tmp_path: Path) -> None:
    _png(tmp_path / "a.jpg.png", stack[0])
    _png(tmp_path / "a.png", stack[1])
    assert np.array_equal(_read(Files(str(tmp_path), "observed"), "a.jpg"), stack[0])
    assert np.array_equal(_read(Files(str(tmp_path), "observed"), "a.bmp"), stack[1])


def test_folder_in_order_starts_again(stack: Mask, tmp_path: Path) -> None:
    for name, mask in zip(("000.png", "001.png"), stack, strict=False):
        _png(tmp_path / name, mask)
    (tmp_path / "readme.txt").write_text("not a mask")
    masks = Files(str(tmp_path), "observed", pair="order")
    for index in range(4):
        assert np.array_equal(_read(masks, "whatever", index), stack[index % 2])


FORMATS: dict[str, Callable[[Path, Mask], object]] = {
    "masks.npy": lambda path, stack: np.save(path, stack),
    "float.npy": lambda path, stack: np.save(path, stack[:, None].astype(np.float32)),
    "flat.npy": lambda path, stack: np.save(path, stack.reshape(len(stack), -1) * np.uint8(255)),
    "ours.npz": lambda path, stack: np.savez(path, masks=stack.astype(np.uint8), name="other"),
    "single.npz": lambda path, stack: np.savez(path, anything=stack),
    # packed bits with three equal channels, as RED-diff stores them
    "reddiff.npz": lambda path, stack: np.savez(
        path,
        m=np.packbits(np.repeat(stack.reshape(len(stack), 1, -1), 3, 1)),
        shape=(len(stack), 3 * HEIGHT * WIDTH),
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_stacks(name: str, stack: Mask, tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name, stack)
    masks = Files(str(tmp_path / name), "observed")
    for index in range(5):
        assert np.array_equal(_read(masks, "x", index), stack[index % 3])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_kinds_of_png(mode: str, stack: Mask, tmp_path: Path) -> None:
    image = Image.fromarray(stack[0].astype(np.uint8) * 255)
    if mode == "I;16":
        image = Image.fromarray(stack[0].astype(np.uint16) * 65535)
    elif (
        mode == "P"
    ):  # white is the first entry of the palette, so numbers and colours are opposites
        image = Image.fromarray(1 - stack[0].astype(np.uint8), "L")
        image.putpalette([255, 255, 255, 0, 0, 0])
    else:
        image = image.convert(mode)
    image.save(tmp_path / "m.png")
    assert np.array_equal(_read(Files(str(tmp_path / "m.png"), "observed")), stack[0])


def test_zeros_and_ones_in_a_png(stack: Mask, tmp_path: Path) -> None:
    Image.fromarray(stack[0].astype(np.uint8)).save(tmp_path / "m.png")
    assert np.array_equal(_read(Files(str(tmp_path / "m.png"), "observed")), stack[0])


def test_soft_edges_are_split_in_the_middle(tmp_path: Path) -> None:
    """One pixel in fifty on either side of the middle; more grey is no mask, see the photographs
    below."""
    plane = np.repeat(np.array([[0, 255]], dtype=np.uint8), 50, axis=1)
    plane[0, [49, 50]] = 127, 128
    np.save(tmp_path / "m.npy", plane)
    expected = [[False] * 50 + [True] * 50]
    assert _read(Files(str(tmp_path / "m.npy"), "observed"), size=(1, 100)).tolist() == expected


def _palette(numbers: NDArray[np.uint8], colours: list[int]) -> Image.Image:
    image = Image.fromarray(numbers, "P")
    image.putpalette(colours)
    return image


def _painted(
    dark: tuple[int, ...], bright: tuple[int, ...], mode: str
) -> Callable[[Mask], Image.Image]:
    """Draws a mask pixel by pixel in two colours, without the array code of the reader."""

    def draw(white: Mask) -> Image.Image:
        image = Image.new(mode, white.shape[::-1])
        for (row, column), is_white in np.ndenumerate(white):
            image.putpixel((column, row), bright if is_white else dark)
        return image

    return draw


TWO_VALUES: dict[str, Callable[[Mask], Image.Image]] = {
    "red on black": _painted((0, 0, 0), (255, 0, 0), "RGB"),
    "blue on black": _painted((0, 0, 0), (0, 0, 255), "RGB"),
    "red on white": _painted((255, 0, 0), (255, 255, 255), "RGB"),
    "palette of VOC": lambda white: _palette(white.astype(np.uint8), [0, 0, 0, 128, 0, 0]),
    "labels 3 and 7": lambda white: Image.fromarray(np.where(white, 7, 3).astype(np.uint8)),
    "0 and 2": lambda white: Image.fromarray(white.astype(np.uint8) * 2),
    "0 and 127": lambda white: Image.fromarray(white.astype(np.uint8) * 127),
    "0 and 128": lambda white: Image.fromarray(white.astype(np.uint8) * 128),
    "200 and 255": lambda white: Image.fromarray(np.where(white, 255, 200).astype(np.uint8)),
    "16 bits, 0 and 300": lambda white: Image.fromarray(white.astype(np.uint16) * 300),
    "opaque black on nothing": _painted((0, 0, 0, 0), (0, 0, 0, 255), "RGBA"),
    "opaque white on nothing": _painted((0, 0, 0, 0), (255, 255, 255, 255), "RGBA"),
    "alpha that is full everywhere": _painted((0, 0, 0, 255), (255, 255, 255, 255), "RGBA"),
    "grey with alpha": _painted((0, 255), (255, 255), "LA"),
}


@pytest.mark.parametrize("name", TWO_VALUES)
def test_two_values_are_told_apart_whatever_they_are(
    name: str, stack: Mask, tmp_path: Path
) -> None:
    TWO_VALUES[name](stack[0]).save(tmp_path / "m.png")
    assert np.array_equal(_read(Files(str(tmp_path / "m.png"), "observed")), stack[0])
    assert np.array_equal(_read(Files(str(tmp_path / "m.png"), "hole")), ~stack[0])


@pytest.mark.parametrize("white", ["observed", "hole"])
@pytest.mark.parametrize("value", [0, 1, 128, 255])
def test_a_mask_that_hides_nothing_or_everything_is_refused(
    white: str, value: int, tmp_path: Path
) -> None:
    Image.new("L", (8, 8), value).save(tmp_path / "m.png")
    with pytest.raises(
        ValueError,
        match=r"mask '.*m\.png': all of its pixels are equal, so that it hides everything or",
    ):
        _read(Files(str(tmp_path / "m.png"), white))
    small = np.zeros((80, 80), dtype=bool)
    small[0, 0] = True  # lost between the pixels of the image
    with pytest.raises(
        ValueError, match="at the size of the image it hides everything or nothing; draw it larger"
    ):
        _read(Files(str(_png(tmp_path / "small.png", small)), white, resize=True))


def test_photographs_are_no_masks(
    tmp_path: Path, rng: Callable[[int], np.random.Generator]
) -> None:
    """A ramp with noise as grey, and in colour; and garments of Fashion-MNIST, which are half
    black."""
    noise = rng(1).normal(0, 12, (32, 32, 3))
    scene = np.clip(np.linspace(10, 245, 32)[:, None, None] + noise, 0, 255).astype(np.uint8)
    garments = [(image * 127.5 + 127.5).round().astype(np.uint8) for image in _garments(20)]
    refused = 0
    for name, image in (
        ("rgb.png", scene),
        ("grey.png", scene[..., 0]),
        *((f"{i}.png", g) for i, g in enumerate(garments)),
    ):
        Image.fromarray(image).save(tmp_path / name)
        try:
            _read(Files(str(tmp_path / name), "hole"), size=image.shape[:2])
        except ValueError as error:
            assert f"mask '{tmp_path / name}': " in str(error) and "as in a photograph" in str(
                error
            )
            refused += 1
    assert refused == 22


def _garments(count: int) -> list[NDArray[np.float32]]:
    from posterior_bench.datasets.fashion import Fashion

    images = Fashion()
    return [image[0].numpy() for image in images.images(images.ids[:count])]


def test_drawn_masks_with_soft_edges_are_masks(tmp_path: Path) -> None:
    """A disc drawn at eight times the size and reduced, red on black: the same disc as by its
    equation, but the rim."""
    from PIL import ImageDraw

    large = Image.new("RGB", (512, 512))
    ImageDraw.Draw(large).ellipse([128, 128, 384, 384], fill=(255, 0, 0))
    large.resize((64, 64), Image.Resampling.BOX).save(tmp_path / "m.png")
    read = _read(Files(str(tmp_path / "m.png"), "observed"), size=(64, 64))
    rows, columns = np.mgrid[:64, :64] + 0.5
    radius = np.hypot(rows - 32, columns - 32)
    assert read[radius < 15.3].all() and not read[radius > 16.7].any()


@pytest.mark.parametrize(
    ("paint", "message"),
    [
        (
            lambda white: Image.fromarray(
                np.where(white, 1, 0).astype(np.uint8) + 255 * np.eye(8, dtype=np.uint8) // 2
            ),
            "it holds 4 values, as label numbers do",
        ),
        (
            lambda white: _palette(
                np.arange(64, dtype=np.uint8).reshape(8, 8) % 3, [0, 0, 0, 128, 0, 0, 0, 128, 0]
            ),
            "neither black nor white",
        ),
        (_painted((0, 0, 0), (0, 0, 0), "RGB"), "all of its pixels are equal"),
        (
            _painted((255, 0, 0, 0), (0, 0, 255, 255), "RGBA"),
            "its colours and its transparency say different things",
        ),
        (
            _painted((255, 255, 255, 0), (0, 0, 0, 255), "RGBA"),
            "its colours and its transparency say different things",
        ),
    ],
    ids=["labels", "three colours", "one colour", "transparent red", "transparent white"],
)
def test_other_files_that_are_no_masks(
    paint: Callable[[Mask], Image.Image], message: str, stack: Mask, tmp_path: Path
) -> None:
    paint(stack[0]).save(tmp_path / "m.png")
    with pytest.raises(ValueError, match=message):
        _read(Files(str(tmp_path / "m.png"), "observed"))


def test_names_that_look_alike_are_one_name(stack: Mask, tmp_path: Path) -> None:
    """Endings in any case; accents as macOS writes them (NFD) and as others do (NFC), in folders
    too."""
    composed, apart = "Z\u00fcrich \u00e9", "Zu\u0308rich e\u0301"
    masks = Files(str(tmp_path), "observed")
    _png(tmp_path / "one.PNG", stack[0]).rename(tmp_path / "IMG_1.PNG")
    assert np.array_equal(_read(masks, "IMG_1.PNG"), stack[0])
    assert np.array_equal(_read(masks, "IMG_1.jpg"), stack[0])
    _png(tmp_path / apart / f"{apart}.png", stack[1])
    assert np.array_equal(_read(masks, f"{composed}/{composed}.png"), stack[1])
    _png(tmp_path / f"{composed}.png", stack[2])
    assert np.array_equal(_read(masks, f"{apart}.jpg"), stack[2])
    _png(tmp_path / "IMG_1.Png", stack[2])
    with pytest.raises(
        ValueError, match=r"'IMG_1.PNG' and 'IMG_1.Png' in .* look like one name; keep one"
    ):
        _read(masks, "IMG_1.tif")
    with pytest.raises(ValueError, match=r"has no file 'img_1\.png'"):
        _read(masks, "img_1.PNG")


def test_another_size_is_refused_or_resized(tmp_path: Path) -> None:
    path = _png(
        tmp_path / "m.png", np.kron(np.array([[1, 0], [0, 1]]), np.ones((128, 128))).astype(bool)
    )
    with pytest.raises(
        ValueError, match=r"it has 256 x 256 pixels .*, the image 28 x 28; set mask.resize=true"
    ):
        _read(Files(str(path), "observed"), size=(28, 28))
    masks = Files(str(path), "observed", resize=True)
    for side in (28, 32):
        half = side // 2
        assert np.array_equal(
            _read(masks, size=(side, side)), np.kron(np.eye(2), np.ones((half, half))).astype(bool)
        )
    with pytest.raises(
        ValueError,
        match=r"has 256 x 256 pixels .*, the image 48 x 32; save it at one of these sizes",
    ):
        _read(masks, size=(32, 48))


def test_content_is_that_of_the_masks(stack: Mask, tmp_path: Path) -> None:
    """The same masks in other files are the same content; a mask, a polarity or an id that differs
    is another."""
    for index in range(2):
        _png(tmp_path / "pngs" / f"{index}.png", stack[index])
    np.save(tmp_path / "masks.npy", ~stack)
    ids = ["0", "1"]
    first = Files(str(tmp_path / "pngs"), "observed").content(ids, HEIGHT, WIDTH)
    assert Files(str(tmp_path / "masks.npy"), "hole").content(ids, HEIGHT, WIDTH) == first
    assert Files(str(tmp_path / "masks.npy"), "observed").content(ids, HEIGHT, WIDTH) != first
    assert Files(str(tmp_path / "pngs"), "observed").content(ids[:1], HEIGHT, WIDTH) != first
    _png(tmp_path / "pngs" / "1.png", stack[2])
    assert Files(str(tmp_path / "pngs"), "observed").content(ids, HEIGHT, WIDTH) != first


def _write(path: Path, content: object) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, Image.Image):
        content.save(path)
    elif isinstance(content, dict):
        np.savez(path, **content)
    else:
        np.save(path, np.asarray(content))
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.png", b"no image", "cannot read '.*m.png'"),
        ("m.npy", b"no array", "cannot read '.*m.npy'"),
        ("m.png", Image.new("RGBA", (8, 8)), "m.png': all of its pixels are equal"),
        (
            "m.npy",
            np.zeros((2, 3, 8, 8)),
            r"has the shape \(2, 3, 8, 8\); give \(H, W\), \(n, H, W\)",
        ),
        ("m.npy", np.zeros((8, 8, 3)), r"has the shape \(8, 8, 3\)"),
        ("m.npy", np.full((8, 8), -1), "m.npy': all of its pixels are equal"),
        (
            "m.npy",
            np.stack([np.eye(8), np.ones((8, 8))])[::-1],
            "m.npy', number 0: all of its pixels are equal",
        ),
        ("m.npy", np.full((8, 8), np.nan), "its values run from nan to nan"),
        (
            "m.npz",
            {"a": np.zeros(1), "b": np.zeros(1)},
            "it holds a, b; name the right array 'masks'",
        ),
        (
            "m.npz",
            {"m": np.zeros(3, np.uint8), "shape": (1, 20)},
            r"shape \(1, 20\) is not that of square masks",
        ),
        ("m.npz", {"m": np.array([1, 2, 3], np.uint8), "shape": (2, 12)}, "its channels differ"),
    ],
)
def test_files_that_are_no_masks(name: str, content: object, message: str, tmp_path: Path) -> None:
    path = _write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message) as caught:
        _read(Files(str(path), "observed"))
    assert "\n" not in str(caught.value)


def test_settings(tmp_path: Path, rng: Callable[[int], np.random.Generator]) -> None:
    with pytest.raises(ValueError, match="unknown white 'keep'; valid: observed, hole"):
        Files("m.png", "keep")
    with pytest.raises(ValueError, match="unknown pair 'name'; valid: id, order"):
        Files("m.png", "hole", pair="name")
    with pytest.raises(ValueError, match=r"there is no file or folder '.*nowhere'"):
        _read(Files(str(tmp_path / "nowhere"), "hole"))
    with pytest.raises(ValueError, match=r"no .png or .npy file lies in"):
        _read(Files(str(tmp_path), "hole", pair="order"))
    with pytest.raises(ValueError, match="belong to images"):
        Files("m.png", "hole").generate(rng(0), 8, 8)
