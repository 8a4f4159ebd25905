"""``bench train``: an embedded prior, or the modules of a solver for a prior."""

from __future__ import annotations

from collections.abc import Sequence

from posterior_bench.bench.cli.parser import Parser
from posterior_bench.bench.cli.run_settings import ready
from posterior_bench.bench.cli.verb import Verb
from posterior_bench.bench.config.overrides import check


def add_arguments(parser: Parser) -> None:
    """Declare the settings of a run."""
    parser.add_run_settings()


def run(overrides: Sequence[str]) -> int:
    """Train a prior; with ``solver=`` among the settings, the modules of that solver."""
    checked = check(ready(overrides))
    # these load torch: a mistake in the settings is answered before
    from posterior_bench.bench.config.compose import compose
    from posterior_bench.bench.engine.job import job_of
    from posterior_bench.bench.training.train_prior import train_prior
    from posterior_bench.bench.training.train_solver import train_solver

    config = job_of(compose(checked)[0])
    of_solver = any(line.startswith("solver=") for line in overrides)
    train = train_solver if of_solver else train_prior
    train(config, quiet=config.quiet)
    return 0


VERB = Verb(
    name="train",
    does="train an embedded prior; with solver=NAME, the modules of that solver for it",
    example="bench train prior=fashion",
    more="prior.train.KEY=VALUE is a setting of the training; `bench show prior=NAME` lists them.",
    add_arguments=add_arguments,
    run=run,
)
