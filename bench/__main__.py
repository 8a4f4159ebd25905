"""``python -m bench [verb] [overrides]``; no verb = run. Help is in :mod:`bench.cli.verbs`, exit codes
in :mod:`bench.core.errors`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if (
    __package__ == "bench"
):  # python -m bench in a checkout: its own files, whatever is installed elsewhere
    sys.path[0] = str(Path(__file__).resolve().parents[1] / "src")

from posterior_bench.bench.cli.last_resort import (
    flush,
    last_resort,
    prepare_streams,
    refuse_broken_text,
    say,
    silence,
)
from posterior_bench.bench.cli.verbs import HELP, everything, one
from posterior_bench.bench.core.errors import BAD_INPUT, FAILED, UserError, unknown
from posterior_bench.bench.core.signals import (
    exit_code,
    forget,
    heed_signals,
    interruption_line,
    is_stop,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; raises SystemExit with the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    heed_signals()
    try:
        _main(arguments)
    except (
        BaseException
    ) as error:  # after a signal, whatever became of the exception that it raised
        if not is_stop(error):
            raise
        say(interruption_line(_parted(arguments)[0], arguments).removeprefix("bench: "))
        sys.exit(exit_code())
    finally:
        forget()


def _main(arguments: list[str]) -> None:
    """The same, but for signals."""
    try:
        prepare_streams()
        refuse_broken_text(arguments)
        code = _dispatch(arguments)
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):
            flush()
            raise
        code = _failed(end.__context__, arguments)  # rich calls that 1
    except BaseException as error:
        if is_stop(error):
            raise
        code = _failed(error, arguments)
    problem = flush()
    if problem is not None:
        code = _failed(problem, arguments)
    sys.exit(code)


def _failed(error: BaseException, arguments: list[str]) -> int:
    """Say in one line why a verb ended; returns its exit code."""
    verb = _parted(arguments)[0]
    if isinstance(error, UserError):
        say(str(error))
        return BAD_INPUT
    if isinstance(error, BrokenPipeError):
        silence()
        if verb not in HELP or HELP[verb].reads:
            return 0  # the reader of `bench ls | head` has gone; nothing is left to say
        say(
            "the reader of the output has gone; what is stored is kept, and the same command "
            "continues"
        )
        return BAD_INPUT
    line, code = last_resort(error)
    say(line)
    return code


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    verb, rest = _parted(arguments)
    if "--version" in arguments:
        print(_version())
        return 0
    if any(a in ("-h", "--help") for a in arguments):
        print(everything() if verb == "run" and arguments[:1] != ["run"] else _help_of(verb))
        return 0
    if verb not in VERBS:
        raise unknown("verb", verb, VERBS)
    from posterior_bench.bench.config import prompts
    from posterior_bench.bench.config.prior_paths import named
    from posterior_bench.bench.estimate.problems import asked

    asked(rest)
    rest = named(rest)
    if HELP[verb].settings:
        from posterior_bench.bench.config.text_settings import literal, sweeps

        several = sweeps(rest)
        rest = literal(prompts.literal(rest, several), several)
    return VERBS[verb](rest)


def _help_of(verb: str) -> str:
    if verb not in HELP:
        raise unknown("verb", verb, VERBS)
    return one(verb)


def _version() -> str:
    """The version, and the commit where one is known."""
    from posterior_bench.bench.core.environment import NAME, origin, version

    found = origin()
    changed = " with changes" if found["dirty"] else ""
    commit = "" if found["commit"] == "unknown" else f" (commit {found['commit'][:12]}{changed})"
    return f"{NAME} {version()}{commit}"


def _parted(arguments: list[str]) -> tuple[str, list[str]]:
    """The verb, which may be left out, and the rest."""
    if arguments and "=" not in arguments[0] and not arguments[0].startswith(("-", "+", "~")):
        return arguments[0], arguments[1:]
    return "run", arguments


def _try(arguments: list[str]) -> int:
    from posterior_bench.bench.cli.try_photo import command

    return command(arguments)


def _run(overrides: list[str]) -> int:
    from posterior_bench.bench.config import hydra_settings
    from posterior_bench.bench.config.overrides import check, parse
    from posterior_bench.bench.config.studies import cells, expand, refuse_unset

    parsed = hydra_settings.flags(overrides)
    flags = [argument for argument in overrides if argument not in parsed.overrides]
    hydra_settings.demand_launcher(parse(parsed.overrides))
    sweeps = expand(parsed.overrides)
    checked = [check(sweep, parsed.multirun, study_sweep=True) for sweep in sweeps]
    if len(sweeps) > 1:
        refuse_unset(sweeps)
    from posterior_bench.bench.cli import app
    from posterior_bench.bench.engine import display

    every = cells(parsed.overrides)
    display.SWEEP.cells = len(every)
    # Hydra reads sys.argv; it is given ours without the verb, a sweep of the study at a time
    for lines in checked:
        sys.argv = [sys.argv[0], *flags, *lines]
        app.launch()
    if not app.OUTCOMES and not app.SWEEPS:  # --cfg, --info
        return 0
    from posterior_bench.bench.cli.finish import finish, finish_elsewhere
    from posterior_bench.bench.config.plugins import admit_of
    from posterior_bench.bench.engine import trackers

    if not app.OUTCOMES:
        admit_of(app.SWEEPS[-1])  # the jobs ran elsewhere, but the user has named them here
    good = (
        finish(app.OUTCOMES, display.SWEEP.cells)
        if app.OUTCOMES
        else finish_elsewhere(app.SWEEPS[-1], every)
    )
    trackers.finish()
    return 0 if good else FAILED


def _plan(arguments: list[str]) -> int:
    from posterior_bench.bench.estimate.forecast import command

    return command(arguments)


def _ls(arguments: list[str]) -> int:
    from posterior_bench.bench.config.catalog import listing

    print(listing(arguments[0].rstrip("=") if arguments else None))
    return 0


def _show(arguments: list[str]) -> int:
    from posterior_bench.bench.config.catalog import show_all

    if not arguments:
        raise UserError("'show' takes group=name, for example: bench show solver=dps")
    print(show_all(arguments))
    return 0


def _check(overrides: list[str]) -> int:
    from posterior_bench.bench.conformance.check import reports, summary, table
    from posterior_bench.bench.core.terminal import out

    done = []
    for report in reports(overrides):
        out.print(table(report))
        done.append(report)
    out.print(summary(done))
    return FAILED if any(report.failures for report in done) else 0


def _new_solver(arguments: list[str]) -> int:
    from posterior_bench.bench.conformance.new_solver import new_solver
    from posterior_bench.bench.core.terminal import out

    files, option = new_solver(arguments)
    for path in files:
        out.print(f"{path}", style="dim")
    out.print(
        f"next: python -m bench check solver={option}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _doctor(arguments: list[str]) -> int:
    from posterior_bench.bench.estimate.doctor import doctor

    return doctor(arguments)


def _leaderboard(arguments: list[str]) -> int:
    if len(arguments) != 1:
        raise UserError(
            "'leaderboard' takes one study folder, for example: bench leaderboard runs/default"
        )
    study = Path(arguments[0])
    from posterior_bench.bench.store.study_files import check_study, planned_cells

    check_study(study)
    planned_cells(study)
    from posterior_bench.bench.analysis import figures, leaderboard
    from posterior_bench.bench.core import terminal

    board = leaderboard.write(study)
    terminal.out.print(leaderboard.table(board, terminal.out.width))
    for path in (study / "leaderboard.csv", figures.write_figure(study, board)):
        if path is not None:
            terminal.out.print(f"{path}", style="dim")
    return 0


def _status(arguments: list[str]) -> int:
    from posterior_bench.bench.cli.status import show

    return show(arguments)


def _compact(arguments: list[str]) -> int:
    from posterior_bench.bench.store.compaction import command

    return command(arguments)


def _compare(arguments: list[str]) -> int:
    from posterior_bench.bench.core.terminal import out

    if len(arguments) > 1 and "=" not in arguments[1]:
        return _diff(arguments)
    from posterior_bench.bench.analysis.compare import compare

    report, path = compare(arguments)
    out.print(report.text(), markup=False)
    out.print(f"{path}", style="dim")
    return 0


def _diff(arguments: list[str]) -> int:
    from posterior_bench.bench.analysis.diff import command
    from posterior_bench.bench.core.terminal import out

    out.print(command(arguments), markup=False, highlight=False)
    return 0


def _score(arguments: list[str]) -> int:
    from posterior_bench.bench.engine.score import command

    return command(arguments)


def _report(arguments: list[str]) -> int:
    from posterior_bench.bench.core.terminal import out
    from posterior_bench.bench.pages.report import report

    for path in report(arguments):
        out.print(f"{path}", style="dim")
    return 0


def _export_masks(overrides: list[str]) -> int:
    from posterior_bench.bench.config.overrides import check

    truth = [override for override in overrides if override.startswith("truth=")]
    if not {*truth} <= {"truth=true", "truth=false"}:
        raise UserError(f"{truth[-1]}: truth takes true or false")
    checked = check([override for override in overrides if override not in truth])
    from posterior_bench.bench.cli.export_masks import export_masks
    from posterior_bench.bench.config.compose import compose
    from posterior_bench.bench.engine.run import plain

    export_masks(plain(compose(checked)[0]), truth=truth[-1:] == ["truth=true"])
    return 0


def _convert(arguments: list[str]) -> int:
    from posterior_bench.bench.core.terminal import out
    from posterior_bench.bench.external.conversion import convert, next_command

    folder = convert(arguments)
    out.print(f"{folder / 'prior.json'}", style="dim")
    out.print(f"next: {next_command(folder)}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _embed_prompts(arguments: list[str]) -> int:
    from posterior_bench.bench.core.terminal import out
    from posterior_bench.bench.external.text_encoders import embed_prompts

    out.print(f"{embed_prompts(arguments)}", style="dim")
    return 0


def _train(overrides: list[str]) -> int:
    from posterior_bench.bench.config.overrides import check

    checked = check(overrides)
    from posterior_bench.bench.config.compose import compose
    from posterior_bench.bench.engine.run import plain

    config = plain(compose(checked)[0])
    if any(override.startswith("solver=") for override in overrides):
        from posterior_bench.bench.training.train_solver import train_solver

        train_solver(config, quiet=bool(config["quiet"]))
        return 0
    from posterior_bench.bench.training.train_prior import train_prior

    train_prior(config, quiet=bool(config["quiet"]))
    return 0


def _completion(arguments: list[str]) -> int:
    from posterior_bench.bench.cli.completion import command

    return command(arguments)


VERBS: dict[str, Callable[[list[str]], int]] = {
    "try": _try,
    "run": _run,
    "plan": _plan,
    "ls": _ls,
    "show": _show,
    "check": _check,
    "new-solver": _new_solver,
    "doctor": _doctor,
    "export-masks": _export_masks,
    "leaderboard": _leaderboard,
    "compare": _compare,
    "diff": _diff,
    "report": _report,
    "score": _score,
    "compact": _compact,
    "status": _status,
    "convert": _convert,
    "embed-prompts": _embed_prompts,
    "train": _train,
    "completion": _completion,
}

if __name__ == "__main__":
    main()
