from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from rich.console import Console

from posterior_bench.bench.analysis import leaderboard, tables
from posterior_bench.bench.store.row_store import RowStore

METRICS = {
    "psnr": {"title": "PSNR", "direction": "up", "unit": "dB"},
    "lpips_vgg": {"title": "LPIPS", "direction": "down", "unit": ""},
}
IDENTITY = {
    "solver": "dps",
    "data": "fashion",
    "mask": "box",
    "operator": "inpainting",
    "prior": "edm",
    "seed": 0,
    "images": 2,
    "draws": 2,
    "variant": "",
}


def make_cell(
    study: Path, name: str, scores: dict[tuple[str, int], dict[str, float] | None], **changes
) -> None:
    """A cell of images ``a`` and ``b`` with two draws; ``scores`` of None is a failed row, absent
    is a missing one."""
    folder = study / "cells" / name
    provenance = {"commit": "c0ffee", "dirty": changes.pop("dirty", False)}
    metrics = changes.pop("metrics", METRICS)
    config = {
        "cell": name,
        "identity": {**IDENTITY, **changes},
        "chunks": {"one": ["a"], "two": ["b"]},
        "metrics": metrics,
        "provenance": provenance,
        "config": {},
    }
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    for chunk, image in (("one", "a"), ("two", "b")):
        rows = [
            row(name, image, draw, scores[image, draw])
            for draw in (0, 1)
            if (image, draw) in scores
        ]
        if rows:
            RowStore(folder).write(chunk, rows)


def row(cell: str, image: str, draw: int, scores: dict[str, float] | None) -> dict[str, object]:
    costs = {
        "nfe": 100.0 + draw,
        "nge": 10.0,
        "decode": 1.0,
        "seconds_fit": 0.5,
        "seconds_sample": 1.0,
    }
    key = {"cell": cell, "image_id": image, "draw": draw}
    if scores is None:
        return {**key, "status": "oom", "message": "out of memory", "psnr": 0.0}
    return {**key, "status": "ok", **costs, "peak_mib": 50.0 + draw, **scores}


def all_ok(psnr: float, lpips: float) -> dict[tuple[str, int], dict[str, float] | None]:
    return {(image, draw): {"psnr": psnr, "lpips_vgg": lpips} for image in "ab" for draw in (0, 1)}


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_hand_computed_values_and_fixed_columns(tmp_path: Path) -> None:
    # means of the images: 12 and 30 for psnr, 0.2 and 0.4 (one draw undefined) for lpips
    scores = {
        ("a", 0): {"psnr": 10.0, "lpips_vgg": 0.1},
        ("a", 1): {"psnr": 14.0, "lpips_vgg": 0.3},
        ("b", 0): {"psnr": 30.0, "lpips_vgg": 0.4},
        ("b", 1): {"psnr": 30.0, "lpips_vgg": math.nan},
    }
    make_cell(tmp_path, "c1", scores)
    leaderboard.write(tmp_path)
    lines = read(tmp_path / "leaderboard.csv")
    assert " ".join(lines[0]) == (
        "solver data mask operator prior seed images draws failed psnr psnr_lo psnr_hi lpips_vgg "
        "lpips_vgg_lo "
        "lpips_vgg_hi nfe nge passes decode nfe_fit seconds_fit seconds_sample peak_mib"
        " task_version study_version"
    )
    assert len(lines) == 1
    line = lines[0]
    assert list(line.values())[:9] == [
        "dps",
        "fashion",
        "box",
        "inpainting",
        "edm",
        "0",
        "2",
        "2",
        "0",
    ]
    assert float(line["psnr"]) == 21.0
    assert float(line["lpips_vgg"]) == pytest.approx(0.3), "over rows it would be 0.267"
    # two images claim no 95 % interval
    assert {line[f"{m}_{end}"] for m in ("psnr", "lpips_vgg") for end in ("lo", "hi")} == {"nan"}
    costs = ("nfe", "nge", "passes", "decode", "seconds_fit", "seconds_sample", "peak_mib")
    assert [float(line[key]) for key in costs] == [100.5, 10.0, 110.5, 1.0, 0.5, 1.0, 51.0]


