"""Photographs, masks and a model of one's own: what follows from them is filled in, said, and
refused where wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.config.cell import label
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.image_folders import missing_settings, remedy
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.prepare import _say, prepare

PRIOR = ("prior=smooth", "prior.shape=[1,16,16]")
REST = ("solver=blended", "metrics=[psnr]", "draws=1", "quiet=true")
SIZES = [(60, 40), (41, 77), (16, 16), (9, 12)]


@pytest.fixture(autouse=True)
def unsaid() -> None:
    """Lines are said once a process; every test wants its own."""
    _say.cache_clear()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four colour photographs of other sizes, and masks drawn on them: a white rectangle in the
    middle."""
    rng = np.random.default_rng(0)
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    for i, (width, height) in enumerate(SIZES):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(
            tmp_path / "photos" / f"{i}.jpg"
        )
        mask = Image.new("L", (width, height))
        ImageDraw.Draw(mask).rectangle(
            [width * 0.4, height * 0.4, width * 0.6, height * 0.6], fill=255
        )
        mask.save(tmp_path / "masks" / f"{i}.png")
    return tmp_path / "photos"


def overrides(photos: Path, *more: str) -> list[str]:
    masks = ["mask=files", f"mask.path={photos.parent / 'masks'}"]
    return [
        "data=folder",
        f"data.root={photos}",
        *masks,
        *PRIOR,
        *REST,
        f"out={photos.parent / 'out'}",
        *more,
    ]


def test_photographs_masks_and_a_model_run_at_the_first_try(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No size, no colours, no number of images and no polarity is given; each is said."""
    command = overrides(photos, "quiet=false", "sheet=false", "report=false")
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert not stop.value.code
    said = capsys.readouterr().err
    assert (
        f"bench: {photos}: all 4 images (data.images), 16 x 16 pixels, grey, as the prior's\n"
        in said
    )
    assert "mask.white=hole; mask.white=observed hides the others" in said
    (row,) = (photos.parent / "out").glob("leaderboard.csv")
    assert "folder size=16 mode=grey" in row.read_text()


def _data(photos: Path, *more: str) -> dict[str, Any]:
    return job_of(compose(overrides(photos, *more))[0]).data


def test_what_is_given_stays(photos: Path) -> None:
    assert {k: _data(photos)[k] for k in ("size", "mode", "images")} == {
        "size": 16,
        "mode": "grey",
        "images": 4,
    }
    given = _data(photos, "data.size=24", "data.mode=rgb", "data.images=2")
    assert {k: given[k] for k in ("size", "mode", "images")} == {
        "size": 24,
        "mode": "rgb",
        "images": 2,
    }
    for i in range(10):
        Image.new("L", (8, 8), 9).save(photos / f"more {i}.png")
    assert _data(photos)["images"] == 8
    assert _data(photos, "data.subset=3")["images"] == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["data.images=8"],
            "data.images=8, but there are only 4 images; set data.images=4 or less",
        ),
        (
            ["data.size=32"],
            r"data gives images of \(1, 32, 32\), .*; set data.size=16, or choose another prior",
        ),
        (
            ["data.mode=rgb"],
            r"data gives images of \(3, 16, 16\), .*; set data.mode=grey, or choose another prior",
        ),
        (
            ["data.size=8", "data.mode=rgb"],
            "set data.size=16 data.mode=grey, or choose another prior",
        ),
        (["data.size=big"], "data.size=big: give a whole number of at least 1, or leave it out"),
        (["data.images=all"], "data.images=all: give a whole number"),
        (
            ["prior.shape=[1,16,24]"],
            "24 x 16 pixels .width x height., and a folder gives squares; choose",
        ),
        (["prior.shape=[2,16,16]"], "images of 2 channels, and a folder gives 1 or 3"),
        (["data.root=/nowhere"], "there is no folder '/nowhere'; set data.root"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_disagrees_is_refused_with_the_setting_that_mends_it(
    more: list[str], message: str, photos: Path
) -> None:
    with pytest.raises(UserError, match=message):
        prepare(*compose(overrides(photos, *more)), write=False)


def test_without_a_folder_nothing_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`doctor` goes on with an empty ``data.root``, which would be the working directory."""
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    node = {
        "_target_": "datasets.folder.Folder",
        "root": "",
        "images": None,
        "size": 8,
        "mode": "grey",
    }
    assert missing_settings(node, {})["images"] == 8
    assert missing_settings({**node, "root": "."}, {})["images"] == 1


def test_the_remedy_names_only_what_is_a_setting() -> None:
    assert remedy({}, (1, 28, 28), (3, 32, 32)) == "choose prior= and data= that fit"
    assert (
        remedy({"size": 28, "mode": "grey"}, (1, 28, 28), (3, 32, 24))
        == "choose prior= and data= that fit"
    )
    assert (
        remedy({"size": 28, "mode": "grey"}, (1, 28, 28), (4, 28, 28))
        == "choose prior= and data= that fit"
    )


def test_a_prior_from_files_says_its_size_without_its_weights(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    node = {"size": None, "mode": None, "images": 1, "root": str(photos)}

    def filled(text: str) -> Any:
        (folder / "prior.json").write_text(text)
        data = {**node, **missing_settings(node, {"path": str(folder)})}
        return data["size"], data["mode"]

    assert filled(json.dumps({"shape": [3, 96, 96]})) == (96, "rgb")
    for unknown in (
        "{",
        "[]",
        "{}",
        json.dumps({"shape": "large"}),
        json.dumps({"shape": [3, 96]}),
    ):
        assert filled(unknown) == (None, None)  # whoever loads it says what is wrong


def test_the_name_of_the_data_is_as_it_was_before_its_size_followed_the_prior() -> None:
    """Lines of one table stay lines of one table."""
    node = {
        "_target_": "datasets.folder.Folder",
        "images": 3,
        "root": "x",
        "crop": "guided",
        "part": None,
    }
    more = {"id_list": None, "subset": None, "subset_seed": 0, "protocol": None}
    assert label("data", {**node, **more, "size": 64, "mode": "rgb"}, "folder") == "folder"
    assert (
        label("data", {**node, **more, "size": 32, "mode": "grey"}, "folder")
        == "folder size=32 mode=grey"
    )


def test_what_is_left_out_is_said_once_at_the_plan(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "x.heic").write_bytes(b"x")
    (photos / "y.png").symlink_to("nowhere")
    for _ in range(2):
        prepare(*compose(overrides(photos, "quiet=false")), write=False)
    assert capsys.readouterr().err.count("left out beside 4 images: 1 .heic, 1 broken link") == 1


def test_masks_of_an_odd_one_out_are_refused_at_the_plan(photos: Path) -> None:
    image = Image.new("L", (50, 40))
    ImageDraw.Draw(image).rectangle([10, 10, 20, 20], fill=255)
    image.save(photos.parent / "masks" / "1.png")
    with pytest.raises(
        UserError, match=r"1\.png': it has 50 x 40 pixels .*, its photograph 41 x 77 and the"
    ):
        prepare(*compose(overrides(photos)), write=False)
