"""``python -m bench [verb] [overrides]``; no verb = run. Its exit codes are those of :mod:`bench.errors`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.errors import BAD_INPUT, FAILED, INTERRUPTED, TERMINATED, UserError, unknown
from bench.guard import check_house
from bench.stop import Terminated, farewell, heed_sigterm

HELP = """\
python -m bench [verb] [overrides]

  try PHOTO MASK    solvers on one photograph of yours: a table and a picture, no study; `try --help` has the options
  run          run a cell, or with -m and comma lists a sweep (the verb may be left out)
  plan         what a run would do: rows, chunks still missing; of a study cells, passes, hours, disk
  ls [GROUP]   everything that can be chosen
  show GROUP=NAME   one choice in full: settings, presets, card
  doctor            what a run needs, looked at before it: files, hashes, weights of metrics, data, memory, disk
  check solver=NAME   what every solver promises, checked on small priors; solver=all, and prior=NAME for another one
  export-masks out=DIR   masks and observed images as PNG files, for methods that run elsewhere (docs/external.md)
  leaderboard DIR   rebuild the tables of a study from its rows
  report DIR        report.html of a study: table, pictures, figures, cards; images=N metric=NAME extract=DIR
  compare DIR a=SOLVER b=SOLVER metric=NAME   who is better image by image, by how much, how surely; and a plot
  score DIR metrics=[NAME]   add metrics to finished rows from their stored images, without sampling
  compact DIR       merge the files of finished cells into a few large ones
  status DIR        how far a study is, from its folder alone: running, stalled, failed, rows per minute
  convert FILE --as edm|adm|compvis|hub --to DIR   published weights for a prior; `show prior=NAME` has the command
  embed-prompts FOLDER --prompts FILE --to FILE.safetensors   the prompts of a Stable Diffusion prior, one a line
  train prior=NAME  train an embedded prior; with solver=NAME, that solver's modules for it

examples
  python -m bench try photo.jpg mask.png
  python -m bench solver=repaint mask=comod data.images=32 draws=4
  python -m bench -m solver=blended,repaint,dps,vipaint2 mask=rotated,comod,palette
  python -m bench study=arena      # a study that sweeps by itself; solver=dps,ddnm and the like narrow it

settings
{settings}

An interrupted run continues when the same command is given again. --cfg job shows the resolved configuration.
Exit codes: 0 every row is ok or accepted, 1 some are not (a cell whose first rows all fail alike is stopped), 2 bad
input or no worker can start, 130 interrupted (Ctrl-C), 143 terminated (SIGTERM)."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; raises SystemExit with the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        heed_sigterm()
        check_house()
        sys.exit(_dispatch(arguments))
    except UserError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt as stop:
        print(farewell(_parted(arguments)[0], arguments), file=sys.stderr)
        sys.exit(TERMINATED if isinstance(stop, Terminated) else INTERRUPTED)
    except BrokenPipeError:
        # the reader of `bench ls | head` has gone; nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _dispatch(arguments: list[str]) -> int:
    verb, rest = _parted(arguments)
    if any(a in ("-h", "--help") for a in arguments):
        print(_help_of_try() if verb == "try" else _help())
        return 0
    if verb not in VERBS:
        raise unknown("verb", verb, VERBS)
    from bench.prior_paths import named
    from bench.problems import asked

    asked(rest)
    return VERBS[verb](named(rest))


def _parted(arguments: list[str]) -> tuple[str, list[str]]:
    """The verb, which may be left out, and the rest."""
    if arguments and "=" not in arguments[0] and not arguments[0].startswith(("-", "+", "~")):
        return arguments[0], arguments[1:]
    return "run", arguments


def _help() -> str:
    from bench.catalog import defaults
    from bench.settings import SETTINGS

    groups = "  ".join(f"{g}={value}" for g, value in defaults().items())
    width = max(map(len, SETTINGS))
    lines = [f"  {groups}", *(f"  {k + '=':<{width + 1}}  {text}" for k, text in SETTINGS.items())]
    return HELP.format(settings="\n".join(lines))


def _help_of_try() -> str:
    from bench.tryout import HELP

    return HELP


def _try(arguments: list[str]) -> int:
    from bench.tryout import command

    return command(arguments)


def _run(overrides: list[str]) -> int:
    from hydra._internal.utils import get_args_parser

    from bench.overrides import check
    from bench.studies import cells, expand, refuse_unset

    parsed = get_args_parser().parse_args(overrides)
    flags = [argument for argument in overrides if argument not in parsed.overrides]
    sweeps = expand(parsed.overrides)
    checked = [check(sweep, parsed.multirun, study_sweep=True) for sweep in sweeps]
    if len(sweeps) > 1:
        refuse_unset(sweeps)
    from bench import app, console

    console.SWEEP.cells = len(cells(parsed.overrides))
    # Hydra reads sys.argv; it is given ours without the verb, a sweep of the study at a time
    for lines in checked:
        sys.argv = [sys.argv[0], *flags, *lines]
        try:
            app.job()
        except SystemExit as end:
            if isinstance(end.__context__, app.Refused):  # Hydra has printed it, and calls every failure 1
                sys.exit(BAD_INPUT)
            raise
    if not app.OUTCOMES and not app.SWEEPS:  # --cfg, --info
        return 0
    from bench import sinks
    from bench.finish import finish, finish_elsewhere

    good = finish(app.OUTCOMES) if app.OUTCOMES else finish_elsewhere(app.SWEEPS[-1])
    sinks.finish()
    return 0 if good else FAILED