def test_tables_show_passes_and_seconds_and_say_what_passes_are(tmp_path: Path) -> None:
    """100.5 forwards and 10 backwards; 0.5 s of the fit and 1 s of sampling."""
    make_cell(tmp_path, "c1", all_ok(20.0, 0.2))
    frame = leaderboard.write(tmp_path)
    note = "passes: forward + backward network evaluations per draw"
    for name, rule in (("leaderboard.md", " | "), ("leaderboard.tex", " & ")):
        text = (tmp_path / name).read_text()
        head, line = (
            next(x for x in text.splitlines() if x.strip("| ").startswith(w))
            for w in ("solver", "dps")
        )
        at = [cell.strip("| \\") for cell in head.split(rule)].index("passes")
        assert [cell.strip() for cell in line.split(rule)][at : at + 2] == ["110", "1.50"], name
        assert note in text and "NFE" not in text
    shown = tables.terminal_table(frame, 160)
    assert [str(column.header) for column in shown.columns][-3:] == ["passes", "s / draw", "failed"]
    assert note in str(shown.caption)


def test_a_metric_without_a_value_has_no_column_in_the_tables_of_people(tmp_path: Path) -> None:
    """A ratio to the noise has none without noise; the CSV has every column."""
    metrics = {**METRICS, "ratio": {"title": "Residual / noise", "direction": "none", "unit": ""}}
    make_cell(tmp_path, "c1", all_ok(20.0, 0.2), metrics=metrics)
    leaderboard.write(tmp_path)
    assert (
        "Residual"
        not in (tmp_path / "leaderboard.md").read_text()
        + (tmp_path / "leaderboard.tex").read_text()
    )
    assert "ratio,ratio_lo,ratio_hi" in (tmp_path / "leaderboard.csv").read_text()


def test_long_table_is_tidy(tmp_path: Path) -> None:
    make_cell(tmp_path, "c1", all_ok(20.0, 0.2))
    leaderboard.write(tmp_path)
    lines = read(tmp_path / "leaderboard_long.csv")
    assert " ".join(lines[0]) == (
        "solver data mask operator prior seed images draws metric value lo hi n direction "
        "n_failed rank paper paper_flag deviation n_infinite metric_version task_version "
        "study_version"
    )
    assert [
        (line["metric"], float(line["value"]), line["n"], line["direction"]) for line in lines
    ] == [
        ("psnr", 20.0, "2", "up"),
        ("lpips_vgg", 0.2, "2", "down"),
    ]


def test_rows_that_were_not_planned_do_not_make_up_for_missing_ones(tmp_path: Path) -> None:
    make_cell(tmp_path, "c0", {("a", 0): {"psnr": 10.0, "lpips_vgg": 0.5}})
    more = [
        row("c0", image, draw, {"psnr": 1.0, "lpips_vgg": 0.1})
        for image, draw in (("b", 0), ("b", 2), ("z", 0))
    ]
    RowStore(tmp_path / "cells" / "c0").write("three", more)
    assert leaderboard.build(tmp_path)["missing"].tolist() == [2]


def test_failed_and_missing_rows_never_count_as_zero(tmp_path: Path) -> None:
    # the failed row even carries a score of zero: its status alone decides
    make_cell(tmp_path, "c1", {("a", 0): {"psnr": 10.0, "lpips_vgg": 0.5}, ("a", 1): None})
    frame = leaderboard.write(tmp_path)
    assert frame.loc[0, ["psnr", "lpips_vgg", "psnr_n", "failed", "missing"]].tolist() == [
        10.0,
        0.5,
        1,
        1,
        2,
    ]
    assert math.isnan(frame.loc[0, "psnr_lo"])
    assert read(tmp_path / "leaderboard.csv")[0]["failed"] == "1"
    text = (tmp_path / "leaderboard.md").read_text()
    assert "4 planned, 2 missing, 1 failed" in text
    assert "dps †" in text


def test_a_cell_without_rows_is_a_line_without_numbers(tmp_path: Path) -> None:
    make_cell(tmp_path, "c1", {}, solver="late")
    make_cell(tmp_path, "c2", all_ok(20.0, 0.2))
    make_cell(tmp_path, "c3", {(i, d): None for i in "ab" for d in (0, 1)}, solver="broken")
    frame = leaderboard.write(tmp_path).set_index("solver")
    assert frame["missing"].to_dict() == {"dps": 0, "late": 4, "broken": 0}
    assert frame["failed"].to_dict() == {"dps": 0, "late": 0, "broken": 4}
    assert frame["psnr"].isna().to_dict() == {"dps": False, "late": True, "broken": True}


