"""The published page: it is what the committed files say, and its tables are means by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest
from scripts import leaderboard
from scripts.leaderboard import Published, tables_of

STUDY = Published("mine", "bench study=mine", "error", (), 0.1, ("exact",))
IMAGES = [f"draw-{i}" for i in range(6)]


def stored(
    folder: Path, values: Mapping[tuple[str, str], list[float]], failed: frozenset[tuple[str, str]]
) -> None:
    """Write cells and images of solvers on problems."""
    cells, images = [], []
    for (solver, problem), numbers in values.items():
        cell = f"{solver}-{problem}"
        cells.append(
            {
                "study": "mine",
                "cell": cell,
                "solver": solver,
                "label": solver,
                "data": f"arena/{problem} more words",
                "mask": "pixels observed=1",
                "operator": "inpainting sigma=0.05",
                "failed": int((solver, problem) in failed),
                "missing": 0,
            }
        )
        images.append(pd.DataFrame({"cell": cell, "image_id": IMAGES, "error": numbers}))
    pd.DataFrame(cells).to_parquet(folder / "cells.parquet")
    pd.concat(images).to_parquet(folder / "images.parquet")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(leaderboard, "DATA", tmp_path)
    return tmp_path


def test_a_replicate_is_the_mean_over_the_problems_that_all_ran(folder: Path) -> None:
    easy, hard = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [10.0, 10.0, 10.0, 10.0, 10.0, 16.0]
    values = {
        ("a", "p"): easy,
        ("a", "q"): hard,
        ("b", "p"): hard,
        ("b", "q"): hard,
        ("c", "p"): easy,
    }
    stored(folder, values, frozenset())
    everywhere, shared = tables_of(STUDY, "error")
    assert everywhere.problems == ["p pixels", "q pixels"]
    assert everywhere.solvers == ["a", "b"]
    assert everywhere.values["a"].tolist() == [5.0, 5.5, 6.0, 6.5, 7.0, 10.5]
    assert shared.problems == ["p pixels"]
    assert shared.values["c"].tolist() == easy


def test_a_solver_with_a_failed_row_is_averaged_over_no_easier_problems(folder: Path) -> None:
    ones, twos = [1.0] * 6, [2.0] * 6
    values = {("a", "p"): ones, ("a", "q"): twos, ("b", "p"): ones, ("b", "q"): ones}
    stored(folder, values, frozenset({("b", "q")}))
    everywhere, shared = tables_of(STUDY, "error")
    assert list(everywhere.values) == ["a"]
    assert shared.problems == ["p pixels"]


def test_references_are_listed_and_not_ranked(folder: Path) -> None:
    stored(folder, {("exact", "p"): [0.0] * 6, ("a", "p"): [1.0] * 6}, frozenset())
    (table,) = tables_of(STUDY, "error")
    assert table.solvers == ["a"]
    assert "exact" in table.values


def test_the_page_is_what_the_committed_files_say() -> None:
    assert leaderboard.PAGE.read_text(encoding="utf-8") == leaderboard.page()


def test_what_is_committed_of_other_searches_stays(folder: Path) -> None:
    def search(**values: object) -> pd.DataFrame:
        return pd.DataFrame([values])

    old = [search(study="arena", solver=name, value=1.0) for name in ("a", "b")]
    pd.concat(old).to_parquet(folder / "tuned.parquet")
    new = [
        search(study="arena", solver="b", value=2.0),
        search(study="mine", solver="a", value=3.0),
    ]
    leaderboard._update("tuned", new, key=("study", "solver"))
    found = pd.read_parquet(folder / "tuned.parquet")
    assert found.to_dict("list") == {
        "study": ["arena", "arena", "mine"],
        "solver": ["a", "b", "a"],
        "value": [1.0, 2.0, 3.0],
    }
