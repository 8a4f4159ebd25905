"""The cells and rows that docs/studies.md prints are those that a study runs."""

from __future__ import annotations

import re

import pytest

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.catalog import option, options
from posterior_bench.bench.config.studies import cells
from posterior_bench.bench.core.environment import ROOT
from posterior_bench.bench.core.errors import Inapplicable
from posterior_bench.bench.estimate import forecast
from posterior_bench.bench.estimate.cell_parts import DescribedPrior, demand_fit
from posterior_bench.bench.estimate.requested_cells import compose_cells

_LINE = re.compile(r"^\| `study=(\w+)` \| .* \| (\d+) \| ([^|]+) \|$", re.MULTILINE)
PRINTED = {
    name: (int(count), rest.strip())
    for name, count, rest in _LINE.findall((ROOT / "docs/studies.md").read_text(encoding="utf-8"))
}
OF_VIPAINT_AND_LATENTPAINT = [
    name for name in options("study") if name.startswith(("vipaint_", "latentpaint_"))
]


def test_every_study_of_the_two_papers_has_a_line() -> None:
    assert set(OF_VIPAINT_AND_LATENTPAINT) <= set(PRINTED)


def test_cells_and_rows_before_anything_is_skipped() -> None:
    """The cells that a study of several sweeps names, and the rows that they ask for."""
    for name, (count, rows) in PRINTED.items():
        if not option("study", name).parts or not rows.isdigit():
            continue
        every = [dict(line.split("=", 1) for line in cell) for cell in cells([f"study={name}"])]
        wanted = sum(int(cell["data.images"]) * int(cell["draws"]) for cell in every)
        assert (len(every), wanted) == (count, int(rows)), name


@pytest.mark.slow
@pytest.mark.parametrize("name", PRINTED)
def test_every_counted_cell_applies(name: str) -> None:
    """No cell is counted that a run would skip, as far as it can be known without weights."""
    count = 0
    for cell in compose_cells(cells([f"study={name}"])):
        config = forecast._completed(cell.config)
        prior = DescribedPrior.of(config.prior, str(cell.choices["prior"]))
        if cell.choices["data"] == "lsun_bedroom":
            count += 1  # the reader chooses the prior
            continue
        try:
            demand_fit(config, build(config.solver), prior, "the images are not asked")
            count += 1
        except Inapplicable as error:
            assert not option("study", name).parts, f"{cell.overrides}: {error}"
    assert count == PRINTED[name][0]
