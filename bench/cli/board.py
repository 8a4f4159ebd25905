"""``bench board``: the leaderboard of a folder of bundles, one HTML file."""

from __future__ import annotations

from pathlib import Path

from posterior_bench.bench.cli.output_file import writing
from posterior_bench.bench.cli.parser import Parser
from posterior_bench.bench.cli.verb import Verb
from posterior_bench.bench.core.errors import FAILED, UserError


def add_arguments(parser: Parser) -> None:
    """Declare the folder and the file."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder with bundles")
    parser.add_setting("out", "FILE.html", "the page; by default DIR/index.html")


def run(folder: Path, out: str | None) -> int:
    """Write the page; 1 if a bundle is refused.

    Parameters
    ----------
    folder : Path
        A folder with bundles, at any depth.
    out : str or None
        Where the page is written.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give one that holds bundles")
    # these load torch and pandas, and help does not need them
    from posterior_bench.bench.core import terminal
    from posterior_bench.bench.store.atomic import write_atomic
    from posterior_bench.bench.submission.board import write_board

    page, found = write_board(folder)
    path = Path(out) if out else folder / "index.html"
    with writing(str(path)):
        write_atomic(path, page)
    for name, reason in found.refused:
        terminal.remark(f"bench: {name} is not shown: {reason}")
    terminal.out.print(
        f"{path}: {len(found.cells)} cells of {found.bundles} bundles",
        markup=False,
        highlight=False,
    )
    return FAILED if found.refused else 0


VERB = Verb(
    name="board",
    does="build a leaderboard, one HTML file, from a folder of bundles",
    example="bench board results",
    more="Verdicts stand beside bundles: `bench verify B.zip out=B.zip.verdict.json` writes one.",
    add_arguments=add_arguments,
    run=run,
)
