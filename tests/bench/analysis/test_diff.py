"""``bench diff``: two studies, cells matched by content, what changed and what that did to the
numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import yaml
from tests.bench.harness import verb

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.analysis import diff
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.store.row_store import RowStore

CARDS = {
    "psnr": {"title": "PSNR", "direction": "up", "unit": "dB", "version": 1},
    "lpips": {"title": "LPIPS", "direction": "down", "unit": "", "version": 1},
}
IMAGES = 12


def cell(
    study: Path,
    name: str,
    shift: float = 0.0,
    code: str = "c0de",
    pictures: str = "p",
    steps: int = 10,
    cards: dict = CARDS,
    images: int = IMAGES,
    **identity: object,
) -> np.ndarray:
    """A cell of a study with one draw an image; returns PSNR per image."""
    psnr = 20 + np.random.default_rng(0).normal(size=images) + shift * np.linspace(0.9, 1.1, images)
    line = {
        **{"solver": name, "data": "fashion", "mask": "comod", "operator": "inpainting"},
        **{"prior": "fashion", "seed": 0, "images": images, "draws": 1, "variant": ""},
        **{"content": "c0ffee", "fingerprint": "f00d", **identity},
    }
    ids = [f"{i:03d}" for i in range(images)]
    folder = study / "cells" / f"{name}{identity.get('mask', '')}{steps}"
    folder.mkdir(parents=True)
    solver = {
        "_target_": "solvers.dps.DPS",
        "preset": "fast",
        "presets": {"fast": {"steps": steps}},
    }
    solver |= {"steps": None, "path": f"{study}/x"}
    config = {"cell": folder.name, "identity": line, "chunks": {"one": ids}, "metrics": cards}
    config |= {"config": {"solver": solver, "metrics": {}, "draws": 1}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [
        {
            **{"cell": folder.name, "image_id": image, "draw": 0, "status": "ok", "nfe": 1.0},
            **{"code": code, "truth": f"{pictures}{image}", "version": "0.2.0"},
            **{"psnr": psnr[i], "lpips": 0.5},
        }
        for i, image in enumerate(ids)
    ]
    RowStore(folder).write("one", rows)
    return psnr


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*map(str, arguments)])
    text = capsys.readouterr()
    assert stop.value.code == 0, text.err
    return " ".join(text.out.split())


def test_what_changed_and_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    old, new = cell(a, "dps"), cell(b, "dps", shift=1.0, code="new", steps=20)
    cell(a, "same"), cell(b, "same")
    cell(a, "gone"), cell(b, "fresh")
    text = said(capsys, "diff", a, b)
    assert "2 cells are in both studies." in text
    assert "Only in A: 1 cells (gone)." in text and "Only in B: 1 cells (fresh)." in text
    assert "dps: solver.steps: 10 -> 20 (1 cell)" in text
    assert "dps: source of the solver: c0de -> new (1 cell)" in text
    assert "same:" not in text and "path" not in text  # where something lies is no change
    assert "4 means were compared: 3 are equal on every image, 1 differ significantly" in text
    assert f"psnr: {old.mean():.4g} -> {new.mean():.4g} ({(new - old).mean():+.2g}" in text
    assert said(capsys, "compare", a, b) == text


def test_numbers_are_those_of_a_paired_test(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    first, second = cell(a, "dps"), cell(b, "dps", shift=0.4)
    for mask in ("rotated", "palette"):
        cell(a, "dps", mask=mask), cell(b, "dps", mask=mask)
    table = diff.diff(a, b, metric="psnr").table.set_index("mask")
    line = table.loc["comod"]
    assert (line["a"], line["b"], line["n"]) == (first.mean(), second.mean(), IMAGES)
    assert line["lo"] < (second - first).mean() < line["hi"]
    signs = scipy.stats.permutation_test(
        (second - first,),
        np.mean,
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
        axis=-1,
    )
    # the same test elsewhere, times three for the three cells of the metric (Holm)
    assert line["p"] == pytest.approx(3 * signs.pvalue, rel=1e-9)
    assert (table.loc[["rotated", "palette"], "p"] == 1).all()


def test_holm_agrees_with_a_count_by_hand() -> None:
    # 0.01 * 4, 0.02 * 3, max(0.06, 0.02 * 2), and 0.5
    adjusted = diff._holm(pd.Series([0.02, np.nan, 0.5, 0.01, 0.02]))
    assert adjusted.tolist() == pytest.approx([0.06, np.nan, 0.5, 0.04, 0.06], nan_ok=True)


def test_other_pictures_and_other_metrics_are_not_compared(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    cell(a, "dps"), cell(b, "dps", pictures="other", content="0ther")
    newer = {**CARDS, "lpips": {**CARDS["lpips"], "version": 2}}
    cell(a, "pigdm"), cell(b, "pigdm", cards=newer)
    found = diff.diff(a, b)
    assert (
        found.pairs == 2
        and set(found.table["solver"]) == {"pigdm"}
        and set(found.table["metric"]) == {"psnr"}
    )
    assert (
        "dps · fashion · comod: 12 images are other pictures under the same name" in found.refused
    )
    assert (
        "pigdm · fashion · comod: the two versions compute lpips in different ways" in found.refused
    )
    assert found.changes["pictures (hash): c0ffee -> 0ther"] == 1


def test_the_same_content_is_found_under_another_name(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    cell(a, "dps"), cell(b, "dps", data="folder", steps=11)
    assert diff.diff(a, b).pairs == 1
    # two cells that only their name tells apart are not guessed at
    cell(a, "ddnm"), cell(b, "ddnm", steps=11), cell(b, "ddnm", steps=12)
    found = diff.diff(a, b)
    assert found.pairs == 1 and len(found.alone[0]) == 1 and len(found.alone[1]) == 2


def test_few_images_are_not_tested(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    cell(a, "dps", images=5), cell(b, "dps", images=5, shift=9.0)
    found = diff.diff(a, b, metric="psnr")
    assert np.isnan(found.table["p"]).all() and "of fewer than 6 images" in found.text()


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    a = tmp_path / "a"
    cell(a, "dps")
    for arguments, message in (
        ([a], "required: STUDY_B"),
        ([a, tmp_path], "not a study folder"),
        ([a, a, "metrics=psnr"], "unknown setting of diff 'metrics'"),
        ([a, a, "metric=ssim"], "unknown metric of both studies 'ssim'"),
        ([a, a, f"out={tmp_path}/none/x.csv"], "cannot be written"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            verb("diff", *arguments)
        assert "\n" not in str(caught.value)


def test_the_table_is_written(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    cell(a, "dps"), cell(b, "dps", shift=1.0)
    verb("diff", a, b, f"out={tmp_path / 'd.csv'}")
    table = pd.read_csv(tmp_path / "d.csv")
    assert [*table.columns] == diff.COLUMNS and len(table) == 2
