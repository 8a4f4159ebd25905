"""``bench submit``: a study as one small file that others can verify."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from posterior_bench.bench.cli.output_file import writing
from posterior_bench.bench.cli.parser import Parser, names
from posterior_bench.bench.cli.verb import Verb
from posterior_bench.bench.core.errors import UserError

_SEEN = ("no", "yes", "unknown")


def one_of_seen(text: str) -> str:
    """Return ``no``, ``yes`` or ``unknown``."""
    if text not in _SEEN:
        raise ValueError(f"takes {', '.join(_SEEN)}")
    return text


def add_arguments(parser: Parser) -> None:
    """Declare the study, and what the submitter says."""
    parser.add_argument("study", type=Path, metavar="STUDY", help="the folder of a finished study")
    parser.add_setting("by", "NAME", "who submits: a person or a group", required=True)
    parser.add_setting(
        "seen",
        "no|yes|unknown",
        "whether test images were among the training data of a prior",
        one_of_seen,
        required=True,
    )
    parser.add_setting("solvers", "[NAME,...]", "the cells of these solvers alone", names, ())
    parser.add_setting(
        "trained_on", "TEXT", "the training data of priors whose files do not name them"
    )
    parser.add_setting(
        "reported",
        "FILE.csv",
        "numbers that a paper reports: columns solver, data, mask, metric, value, source",
    )
    parser.add_setting("out", "FILE.zip", "the bundle; by default STUDY.bundle.zip")


def run(
    study: Path,
    by: str,
    seen: str,
    solvers: Sequence[str],
    trained_on: str | None,
    reported: str | None,
    out: str | None,
) -> int:
    """Write the bundle and say where it is.

    Parameters
    ----------
    study : Path
        The folder of the study.
    by, seen, trained_on : str
        What the submitter says.
    solvers : sequence of str
        The solvers whose cells are submitted; empty for all.
    reported : str or None
        A CSV file with numbers of a paper.
    out : str or None
        Where the bundle is written.
    """
    if not by.strip() or not f"{by}{trained_on or ''}".isprintable():
        raise UserError(f"by={by}: give a name, on one line")
    # these load torch and pandas, and help does not need them
    from posterior_bench.bench.core import terminal
    from posterior_bench.bench.submission.statement import reported_file
    from posterior_bench.bench.submission.submit import Statement, submit

    lines = reported_file(Path(reported)) if reported else []
    today = datetime.now(UTC).date().isoformat()
    statement = Statement(by.strip(), seen, trained_on or "", today, tuple(lines))
    path = Path(out) if out else study.with_name(f"{study.resolve().name}.bundle.zip")
    with writing(str(path)):
        done = submit(study, path, statement, solvers)
    for remark in dict.fromkeys(done.remarks):
        terminal.remark(f"bench: {remark}")
    terminal.out.print(
        f"{done.path}: {done.cells} cells, {done.rows} rows, {done.size / 1e6:.2f} MB, sha256 "
        f"{done.sha256[:12]}; `bench verify {done.path}` checks it",
        markup=False,
        highlight=False,
    )
    return 0


VERB = Verb(
    name="submit",
    does="write a study as one small file that others can verify (docs/submitting.md)",
    example='bench submit runs/default by="A. Person" seen=no',
    more="The bundle holds rows without pictures, settings, environment, checksums, method cards "
    "and training data; no paths.",
    add_arguments=add_arguments,
    run=run,
)
