"""The figure shows the numbers of the leaderboard, and nothing that is not there."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from posterior_bench.bench.analysis import bar_figure, figures, study_figure

COLUMNS = ["solver", "data", "mask", "operator", "nfe", "psnr", "psnr_lo", "psnr_hi"]


@pytest.fixture
def frame() -> pd.DataFrame:
    lines = [
        ["dps", "g2", "pixels", "inpainting", 100, 20.0, 19.0, 22.0],
        ["ddnm", "g2", "pixels", "inpainting", 50, 25.0, 24.0, np.inf],
        ["exact", "g2", "pixels", "inpainting", 0, 30.0, 29.0, 31.0],
        ["dps", "g2", "pixels", "projection", 100, np.nan, np.nan, np.nan],
        ["ddnm", "g2", "pixels", "projection", 10, 18.0, 17.0, 18.5],
    ]
    frame = pd.DataFrame(lines, columns=COLUMNS)
    frame.attrs = {"metrics": {"psnr": {"title": "PSNR", "direction": "up", "unit": "dB"}}}
    return frame


def test_points_and_intervals_are_those_of_the_table(frame: pd.DataFrame) -> None:
    figure = figures.draw(frame, "nfe", "psnr")
    first, second = (axes for axes in figure.axes if axes.get_title(loc="left"))
    assert first.get_title(loc="left") == "g2\npixels · inpainting" and first.get_xscale() == "log"
    points = {tuple(np.ravel(bars.lines[0].get_xydata())): bars for bars in first.containers}
    assert set(points) == {(100.0, 20.0), (50.0, 25.0)}
    (segment,) = points[100.0, 20.0].lines[2][0].get_segments()
    assert segment.tolist() == [[100.0, 19.0], [100.0, 22.0]]
    # no end at infinity
    assert points[50.0, 25.0].lines[2][0].get_segments()[0].tolist() == [[50.0, 24.0], [50.0, 25.0]]
    # what costs nothing is a line across, on a logarithmic axis
    assert [line.get_ydata()[0] for line in first.lines if list(line.get_xdata()) == [0, 1]] == [
        30.0
    ]
    assert [tuple(np.ravel(bars.lines[0].get_xydata())) for bars in second.containers] == [
        (10.0, 18.0)
    ]
    assert first.get_ylim()[0] < 19 and "PSNR in dB, higher is better" in {
        text.get_text() for text in figure.texts
    } | {figure.get_supylabel()}


def test_a_solver_looks_the_same_in_every_panel(frame: pd.DataFrame) -> None:
    looks: dict[tuple[float, float], set[object]] = {}
    figure = figures.draw(frame, "nfe", "psnr")
    keys = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    assert keys == {"dps", "ddnm", "exact"}
    for axes in figure.axes:
        for bars in axes.containers:
            point = bars.lines[0]
            looks[tuple(np.ravel(point.get_xydata()))] = {point.get_marker(), point.get_color()}
    assert looks[50.0, 25.0] == looks[10.0, 18.0] != looks[100.0, 20.0]


def test_costs_are_passes_and_seconds(frame: pd.DataFrame) -> None:
    """DDNM takes half the evaluations of MMPS, and MMPS four times the passes: only one of them is
    on the front."""
    lines = [
        ["mmps", "g2", "pixels", "inpainting", 30, 120, 22.0, 0.5],
        ["ddnm", "g2", "pixels", "inpainting", 60, 60, 25.0, 0.2],
    ]
    frame = pd.DataFrame(
        lines, columns=["solver", *figures.GROUP, "nfe", "passes", "psnr", "seconds_sample"]
    )
    frame = frame.assign(psnr_lo=frame["psnr"], psnr_hi=frame["psnr"], seconds_fit=0.0)
    frame.attrs = {"metrics": {"psnr": {"title": "PSNR", "direction": "up", "unit": "dB"}}}
    passes, seconds = figures.pareto(frame, "psnr").axes
    assert passes.get_xlabel() == "network passes per draw (forward + backward)"
    assert seconds.get_xlabel() == "seconds per draw"
    points = {tuple(np.ravel(bars.lines[0].get_xydata())) for bars in passes.containers}
    assert points == {(120.0, 22.0), (60.0, 25.0)}
    fronts = [
        line.get_xydata().tolist()
        for line in passes.lines
        if line.get_color() == figures.FRONT["color"]
    ]
    assert fronts == [
        [[60.0, 25.0], [120.0, 25.0]]
    ]  # by evaluations alone MMPS would be the cheapest


def test_many_solvers_have_different_looks() -> None:
    pairs = figures._looks(40)
    assert len(set(pairs)) == 40
    assert all(a[0] != b[0] and a[1] != b[1] for a, b in pairwise(pairs))


def test_files_are_written_where_the_study_asks(frame: pd.DataFrame, tmp_path: Path) -> None:
    def asks(figure: object) -> Path | None:
        (tmp_path / "config.yaml").write_text(
            yaml.safe_dump({"study": {"name": "x", "figure": figure}})
        )
        return study_figure.write_figure(tmp_path, frame)

    assert study_figure.write_figure(tmp_path / "nowhere", frame) is None
    assert asks(None) is None and asks({"x": "nfe", "y": "ssim"}) is None
    assert asks({"x": "nfe", "y": "psnr"}) == tmp_path / "figure.png"
    assert Image.open(tmp_path / "figure.png").size[0] > 600
    svg = (tmp_path / "figure.svg").read_bytes()
    assert b"ddnm" in svg and svg.startswith(b"<?xml")
    asks({"x": "nfe", "y": "psnr"})
    assert (tmp_path / "figure.svg").read_bytes() == svg


def test_bars_are_the_least_mean_and_greatest_of_the_table() -> None:
    """Heights and interval lines are read back from the drawing and compared with the table."""
    rows = {"dps": (0.2, 0.3, 0.5), "copaint": (0.1, 0.2, 0.6)}
    columns: dict[str, list[object]] = {
        "solver": list(rows),
        "data": ["imagenet64"] * 2,
        "mask": ["comod"] * 2,
        "operator": ["inpainting"] * 2,
        "draws": [100] * 2,
    }
    for i, end in enumerate(("min", "mean", "max")):
        columns[f"lpips_vgg_{end}"] = [values[i] for values in rows.values()]
        columns[f"lpips_vgg_{end}_lo"] = [values[i] - 0.05 for values in rows.values()]
        columns[f"lpips_vgg_{end}_hi"] = [np.inf, rows["copaint"][i] + 0.1]
    frame = pd.DataFrame(columns)
    assert bar_figure.has_bars(frame, "lpips_vgg") and not bar_figure.has_bars(frame, "lpips_alex")
    frame.attrs = {"metrics": {"lpips_vgg_mean": {"title": "", "direction": "down", "unit": ""}}}
    figure = bar_figure.bar_figure(frame, "lpips_vgg")
    (panel,) = figure.axes
    # methods are sorted by their mean, so copaint stands first
    assert [text.get_text() for text in panel.get_xticklabels()] == ["copaint", "dps"]
    bars = [group for group in panel.containers if hasattr(group, "patches")]
    heights = [[patch.get_height() for patch in group.patches] for group in bars]
    assert heights == [[0.1, 0.2], [0.2, 0.3], [0.6, 0.5]]
    ends = [group.errorbar.lines[2][0].get_segments() for group in bars]
    assert [[line[:, 1].tolist() for line in group] for group in ends] == [
        [pytest.approx([0.05, 0.2]), pytest.approx([0.15, 0.2])],
        [pytest.approx([0.15, 0.3]), pytest.approx([0.25, 0.3])],
        [pytest.approx([0.55, 0.7]), pytest.approx([0.45, 0.5])],
    ]
    assert "100 draws" in figure.get_supylabel() and "lower is better" in figure.get_supylabel()
