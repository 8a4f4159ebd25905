"""``bench show``: one choice in full."""

from __future__ import annotations

from collections.abc import Sequence

from posterior_bench.bench.cli.parser import Parser
from posterior_bench.bench.cli.verb import Verb
from posterior_bench.bench.config.catalog import show_all
from posterior_bench.bench.config.prior_paths import with_prior_names


def add_arguments(parser: Parser) -> None:
    """Declare the choices."""
    parser.add_argument(
        "choices",
        nargs="+",
        metavar="GROUP=NAME",
        help="what to show; a solver beside a prior also names the preset that it gets there",
    )


def run(choices: Sequence[str]) -> int:
    """Print settings, presets and card of every choice."""
    print(show_all(with_prior_names(choices)))
    return 0


VERB = Verb(
    name="show",
    does="show one choice in full: settings, presets, card",
    example="bench show solver=dps prior=fashion",
    add_arguments=add_arguments,
    run=run,
    prints_only=True,
)
