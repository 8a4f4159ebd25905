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
    """Train a prior; with ``solver=`` among the settings, the modules of that solver.

    ``data=`` names the images that modules are trained on.
    """
    checked = check(ready(overrides))
    # these load torch: a mistake in the settings is answered before
    from posterior_bench.bench.config.compose import compose
    from posterior_bench.bench.engine.job import job_of
    from posterior_bench.bench.training.train_prior import train_prior
    from posterior_bench.bench.training.train_solver import train_solver

    config = job_of(compose(checked)[0])
    named = {line.partition("=")[0] for line in overrides}
    if "solver" in named:
        train_solver(config, quiet=config.quiet, data=config.data if "data" in named else None)
    else:
        train_prior(config, quiet=config.quiet)
    return 0


VERB = Verb(
    name="train",
    does="train an embedded prior; with solver=NAME, the modules of that solver for it",
    example="bench train prior=fashion",
    more="prior.train.KEY=VALUE is a setting of the training; `bench show prior=NAME` lists them. "
    "Modules are trained on the prior's own data, or on those of data=NAME data.root=DIR.",
    add_arguments=add_arguments,
    run=run,
)
