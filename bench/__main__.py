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
  leaderboard DIR   rebuild the tables of a study from its rows
  train prior=NAME  train an embedded prior

examples
  python -m bench solver=repaint mask=comod data.images=32 draws=4
  python -m bench -m solver=blended,repaint,dps,vipaint2 mask=rotated,comod,palette

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
    checked = dict(zip(parsed.overrides, check(parsed.overrides, sweep=parsed.multirun), strict=True))
    from bench import app

    # Hydra reads sys.argv; it is given ours without the verb
    sys.argv = [sys.argv[0], *(checked.get(argument, argument) for argument in overrides)]
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


def _leaderboard(arguments: list[str]) -> int:
    if len(arguments) != 1:
        raise UserError("'leaderboard' takes one study folder, for example: bench leaderboard runs/default")
    study = Path(arguments[0])
    if not (study / "cells").is_dir():
        raise UserError(
            f"{study} is not a study folder: it holds no cells/; studies lie in runs/ unless out= said else"
        )
    from bench import console, leaderboard

    console.out.print(leaderboard.table(leaderboard.write(study)))
    console.out.print(f"{study / 'leaderboard.csv'}", style="dim")
    return 0


def _train(overrides: list[str]) -> int:
    from bench.overrides import check

    checked = check(overrides)
    from bench.app import compose
    from bench.run import plain
    from bench.train import train_prior

    config = plain(compose(checked)[0])
    train_prior(config, quiet=bool(config["quiet"]))
    return 0


VERBS: dict[str, Callable[[list[str]], int]] = {
    "run": _run,
    "plan": _plan,
    "ls": _ls,
    "show": _show,
    "leaderboard": _leaderboard,
    "train": _train,
}

if __name__ == "__main__":
    main()
