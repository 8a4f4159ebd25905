"""``bench doctor``: everything that a run needs, examined before it."""

from __future__ import annotations

from collections.abc import Sequence

from posterior_bench.bench.cli.parser import Parser
from posterior_bench.bench.cli.run_settings import add_sweep, checked_cells
from posterior_bench.bench.cli.verb import Verb
from posterior_bench.bench.estimate.machine import Machine, bytes_of, gpu_count, known_device


def add_arguments(parser: Parser) -> None:
    """Declare ``-m``, the settings that describe a machine, and the settings of a run."""
    add_sweep(parser, "examine every job of a sweep; what jobs have in common is examined once")
    machine = "of the machine that the run is meant for, if not this one"
    parser.add_setting("memory", "SIZE", f"memory {machine}, such as 80GiB", bytes_of)
    parser.add_setting("gpus", "N", f"number of GPUs {machine}", gpu_count)
    parser.add_setting(
        "device", "NAME", "a GPU by its name instead of memory=, such as h100", known_device
    )
    parser.add_run_settings()


def run(
    overrides: Sequence[str],
    multirun: bool,
    memory: int | None,
    gpus: int | None,
    device: str | None,
) -> int:
    """Examine a configuration, each of a sweep, or a study; 2 if something is missing.

    Parameters
    ----------
    overrides : sequence of str
        Settings of the run.
    multirun : bool
        Whether commas separate values to sweep over.
    memory, gpus, device
        The machine that the run is meant for; see :meth:`~bench.estimate.machine.Machine.of`.
    """
    jobs = checked_cells(overrides, multirun)
    # these load most of the product: a mistake in the settings is answered before
    from posterior_bench.bench.config.overrides import check
    from posterior_bench.bench.estimate.doctor import doctor

    checked = [check(cell, study_sweep=True) for cell in jobs]
    return doctor(checked, Machine.of(memory, gpus, device))


VERB = Verb(
    name="doctor",
    does="examine what a run needs: files, hashes, weights of metrics, data, memory, disk",
    example="bench doctor study=vipaint_table6 device=h100 gpus=8",
    add_arguments=add_arguments,
    run=run,
    prints_only=True,
    abbreviations=True,
)
