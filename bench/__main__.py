"""``python -m bench [verb] [overrides]``; no verb = run. Exit codes: 0 good, 1 failed rows, 2 bad input, 130 stop."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.errors import BAD_INPUT, FAILED, INTERRUPTED, UserError, unknown
from bench.guard import check_house

HELP = """\
python -m bench [verb] [overrides]

  run          run a cell, or with -m and comma lists a sweep (the verb may be left out)
  plan         what a run would do: cells, rows, chunks still missing
  ls [GROUP]   everything that can be chosen
  show GROUP=NAME   one choice in full: settings, presets, card
  doctor            what a run needs, looked at before it: files, hashes, weights of metrics, data, memory, disk
  check solver=NAME   what every solver promises, checked on small priors; solver=all, and prior=NAME for another one
  export-masks out=DIR   masks and observed images as PNG files, for methods that run elsewhere (docs/external.md)
  leaderboard DIR   rebuild the tables of a study from its rows
  compare DIR a=SOLVER b=SOLVER metric=NAME   who is better image by image, by how much, how surely; and a plot
  score DIR metrics=[NAME]   add metrics to finished rows from their stored images, without sampling
  status DIR        how far a study is, from its folder alone: running, stalled, failed, rows per minute
  convert FILE --as edm|adm|compvis|hub --to DIR   published weights for a prior; `show prior=NAME` has the command
  embed-prompts FOLDER --prompts FILE --to FILE.safetensors   the prompts of a Stable Diffusion prior, one a line
  train prior=NAME  train an embedded prior; with solver=NAME, that solver's modules for it

examples
  python -m bench solver=repaint mask=comod data.images=32 draws=4
  python -m bench -m solver=blended,repaint,dps,vipaint2 mask=rotated,comod,palette
  python -m bench study=arena      # a study that sweeps by itself; solver=dps,ddnm and the like narrow it

settings
{settings}

An interrupted run continues when the same command is given again. --cfg job shows the resolved configuration.
Exit codes: 0 every row is ok or accepted, 1 some are not, 2 bad input, 130 interrupted."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; raises SystemExit with the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        check_house()
        sys.exit(_dispatch(arguments))
    except UserError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print("bench: interrupted; give the same command again to continue", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # the reader of `bench ls | head` has gone; nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _dispatch(arguments: list[str]) -> int:
    if any(a in ("-h", "--help") for a in arguments):
        print(_help())
        return 0
    verb, rest = "run", arguments
    if arguments and "=" not in arguments[0] and not arguments[0].startswith(("-", "+", "~")):
        verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        raise unknown("verb", verb, VERBS)
    return VERBS[verb](rest)


def _help() -> str:
    from bench.catalog import defaults
    from bench.settings import SETTINGS

    groups = "  ".join(f"{g}={value}" for g, value in defaults().items())
    width = max(map(len, SETTINGS))
    lines = [f"  {groups}", *(f"  {k + '=':<{width + 1}}  {text}" for k, text in SETTINGS.items())]
    return HELP.format(settings="\n".join(lines))


def _run(overrides: list[str]) -> int:
    from hydra._internal.utils import get_args_parser

    from bench.overrides import check

    parsed = get_args_parser().parse_args(overrides)
    checked = check(parsed.overrides, parsed.multirun, study_sweep=True)
    ours, more = dict(zip(parsed.overrides, checked, strict=False)), checked[len(parsed.overrides) :]
    from bench import app

    # Hydra reads sys.argv; it is given ours without the verb
    sys.argv = [sys.argv[0], *(ours.get(argument, argument) for argument in overrides), *more]
    app.job()
    if not app.OUTCOMES:  # --cfg, --info, or jobs that a launcher runs elsewhere
        return 0
    from bench.finish import finish

    return 0 if finish(app.OUTCOMES) else FAILED


def _plan(overrides: list[str]) -> int:
    from bench.overrides import check

    checked = check(overrides)
    from bench.finish import describe

    print(describe(checked))
    return 0


def _ls(arguments: list[str]) -> int:
    from bench.catalog import listing

    print(listing(arguments[0].rstrip("=") if arguments else None))
    return 0


def _show(arguments: list[str]) -> int:
    from bench.catalog import show

    if not arguments:
        raise UserError("'show' takes group=name, for example: bench show solver=dps")
    print("\n\n".join(show(argument) for argument in arguments))
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
    if not (study / "cells").is_dir():
        raise UserError(
            f"{study} is not a study folder: it holds no cells/; studies lie in runs/ unless out= said else"
        )
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
    from bench.convert import convert

    folder = convert(arguments)
    out.print(f"{folder / 'prior.json'}", style="dim")
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
    "run": _run,
    "plan": _plan,
    "ls": _ls,
    "show": _show,
    "check": _check,
    "doctor": _doctor,
    "export-masks": _export_masks,
    "leaderboard": _leaderboard,
    "compare": _compare,
    "score": _score,
    "status": _status,
    "convert": _convert,
    "embed-prompts": _embed_prompts,
    "train": _train,
}

if __name__ == "__main__":
    main()
