"""``bench check``: the promises of every solver, tested on small priors."""

from __future__ import annotations

from collections.abc import Sequence

from posterior_bench.bench.cli.parser import Parser
from posterior_bench.bench.cli.run_settings import ready
from posterior_bench.bench.cli.verb import Verb
from posterior_bench.bench.core.errors import FAILED


def add_arguments(parser: Parser) -> None:
    """Declare the solvers and the settings of a run."""
    parser.add_setting(
        "solver", "NAME", "one, several between commas, all, or FILE.py:CLASS", required=True
    )
    parser.add_run_settings()


def run(solver: str, overrides: Sequence[str]) -> int:
    """Check solvers and print a table for each; 1 if a promise is broken.

    Parameters
    ----------
    solver : str
        One solver, several between commas, or ``all``.
    overrides : sequence of str
        Settings of a run. ``prior=`` checks on that prior instead of the small ones.
    """
    # this loads torch, which help and mistakes do not need
    from posterior_bench.bench.conformance.check import reports
    from posterior_bench.bench.conformance.report_table import summary, table
    from posterior_bench.bench.core.terminal import out

    done = []
    for report in reports(solver, ready(overrides)):
        out.print(table(report))
        done.append(report)
    out.print(summary(done))
    return FAILED if any(report.failures for report in done) else 0


VERB = Verb(
    name="check",
    does="check the promises of solvers on small priors",
    example="bench check solver=dps",
    more="prior=NAME checks on this prior instead of the small ones; executor.device=cuda on a "
    "GPU.",
    add_arguments=add_arguments,
    run=run,
    prints_only=True,
)
