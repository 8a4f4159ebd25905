"""The page that helps to choose: it is what the committed rows say, and its verdicts are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scripts import choosing, leaderboard
from scripts.choosing import Choice
from scripts.leaderboard import Published

from posterior_bench.bench.analysis.families import family

STUDY = Published("mine", "bench study=mine", "error", (), 0.1, ("exact",))
IMAGES = [f"draw-{i}" for i in range(12)]


def test_the_page_is_what_the_committed_files_say() -> None:
    assert choosing.PAGE.read_text(encoding="utf-8") == choosing.page(), (
        "run 'python -m scripts.choosing' and commit the page"
    )


def test_a_choice_names_the_alike_and_the_first_that_is_worse() -> None:
    """b differs from a by noise around 0, c and d by 1 and 2 on every image."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=12)
    values = np.stack([a, a + np.tile([0.5, -0.5], 6) + 1e-3, a + 1, a + 2])
    tested = family(values, "key")
    assert Choice.among(tested, range(4)) == Choice(0, [1], 2)
    assert Choice.among(tested, [0, 1]) == Choice(0, [1], None)
    assert Choice.among(tested, [1, 3]) == Choice(1, [], 3)


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DPS is best and needs gradients; DDNM needs none; RePaint takes masks alone."""
    monkeypatch.setattr(leaderboard, "DATA", tmp_path)
    cells, images = [], []
    for shift, (solver, backward) in enumerate({"dps": 50, "ddnm": 0, "repaint": 0}.items()):
        cells.append(
            {
                **{"study": "mine", "cell": solver, "solver": solver, "label": solver},
                **{"data": "arena/p", "mask": "pixels", "operator": "inpainting"},
                **{"failed": 0, "missing": 0, "nge": backward, "passes": 100.0},
            }
        )
        values = np.linspace(0, 1, 12) + shift
        images.append(pd.DataFrame({"cell": solver, "image_id": IMAGES, "error": values}))
    pd.DataFrame(cells).to_parquet(tmp_path / "cells.parquet")
    pd.concat(images).to_parquet(tmp_path / "images.parquet")


def test_needs_leave_solvers_out(rows: None) -> None:
    text = "\n".join(choosing.by_need(STUDY))
    lines = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in text.split("\n")}
    assert lines["any method"][0] == "`dps`" and lines["any method"][2] == "none"
    assert lines["any method"][3].startswith("`ddnm`, by 1.0000 [")
    assert lines["no gradient through the network"][0] == "`ddnm`"
    assert lines["no gradient through the network"][3].startswith("`repaint`, by 1.0000 [")
    # DDNM needs singular values, RePaint a mask
    assert lines["takes operators that are not linear too"][0] == "`dps`"
    assert lines["takes operators that are not linear too"][3].strip("| ") == "none"


def test_a_problem_is_a_table_of_its_own(rows: None) -> None:
    last = "\n".join(choosing.by_problem(STUDY)).splitlines()[-1]
    assert last.startswith("| p pixels | `dps` | 0.5000 | none | `ddnm`, by 1.0000 [")
