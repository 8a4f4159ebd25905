"""The notebooks run from the first cell to the last, without a network."""

from __future__ import annotations

import json
from typing import Any

import pytest
from matplotlib.figure import Figure

from posterior_bench.bench.core.environment import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_no_stored_results(path: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    for cell in content["cells"]:
        assert not cell.get("outputs") and not cell.get("execution_count")


@pytest.mark.slow
def test_the_first_notebook_shows_draws_that_keep_the_observed_pixels() -> None:
    (path,) = [path for path in NOTEBOOKS if path.stem == "first_posterior"]
    names: dict[str, Any] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), str(path), "exec"), names)
    problem, results = names["problem"], names["results"]
    assert isinstance(names["figure"], Figure) and len(names["axes"].flat) == 15
    for result in results.values():
        seen = problem.mask.expand_as(problem.truth)
        pasted = result.pasted[:, 1]
        assert ((pasted - problem.truth)[seen].abs() < 0.005).all(), "half a grey level at most"
    assert names["scores"].shape == (6, 3) and (names["scores"] > 5).all(axis=None)
