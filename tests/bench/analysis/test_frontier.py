"""Who is best at which budget, from rows whose front is known by hand, to the figure."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation, Text
from scipy.optimize import lsq_linear
from tests.bench.harness import verb

from posterior_bench.bench.analysis import frontier_figure, frontier_table
from posterior_bench.bench.analysis.frontier import Frontier, frontier
from posterior_bench.bench.analysis.label_places import spread
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.store.row_store import RowStore

CARDS = {
    "error": {"title": "Error", "direction": "down", "unit": ""},
    "score": {"title": "Score", "direction": "up", "unit": "dB"},
    "fid": {"title": "FID", "direction": "down", "unit": "", "level": "set"},
}


def cell(
    study: Path,
    solver: str,
    budget: int | None,
    error: float | list[float],
    images: int = 8,
    passes: int | None = None,
    failed: int = 0,
    **identity: object,
) -> None:
    """A cell of one draw an image. Images differ by 0.1, and ``error`` is added to that."""
    name = f"{solver}-{budget}".replace(" ", "-")
    words = {"data": "faces", "mask": "box", "operator": "inpainting", "prior": "small"}
    text = None if budget is None else f"passes:{budget}"
    variant = f"steps={budget} budget={text}" if budget else ""
    line = {"solver": solver, **words, "seed": 0, "images": images, "draws": 1, "variant": variant}
    ids = [f"{i:03d}" for i in range(images)]
    folder = study / "cells" / name
    folder.mkdir(parents=True)
    record = {"cell": name, "identity": {**line, **identity}, "chunks": {"one": ids}}
    record |= {"metrics": CARDS, "config": {"budget": text, "metrics": {"fid": {}}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(record))
    values = 0.1 * np.arange(images) + error
    cost = budget if passes is None else passes
    row = {"cell": name, "draw": 0, "status": "ok", "nfe": float(cost or 0), "nge": 0.0}
    rows = [
        {**row, "image_id": image, "error": value, "score": -value}
        for image, value in zip(ids, values.tolist(), strict=True)
    ]
    for row in rows[:failed]:
        row.update(status="nan", message="not finite")
    RowStore(folder).write("one", rows)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two budgets. ``quick`` wins the first and ``slow`` the second; ``twin`` is ``quick`` with
    differences that cancel; ``broken`` would win both, but an image failed; ``heavy`` has no cell
    of 25 passes; ``once`` and ``free`` have no budget."""
    folder = tmp_path / "study"
    cancel = [0.01, -0.01] * 4
    for budget, quick, slow in ((25, 0.2, 0.4), (100, 0.2, 0.1)):
        cell(folder, "quick", budget, quick)
        cell(folder, "twin", budget, [quick + d for d in cancel], passes=budget - 1)
        cell(folder, "slow", budget, slow)
        cell(folder, "broken", budget, 0.0, failed=1)
    cell(folder, "heavy", 100, 0.5)
    cell(folder, "once", None, 0.3, passes=60)
    cell(folder, "free", None, 0.0, passes=0)
    (folder / "config.yaml").write_text("study: {name: x, figure: {x: passes, y: error}}\n")
    return folder


def front(found: Frontier, budget: int) -> list[str]:
    return [*found.best.loc[found.best["budget"] == f"passes:{budget}", "solver"]]


def test_the_front_of_every_budget_is_the_one_worked_out_by_hand(study: Path) -> None:
    found = frontier([study])
    assert found.metric == "error"
    assert front(found, 25) == ["quick", "twin"] and front(found, 100) == ["slow"]
    best = found.best.set_index(["budget", "solver"])
    assert [*found.best["place"]] == ["best", "alike", "best"]
    # who competes: at 25 quick, twin and slow; at 100 heavy too, and what took 60 passes once
    assert [*found.best["solvers"]] == [3, 3, 5]
    twin = best.loc[("passes:25", "twin")]
    assert (twin["p"], twin["difference"]) == (1.0, pytest.approx(0))
    assert twin["difference_lo"] < 0 < twin["difference_hi"] and twin["passes"] == 24
    # images are 0, 0.1, ..., 0.7
    assert best.loc[("passes:25", "quick"), "value"] == pytest.approx(0.35 + 0.2)
    assert best.loc[("passes:25", "quick"), "lo"] < 0.55 < best.loc[("passes:25", "quick"), "hi"]
    points = found.points.set_index(["solver", "budget"])
    on_front = points.index[points["front"]]
    assert {*on_front} == {("quick", "passes:25"), ("twin", "passes:25"), ("slow", "passes:100")}


def test_a_metric_that_goes_up_has_the_same_fronts(study: Path) -> None:
    found = frontier([study], "score")
    assert front(found, 25) == ["quick", "twin"] and front(found, 100) == ["slow"]
    assert (found.best["difference"] <= 1e-12).all()  # of the others from the best


