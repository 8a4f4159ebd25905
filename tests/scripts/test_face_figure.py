"""The figure of ``scripts.face_figure`` says what rows hold, and needs no package of the faces."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from scripts.face_figure import figure
from tests.bench.pages.test_report import EVIL, IDS, png, write_cell

from posterior_bench.bench.core.errors import UserError

ROTATED = f"{3:016x}"
PALETTE = f"{0:016x}"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    for i, image in enumerate(IDS):
        (root / image).write_bytes(png(i))
    for name, mask in ((PALETTE, "palette"), (ROTATED, "rotated")):
        write_cell(tmp_path, root, name, "dps", mask, 24.0, int(name, 16))
    return tmp_path


def test_pictures_words_and_bars_of_an_image(study: Path) -> None:
    axes = figure(study, EVIL, {"dps": ROTATED}).axes
    titles = [axis.get_title() for axis in axes]
    assert titles[:3] == [
        "dps: observed",
        "mouth: <i>grin</i>\neyes: round\ndistance 0.000",
        "mouth: smile or sad\neyes: round\ndistance 0.500",
    ]
    assert titles[3:] == ["", "", "mouth", "eyes", ""]
    mouth = axes[5]
    names = [label.get_text() for label in mouth.get_yticklabels()]
    widths = [bar.get_width() for bar in mouth.patches]
    # smile and sad share one of two draws as they share posterior probability, 2 to 1
    assert dict(zip(names, zip(widths[:3], widths[3:], strict=True), strict=True)) == {
        "smile": (0.5, pytest.approx(1 / 3)),
        "<i>grin</i>": (0.25, 0.5),
        "sad": (0.25, pytest.approx(1 / 6)),
    }


def test_cells_that_recognised_nothing(study: Path) -> None:
    for cell, image in ((PALETTE, EVIL), (ROTATED, "nobody.png")):
        with pytest.raises(UserError, match=f"does not say what the draws of {image[:4]}"):
            figure(study, image, {"dps": cell})
    shutil.rmtree(study / "cells" / PALETTE / "rows")
    with pytest.raises(UserError, match="does not say"):
        figure(study, EVIL, {"dps": PALETTE})
