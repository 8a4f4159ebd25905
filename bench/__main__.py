"""``python -m bench [verb] [settings]``; without a verb, ``run``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ == "bench":
    # python -m bench in a checkout takes the files of the checkout, whatever is installed elsewhere
    sys.path[0] = str(Path(__file__).resolve().parents[1] / "src")

from posterior_bench.bench.cli.entry import run_command
from posterior_bench.bench.cli.verbs import run_verb, split_verb


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str or None, default None
        The words after the program's name; None for those of this process.

    Raises
    ------
    SystemExit
        Always, with the exit code (docs/command-line.md).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    verb, rest = split_verb(words)
    run_command(lambda: run_verb(verb, rest), verb, words)


if __name__ == "__main__":
    main()
