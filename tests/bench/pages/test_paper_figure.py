"""Figures of pictures for papers: the right pixels, in a file that a publisher takes."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.bench.harness import run

from posterior_bench.bench.analysis.paper_styles import STYLES
from posterior_bench.bench.cli.verbs import run_verb
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.pages.crops import Crop, hidden_crop
from posterior_bench.bench.pages.paper_figure import fitted, write
from posterior_bench.bench.pages.paper_grid import FigureWish, Grid, GridRow, Tile, grid

IDS = [f"{i}.png" for i in range(7)]


@pytest.fixture
def study(command: Callable[..., list[str]], tmp_path: Path) -> Path:
    """Two solvers on seven images of 8 x 8 pixels, two draws each."""
    for solver in ("blended", "repaint"):
        run(command(solver))
    return tmp_path / "study"


def bench(study: Path, *words: str) -> int:
    return run_verb("figure", [str(study), *words])


def test_the_tiles_are_the_pictures_that_the_rows_hold(study: Path, photos: Path) -> None:
    wish = FigureWish(["3.png", "1.png"], ["repaint", "blended"], draw=1, metric="psnr")
    found = grid(study, wish)
    assert found.titles == ["Truth", "Observed", "RePaint", "Blended sampling"]
    assert [row.image for row in found.rows] == ["3.png", "1.png"]
    from posterior_bench.bench.api.study import Study

    results = Study(study)
    rows = results.rows().set_index(["solver", "image_id", "draw"])
    for row in found.rows:
        truth, observed, *draws = row.tiles
        assert np.array_equal(truth.pixels, np.asarray(Image.open(photos / row.image)))
        assert observed.pixels is not None and observed.pixels.shape[2] == 3, "its hole is hatched"
        for solver, tile in zip(wish.solvers, draws, strict=True):
            stored = np.asarray(results.image(solver, row.image, 1))
            assert np.array_equal(tile.pixels, stored)
            assert tile.words == f"{rows.loc[(solver, row.image, 1), 'psnr']:.2f}"


def test_the_verb_writes_files_that_a_publisher_takes(
    study: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert bench(study, "images=2", "style=icml", f"out={tmp_path / 'own.pdf'}") == 0
    said = capsys.readouterr().out
    assert "the first 2 images" in said and "draw 0 of every solver" in said
    pdf = (tmp_path / "own.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf, "fonts are embedded as TrueType"
    width = float(re.search(rb"/MediaBox \[ 0 0 ([\d.]+)", pdf)[1])
    assert width == pytest.approx(3.25 * 72, abs=0.1), "a column of ICML"
    assert b"/Width 8" in pdf and b"/Height 8" in pdf, "the pictures have their own pixels"
    png = Image.open(tmp_path / "own.png")
    assert png.width == pytest.approx(3.25 * 400, abs=1)
    assert bench(study, "images=2", "style=icml", f"out={tmp_path / 'again'}") == 0
    assert (tmp_path / "again.pdf").read_bytes() == pdf, "the same command, the same bytes"


MISTAKES = [
    (("images=[9.png]",), "no image '9.png' in these cells; they have 0.png, 1.png"),
    (("solvers=[repant]",), "unknown solver 'repant'. Did you mean 'repaint'?"),
    (("draw=2",), "draw=2: these cells have draws 0 to 1"),
    (("metric=ssim",), "unknown metric 'ssim'."),
    (("crop=1,2",), "crop takes auto, none, or three whole numbers X,Y,SIDE"),
    (("crop=5,0,4",), "crop=5,0,4 leaves the image '0.png', which has 8 x 8 pixels"),
    (("style=nips",), "unknown style 'nips'."),
    (("images=7", "width=page"), "7 images do not fit"),
]


def test_a_mistake_is_one_line(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posterior_bench.bench.pages.paper_figure.CAPTION", 300.0)
    for words, said in MISTAKES:
        with pytest.raises(UserError, match=re.escape(said)):
            bench(study, *words)


def test_too_many_solvers_do_not_fit_a_column() -> None:
    tiles = [Tile(np.zeros((8, 8), np.uint8))] * 22
    many = Grid([f"method-{i}" for i in range(22)], [GridRow("a", "", (8, 8), tiles, None)], "")
    assert fitted(many, STYLES["cvpr"], "page")[1].tile == pytest.approx(20.67, abs=0.01)
    with pytest.raises(UserError, match="20 solvers do not fit: a picture would be 9 pt wide"):
        fitted(many, STYLES["icml"], "column")


def test_what_is_missing_has_a_field_with_words(tmp_path: Path) -> None:
    """Rendered all the same: a draw that failed, and an observation that is no picture."""
    tiles = [Tile(np.zeros((8, 8), np.uint8)), Tile(None, "no picture"), Tile(None, "oom")]
    row = GridRow("a", "rotated", (8, 8), tiles, Crop(2, 2, 3))
    found = Grid(["Truth", "Observed", "DPS"], [row], "A caption.")
    paths, kind = write(found, STYLES["cvpr"], None, tmp_path / "f")
    assert kind == "column" and [path.suffix for path in paths] == [".pdf", ".png"]
    pixels = np.asarray(Image.open(io.BytesIO(paths[1].read_bytes())).convert("RGB"))
    assert (pixels == (0xE4, 0xE4, 0xE4)).all(axis=-1).mean() > 0.2, "two grey fields"


def test_the_window_is_where_detail_is_hidden() -> None:
    """Detail stands in two corners, and one of them is hidden; nothing stands in the others."""
    truth = np.zeros((12, 12), np.uint8)
    truth[:4, :4] = np.indices((4, 4)).sum(0) % 2 * 255
    truth[8:, 8:] = np.indices((4, 4)).sum(0) % 2 * 100
    observed = np.stack([truth] * 3, axis=-1)
    observed[6:, 6:] = (255, 0, 0)
    assert hidden_crop(truth, observed) == Crop(8, 8, 4)
    assert hidden_crop(truth, truth) == Crop(0, 0, 4), "nothing is hidden: contrast alone"
    assert hidden_crop(truth, None) == Crop(0, 0, 4)
    window = Crop(8, 8, 4).of(observed.repeat(3, 0).repeat(3, 1), 12, 12)
    assert window.shape == (12, 12, 3) and (window == (255, 0, 0)).all()
