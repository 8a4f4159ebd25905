"""The figure of the faces: its points are the numbers, and a solver looks the same everywhere."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.colors import to_hex
from scripts.faces_scatter import X, Y, faces_scatter


def points(**solvers: tuple[float, float]) -> pd.DataFrame:
    """Points whose bars reach 0.1 to the left and below, and 0.2 to the right and above."""
    lines = {
        name: {
            f"{metric}{end}": value + by
            for metric, value in zip((X, Y), numbers, strict=True)
            for end, by in (("", 0.0), ("_lo", -0.1), ("_hi", 0.2))
        }
        for name, numbers in solvers.items()
    }
    return pd.DataFrame.from_dict(lines, orient="index")


@pytest.fixture
def panels():
    figure = faces_scatter(
        {
            "Mouth": points(exact=(0.0, 0.3), prior=(0.5, 0.4), dps=(0.1, 0.6), daps=(0.2, 0.5)),
            "Eyes": points(dps=(0.3, 0.7)),
        }
    )
    return [panel for panel in figure.axes if panel.get_title(loc="left")], figure


def looks(panel) -> dict[tuple[float, float], tuple[str, str]]:
    return {
        (bars.lines[0].get_xdata()[0], bars.lines[0].get_ydata()[0]): (
            to_hex(bars.lines[0].get_color()),
            bars.lines[0].get_marker(),
        )
        for bars in panel.containers
    }


def test_a_point_stands_at_its_numbers_with_its_intervals(panels) -> None:
    (mouth, eyes), _ = panels
    assert {*looks(mouth)} == {(0.0, 0.3), (0.5, 0.4), (0.1, 0.6), (0.2, 0.5)}
    across, up = (bar.get_segments()[0] for bar in eyes.containers[0].lines[2])
    assert across.tolist() == [pytest.approx([0.2, 0.7]), pytest.approx([0.5, 0.7])]
    assert up.tolist() == [pytest.approx([0.3, 0.6]), pytest.approx([0.3, 0.9])]


def test_a_solver_looks_the_same_in_all_panels_and_in_the_key(panels) -> None:
    (mouth, eyes), figure = panels
    assert looks(mouth)[0.1, 0.6] == looks(eyes)[0.3, 0.7]
    assert len({*looks(mouth).values()}) == 4
    (key,) = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    named = {
        text.get_text(): (to_hex(handle.get_color()), handle.get_marker())
        for text, handle in zip(key.get_texts(), key.legend_handles, strict=True)
    }
    assert [*named] == ["exact", "prior", "daps", "dps"]
    assert named["dps"] == looks(eyes)[0.3, 0.7]


def test_a_dotted_line_is_at_the_level_of_each_reference(panels) -> None:
    (mouth, eyes), _ = panels
    levels = [
        sorted(line.get_ydata()[0] for line in panel.lines if line.get_linestyle() == ":")
        for panel in (mouth, eyes)
    ]
    assert levels == [[0.3, 0.4], []]
