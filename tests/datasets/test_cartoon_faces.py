"""The cartoon faces: the embedded test images, and splits that are drawn and kept."""

from __future__ import annotations

import hashlib
import json
import sys
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image

from posterior_bench.datasets import faces
from posterior_bench.datasets.faces import Faces

ROOT = Path(__file__).parents[2]
SHEET = ROOT / "datasets" / "assets" / "faces" / "test.png"
LICENCE = ROOT / "datasets" / "assets" / "LICENSE-faces"
STYLES = (
    *("adventurer", "big-ears", "big-smile", "micah"),
    *("miniavs", "open-peeps", "personas", "toon-head"),
)

# start of the hash of images that the embedded priors saw; another program drew them
DRAWN = {
    "adventurer_validation_00000": "57648d25c243113d",
    "toon-head_validation_00063": "3e160fccd0b525f2",
    "personas_train_00100": "14cab17473bf9618",
    "miniavs_train_00097": "87fdb38ce735e152",  # left out: it equals miniavs_test_00007
}


@cache
def sheet() -> NDArray[np.uint8]:
    with Image.open(SHEET) as file:
        return np.asarray(file)


def shown(row: int, column: int) -> NDArray[np.uint8]:
    """The embedded image of a row and style, cut out of the file as a viewer shows it."""
    across, down = slice(64 * column, 64 * column + 64), slice(64 * row, 64 * row + 64)
    return sheet()[down, across].transpose(2, 0, 1)


def pixels(data: Faces, *ids: str) -> NDArray[np.uint8]:
    return ((data.images(ids) + 1) * 127.5).round().numpy().astype(np.uint8)


