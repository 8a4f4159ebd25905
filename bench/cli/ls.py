"""``bench ls``: everything that can be chosen."""

from __future__ import annotations

from posterior_bench.bench.cli.parser import Parser
from posterior_bench.bench.cli.verb import Verb
from posterior_bench.bench.config.catalog import GROUPS, listing


def add_arguments(parser: Parser) -> None:
    """Declare the group."""
    parser.add_argument(
        "group",
        nargs="?",
        metavar="GROUP",
        help=f"one group: {' '.join(GROUPS)} (default: all)",
    )


def run(group: str | None) -> int:
    """Print the options of one group, or of all."""
    print(listing(group.rstrip("=") if group else None))
    return 0


VERB = Verb(
    name="ls",
    does="list everything that can be chosen",
    example="bench ls solver",
    add_arguments=add_arguments,
    run=run,
    prints_only=True,
)
