"""The table of passes in docs/speed.md has the numbers that are counted."""

from __future__ import annotations

from pathlib import Path

from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.conformance.reference_pages import preset_passes

PAGE = Path(__file__).parents[2] / "docs/speed.md"


def rows() -> list[list[str]]:
    text = PAGE.read_text(encoding="utf-8").split("## Passes of every solver")[1].split("\n## ")[0]
    table = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return table[2:]


def written(entry: dict[str, dict[str, int]]) -> tuple[str, str]:
    """Return the passes and the calls of the autoencoder of a count, as the table has them."""
    calls = {
        name: entry["fit"].get(name, 0) + entry["draw"].get(name, 0)
        for name in preset_passes.COUNTS
    }
    coder = [calls[name] for name in preset_passes.COUNTS[2:]]
    coded = "{} + {}, {} + {}".format(*coder) if any(coder) else "-"
    return f"{calls['nfe']} + {calls['nge']}", coded


def test_the_table_has_the_counts() -> None:
    known, table = preset_passes.read(), rows()
    released = preset_passes.count(options("solver")["diffpir"], "authors_released", "pixel VP")
    known["diffpir authors_released, pixel VP"] = dict(released)
    for name, _, now, coder, _ in table:
        assert (now, coder) == written(known[name]), name


def test_the_table_has_every_solver_that_is_counted() -> None:
    solvers = {name.split()[0] for name, entry in preset_passes.read().items() if "draw" in entry}
    alike = {"vipaint1", "reddiff_v", "deepinv"}  # counts as those of a neighbour, or not ours
    assert solvers - alike <= {row[0].split()[0] for row in rows()}
