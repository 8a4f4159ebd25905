"""``bench verify``: whether the rows of a bundle are what they say."""

from __future__ import annotations

import json
from pathlib import Path

from posterior_bench.bench.cli.output_file import writing
from posterior_bench.bench.cli.parser import Parser
from posterior_bench.bench.cli.verb import Verb
from posterior_bench.bench.core.environment import origin, version
from posterior_bench.bench.core.errors import FAILED

ALL = "all"


def how_many(text: str) -> int | None:
    """Return a number of images; None for ``all``."""
    if text == ALL:
        return None
    if not text.isascii() or not text.isdigit():
        raise ValueError("takes a whole number, or all")
    return int(text)


def add_arguments(parser: Parser) -> None:
    """Declare the bundle, how many images are computed again, and the file of the verdict."""
    parser.add_argument(
        "bundle", type=Path, metavar="BUNDLE", help="a zip file, or a folder with its content"
    )
    parser.add_setting(
        "rerun", "N|all", "how many images are computed again, half chosen by chance", how_many, 4
    )
    parser.add_setting("root", "DIR", "the folder of the images, where they are not of the product")
    parser.add_setting("out", "FILE.json", "write the verdict, for `bench board`")


def run(bundle: Path, rerun: int | None, root: str | None, out: str | None) -> int:
    """Print the verdict; 1 if the bundle is refused.

    Parameters
    ----------
    bundle : Path
        A zip file, or a folder with its content.
    rerun : int or None
        How many images are computed again; None = all.
    root : str or None
        The folder of the images.
    out : str or None
        A JSON file for the verdict.
    """
    # these load torch and pandas, and help does not need them
    from posterior_bench.bench.core import terminal
    from posterior_bench.bench.store.atomic import write_atomic
    from posterior_bench.bench.submission.verify import verify

    verdict = verify(bundle, rerun, Path(root) if root else None)
    if out:
        record = verdict.record({"version": version(), **origin()})
        with writing(f"out={out}"):
            write_atomic(Path(out), f"{json.dumps(record, indent=1)}\n".encode())
    terminal.out.print(verdict.text(), markup=False, highlight=False, soft_wrap=True)
    return 0 if verdict.accepted else FAILED


VERB = Verb(
    name="verify",
    does="check a bundle: versions, plan, rows, masks, measurements, table, and some rows anew",
    example="bench verify runs/default.bundle.zip",
    more="A bundle is data: nothing in it is run, and no file or class that it names is read. Exit "
    "code 1: refused.",
    add_arguments=add_arguments,
    run=run,
)
