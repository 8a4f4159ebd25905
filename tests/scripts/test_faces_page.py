"""The page of the faces: it is what the committed files say, and its verdicts are by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scripts import faces_page, leaderboard

IMAGES = [f"micah_test_{i:05d}" for i in range(8)]
NEAR = [0.1, 0.2, 0.1, 0.3, 0.2, 0.1, 0.2, 0.3]


def cells(**masks: str) -> pd.DataFrame:
    return pd.DataFrame({"cell": [*masks], "label": [*masks], "mask": [*masks.values()]})


def images(**values: list[float]) -> pd.DataFrame:
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "cell": name,
                    "image_id": IMAGES,
                    "face_weights_error": numbers,
                    "face_coverage": 1 - np.array(numbers),
                    "face_distance": numbers,
                    "face_calibration": 0.0,
                }
            )
            for name, numbers in values.items()
        ]
    )


@pytest.fixture
def columns() -> list[faces_page.Column]:
    far = [value + 0.5 for value in NEAR]
    chosen = cells(exact="rotated", bad="rotated", good="rotated")
    return faces_page.columns_of(chosen, images(exact=NEAR, bad=far, good=NEAR[::-1]))


def test_a_mask_is_named_by_the_part_it_hides() -> None:
    part, line = ({"mask": "face_part part=eyes sha256=684b504a"}, {"mask": "rotated"})
    assert leaderboard.mask_of(pd.Series(part)) == "eyes"
    assert leaderboard.mask_of(pd.Series(line)) == "rotated"


def test_solvers_on_one_side_of_another_are_those_told_apart(columns) -> None:
    weights, coverage = columns[:2]
    assert weights.values["bad"].mean() == pytest.approx(0.6875)
    assert (weights.apart("exact", 1), weights.apart("exact", -1)) == (["bad"], [])
    assert (weights.apart("bad", -1), coverage.apart("exact", -1)) == (["exact", "good"], ["bad"])


def test_sentences_and_letters_agree(columns) -> None:
    text = " ".join(faces_page.verdicts(columns))
    assert "Of 3 pairs, these are told apart: 2 by `face_weights_error` (8 images)" in text
    assert "Farther from the posterior than exact draws (`face_weights_error`): `bad`." in text
    assert "draws of the prior" not in text  # there are none in this table
    texts = columns[0].texts()
    assert texts["bad"].startswith("0.688 [")
    assert [texts[name].rsplit(" ")[-1] for name in ("exact", "good", "bad")] == ["a", "a", "b"]


def test_a_difference_is_bold_where_the_two_are_told_apart(columns) -> None:
    board = faces_page.Board(leaderboard.FACES_LARGE, "rotated", pd.DataFrame(), columns)
    lines = [*faces_page.differences([board], "face_weights_error", "exact")]
    assert lines[:2] == ["| solver | hidden beyond a rotated line |", "| --- | ---: |"]
    # the mean difference is that of the numbers above; the other order has the same mean
    assert lines[2].startswith("| `good` | +0.000 [-")
    assert lines[3].startswith("| `bad` | **+0.500 [0.500, 0.500]**")
    assert len(lines) == 4
    assert "**-0.500" in [*faces_page.differences([board], "face_coverage", "exact")][3]


def test_the_figure_shows_the_means_and_intervals_of_the_large_study(columns) -> None:
    large, small = (
        faces_page.Board(study, "rotated", pd.DataFrame(), columns)
        for study in (leaderboard.FACES_LARGE, leaderboard.FACES)
    )
    assert faces_page.points([small]) == {}
    (title, shown), *others = faces_page.points([large, small]).items()
    assert (title, others) == ("Hidden beyond a rotated line", [])
    assert shown.loc["bad", "face_distance"] == pytest.approx(0.6875)
    line = shown.loc["exact"]
    assert line["face_weights_error_lo"] < line["face_weights_error"] == pytest.approx(0.1875)


def test_an_image_without_a_value_of_one_solver_counts_for_none() -> None:
    chosen = cells(exact="rotated", good="rotated")
    found = faces_page.columns_of(chosen, images(exact=[*NEAR[:6], np.nan, np.nan], good=NEAR))
    assert [len(column.values) for column in found] == [6, 6, 6, 8]
    few = faces_page.columns_of(chosen, images(exact=[*NEAR[:5], *[np.nan] * 3], good=NEAR))
    assert [column.metric for column in few] == ["face_calibration"]


def test_the_page_is_what_the_committed_files_say() -> None:
    assert faces_page.PAGE.read_text(encoding="utf-8") == faces_page.page(faces_page.boards())
