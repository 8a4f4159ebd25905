"""Masks that belong to images, on their way through the harness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.build import build
from bench.cell import cell_of
from bench.errors import UserError
from bench.external import pinned_mask
from bench.worker import measure
from datasets.fashion import Fashion


@pytest.fixture(scope="module")
def images() -> Fashion:
    return Fashion()


@pytest.fixture
def stack(tmp_path: Path) -> np.ndarray[Any, Any]:
    """Three masks of 28 x 28 pixels, stored as ``masks.npy``; number k observes its first k + 1 rows."""
    masks = np.stack([np.arange(28)[:, None] <= np.full(28, k) for k in range(3)])
    np.save(tmp_path / "masks.npy", masks)
    return masks


def _config(path: Path, **mask: Any) -> dict[str, Any]:
    return {
        "solver": {"_target_": "solvers.blended.Blended"},
        "data": {"_target_": "datasets.fashion.Fashion", "images": 5},
        "mask": {"_target_": "masks.files.Files", "path": str(path), "white": "observed", "sha256": None, **mask},
        "operator": {"_target_": "operators.inpainting.Inpainting", "sigma": 0.0},
        "prior": {"_target_": "priors.mixtures.g2"},
        "seed": 0,
        "draws": 1,
        "budget": None,
    }


def test_images_take_masks_by_their_place_in_the_set(images: Fashion, stack: Any, tmp_path: Path) -> None:
    """Whatever the order and the batch: image 4 has mask 4 modulo 3."""
    config = _config(tmp_path / "masks.npy")
    measured = measure(config, images, build(config["mask"]), [images.ids[4], images.ids[0], images.ids[2]])
    assert measured.operator.mask is not None
    assert np.array_equal(measured.operator.mask[:, 0].numpy(), stack[[1, 0, 2]])


def test_cells_belong_to_the_content(images: Fashion, stack: Any, tmp_path: Path) -> None:
    choices = dict.fromkeys(("solver", "data", "mask", "operator", "prior"), "x") | {"mask": "files"}

    def planned(path: Path) -> Any:
        config = _config(path)
        return cell_of(
            pinned_mask(config, build(config["mask"]), images), choices, images.name, images.content(images.ids[:4])
        )

    first = planned(tmp_path / "masks.npy")
    assert first.config["mask"]["path"] == str(tmp_path / "masks.npy") and len(first.config["mask"]["sha256"]) == 64
    (tmp_path / "moved").mkdir()
    moved = (tmp_path / "masks.npy").rename(tmp_path / "moved" / "masks.npy")
    assert planned(moved).name == first.name
    np.save(moved, ~stack)
    changed = planned(moved)
    assert changed.name != first.name and changed.identity["mask"] != first.identity["mask"]


def test_refused_before_any_work(images: Fashion, stack: Any, tmp_path: Path) -> None:
    for config, message in (
        (_config(tmp_path / "nowhere"), r"masks.files.Files: there is no file or folder '.*nowhere'"),
        (_config(tmp_path), r"image 'test-00000' has no file 'test-00000.png'"),
        (_config(tmp_path / "masks.npy", sha256="0" * 64), r"has sha256 [0-9a-f]{64}, not 0{64}: it has changed"),
        ({**_config(tmp_path), "mask": {"_target_": "masks.box.Box", "side": 40}}, "does not fit into 28"),
    ):
        with pytest.raises(UserError, match=message):
            pinned_mask(config, build(config["mask"]), images)
