"""Masks that belong to images, on their way through the harness."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.cell import cell_of
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.measurement import measure
from posterior_bench.bench.external.content import hidden_share, mask_content
from posterior_bench.datasets.fashion import Fashion


@pytest.fixture(scope="module")
def images() -> Fashion:
    return Fashion()


@pytest.fixture
def stack(tmp_path: Path) -> np.ndarray[Any, Any]:
    """Three masks of 28 x 28 pixels, stored as ``masks.npy``; number k observes its first k + 1
    rows."""
    masks = np.stack([np.arange(28)[:, None] <= np.full(28, k) for k in range(3)])
    np.save(tmp_path / "masks.npy", masks)
    return masks


def _config(path: Path, **mask: Any) -> JobConfig:
    node = {
        "solver": {"_target_": "solvers.blended.Blended"},
        "data": {"_target_": "datasets.fashion.Fashion", "images": 5},
        "mask": {
            "_target_": "masks.files.Files",
            "path": str(path),
            "white": "observed",
            "sha256": None,
            **mask,
        },
        "operator": {"_target_": "operators.inpainting.Inpainting", "sigma": 0.0},
        "prior": {"_target_": "priors.mixtures.g2"},
        "seed": 0,
        "draws": 1,
    }
    return JobConfig.of(node)


def test_images_take_masks_by_their_place_in_the_set(
    images: Fashion, stack: Any, tmp_path: Path
) -> None:
    """Whatever the order and the batch: image 4 has mask 4 modulo 3."""
    config = _config(tmp_path / "masks.npy")
    measured = measure(
        config, images, build(config.mask), [images.ids[4], images.ids[0], images.ids[2]]
    )
    assert measured.operator.mask is not None
    assert np.array_equal(measured.operator.mask[:, 0].numpy(), stack[[1, 0, 2]])


def test_cells_belong_to_the_content(images: Fashion, stack: Any, tmp_path: Path) -> None:
    choices = dict.fromkeys(("solver", "data", "mask", "operator", "prior"), "x") | {
        "mask": "files"
    }

    def planned(path: Path) -> Any:
        config = _config(path)
        return cell_of(
            config.with_settings("mask", mask_content(config, build(config.mask), images)),
            choices,
            images.name,
            images.content(images.ids[:4]),
        )

    first = planned(tmp_path / "masks.npy")
    assert (
        first.config.mask["path"] == str(tmp_path / "masks.npy")
        and len(first.config.mask["sha256"]) == 64
    )
    (tmp_path / "moved").mkdir()
    moved = (tmp_path / "masks.npy").rename(tmp_path / "moved" / "masks.npy")
    assert planned(moved).name == first.name
    np.save(moved, ~stack)
    changed = planned(moved)
    assert changed.name != first.name and changed.identity["mask"] != first.identity["mask"]


def test_refused_before_any_work(images: Fashion, stack: Any, tmp_path: Path) -> None:
    for config, message in (
        (
            _config(tmp_path / "nowhere"),
            r"masks.files.Files: there is no file or folder '.*nowhere'",
        ),
        (_config(tmp_path), r"image 'test-00000' has no file 'test-00000.png'"),
        (
            _config(tmp_path / "masks.npy", sha256="0" * 64),
            r"has sha256 [0-9a-f]{64}, not 0{64}: it has changed",
        ),
        (
            replace(_config(tmp_path), mask={"_target_": "masks.box.Box", "side": 40}),
            "does not fit into 28",
        ),
    ):
        with pytest.raises(UserError, match=message):
            mask_content(config, build(config.mask), images)


def test_the_hidden_share_is_said_with_what_the_other_white_would_hide(
    images: Fashion, stack: Any, tmp_path: Path
) -> None:
    """Mask k observes k + 1 of 28 rows: 27, 26 and 25 of 28 are hidden, for five images 26.2 of 28
    on average."""
    config = _config(tmp_path / "masks.npy")
    said = hidden_share(config, build(config.mask), images)
    assert said == (
        "94% of the pixels are hidden (89% to 96%), with mask.white=observed; mask.white=hole "
        "hides the others"
    )
    assert hidden_share(config, build({"_target_": "masks.box.Box", "side": 8}), images) == ""


def test_the_plan_says_it_once_and_doctor_too(
    stack: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = [
        "mask=files",
        f"mask.path={tmp_path / 'masks.npy'}",
        "mask.white=hole",
        "data=fashion",
        "data.images=3",
        "metrics=[psnr]",
    ]
    for verb, stream in (("plan", "err"), ("doctor", "out")):
        with pytest.raises(SystemExit) as stop:
            main(
                [
                    verb,
                    *mask,
                    f"out={tmp_path / 'out'}",
                    "solver=blended",
                    *(["draws=1"] if verb == "plan" else []),
                ]
            )
        assert not stop.value.code
        printed = getattr(capsys.readouterr(), stream)
        assert printed.count("7% of the pixels are hidden (4% to 11%), with mask.white=hole") == 1
    Image.new("L", (28, 28), 255).save(tmp_path / "white.png")
    with pytest.raises(SystemExit) as stop:
        main(["doctor", *mask, f"mask.path={tmp_path / 'white.png'}"])
    assert stop.value.code == 2
    assert (
        "white.png': all of its pixels are equal, so that it hides everything or nothing"
        in capsys.readouterr().out
    )


def test_masks_that_come_with_the_images_are_named_by_their_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They have no path. Half of 64 x 64 pixels and more are observed around a mouth."""
    words = ["mask=face_part", "mask.part=mouth", "data=faces", "data.showing=mouth"]
    size = ["data.images=2", "draws=1", "solver=blended", "metrics=[psnr]"]
    with pytest.raises(SystemExit) as stop:
        main(["plan", *words, *size, "measure=none", f"out={tmp_path / 'out'}"])
    assert not stop.value.code
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "are hidden" in line]
    assert re.match(r"bench: mask=face_part: [1-4]?\d% of the pixels are hidden", line)