def test_infinite_values_are_counted_and_named(tmp_path: Path) -> None:
    make_cell(
        tmp_path,
        "c1",
        {**all_ok(20.0, 0.2), ("a", 0): {"psnr": math.inf, "lpips_vgg": 0.0}},
        solver="once",
    )
    make_cell(tmp_path, "c2", all_ok(math.inf, 0.3), solver="always")
    make_cell(tmp_path, "c3", all_ok(19.0, 0.2), solver="usual")
    make_cell(tmp_path, "c4", all_ok(18.0, 0.2), solver="worse")
    frame = leaderboard.write(tmp_path)
    lines = {line["solver"]: line for line in read(tmp_path / "leaderboard.csv")}
    assert {name: (line["psnr"], line["psnr_inf"]) for name, line in lines.items()} == {
        "always": ("inf", "2"),
        "once": ("20.0", "1"),
        "usual": ("19.0", "0"),
        "worse": ("18.0", "0"),
    }
    assert "lpips_vgg_inf" not in lines["once"], "a column without infinities needs no count"
    long = {
        (line["solver"], line["metric"]): line["n_infinite"]
        for line in read(tmp_path / "leaderboard_long.csv")
    }
    assert (long["once", "psnr"], long["always", "psnr"], long["once", "lpips_vgg"]) == (
        "1",
        "2",
        "0",
    )
    text = (tmp_path / "leaderboard.md").read_text()
    assert "20.00 (1 of 2 infinite)" in text and "∞ (2 of 2 infinite)" in text
    (note,) = [note for note in frame.attrs["notes"] if "Infinite values" in note]
    assert note.endswith("psnr: always 2 of 2, once 1 of 2.") and note in text
    assert "(1 of 2 infinite)" in (tmp_path / "leaderboard.tex").read_text()
    # perfect images are not in the mean, so these cells are neither best nor second
    assert dict(zip(frame["solver"], tables.ranking(frame, "psnr", "up"), strict=True)) == {
        **{"always": "", "once": "", "usual": "best", "worse": "second"}
    }


def test_a_column_that_is_infinite_by_construction_is_named_once(tmp_path: Path) -> None:
    """Pasted images are perfect where they were observed: every noiseless cell has such a
    column."""
    cards = {name: METRICS["psnr"] for name in ("psnr", "psnr_known_pasted", "psnr_known")}
    for i in range(9):
        scores = dict.fromkeys(cards, math.inf) | {
            "psnr": 20.0 + i,
            "psnr_known": math.inf if i else 1.0,
        }
        make_cell(
            tmp_path, f"c{i}", dict.fromkeys(all_ok(0, 0), scores), solver=f"s{i}", metrics=cards
        )
    (note,) = [
        note for note in leaderboard.build(tmp_path).attrs["notes"] if "Infinite values" in note
    ]
    assert "psnr_known_pasted: all images of all cells" in note
    assert "psnr_known: 8 of 9 cells, counted in psnr_known_inf" in note and "psnr:" not in note


def test_few_images_have_no_interval_in_any_table(tmp_path: Path) -> None:
    make_cell(
        tmp_path,
        "c1",
        {(i, d): {"psnr": 20.0 + d + (i == "b"), "lpips_vgg": 0.2} for i in "ab" for d in (0, 1)},
    )
    frame = leaderboard.write(tmp_path)
    printed = [
        line
        for line in (tmp_path / "leaderboard.md").read_text().splitlines()
        if line.startswith("| dps")
    ]
    assert "21.00" in printed[0] and "[" not in printed[0]
    row = next(
        line
        for line in (tmp_path / "leaderboard.tex").read_text().splitlines()
        if line.startswith("dps")
    )
    assert "[" not in row
    shown = on_terminal(frame, 200)
    assert "21.00" in shown and "±" not in shown
    note = "No interval where fewer than 6 images have a value"
    assert note in frame.attrs["notes"][0] and "bootstrap" not in frame.attrs["notes"][0]