def test_failed_rows_and_absent_cells_are_said_and_not_ranked(study: Path) -> None:
    found = frontier([study])
    broken = found.points[found.points["solver"] == "broken"]
    assert not broken["ranked"].any() and not broken["front"].any()
    assert [*broken["failed"]] == [1, 1] and [*broken["n"]] == [7, 7]
    text = frontier_table.markdown(found)
    assert "rows failed or are missing: broken at 25 passes, 100 passes." in text
    assert "No cell of 25 passes: heavy." in text and "No cell of 100 passes" not in text
    assert "unless they take none: free 0, once 60.0." in text
    assert "| 25 passes | **quick** | 0.55 [" in text and "| twin 0.55 | 3 |" in text
    assert "| 100 passes | **slow** |" in text and "| nobody | 5 |" in text


def test_few_images_have_no_verdict(tmp_path: Path) -> None:
    for solver, error in (("quick", 0.1), ("slow", 0.2)):
        cell(tmp_path, solver, 25, error, images=5)
    found = frontier([tmp_path], "error")
    assert front(found, 25) == ["quick"] and np.isnan(found.best["p"]).all()
    assert np.isnan(found.points["lo"]).all()
    text = frontier_table.markdown(found)
    assert "| not tested |" in text and "Fewer than 6 images" in text


def test_a_problem_without_values_has_no_table_and_no_figure(study: Path, tmp_path: Path) -> None:
    cell(tmp_path / "more", "lost", 25, 0.2, failed=8, mask="other")
    found = frontier([study, tmp_path / "more"])
    text = frontier_table.markdown(found)
    part = text[text.index("## faces · other") :]
    assert "No image has a value." in part and "lost at 25 passes" in part and "|" not in part
    names = {path.name for path in frontier_table.write(found, tmp_path / "out")}
    assert {name for name in names if "other" in name} == set()


def test_several_studies_count_a_cell_once(study: Path, tmp_path: Path) -> None:
    cell(tmp_path / "more", "quick", 25, 0.2)
    cell(tmp_path / "more", "late", 25, 0.9)
    found = frontier([study, tmp_path / "more"])
    assert {*found.points["solver"]} == {*frontier([study]).points["solver"], "late"}
    assert not found.points.duplicated("cell").any()


def test_settings_name_a_curve_only_where_one_solver_has_two(tmp_path: Path) -> None:
    """``steps`` follows from the budget and names nothing; ``eta`` is the user's."""
    for budget in (25, 100):
        cell(tmp_path, "quick", budget, 0.1)
        words = f"eta=0 steps={budget} budget=passes:{budget}"
        cell(tmp_path, "quick eta", budget, 0.2, variant=words)
    for path in tmp_path.glob("cells/quick-eta-*/config.yaml"):
        path.write_text(path.read_text().replace("solver: quick eta", "solver: quick"))
    assert {*frontier([tmp_path], "error").points["solver"]} == {"quick", "quick eta=0"}


def test_other_images_are_another_problem(tmp_path: Path) -> None:
    for seed in (0, 1):
        cell(tmp_path, f"s{seed}", 25, 0.1, seed=seed)
    problems = {*frontier([tmp_path], "error").points["problem"]}
    assert problems == {f"faces · box · inpainting · seed {seed}" for seed in (0, 1)}


# -- labels and the figure -------------------------------------------------------------------------

LABELS = st.lists(st.tuples(st.floats(-50, 150), st.floats(1, 10)), min_size=1, max_size=9)


@settings(deadline=None, max_examples=40)
@given(labels=LABELS)
def test_labels_never_overlap_and_move_as_little_as_can_be(
    labels: list[tuple[float, float]],
) -> None:
    wanted, heights = np.array(labels).T
    places = spread(wanted, heights, 0.0, 100.0)
    order = np.argsort(wanted, kind="stable")
    tops, bottoms = (places + heights / 2)[order], (places - heights / 2)[order]
    assert (bottoms[1:] >= tops[:-1] - 1e-6).all()
    assert bottoms[0] >= -1e-6 and tops[-1] <= 100 + 1e-6
    # the same least squares by scipy: the room below each label, none of it negative
    steps = np.tril(np.ones((len(wanted), len(wanted))))
    offsets = np.cumsum(heights[order]) - heights[order] / 2
    room = 100 - heights.sum()
    if room > 1 and np.all((wanted[order] - offsets >= 0) & (wanted[order] - offsets <= room)):
        theirs = lsq_linear(steps, wanted[order] - offsets, (0, np.inf), tol=1e-12).x
        np.testing.assert_allclose(places[order] - offsets, steps @ theirs, atol=1e-3)


