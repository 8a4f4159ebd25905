"""``bench score-samples``: scores of samples that any program drew for a reference pack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from posterior_bench.bench.cli.output_file import writing
from posterior_bench.bench.cli.parser import Parser
from posterior_bench.bench.cli.verb import Verb

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


def add_arguments(parser: Parser) -> None:
    """Declare the pack, the samples, and the file for all scores."""
    parser.add_argument("pack", type=Path, metavar="PACK", help="the folder of a reference pack")
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="samples for every truth: .npy, .npz, .parquet or .csv",
    )
    parser.add_setting("out", "FILE.csv", "write the scores of every truth too")


def run(pack: Path, file: Path, out: str | None) -> int:
    """Print the mean scores, and write those of every truth to ``out``.

    Parameters
    ----------
    pack : Path
        The folder of a reference pack.
    file : Path
        The samples.
    out : str or None
        A CSV file for the scores of every truth.
    """
    # these load torch and pandas, and help does not need them
    from posterior_bench.bench.analysis.columns import to_csv
    from posterior_bench.bench.core import terminal
    from posterior_bench.bench.engine.pack_scores import score_samples
    from posterior_bench.bench.external.pack import read_pack
    from posterior_bench.bench.external.sample_files import read_samples
    from posterior_bench.bench.store.atomic import write_atomic

    known = read_pack(pack)
    samples = read_samples(file, known.ids, known.truth[0].numel())
    scores = score_samples(known, samples)
    terminal.out.print(
        f"{known.name} (pack {known.checksum[:12]}): {len(known.ids)} truths, {samples.shape[1]} "
        f"samples of each against {known.reference.shape[1]} reference samples",
        markup=False,
    )
    terminal.out.print(_table(scores))
    if out:
        with writing(f"out={out}"):
            write_atomic(Path(out), to_csv(scores))
    return 0


def _table(scores: pd.DataFrame) -> Table:
    """Return the means as a table of the terminal."""
    # rich and pandas are heavy, and help does not need them
    from rich.table import Table

    from posterior_bench.bench.analysis.tables import decimals, number
    from posterior_bench.bench.engine.pack_scores import MEAN

    table = Table(box=None, pad_edge=False)
    table.add_column("metric")
    for title in ("mean", "95 % interval", "se truths", "se reference", "exact samples", "truths"):
        table.add_column(title, justify="right")
    for line in scores[scores["level"] == MEAN].itertuples():
        places = decimals(line.value, line.lo, line.hi)
        value, lo, hi, exact = (
            number(v, places) for v in (line.value, line.lo, line.hi, line.exact)
        )
        errors = ["—" if v != v else f"{v:.2g}" for v in (line.se_truths, line.se_reference)]
        interval = f"[{lo}, {hi}]" if line.lo == line.lo else "—"
        table.add_row(line.metric, value, interval, *errors, exact, str(line.n))
    return table


VERB = Verb(
    name="score-samples",
    does="score samples that any program drew for a reference pack (docs/packs.md)",
    example="bench score-samples packs/g2 samples.npy",
    more="Only the pack is needed: no sampler of ours runs. FILE holds as many samples for every "
    "truth of the pack.",
    add_arguments=add_arguments,
    run=run,
    prints_only=True,
)