def on_terminal(frame: pd.DataFrame, width: int, **settings: object) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(leaderboard.table(frame, width, **settings))
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("value", "lo", "hi", "text", "ends"),
    [
        # halves of the intervals are .115, 1.4, .0055 and 50
        (0.11, 0.037, 0.266, "0.11", "[0.04, 0.27]"),
        (21.3456, 20.1, 22.9, "21.3", "[20.1, 22.9]"),
        (0.144, 0.1385, 0.1495, "0.1440", "[0.1385, 0.1495]"),
        (0.144, -49.9, 50.1, "0.14", "[-49.90, 50.10]"),
        (-0.0191, -30.0, 29.0, "-0.02", "[-30.00, 29.00]"),
        (-1e-9, -0.02, 0.02, "0.00000", "[-0.02000, 0.02000]"),
        (1234.5, 1100.0, 1400.0, "1234", "[1100, 1400]"),
        (3.2e-11, 2e-11, 4e-11, "3.20e-11", "[2.00e-11, 4.00e-11]"),
        # without an interval: four digits
        (0.1, math.nan, math.nan, "0.1000", ""),
        (1234.56, math.nan, math.nan, "1235", ""),
        (0.0, math.nan, math.nan, "0.0000", ""),
        (math.nan, math.nan, math.nan, "—", ""),
        (5.0, 5.0, 5.0, "5.000", "[5.000, 5.000]"),
    ],
)
def test_decimals_fit_the_value_and_its_interval(
    value: float, lo: float, hi: float, text: str, ends: str
) -> None:
    line = pd.Series({"m": value, "m_lo": lo, "m_hi": hi, "m_n": 8, "m_inf": 0})
    assert tables.value_and_interval(line, "m") == (text, ends)


def test_order_and_ranking_follow_the_direction(tmp_path: Path) -> None:
    for i, (solver, psnr, lpips) in enumerate(
        [("worst", 10.0, 0.1), ("best", 30.0, 0.3), ("middle", 20.0, 0.2)]
    ):
        make_cell(tmp_path, f"c{i}", all_ok(psnr, lpips), solver=solver)
    make_cell(tmp_path, "c9", all_ok(99.0, 0.0), solver="alone", mask="another")
    frame = leaderboard.write(tmp_path)
    assert frame["solver"].tolist() == ["alone", "best", "middle", "worst"]
    lines = frame[frame["mask"] == "box"]
    assert tables.ranking(lines, "psnr", "up").tolist() == ["best", "second", ""]
    assert tables.ranking(lines, "lpips_vgg", "down").tolist() == ["", "second", "best"]
    assert set(tables.ranking(lines, "psnr", "none")) == {""}
    text = (tmp_path / "leaderboard.md").read_text()
    assert "PSNR (dB) ↑" in text
    assert "LPIPS ↓" in text
    assert "**30.00**" in text
    assert "<u>20.00</u>" in text
    assert "**0.1000**" in text
    assert "**99.00**" not in text, "a cell alone in its group has nothing to be better than"
    latex = (tmp_path / "leaderboard.tex").read_text()
    assert r"\textbf{30.00}" in latex
    assert r"\underline{20.00}" in latex
    assert r"LPIPS $\downarrow$" in latex


HOLES = {name: {"title": name, "direction": "up", "unit": "dB"} for name in ("psnr", "psnr_hole")}


def test_lines_are_sorted_by_a_column_that_is_shown(tmp_path: Path) -> None:
    """By the hole, which the terminal shows, where there is one; the whole image says the opposite
    here."""
    for i, (solver, whole, hole) in enumerate(
        [("x", 30.0, 10.0), ("y", 20.0, 20.0), ("z", 25.0, 15.0)]
    ):
        scores = {key: {"psnr": whole, "psnr_hole": hole} for key in all_ok(0, 0)}
        make_cell(tmp_path, f"c{i}", scores, solver=solver, metrics=HOLES)
        without = {key: {"psnr": whole, "psnr_hole": math.nan} for key in all_ok(0, 0)}
        make_cell(tmp_path, f"d{i}", without, solver=solver, metrics=HOLES, mask="none")
    frame = leaderboard.build(tmp_path)
    assert frame[frame["mask"] == "box"]["solver"].tolist() == ["y", "z", "x"]
    assert frame[frame["mask"] == "none"]["solver"].tolist() == ["x", "z", "y"]
    shown = on_terminal(frame[frame["mask"] == "box"], 60)
    assert (
        shown.index("20.00") < shown.index("15.00") < shown.index("10.00") and "30.00" not in shown
    )


def test_metrics_that_were_asked_for_are_shown_first(tmp_path: Path) -> None:
    names = ("psnr", "ssim", "lpips_vgg", "stlpips", "dists", "kid")
    cards = {name: {"title": name, "direction": "down", "unit": ""} for name in names}
    scores = {key: dict.fromkeys(names, 0.5) for key in all_ok(0, 0)}
    make_cell(tmp_path, "c1", scores, metrics=cards)
    frame = leaderboard.build(tmp_path)
    assert "kid" not in on_terminal(frame, 200) and "kid" in on_terminal(frame, 200, first=["kid"])
    narrow = on_terminal(frame, 60, first=["kid"])
    assert "kid" in narrow and "psnr" not in narrow