def _plan(overrides: list[str]) -> int:
    from bench.overrides import check
    from bench.studies import cells, expand

    checked = [check(sweep, study_sweep=True) for sweep in expand(overrides)]
    if len(singles := cells(overrides)) > 1:
        from bench.console import out
        from bench.forecast import forecast

        out.print(forecast(singles))
        return 0
    from bench.finish import describe

    print(describe(checked[0]))
    return 0


def _ls(arguments: list[str]) -> int:
    from bench.catalog import listing

    print(listing(arguments[0].rstrip("=") if arguments else None))
    return 0


def _show(arguments: list[str]) -> int:
    from bench.catalog import show_all

    if not arguments:
        raise UserError("'show' takes group=name, for example: bench show solver=dps")
    print(show_all(arguments))
    return 0


def _check(overrides: list[str]) -> int:
    from bench.check import reports, summary, table
    from bench.console import out

    done = []
    for report in reports(overrides):
        out.print(table(report))
        done.append(report)
    out.print(summary(done))
    return FAILED if any(report.failures for report in done) else 0


def _doctor(arguments: list[str]) -> int:
    from bench.doctor import doctor

    return doctor(arguments)


def _leaderboard(arguments: list[str]) -> int:
    if len(arguments) != 1:
        raise UserError("'leaderboard' takes one study folder, for example: bench leaderboard runs/default")
    study = Path(arguments[0])
    from bench.record import check_study

    check_study(study)
    from bench import console, figures, leaderboard

    board = leaderboard.write(study)
    console.out.print(leaderboard.table(board, console.out.width))
    for path in (study / "leaderboard.csv", figures.write(study, board)):
        if path is not None:
            console.out.print(f"{path}", style="dim")
    return 0


def _status(arguments: list[str]) -> int:
    from bench.status import show

    return show(arguments)


def _compact(arguments: list[str]) -> int:
    from bench.compact import command

    return command(arguments)


def _compare(arguments: list[str]) -> int:
    from bench.compare import compare
    from bench.console import out

    report, path = compare(arguments)
    out.print(report.text(), markup=False)
    out.print(f"{path}", style="dim")
    return 0


def _score(arguments: list[str]) -> int:
    from bench.score import command

    return command(arguments)


def _report(arguments: list[str]) -> int:
    from bench.console import out
    from bench.report import report

    for path in report(arguments):
        out.print(f"{path}", style="dim")
    return 0


def _export_masks(overrides: list[str]) -> int:
    from bench.overrides import check

    truth = [override for override in overrides if override.startswith("truth=")]
    if not {*truth} <= {"truth=true", "truth=false"}:
        raise UserError(f"{truth[-1]}: truth takes true or false")
    checked = check([override for override in overrides if override not in truth])
    from bench.app import compose
    from bench.export import export_masks
    from bench.run import plain

    export_masks(plain(compose(checked)[0]), truth=truth[-1:] == ["truth=true"])
    return 0


def _convert(arguments: list[str]) -> int:
    from bench.console import out
    from bench.convert import convert, next_command

    folder = convert(arguments)
    out.print(f"{folder / 'prior.json'}", style="dim")
    out.print(f"next: {next_command(folder)}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _embed_prompts(arguments: list[str]) -> int:
    from bench.console import out
    from bench.embed import embed_prompts

    out.print(f"{embed_prompts(arguments)}", style="dim")
    return 0


def _train(overrides: list[str]) -> int:
    from bench.overrides import check

    checked = check(overrides)
    from bench.app import compose
    from bench.run import plain

    config = plain(compose(checked)[0])
    if any(override.startswith("solver=") for override in overrides):
        from bench.train_solver import train_solver

        train_solver(config, quiet=bool(config["quiet"]))
        return 0
    from bench.train import train_prior

    train_prior(config, quiet=bool(config["quiet"]))
    return 0


VERBS: dict[str, Callable[[list[str]], int]] = {
    "try": _try,
    "run": _run,
    "plan": _plan,
    "ls": _ls,
    "show": _show,
    "check": _check,
    "doctor": _doctor,
    "export-masks": _export_masks,
    "leaderboard": _leaderboard,
    "compare": _compare,
    "report": _report,
    "score": _score,
    "compact": _compact,
    "status": _status,
    "convert": _convert,
    "embed-prompts": _embed_prompts,
    "train": _train,
}

if __name__ == "__main__":
    main()
