"""``bench compact``: the small files of finished cells, merged into a few large ones."""

from __future__ import annotations

from pathlib import Path

from posterior_bench.bench.cli.parser import Parser
from posterior_bench.bench.cli.verb import Verb
from posterior_bench.bench.core.errors import FAILED


def add_arguments(parser: Parser) -> None:
    """Declare the study."""
    parser.add_argument("study", type=Path, metavar="STUDY", help="the folder of a study")


def run(study: Path) -> int:
    """Merge the files; 1 if a cell is not finished or not sound."""
    # pyarrow takes a second to load, and help does not need it
    from posterior_bench.bench.core.terminal import out
    from posterior_bench.bench.store.compaction import compact

    cells = compact(study)
    for cell in cells:
        if cell.left:
            out.print(f"{cell.cell} left as it is: {cell.left}", markup=False)
    before, after = sum(cell.before for cell in cells), sum(cell.after for cell in cells)
    out.print(f"{len(cells)} cells: {before} files of rows before, {after} now")
    return FAILED if any(cell.left for cell in cells) else 0


VERB = Verb(
    name="compact",
    does="merge the files of finished cells into a few large ones",
    example="bench compact runs/default",
    add_arguments=add_arguments,
    run=run,
)