def test_different_draws_are_not_ranked_together(tmp_path: Path) -> None:
    make_cell(tmp_path, "c1", all_ok(20.0, 0.2), solver="two")
    one = {key: value for key, value in all_ok(19.0, 0.3).items() if key[1] == 0}
    make_cell(tmp_path, "c2", one, solver="one", draws=1)
    make_cell(
        tmp_path,
        "c3",
        {key: {"psnr": 18.0, "lpips_vgg": 0.3} for key in one},
        solver="one more",
        draws=1,
    )
    frame = leaderboard.build(tmp_path)
    assert len(frame.groupby(tables.GROUP)) == 1, "they stand in one table"
    places = dict(zip(frame["solver"], tables.ranking(frame, "psnr", "up"), strict=True))
    assert places == {"two": "", "one": "best", "one more": "second"}
    assert any(
        "different draws an image (1 to 2) are not ranked" in note for note in frame.attrs["notes"]
    )


def test_lower_is_better_sorts_upwards(tmp_path: Path) -> None:
    down = {"lpips_vgg": METRICS["lpips_vgg"]}
    for i, (solver, lpips) in enumerate([("b", 0.3), ("a", 0.1), ("c", 0.2)]):
        scores = {key: {"lpips_vgg": lpips} for key in all_ok(0, 0)}
        make_cell(tmp_path, f"c{i}", scores, solver=solver, metrics=down)
    assert leaderboard.build(tmp_path)["solver"].tolist() == ["a", "c", "b"]


def test_incomplete_cells_are_not_ranked_and_ties_share_a_place(tmp_path: Path) -> None:
    make_cell(tmp_path, "c1", {**all_ok(90.0, 0.1), ("b", 0): None}, solver="lucky")
    make_cell(tmp_path, "c2", all_ok(20.0, 0.1), solver="one")
    make_cell(tmp_path, "c3", all_ok(20.0, 0.1), solver="two")
    make_cell(tmp_path, "c4", all_ok(10.0, 0.1), solver="last")
    frame = leaderboard.build(tmp_path)
    places = dict(zip(frame["solver"], tables.ranking(frame, "psnr", "up"), strict=True))
    assert places == {"lucky": "", "one": "best", "two": "best", "last": "second"}


def test_equal_identities_are_told_apart(tmp_path: Path) -> None:
    make_cell(tmp_path, "aaaaaaaa11", all_ok(20.0, 0.2), variant="zeta=0.5")
    make_cell(tmp_path, "bbbbbbbb22", all_ok(19.0, 0.2), variant="")
    make_cell(tmp_path, "cccccccc33", all_ok(18.0, 0.2), variant="")
    make_cell(tmp_path, "dddddddd44", all_ok(17.0, 0.2), solver="ddrm", variant="steps=5")
    frame = leaderboard.build(tmp_path)
    assert frame["solver"].tolist() == ["dps zeta=0.5", "dps [bbbbbbbb]", "dps [cccccccc]", "ddrm"]
    assert any("ddrm: steps=5" in note for note in frame.attrs["notes"])
    console = Console(width=200, file=io.StringIO())
    console.print(leaderboard.table(frame))
    assert "dps [bbbbbbbb]" in console.file.getvalue(), "brackets must not be read as markup"


def test_dirty_cells_are_named(tmp_path: Path) -> None:
    make_cell(tmp_path, "c1", all_ok(20.0, 0.2))
    assert not any("dirty" in note for note in leaderboard.build(tmp_path).attrs["notes"])
    make_cell(tmp_path, "c2", all_ok(20.0, 0.2), solver="repaint", dirty=True)
    leaderboard.write(tmp_path)
    for name in ("leaderboard.md", "leaderboard.tex"):
        text = (tmp_path / name).read_text()
        assert "WARNING: 1 of 2 cells ran on a dirty tree" in text
        assert "(repaint)" in text
        assert "c0ffee" in text
        assert "2 images x 2 draws" in text