def invented(seed: str) -> NDArray[np.uint8]:
    """An image that stands for the drawing of a seed; other seeds have others."""
    numbers = np.random.default_rng(list(seed.encode()))
    return numbers.integers(0, 256, (3, 64, 64), dtype=np.uint8)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Splits of few images in sheets of two rows, drawn by :func:`invented`; the drawn seeds."""
    seeds: list[str] = []

    def draw(seed: str) -> NDArray[np.uint8]:
        seeds.append(seed)
        return invented(seed)

    monkeypatch.setattr(faces, "_ROWS", 2)
    sizes = {"test": 2, "validation": 2, "tune": 3, "train": 5}
    monkeypatch.setattr(faces, "PER_STYLE", sizes)
    monkeypatch.setattr(
        faces, "_drawing", lambda: lambda seed: seeds.append(seed) or invented(seed)
    )
    return seeds


def test_embedded_file() -> None:
    with Image.open(SHEET) as file:
        assert (file.size, file.mode) == ((8 * 64, 64 * 64), "RGB")
    images = np.stack([shown(row, column) for row in range(64) for column in range(8)])
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    assert digest in (SHEET.parents[1] / "README.md").read_text()
    assert len({image.tobytes() for image in images}) == 512
    assert SHEET.stat().st_size < 2_000_000
    data = Faces()
    assert np.array_equal(pixels(data, *data.ids), images)


def test_test_split() -> None:
    data = Faces()
    assert (data.name, data.shape, data.num_classes) == ("faces", (3, 64, 64), 8)
    assert data.class_names == STYLES
    assert len(data) == len(set(data.ids)) == 512
    assert data.ids[:2] == ("adventurer_test_00000", "big-ears_test_00000")
    assert data.ids[-1] == "toon-head_test_00063"
    labels = data.labels(data.ids)
    assert labels.dtype == torch.int64 and torch.bincount(labels).tolist() == [64] * 8
    assert [STYLES[k] for k in labels] == [seed.partition("_")[0] for seed in data.ids]
    images = data.images(data.ids[:8])
    assert images.dtype == torch.float32 and images.min() >= -1 and images.max() <= 1


def test_any_order() -> None:
    data = Faces()
    ids = ["micah_test_00003", "toon-head_test_00063", "micah_test_00003"]
    expected = [shown(3, 3), shown(63, 7), shown(3, 3)]
    assert np.array_equal(pixels(data, *ids), np.stack(expected))
    assert data.labels(ids).tolist() == [3, 7, 3]


def test_a_changed_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Image.open(SHEET) as file:
        changed = np.array(file)
    changed[100, 100, 0] ^= 1
    Image.fromarray(changed).save(tmp_path / "test.png")
    monkeypatch.setattr(faces, "_ASSETS", tmp_path)
    with pytest.raises(ValueError, match=r"test\.png does not hold the test images"):
        Faces().images(["micah_test_00000"])


def test_drawn_splits(few: list[str], tmp_path: Path) -> None:
    for split, rows in (("validation", 2), ("tune", 3), ("train", 5)):
        data = Faces(split, str(tmp_path))
        expected = [f"{style}_{split}_{row:05d}" for row in range(rows) for style in STYLES]
        assert (data.name, list(data.ids)) == (f"faces-{split}", expected)
        assert np.array_equal(pixels(data, *data.ids), np.stack([invented(s) for s in expected]))
        assert data.labels(data.ids).tolist() == [*range(8)] * rows
    assert len(few) == len(set(few)) == 80, "every seed is drawn once"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        *("validation-00000.png", "tune-00000.png", "tune-00002.png"),
        *("train-00000.png", "train-00002.png", "train-00004.png"),
    }


def test_training_leaves_out_held_out_images(
    few: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubles = {
        "micah_train_00001": shown(1, 3),
        "big-ears_train_00004": invented("toon-head_validation_00000"),
    }
    monkeypatch.setattr(faces, "_drawing", lambda: lambda seed: doubles.get(seed, invented(seed)))
    data = Faces("train", str(tmp_path))
    assert len(data) == 38 and not doubles.keys() & set(data.ids)
    kept = data.ids[-8:]  # behind both gaps
    assert np.array_equal(pixels(data, *kept), np.stack([invented(seed) for seed in kept]))
    assert data.labels(kept).tolist() == [STYLES.index(seed.partition("_")[0]) for seed in kept]
    with pytest.raises(ValueError, match="faces-train has no image 'micah_train_00001'"):
        data.images(["micah_train_00001"])


def test_tune_leaves_out_an_image_of_the_training_split(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(faces, "_drawing", lambda: invented)
    data = Faces("tune", str(tmp_path))
    assert len(data) == 511 and "miniavs_tune_00038" not in data.ids
    assert {path.name for path in tmp_path.iterdir()} == {"tune-00000.png"}


def test_kept_images_are_not_drawn_again(
    few: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Faces("validation", str(tmp_path))
    monkeypatch.setattr(faces, "_drawing", lambda: pytest.fail("drawn again"))
    data = Faces("validation", str(tmp_path))
    assert np.array_equal(pixels(data, data.ids[5])[0], invented(data.ids[5]))


def test_the_users_cache(few: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    Faces("validation")
    assert (tmp_path / "posterior-bench" / "faces-1" / "validation-00000.png").is_file()


def test_a_drawing_that_was_stopped_goes_on(
    few: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(seed: str) -> NDArray[np.uint8]:
        if seed == "micah_train_00003":
            raise KeyboardInterrupt
        return invented(seed)

    with monkeypatch.context() as patch:
        patch.setattr(faces, "_drawing", lambda: stopped)
        with pytest.raises(KeyboardInterrupt):
            Faces("train", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["train-00000.png"]
    (tmp_path / "train-00002.png.tmp").write_bytes(b"half of it")
    data = Faces("train", str(tmp_path))
    assert "adventurer_train_00001" not in few and "adventurer_train_00002" in few
    assert np.array_equal(pixels(data, data.ids[20])[0], invented(data.ids[20]))


def test_a_sheet_that_cannot_be_kept(
    few: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ValueError, match=r"cannot keep drawn faces in .*file.*data\.root=DIR"):
        Faces("validation", str(file / "below"))
    monkeypatch.setattr(Image.Image, "save", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(ValueError, match=r"cannot keep .*full"):
        Faces("validation", str(tmp_path / "other"))
    assert list((tmp_path / "other").iterdir()) == []


@pytest.mark.parametrize("damage", ["truncated", "no picture", "other size"])
def test_damaged_sheets(damage: str, few: list[str], tmp_path: Path) -> None:
    Faces("validation", str(tmp_path))
    path = tmp_path / "validation-00000.png"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:20_000])
    elif damage == "no picture":
        path.write_bytes(b"<html>")
    else:
        Image.new("RGB", (100, 100)).save(path)
    with pytest.raises(ValueError, match=r"cannot read .*validation-00000\.png.*delete it"):
        Faces("validation", str(tmp_path)).images(["micah_validation_00000"])


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="unknown split 'val'; valid: test, validation, tune, tr"):
        Faces("val")
    with pytest.raises(
        ValueError,
        match="no image 'x'; ids run from adventurer_test_00000 to toon-head_test_0",
    ):
        Faces().images(["x"])


def test_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dicebear", "resvg_py"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError) as error:
        Faces("tune", str(tmp_path))
    assert 'pip install "posterior-bench[faces]"' in str(error.value)
    assert "dicebear" in str(error.value) and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_packages_that_draw_other_images_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encode: Callable[..., bytes]
) -> None:
    (tmp_path / "dicebear_styles").mkdir()
    for name in STYLES:
        (tmp_path / "dicebear_styles" / f"{name}.json").write_text("{}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "dicebear_styles", raising=False)
    library = types.SimpleNamespace(
        Style=lambda content: content,
        Avatar=lambda style, settings: types.SimpleNamespace(to_string=lambda: settings["seed"]),
    )
    monkeypatch.setitem(sys.modules, "dicebear", library)
    picture = types.SimpleNamespace(svg_to_bytes=lambda **_: encode(0, form="PNG", size=(128, 128)))
    monkeypatch.setitem(sys.modules, "resvg_py", picture)
    with pytest.raises(ValueError, match="draw another adventurer_test_00000 than"):
        Faces("tune", str(tmp_path / "root"))


def test_yaml_spells_out_the_defaults() -> None:
    node = yaml.safe_load((ROOT / "conf" / "data" / "faces.yaml").read_text())
    assert node.pop("_target_") == "datasets.faces.Faces"
    assert node.pop("images") == 8 and node.pop("defaults")[-1] == "_self_"
    assert Faces(**node) == Faces() and node.keys() == {"split", "root", "showing"}


def test_the_packages_draw_the_embedded_images() -> None:
    pytest.importorskip("dicebear")
    draw = faces._drawing()
    for row, column in ((0, 0), (5, 2), (17, 6), (40, 4), (63, 7)):
        drawn = draw(f"{STYLES[column]}_test_{row:05d}")
        assert np.array_equal(drawn, shown(row, column))
    for seed, digest in DRAWN.items():
        assert hashlib.sha256(draw(seed).tobytes()).hexdigest()[:16] == digest
    assert np.array_equal(draw("miniavs_train_00097"), shown(7, 4))


def test_the_licence_names_every_artist() -> None:
    pytest.importorskip("dicebear")
    import importlib.resources

    text = LICENCE.read_text(encoding="utf-8")
    credits = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    for name in STYLES:
        file = importlib.resources.files("dicebear_styles") / f"{name}.json"
        meta = json.loads(file.read_text(encoding="utf-8"))["meta"]
        assert meta["license"]["name"] in ("CC BY 4.0", "CC0 1.0")
        for part in ("license", "creator", "source"):
            for fact in (meta[part]["name"], meta[part]["url"]):
                assert fact in text and fact in credits
