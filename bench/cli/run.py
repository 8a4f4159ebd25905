"""``bench run``: one cell, a sweep or a study. The verb may be left out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from posterior_bench.bench.cli.parser import Parser
from posterior_bench.bench.cli.remembered import Command
from posterior_bench.bench.cli.run_settings import add_sweep, ready, typed_words
from posterior_bench.bench.cli.verb import Verb
from posterior_bench.bench.config import hydra_settings
from posterior_bench.bench.config.overrides import check, parse
from posterior_bench.bench.config.studies import cells, expand, refuse_unset
from posterior_bench.bench.core.errors import FAILED, UserError

# Everything that needs torch or Hydra is imported in the functions below: a mistake in the settings
# must be answered at once.

_OWN_CONFIGURATIONS = (
    "configurations are those of this product; plugins=[NAME] adds those of a package"
)
_REFUSED = {
    ("-cp", "--config-path"): _OWN_CONFIGURATIONS,
    ("-cd", "--config-dir"): _OWN_CONFIGURATIONS,
    ("-cn", "--config-name"): "configurations are those of this product; a study is chosen with "
    "study=NAME",
    ("--experimental-rerun",): "it runs code from a pickle; give the command of the run again",
}
"""Options of Hydra that would load foreign configurations or code, and what to do instead."""
_INFORMATION = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


def add_arguments(parser: Parser) -> None:
    """Declare Hydra's options that are allowed, and the options that are refused with advice."""
    add_sweep(parser, "run every combination of the values between commas")
    parser.add_argument(
        "-c",
        "--cfg",
        choices=("job", "hydra", "all"),
        help="show the configuration of the job (of a study, its first cell), and run nothing",
    )
    parser.add_argument("--resolve", action="store_true", help="with --cfg: put in what ${} names")
    parser.add_argument("-p", "--package", metavar="KEY", help="with --cfg: show this part alone")
    parser.add_argument(
        "-i",
        "--info",
        nargs="?",
        const="all",
        choices=_INFORMATION,
        help="show how Hydra finds the configuration, and run nothing",
    )
    parser.add_argument("-r", "--run", action="store_true", help=argparse.SUPPRESS, dest="single")
    parser.add_argument("--hydra-help", action="store_true", help=argparse.SUPPRESS)
    for names, advice in _REFUSED.items():
        parser.add_argument(*names, action=_Refused, advice=advice)
    parser.add_argument("-sc", "--shell-completion", action=_NoCompletion)
    parser.add_run_settings()


class _Refused(argparse.Action):
    """An option of Hydra that is not taken."""

    def __init__(self, option_strings: Sequence[str], dest: str, advice: str) -> None:
        self.advice = advice
        super().__init__(option_strings, argparse.SUPPRESS, nargs="?", help=argparse.SUPPRESS)

    def __call__(self, *_: Any) -> NoReturn:
        raise UserError(f"{self.option_strings[-1]} is not taken here: {self.advice}")