def test_cells_without_provenance_take_the_environment(tmp_path: Path) -> None:
    make_cell(tmp_path, "c1", all_ok(20.0, 0.2))
    path = tmp_path / "cells" / "c1" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    del config["provenance"]
    path.write_text(yaml.safe_dump(config))
    (tmp_path / "environment.json").write_text(json.dumps({"dirty": True, "commit": "abc"}))
    notes = " ".join(leaderboard.build(tmp_path).attrs["notes"])
    assert "WARNING" in notes
    assert "Commit: abc." in notes


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-2", "@sum"])
def test_formulas_are_disarmed_in_csv(tmp_path: Path, text: str) -> None:
    make_cell(tmp_path, "c1", all_ok(-5.0, 0.2), solver=text)
    leaderboard.write(tmp_path)
    line = read(tmp_path / "leaderboard.csv")[0]
    assert line["solver"] == f"'{text}"
    assert float(line["psnr"]) == -5.0, "numbers stay numbers"
    assert read(tmp_path / "leaderboard_long.csv")[0]["solver"] == f"'{text}"


def test_markdown_and_latex_are_escaped(tmp_path: Path) -> None:
    make_cell(tmp_path, "c1", all_ok(20.0, 0.2), solver="a|b_50%&{x}\\$^~#", data="two\nlines")
    leaderboard.write(tmp_path)
    lines = [
        line
        for line in (tmp_path / "leaderboard.md").read_text().splitlines()
        if line.startswith("| a")
    ]
    assert len(lines) == 1
    assert r"a\|b_50%" in lines[0]
    unescaped = lines[0].replace(r"\|", "")
    head = next(
        line
        for line in (tmp_path / "leaderboard.md").read_text().splitlines()
        if line.startswith("| solver")
    )
    assert unescaped.count("|") == head.count("|")
    latex = (tmp_path / "leaderboard.tex").read_text()
    wanted = r"a\textbar{}b\_50\%\&\{x\}\textbackslash{}\$\textasciicircum{}\textasciitilde{}\#"
    assert wanted in latex


def test_rebuilt_from_shards_alone(tmp_path: Path) -> None:
    make_cell(tmp_path, "c1", all_ok(20.0, 0.2))
    make_cell(tmp_path, "c2", {**all_ok(21.0, 0.1), ("a", 1): None}, solver="repaint")
    leaderboard.write(tmp_path)
    names = [f"leaderboard.{end}" for end in ("csv", "md", "tex", "parquet")] + [
        "leaderboard_long.csv"
    ]
    before = {name: (tmp_path / name).read_bytes() for name in names}
    for name in names:
        (tmp_path / name).unlink()
    leaderboard.write(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in names} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "cells"]), (
        "no dot-file is left"
    )


def test_parquet_holds_what_the_csv_cannot(tmp_path: Path) -> None:
    make_cell(tmp_path, "c1", {("a", 0): {"psnr": 10.0, "lpips_vgg": 0.5}})
    leaderboard.write(tmp_path)
    line = pd.read_parquet(tmp_path / "leaderboard.parquet").iloc[0]
    assert line[["missing", "cell", "commit", "dirty", "psnr_n"]].tolist() == [
        3,
        "c1",
        "c0ffee",
        False,
        1,
    ]


def test_cells_with_different_metrics_share_a_table(tmp_path: Path) -> None:
    make_cell(
        tmp_path, "c1", {k: {"psnr": 20.0} for k in all_ok(0, 0)}, metrics={"psnr": METRICS["psnr"]}
    )
    make_cell(tmp_path, "c2", all_ok(19.0, 0.2), solver="repaint")
    frame = leaderboard.build(tmp_path).set_index("solver")
    assert list(frame.attrs["metrics"]) == ["psnr", "lpips_vgg"]
    assert math.isnan(frame.loc["dps", "lpips_vgg"])
    assert frame.loc["repaint", "lpips_vgg"] == pytest.approx(0.2)


def test_a_folder_without_cells_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a study folder"):
        leaderboard.build(tmp_path)


def test_needs_no_torch() -> None:
    code = (
        "import sys, posterior_bench.bench.analysis.leaderboard; sys.exit('torch' in sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False
        ).returncode
        == 0
    )


def test_headlines_of_operators_without_holes():
    cards = {name: {} for name in ("psnr", "psnr_hole", "psnr_known", "ssim", "ssim_hole")}
    frame = pd.DataFrame(
        {
            "psnr": [20.0],
            "psnr_hole": [math.nan],
            "psnr_known": [20.0],
            "ssim": [0.5],
            "ssim_hole": [0.4],
        }
    )
    assert tables.headlines(cards, frame) == ["psnr", "ssim_hole"]
    assert tables.headlines(cards) == ["psnr_hole", "ssim_hole"]
