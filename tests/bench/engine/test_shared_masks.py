"""``mask.shared=true``: one mask for all images of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from tests.bench.harness import planned, rows, run

import posterior_bench as pb
from posterior_bench.bench.config.catalog import option, options, show
from posterior_bench.bench.config.cell import cell_of
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.masks import build_masks
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.measurement import measure
from posterior_bench.bench.pages.thumbnails import Scene
from posterior_bench.datasets.fashion import Fashion

SHARED = sorted(name for name, o in options("mask").items() if "shared" in o.parameters)


def _config(name: str, seed: int = 0, **mask: Any) -> JobConfig:
    node = {
        "solver": {"_target_": "solvers.blended.Blended"},
        "data": {"_target_": "datasets.fashion.Fashion", "images": 5},
        "mask": {**option("mask", name).content, **mask},
        "operator": {"_target_": "operators.inpainting.Inpainting", "sigma": 0.0},
        "prior": {"_target_": "priors.mixtures.g2"},
        "seed": seed,
        "draws": 1,
    }
    return JobConfig.of(node)


def _masks(config: JobConfig, images: Any, ids: list[str]) -> NDArray[np.bool_]:
    mask = measure(config, images, build_masks(config.mask), ids).operator.mask
    assert mask is not None
    return mask[:, 0].numpy()


class _Renamed(Fashion):
    name = "another"


def test_every_drawn_mask_can_be_shared() -> None:
    read = {"files", "text", "semantic", "hair", "face_part", "box_daps_table1"}
    read |= {"drop_daps_table1", "drop_pnpflow", "box_flair"}  # one mask, whatever the seed
    assert {*SHARED} == {*options("mask")} - read
    assert "mask.shared = false" in show("mask=rotated")


@pytest.mark.parametrize("name", SHARED)
def test_one_mask_for_all_images(name: str) -> None:
    images, shared = Fashion(), _config(name, shared=True)
    several = _masks(shared, images, [images.ids[k] for k in (3, 0, 7)])
    assert (several == several[0]).all()
    # neither the other images nor the data set matter
    assert np.array_equal(_masks(shared, images, [images.ids[11]])[0], several[0])
    assert np.array_equal(_masks(shared, _Renamed(), [images.ids[2]])[0], several[0])


def test_the_seed_chooses_the_mask() -> None:
    images = Fashion()
    found = {
        _masks(_config("comod", seed, shared=True), images, [images.ids[0]]).tobytes()
        for seed in range(8)
    }
    assert len(found) == 8
    apart = _masks(_config("comod"), images, list(images.ids[:8]))
    assert len({mask.tobytes() for mask in apart}) == 8


def test_it_is_in_the_name_of_a_cell_only_where_it_is_true() -> None:
    choices = dict.fromkeys(("solver", "data", "operator", "prior"), "x") | {"mask": "box"}

    def cell(**mask: Any) -> Any:
        return cell_of(_config("box", **mask), choices, "fashion", ["a"])

    older = _config("box")
    older = JobConfig.of(
        {**older.record(), "mask": {k: v for k, v in older.mask.items() if k != "shared"}}
    )
    without = cell_of(older, choices, "fashion", ["a"])
    assert cell().name == without.name != cell(shared=True).name
    assert (cell().identity["mask"], cell(shared=True).identity["mask"]) == (
        "box",
        "box shared=True",
    )


def test_a_run_and_its_pictures_agree(command, tmp_path: Path) -> None:
    """Two images in one chunk, and each in a chunk of its own."""
    words = ["mask=box", "mask.shared=true", "data.images=2", "draws=2"]
    plans = []
    for batch in (2, 1):
        own = [*command("blended", *words), f"batch={batch}", f"out={tmp_path / str(batch)}"]
        assert run(own).counts == {"ok": 4}
        plans.append(planned(own))
    assert plans[0].cell.name == plans[1].cell.name
    left, right = (rows(plan).sort_values(["image_id", "draw"]) for plan in plans)
    pd.testing.assert_series_equal(
        left.psnr_hole, right.psnr_hole, check_index=False, check_exact=True
    )
    holes = Scene(plans[0].cell.config).holes([*left.image_id.unique()])
    assert len(holes) == 2 and len({*holes.values()}) == 1


def test_masks_of_images_are_refused(tmp_path: Path) -> None:
    node = {"_target_": "masks.files.Files", "path": str(tmp_path), "shared": True}
    with pytest.raises(UserError, match=r"masks of masks.files.Files belong to single images"):
        build_masks(node)


def test_python() -> None:
    images = pb.load_images("fashion", 3)
    mask = pb.observe(images, mask="comod", settings={"mask.shared": True}).mask
    assert mask is not None and len(mask) == 3 and (mask == mask[0]).all()
