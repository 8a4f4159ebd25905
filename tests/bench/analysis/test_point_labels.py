"""Labels beside a panel: every point has one, and none covers another."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from posterior_bench.bench.analysis import figures


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Twenty solvers in two panels, one of them without cost, all at nearly the same height."""
    lines = [
        {
            **{"solver": f"solver_{i}", "data": "g2", "mask": mask, "operator": "inpainting"},
            **{"passes": 100.0 * (i % 3 + (i > 0)), "e": 1 + i / 1000, "e_lo": 1.0, "e_hi": 1.1},
        }
        for mask in ("rotated", "comod")
        for i in range(20)
    ]
    found = pd.DataFrame(lines)
    found.attrs = {"metrics": {"e": {"title": "Distance", "unit": "", "direction": "down"}}}
    return found


def test_many_solvers_are_named_at_their_points(frame: pd.DataFrame) -> None:
    figure = figures.draw(frame, "passes", "e")
    figure.draw_without_rendering()
    assert not figure.legends, "names in place of a key"
    for panel in figure.axes[:2]:
        named = {text.get_text(): text for text in panel.texts if text.get_alpha() != 0}
        assert {*named} == {*frame["solver"]}
        # that of an annotation has its line in it
        boxes = sorted((Text.get_window_extent(t) for t in named.values()), key=lambda b: b.y0)
        apart = min(
            (above.y0 + above.y1 - below.y0 - below.y1) / 2 for below, above in pairwise(boxes)
        )
        assert apart >= 5.5 * figure.dpi / 72, "centres are at least a line apart"
        right = panel.get_window_extent().x1
        assert all(box.x0 > right for box in boxes), "beside the panel"
        # a label points at its point: the end of its line, in units of the axes
        line = frame[frame["mask"] == "rotated"].iloc[4]
        x, y = panel.transAxes.transform(named["solver_4"].xy)
        end = panel.transData.inverted().transform((x, y))
        assert np.allclose(end, [line["passes"], line["e"]], rtol=1e-3)


def test_few_solvers_have_a_key(frame: pd.DataFrame) -> None:
    few = frame[frame["solver"].isin([f"solver_{i}" for i in range(7)])]
    few.attrs = frame.attrs
    assert len(figures.draw(few, "passes", "e").legends) == 1