def test_labels_with_room_stay_and_too_many_are_refused() -> None:
    wanted = np.array([80.0, 20.0, 50.0])
    assert spread(wanted, np.full(3, 10.0), 0, 100).tolist() == wanted.tolist()
    assert spread(np.array([50.0, 50.0]), np.full(2, 10.0), 0, 100).tolist() == [45, 55]
    # three that touch stand about the mean of what they want, 47
    block = spread(np.array([40.0, 50.0, 51.0]), np.full(3, 20.0), 0, 100)
    assert block.tolist() == [27, 47, 67]
    with pytest.raises(ValueError, match="do not fit"):
        spread(wanted, np.full(3, 40.0), 0, 100)


def many(solvers: int) -> Frontier:
    """Curves of many solvers through five budgets, close to each other at the end."""
    rng = np.random.default_rng(0)
    budgets = [25, 50, 100, 200, 400]
    points = pd.DataFrame(
        [
            {"problem": "p", "solver": f"solver_{i:02d}", "budget": f"passes:{b}", "passes": b}
            | {"value": 0.05 + i / b, "lo": i / b, "hi": 0.1 + i / b, "ranked": True}
            | {"front": i < 4, "failed": 0, "missing": 0}
            for i in rng.permutation(solvers)
            for b in budgets
        ]
    )
    best = [
        {"problem": "p", "solver": f"solver_{i:02d}", "budget": f"passes:{b}", "difference": i / b}
        | {"place": "alike" if i else "best"}
        for i in range(4)
        for b in budgets
    ]
    return Frontier("error", CARDS["error"], points, pd.DataFrame(best))


@pytest.mark.parametrize("size", [frontier_figure.FULL, frontier_figure.COLUMN])
def test_names_of_a_figure_stand_apart_and_inside(size: frontier_figure.Size) -> None:
    found = many(35)
    figure = frontier_figure.frontier_figure(found, "p", size)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    (panel,) = figure.axes
    names = [text for text in panel.texts if isinstance(text, Annotation)]
    fronts = {f"solver_{i:02d}" for i in range(4)}
    every = {*found.points["solver"]} if size.names else fronts
    assert {text.get_text() for text in names} == every
    assert {t.get_text() for t in names if t.get_fontweight() == "bold"} == fronts
    # of the text alone: the extent of an annotation has its line too
    boxes = sorted(
        (Text.get_window_extent(text, renderer) for text in names), key=lambda box: box.y0
    )
    assert all(below.y1 <= above.y0 for below, above in pairwise(boxes))
    assert all(panel.bbox.x1 < box.x0 and box.x1 < figure.bbox.x1 for box in boxes)
    assert boxes[0].y0 > 0 and boxes[-1].y1 < figure.bbox.y1


def test_an_svg_says_every_name_where_the_mouse_rests() -> None:
    found = many(35)
    svg = frontier_figure.files(found, "p", "f")["f_column.svg"].decode()
    titles = re.findall(
        r'<g id="curve-(solver_\d\d)">\s*<title>(solver_\d\d): ([^<]+)</title>', svg
    )
    assert {name for name, _, _ in titles} == {*found.points["solver"]}
    assert all(one == other for one, other, _ in titles)
    assert dict((n, t) for n, _, t in titles)["solver_05"].startswith("0.250 at 25.0, 0.150 at 50")


def test_colours_go_to_the_best_and_then_to_those_on_most_fronts(study: Path) -> None:
    found = frontier([study])
    assert frontier_figure.front_solvers(found, found.points["problem"].iloc[0]) == [
        "quick",
        "slow",
        "twin",
    ]


# -- the command -----------------------------------------------------------------------------------


def test_the_command_writes_the_same_files_again(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert verb("frontier", study, f"out={out}") == 0
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    stem = "frontier_faces-box-inpainting"
    figures = {f"{stem}{end}.{kind}" for end in ("", "_column") for kind in ("svg", "png")}
    assert {*first} == figures | {"frontier.csv", "best_at_budget.csv", "best_at_budget.md"}
    assert "**slow**" in capsys.readouterr().out
    assert verb("frontier", study, f"out={out}") == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first
    table = pd.read_csv(out / "frontier.csv")
    assert len(table) == 11 and table.loc[table["solver"] == "once", "budget"].isna().all()


def test_mistakes_are_one_line(study: Path, tmp_path: Path) -> None:
    cell(tmp_path / "plain", "quick", None, 0.1, passes=3)
    blocked = tmp_path / "file"
    blocked.write_text("")
    for words, said in (
        ([tmp_path / "nowhere"], "is not a study folder"),
        ([study, "metric=errors"], "unknown metric 'errors'. Did you mean 'error'?"),
        ([study, "metric=fid"], "is one value from all images"),
        ([tmp_path / "plain"], "give metric=NAME"),
        ([tmp_path / "plain", "metric=error"], "has a budget; run solvers with budget=passes:N"),
        ([study, f"out={blocked}"], "cannot be written"),
    ):
        with pytest.raises(UserError, match=re.escape(said)) as caught:
            verb("frontier", *words)
        assert len(str(caught.value).splitlines()) == 1
