"""What lies in a folder beside ordinary images: nothing is left out, or taken, without a word."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from posterior_bench.datasets.celebahq import CelebAHQ
from posterior_bench.datasets.ffhq import FFHQ
from posterior_bench.datasets.folder import Folder
from posterior_bench.datasets.imagenet import ImageNet
from posterior_bench.datasets.lsun import LSUN

Encode = Callable[..., bytes]


def _image(path: Path, level: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 8), (level, level, level)).save(path)
    return path


def test_everything_pillow_reads_is_an_image(tmp_path: Path) -> None:
    endings = ["png", "tif", "TIFF", "jpg", "gif", "jfif", "avif", "webp", "bmp", "JPEG"]
    for i, ending in enumerate(endings):
        _image(tmp_path / f"{i}.{ending}", 20 * i)
    data = Folder(str(tmp_path), size=8)
    assert len(data) == len(endings) and data.check(list(data.ids)) == [] and data.notes() == []
    for i, image in enumerate(data.images(data.ids)):
        assert ((image + 1) * 127.5 - 20 * i).abs().max() < 2


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    """By hand: two .heic, one .txt, two dangling links, a link to itself, two to folders,
    thumbnails, a pipe."""
    root = tmp_path / "photos"
    _image(root / "a.png")
    _image(root / "sub" / "b.png")
    for name in ("c.heic", "sub/d.HEIC", "e.txt", ".DS_Store", "Thumbs.db", "plain"):
        (root / name).write_bytes(b"x")
    for name in (
        "@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg",
        ".thumbnails/t.png",
        "__MACOSX/._a.png",
        "sub/@eaDir/x.jpg",
    ):
        _image(root / name) if name.endswith("t.png") else _image((root / name).with_suffix(".jpg"))
    _image(root / "_real.png").rename(root / "._a.png")
    _image(tmp_path / "elsewhere" / "z.png")
    (root / "one.png").symlink_to(root / "nowhere.png")
    (root / "two.png").symlink_to(root / "nowhere.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "sub" / "up").symlink_to(root)
    (root / "good.png").symlink_to(root / "a.png")
    os.mkfifo(root / "pipe.png")
    data = Folder(str(root), size=8)
    assert list(data.ids) == ["a.png", "good.png", "sub/b.png"]
    (note,) = data.notes()
    head, _, said = note.partition(": left out beside 3 images: ")
    assert head == str(root) and "links to folders are not followed" in said
    counted = sorted(said.partition(" (")[0].split(", "))
    assert counted == sorted(
        [
            *(
                "3 broken links",
                "2 .heic",
                "2 @eaDir",
                "2 links to folders",
                "1 .txt",
                "1 Thumbs.db",
                "1 .thumbnails",
            ),
            *("1 __MACOSX", "1 hidden image", "1 special file", "1 file without an ending"),
        ]
    )


def test_a_folder_of_nothing_we_read_says_what_is_there(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.heic").write_bytes(b"x")
    with pytest.raises(
        ValueError,
        match=r"holds no images; looked for folder: \.jpg.* at any depth; there: 3 \.heic$",
    ):
        Folder(str(tmp_path))


@pytest.mark.parametrize("root", ["loop", "x" * 5000, "file/below"])
def test_roots_that_lead_nowhere(root: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        Folder(str(tmp_path / root))


def test_names_that_are_no_text_are_counted(tmp_path: Path) -> None:
    _image(tmp_path / "a.png")
    try:
        os.rename(_image(tmp_path / "b.png"), os.fsencode(tmp_path) + b"/\xff.png")
    except OSError:
        pytest.skip("this file system takes no such name")
    data = Folder(str(tmp_path), size=8)
    assert list(data.ids) == ["a.png"]
    assert data.notes() == [f"{tmp_path}: left out beside 1 images: 1 name that is not UTF-8"]


def test_animations_are_said_and_second_pictures_of_photographs_are_not(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    for name in ("a.gif", "b.webp", "c.png", "d.tif"):
        first.save(tmp_path / name, save_all=True, append_images=[second], lossless=True)
    first.save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=[second])
    first.save(tmp_path / "still.gif")
    data = Folder(str(tmp_path), size=8)
    assert data.check(list(data.ids)) == []
    assert data.notes() == [
        f"{tmp_path}/a.gif: of this animation the first picture is used (and of 3 more)"
    ]
    for image in data.images(data.ids):
        assert image[0].min() > 0.9 and image[2].max() < -0.9


@pytest.mark.parametrize("name", ["train", "TRAINING"])
def test_a_folder_of_training_images_is_said(name: str, tmp_path: Path) -> None:
    _image(tmp_path / name / "a.png")
    assert Folder(str(tmp_path / name)).notes() == []
    _image(tmp_path / "val" / "a.png")
    (note,) = Folder(str(tmp_path / name)).notes()
    assert note.startswith(str(tmp_path / name)) and "'val' lies beside this folder" in note
    assert Folder(str(tmp_path / "val")).notes() == []
    _image(tmp_path / name / "n01440764" / "n01440764_1.JPEG")
    (note,) = ImageNet(str(tmp_path / name), size=8).notes()
    assert "'val' lies beside" in note


@pytest.mark.parametrize(
    ("kind", "name", "where"),
    [
        (FFHQ, "00003.png", "."),
        (CelebAHQ, "00000.png", "."),
        (LSUN, f"{'ab' * 20}.webp", "."),
        (ImageNet, "n01440764_1.JPEG", "n01440764"),
    ],
)
def test_published_data_sets_count_what_they_leave_out(
    kind: Any, name: str, where: str, tmp_path: Path
) -> None:
    _image(tmp_path / where / name)
    (tmp_path / where / "x.heic").write_bytes(b"x")
    (tmp_path / where / "gone.png").symlink_to("nowhere.png")
    others = ["1 .heic", "1 broken link"]
    if kind is not ImageNet:
        _image(tmp_path / "cover page.png")
        others.append("1 image of another name")
    data = kind(str(tmp_path), size=8)
    assert len(data) == 1
    (note,) = data.notes()
    assert sorted(note.partition("left out beside 1 images: ")[2].split(", ")) == sorted(others)


def test_archives_made_on_a_mac(encode: Encode, tmp_path: Path) -> None:
    """AppleDouble files are called like the images they describe, and hold none."""
    content = encode(0, form="PNG")
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as file:
        file.writestr("00000/img00000000.png", content)
        file.writestr("__MACOSX/00000/._img00000000.png", b"apple")
        file.writestr("00000/img00000001.heic", b"x")
        file.writestr("dataset.json", b"\xef\xbb\xbf" + json.dumps({"labels": None}).encode())
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, data in (
            ("00000.png", content),
            ("._00000.png", b"apple"),
            ("00000.json", b"{}"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    for name, said in (("faces.zip", "1 .heic, 1 __MACOSX"), ("0.tar", "1 hidden image")):
        data = FFHQ(str(tmp_path / name), size=8)
        assert list(data.ids) == ["00000"] and data.check(["00000"]) == []
        assert data.notes() == [f"{tmp_path / name}: left out beside 1 images: {said}"]


# -- names and texts as a person sees them ---------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_lists_of_ids_from_any_editor(encoding: str, tmp_path: Path) -> None:
    """Windows and Excel write byte order marks, macOS writes accents apart, and endings come in any
    case."""
    for name in ("Z\u00fcrich \u00e9.png", "IMG_1.JPG", "b.png"):
        _image(tmp_path / "p" / name)
    lines = "b.png\r\nZu\u0308rich e\u0301.PNG\r\nIMG_1.jpg\r\n"
    (tmp_path / "ids.txt").write_bytes(lines.encode(encoding))
    data = Folder(str(tmp_path / "p"), id_list=str(tmp_path / "ids.txt"))
    assert list(data.ids) == ["b.png", "Z\u00fcrich \u00e9.png", "IMG_1.JPG"]


def test_a_name_in_a_list_that_could_be_two_images(tmp_path: Path) -> None:
    for name in ("a.PNG", "a.Png"):
        _image(tmp_path / "p" / name)
    (tmp_path / "ids.txt").write_text("a.png\n")
    with pytest.raises(ValueError, match=r"ids\.txt, line 1: there is no image 'a\.png'"):
        Folder(str(tmp_path / "p"), id_list=str(tmp_path / "ids.txt"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_table_of_kaggle_from_excel(encoding: str, encode: Encode, tmp_path: Path) -> None:
    folder = tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "val"
    folder.mkdir(parents=True)
    (folder / "ILSVRC2012_val_00000001.JPEG").write_bytes(encode(0))
    table = "ImageId,PredictionString\nILSVRC2012_val_00000001,n01443537 1 2 3 4\n"
    (tmp_path / "LOC_val_solution.csv").write_bytes(table.encode(encoding))
    data = ImageNet(str(tmp_path), layout="kaggle", size=8)
    labels = data.labels(data.ids)
    assert labels is not None and labels.tolist() == [1]  # n01443537 is the second wnid


def test_labels_of_shards_with_a_mark(encode: Encode, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        files = {
            "a.jpg": encode(0),
            "a.cls": b"\xef\xbb\xbf7\n",
            "b.jpg": encode(1),
            "b.json": b'\xef\xbb\xbf{"label": 8}',
        }
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    data = ImageNet(str(tmp_path / "0.tar"), size=8)
    labels = data.labels(data.ids)
    assert labels is not None and labels.tolist() == [7, 8]


def test_numbers_that_are_no_grey_levels(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((8, 8), 70_000, np.int32)).save(tmp_path / "large.tif")
    Image.fromarray(np.full((8, 8), 257 * 7, np.uint16)).save(tmp_path / "sixteen.tif")
    data = Folder(str(tmp_path), size=8)
    for name, said in (
        ("float", "floating-point numbers"),
        ("large", "numbers of more than 16 bits"),
    ):
        with pytest.raises(
            ValueError, match=rf"cannot read image '.*{name}\.tif': its pixels are {said}; save it"
        ):
            data.images([f"{name}.tif"])
    assert ((data.images(["sixteen.tif"]) + 1) * 127.5 - 7).abs().max() < 1e-3
