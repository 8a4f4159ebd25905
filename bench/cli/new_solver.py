"""``bench new-solver``: the files of a new solver."""

from __future__ import annotations

from posterior_bench.bench.cli.parser import Parser
from posterior_bench.bench.cli.verb import Verb
from posterior_bench.bench.conformance.new_solver import new_solver


def add_arguments(parser: Parser) -> None:
    """Declare the name."""
    parser.add_argument(
        "name",
        metavar="NAME",
        help="small letters, digits and _: the name of the file; MyMethod becomes the name of the "
        "class",
    )


def run(name: str) -> int:
    """Write the files of a new solver and print what to do next."""
    # rich takes a tenth of a second to load, and help does not need it
    from posterior_bench.bench.core.terminal import out

    files, option = new_solver(name)
    for path in files:
        out.print(f"{path}", style="dim")
    next_command = f"next: python -m bench check solver={option}"
    out.print(next_command, markup=False, highlight=False, soft_wrap=True)
    return 0


VERB = Verb(
    name="new-solver",
    does="write the files of a new solver, which run as they are: a place to begin",
    example="bench new-solver mymethod",
    add_arguments=add_arguments,
    run=run,
)
