"""``bench pack``: problems with known posteriors as files that any program can read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from posterior_bench.bench.cli.parser import Parser, whole_number
from posterior_bench.bench.cli.run_settings import add_sweep, checked_cells
from posterior_bench.bench.cli.verb import Verb
from posterior_bench.bench.core.errors import UserError

_NOT_OF_A_PACK = ("solver", "metrics", "metrics_add", "out", "quiet", "sheet", "report")
"""Settings of a run that change no measurement and no posterior."""


def add_arguments(parser: Parser) -> None:
    """Declare the folder, ``-m``, ``samples=`` and the settings of a run."""
    parser.add_argument(
        "folder",
        type=Path,
        metavar="DIR",
        help="a new folder; of a sweep or study, one folder per problem is made in it",
    )
    add_sweep(parser, "write the packs of a sweep")
    parser.add_setting(
        "samples", "N", "reference samples of every truth, at most 512", whole_number, 512
    )
    parser.add_run_settings()


def run(folder: Path, overrides: Sequence[str], multirun: bool, samples: int) -> int:
    """Write the pack of a problem, or those of a sweep or study, and say where they are.

    Parameters
    ----------
    folder : Path
        Where the pack, or the folder of every pack, is written.
    overrides : sequence of str
        Settings of a run on the problem. The solver and the metrics play no role.
    multirun : bool
        Whether commas separate values to sweep over.
    samples : int
        Reference samples of every truth.
    """
    if any(word.startswith("out=") for word in overrides):
        raise UserError("'pack' writes to DIR; leave out= out")
    cells = checked_cells(overrides, multirun)
    # these load torch: a mistake in the settings is answered before
    from posterior_bench.bench.cli.pack_names import problems
    from posterior_bench.bench.core import terminal
    from posterior_bench.bench.engine.pack import write_pack

    found = problems(cells)
    for name, config in found.items():
        pack = write_pack(config, name, folder / name if len(found) > 1 else folder, samples)
        state = "written" if pack.new else "there already, and its checksums are right"
        terminal.out.print(
            f"{pack.folder}: {name}, {config.images} truths, {pack.size / 1e6:.1f} MB, "
            f"pack {pack.checksum[:12]}: {state}",
            markup=False,
        )
    return 0


VERB = Verb(
    name="pack",
    does="write a reference pack: truths, measurements and samples of the exact posterior as "
    "Parquet files (docs/packs.md)",
    example="bench pack packs/g2 data=arena/g2",
    more="The same command writes the same bytes. A pack that is there already is verified and "
    "kept.",
    add_arguments=add_arguments,
    run=run,
)
