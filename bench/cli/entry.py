"""Runs a command so that it ends as documented: one line for an error, and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from posterior_bench.bench.cli.error_line import error_line
from posterior_bench.bench.cli.standard_streams import (
    flush,
    prepare_streams,
    refuse_broken_text,
    say,
    silence,
)
from posterior_bench.bench.cli.verbs import USUAL, VERBS
from posterior_bench.bench.core.errors import BAD_INPUT, UserError
from posterior_bench.bench.core.signals import (
    exit_code,
    forget,
    heed_signals,
    interruption_line,
    is_stop,
)


def run_command(command: Callable[[], int], verb: str | None, words: Sequence[str]) -> NoReturn:
    """Run a command and end the process with its exit code.

    Parameters
    ----------
    command : callable
        Does the work and returns the exit code.
    verb : str or None
        The verb as it was typed, or None where it was left out.
    words : sequence of str
        The whole command line, for the line that says how to continue.

    Raises
    ------
    SystemExit
        Always, with the exit code.
    """
    verb = verb or USUAL
    heed_signals()
    try:
        sys.exit(_exit_code(command, verb, words))
    except BaseException as error:  # after a signal, whatever became of its exception
        if not is_stop(error):
            raise
        say(interruption_line(verb, words).removeprefix("bench: "))
        sys.exit(exit_code())
    finally:
        forget()


def _exit_code(command: Callable[[], int], verb: str, words: Sequence[str]) -> int | str | None:
    """Return the exit code of a command that no signal ended."""
    try:
        prepare_streams()
        refuse_broken_text(words)
        code: int | str | None = command()
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):
            flush()
            raise
        code = _failed(end.__context__, verb)  # rich turns a broken pipe into exit code 1
    except BaseException as error:
        if is_stop(error):
            raise
        code = _failed(error, verb)
    problem = flush()
    return code if problem is None else _failed(problem, verb)


def _failed(error: BaseException, verb: str) -> int:
    """Say in one line why a verb ended, and return its exit code."""
    if isinstance(error, UserError):
        say(str(error))
        return BAD_INPUT
    if isinstance(error, BrokenPipeError):
        silence()
        if verb not in VERBS or VERBS[verb].prints_only:
            return 0  # the reader of `bench ls | head` has gone; nothing is left to say
        say(
            "the reader of the output has gone; what is stored is kept, and the same command "
            "continues"
        )
        return BAD_INPUT
    line, code = error_line(error)
    say(line)
    return code
