"""``bench export-masks``: the measurements of a run as files, for methods that run elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from posterior_bench.bench.cli.parser import Parser, true_or_false
from posterior_bench.bench.cli.run_settings import ready
from posterior_bench.bench.cli.verb import Verb
from posterior_bench.bench.config.overrides import check


def add_arguments(parser: Parser) -> None:
    """Declare ``truth=`` and the settings of a run."""
    parser.add_setting("truth", "true|false", "write the whole images too", true_or_false, False)
    parser.add_run_settings()


def run(overrides: Sequence[str], truth: bool) -> int:
    """Write masks and observed images to the folder ``out=``.

    Parameters
    ----------
    overrides : sequence of str
        Settings of the run that the measurements are of.
    truth : bool
        Whether the whole images are written too.
    """
    checked = check(ready(overrides))
    # these load torch: a mistake in the settings is answered before
    from posterior_bench.bench.cli.measurement_files import export_masks
    from posterior_bench.bench.config.compose import compose
    from posterior_bench.bench.engine.job import job_of

    export_masks(job_of(compose(checked)[0]), truth=truth)
    return 0


VERB = Verb(
    name="export-masks",
    does="write masks and observed images as PNG files, for methods that run elsewhere "
    "(docs/external.md)",
    example="bench export-masks out=masks data.images=8 mask=comod",
    more="out=DIR is required: an empty or new folder, which appears once all files are written.",
    add_arguments=add_arguments,
    run=run,
)