class _NoCompletion(argparse.Action):
    """Hydra's completion, which does not know the verbs."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=argparse.SUPPRESS)

    def __call__(self, *_: Any) -> NoReturn:
        raise UserError('completion is turned on with: eval "$(bench completion bash)"')


def run(
    overrides: Sequence[str],
    multirun: bool = False,
    cfg: str | None = None,
    resolve: bool = False,
    package: str | None = None,
    info: str | None = None,
    single: bool = False,
    hydra_help: bool = False,
) -> int:
    """Run the cells and print their table.

    Parameters
    ----------
    overrides : sequence of str
        Settings of the run.
    multirun : bool, default False
        Whether commas separate values to sweep over.
    cfg, resolve, package, info, single, hydra_help
        Options of Hydra: show a configuration or information instead of running.

    Returns
    -------
    int
        0 if every row is ok or accepted, else 1.
    """
    # loads Hydra: help and a mistake in the settings are answered before
    from posterior_bench.bench.estimate.problems import remember_typed

    flags = _hydra_flags(multirun, cfg, resolve, package, info, single, hydra_help)
    remember_typed(typed_words(overrides, multirun))
    lines = ready(overrides, multirun)
    hydra_settings.demand_launcher(parse(lines))
    sweeps, every = expand(lines), cells(lines)
    checked = [check(sweep, multirun, study_sweep=True) for sweep in sweeps]
    if len(sweeps) > 1:
        refuse_unset(sweeps)
    if cfg or info:
        checked = every[:1]  # Hydra shows one cell: of a study, the first
    return _launch(flags, checked, every)


def _hydra_flags(
    multirun: bool,
    cfg: str | None,
    resolve: bool,
    package: str | None,
    info: str | None,
    single: bool,
    hydra_help: bool,
) -> list[str]:
    """Return the options for Hydra's own parser."""
    chosen = {"-m": multirun, "--run": single, "--cfg": cfg is not None, "--info": info is not None}
    several = [name for name, given in chosen.items() if given]
    if len(several) > 1:
        raise UserError(f"{' and '.join(several)} cannot be given together; give one of them")
    if resolve and cfg is None:
        raise UserError("--resolve goes with --cfg: bench --cfg job --resolve")
    flags = [f"--{name}={value}" for name, value in (("cfg", cfg), ("info", info)) if value]
    flags += [f"--package={package}"] if package else []
    switches = {"--multirun": multirun, "--run": single, "--resolve": resolve}
    switches["--hydra-help"] = hydra_help
    return [*flags, *(name for name, given in switches.items() if given)]


def _launch(
    flags: Sequence[str], sweeps: Sequence[Sequence[str]], every: Sequence[Sequence[str]]
) -> int:
    """Let Hydra run one sweep after the other, then print the results of all cells."""
    command = Command.of("run", [*flags, *(word for lines in sweeps for word in lines)])
    if (found := command.recall()) is not None:
        # loads pandas: the first line of a run that has something to do is printed before
        from posterior_bench.bench.cli.finished_run import tell_again

        tell_again(found)
        return 0
    # loads Hydra: help and a mistake in the settings are answered before
    from posterior_bench.bench.cli import app
    from posterior_bench.bench.core import terminal
    from posterior_bench.bench.engine import display

    display.SWEEP.cells = len(every)
    terminal.REMARKS.clear()
    program = sys.argv[0]
    for lines in sweeps:  # Hydra reads sys.argv
        sys.argv = [program, *flags, *lines]
        app.launch()
    if not app.OUTCOMES and not app.SWEEPS:  # --cfg, --info
        return 0
    if app.SKIPPED and not app.OUTCOMES:
        raise UserError(
            "nothing was run: no cell of this command applies, for the reasons above; choose "
            "another solver=, operator=, data= or prior="
        )
    from posterior_bench.bench.cli.finish import finish, finish_elsewhere
    from posterior_bench.bench.config.plugins import admit_of
    from posterior_bench.bench.engine import trackers
    from posterior_bench.bench.engine.job import unchecked

    if app.OUTCOMES:
        good = finish(app.OUTCOMES, display.SWEEP.cells, command)
    else:
        # the jobs ran elsewhere, but the user has named them here
        admit_of(unchecked(app.SWEEPS[-1]))
        good = finish_elsewhere(app.SWEEPS[-1], every)
    trackers.finish()
    return 0 if good else FAILED


VERB = Verb(
    name="run",
    does="run one cell, or with -m and comma lists a sweep (the verb may be left out)",
    example="bench run -m solver=repaint,dps mask=rotated,comod data.images=8",
    more="An interrupted run continues when the same command is given again. study=NAME sweeps by "
    "itself; solver=dps,ddnm and the like narrow it.",
    add_arguments=add_arguments,
    run=run,
    abbreviations=True,
)
