"""The overall order against ranks counted by hand and by SciPy; breakdowns by hand; cost figures
whose labels cover nothing."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation, Text
from scipy.stats import rankdata

from posterior_bench.bench.analysis import overall, tables
from posterior_bench.bench.analysis.breakdown import breakdown, coverage_groups
from posterior_bench.bench.analysis.cost_figure import Axis, cost_figure
from posterior_bench.bench.analysis.families import family
from posterior_bench.bench.analysis.overall import not_ordered, overall_orders

Cells = dict[tuple[str, str], list[float]]


def study(cells: Cells, direction: str = "down", **changed: Any) -> tuple[pd.DataFrame, Any]:
    """A leaderboard and values of images from values by (solver, mask)."""
    lines, parts = [], {}
    for place, ((solver, mask), values) in enumerate(cells.items()):
        line = dict.fromkeys(tables.RANKED, "same") | {"solver": solver, "mask": mask}
        line |= {"cell": f"c{place}", "failed": 0, "missing": 0, "mixed": "", "m": np.mean(values)}
        line |= {"passes": 10.0 * (place + 1), "seconds_fit": 1.0, "seconds_sample": place / 2}
        lines.append(line)
        ids = pd.Index([f"i{k}" for k in range(len(values))], name="image_id")
        parts[f"c{place}"] = pd.DataFrame({"m": values}, index=ids)
    board = pd.DataFrame(lines).assign(**changed)
    board.attrs = {"metrics": {"m": {"direction": direction}}}
    return board, pd.concat(parts, names=["cell"])


def test_mean_ranks_counted_by_hand() -> None:
    cells = {
        ("a", "box"): [1.0, 2.0],  # ranks 1, 1.5
        ("b", "box"): [3.0, 2.0],  # ranks 3, 1.5
        ("c", "box"): [2.0, 9.0],  # ranks 2, 3
        ("a", "half"): [5.0, 4.0],  # ranks 3, 1
        ("b", "half"): [4.0, 6.0],  # ranks 2, 3
        ("c", "half"): [3.0, 5.0],  # ranks 1, 2
    }
    (order,) = overall_orders(*study(cells), "m")
    # a: (1 + 3) / 2 and (1.5 + 1) / 2; b: 2.5 and 2.25; c: 1.5 and 2.5
    assert [*order.table["solver"]] == ["a", "c", "b"]
    assert [*order.table["rank"]] == [1.625, 2.0, 2.375]
    assert [*order.table["passes"]] == [25, 45, 35] and order.table["seconds"].iloc[0] == 1.75
    # two images are too few for intervals and letters
    assert order.table["lo"].isna().all() and {*order.table["letters"]} == {""}
    assert order.images == 2 and order.everything and overall.leaders(order) == {"a": 1.625}


def test_ranks_are_those_of_scipy_and_letters_those_of_the_test() -> None:
    rng = np.random.default_rng(0)
    values = {mask: rng.normal(size=(5, 12)) + 1.5 * np.arange(5)[:, None] for mask in "xy"}
    cells = {(f"s{s}", m): values[m][s].tolist() for m in values for s in range(5)}
    (order,) = overall_orders(*study(cells, "up"), "m")
    ranks = np.mean([rankdata(-values[m], axis=0) for m in values], axis=0)
    table = order.table.set_index("solver").loc[[f"s{s}" for s in range(5)]]
    np.testing.assert_allclose(table["rank"], ranks.mean(axis=1))
    assert ((table["lo"] <= table["rank"]) & (table["rank"] <= table["hi"])).all()
    differ = family(ranks, "overall m").differ
    assert differ.any() and not differ.all()
    for i, j in itertools.combinations(range(5), 2):
        shared = {*table["letters"].iloc[i]} & {*table["letters"].iloc[j]}
        assert bool(shared) == (not differ[i, j])


def test_solvers_that_ran_elsewhere_are_ordered_over_common_problems() -> None:
    cells = {(s, m): [v] * 6 for s, v in (("a", 1.0), ("b", 2.0)) for m in ("box", "half")}
    everywhere, common = dict(cells), cells | {("c", "box"): [0.0] * 6}
    (order,) = overall_orders(*study(everywhere), "m")
    assert len(order.problems) == 2
    first, second = overall_orders(*study(common), "m")
    assert [*first.table["solver"]] == ["c", "a", "b"] and len(first.problems) == 1
    assert [*second.table["solver"]] == ["a", "b"] and len(second.problems) == 2
    assert not first.everything and second.everything
    apart = {("a", "box"): [1.0] * 6, ("b", "half"): [1.0] * 6}
    assert overall_orders(*study(apart), "m") == []


def test_data_sets_without_a_common_problem_have_an_order_each() -> None:
    cells = {(s, "box"): [v] * 6 for v, s in enumerate("abcd")}
    board, means = study(cells, data=["pixels", "pixels", "latent", "latent"])
    orders = overall_orders(board, means, "m")
    assert [[*order.table["solver"]] for order in orders] == [["a", "b"], ["c", "d"]]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("failed", 3, "3 rows failed"),
        ("missing", 1, "1 row is missing"),
        ("mixed", "device", "its rows were computed with different things (device)"),
    ],
)
def test_incomplete_solvers_have_no_place(column: str, value: object, reason: str) -> None:
    board, means = study({(s, "box"): [float(v)] * 6 for v, s in enumerate("abc")})
    board.loc[0, column] = value
    (order,) = overall_orders(board, means, "m")
    assert [*order.table["solver"]] == ["b", "c"]
    assert not_ordered(board, means, "m") == {"a": reason}


def test_an_infinite_value_has_no_place() -> None:
    cells = {("a", "box"): [np.inf, *[1.0] * 5], ("b", "box"): [1.0] * 6, ("c", "box"): [2.0] * 6}
    assert not_ordered(*study(cells, "up"), "m") == {"a": "an image has an infinite value"}


def test_breakdown_counted_by_hand() -> None:
    values = {"a": pd.Series({"1": 1.0, "2": 2.0, "3": 6.0}), "b": pd.Series({"1": 5.0})}
    frame = breakdown(values, pd.Series({"3": "cat", "1": "dog", "2": "dog", "4": None}))
    assert [*zip(frame["solver"], frame["group"], strict=True)] == [
        *(("a", "cat"), ("a", "dog"), ("b", "cat"), ("b", "dog"))
    ]
    np.testing.assert_array_equal(frame["mean"], [6, 1.5, np.nan, 5])
    assert [*frame["n"]] == [1, 2, 0, 1] and frame["lo"].isna().all()


def test_groups_of_coverage_hold_equally_many_images() -> None:
    hidden = pd.Series(np.linspace(0.1, 0.9, 24)[::-1], index=[f"i{k}" for k in range(24)])
    groups = coverage_groups(hidden)
    assert [*groups.value_counts(sort=False)] == [6, 6, 6, 6]
    assert groups.iloc[0] == "10–27 %" and groups["i0"] == "73–90 %"
    assert coverage_groups(hidden[:7]).nunique() == 2
    assert coverage_groups(hidden[:3]).empty and coverage_groups(hidden * 0 + 0.5).empty


@pytest.mark.parametrize("direction", ["up", "down"])
def test_labels_of_many_solvers_cover_nothing(direction: str) -> None:
    rng = np.random.default_rng(1)
    names = [f"solver_{k}" for k in range(24)]
    points = pd.DataFrame({"solver": names, "value": rng.uniform(0.1, 0.2, 24)})
    points = points.assign(cost=[0.0, *rng.integers(20, 200, 23)], lo=np.nan, hi=np.nan)
    figure = cost_figure(points, "passes", Axis("error", direction), names[:4])
    FigureCanvasAgg(figure).draw()
    (panel,) = figure.axes
    labels = [text for text in panel.texts if isinstance(text, Annotation)]
    assert sorted(label.get_text() for label in labels) == sorted(names)
    boxes = [Text.get_window_extent(label).get_points() for label in labels]
    ends = sorted((float(box[0, 1]), float(box[1, 1])) for box in boxes)
    assert all(below[1] <= above[0] + 2 for below, above in itertools.pairwise(ends))
    assert max(box[1, 0] for box in boxes) <= figure.bbox.x1
    low, high = panel.get_ylim()
    assert (low < high) == (direction == "up")
