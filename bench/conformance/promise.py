"""A promise of a solver, and how promises are checked one after the other.

A promise is checked only if the promises in its ``after`` are kept: where rows mix, a check for NaN
means nothing. So a solver that breaks one promise fails one check, and the table names it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from posterior_bench.bench.conformance.results import FAIL, PASS, SKIPPED, WARNING, Result
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.core.foreign import foreign
from posterior_bench.bench.engine.failures import one_line


class Broken(Exception):
    """A promise is not kept; the message says how."""


class Doubtful(Exception):
    """No promise is broken, but the samples look wrong; the message says why."""


class Skipped(Exception):
    """A promise cannot be checked here; the message says why."""


@dataclass(frozen=True)
class Promise:
    """A promise of a solver.

    Parameters
    ----------
    name : str
        Name of the promise, as ``bench check`` prints it.
    text : str
        The promise in a few words.
    check : Callable
        Function of what is checked. It raises :class:`Broken`, :class:`Doubtful` or
        :class:`Skipped`, or returns if the promise is kept.
    after : tuple of str, default ()
        Names of promises. If one of them is not kept, this promise is skipped.
    """

    name: str
    text: str
    check: Callable[[Any], None]
    after: tuple[str, ...] = ()


def examine(promises: Sequence[Promise], checked: object) -> list[Result]:
    """Check promises in their order.

    Parameters
    ----------
    promises : Sequence of Promise
        The promises; a promise stands behind the promises of its ``after``.
    checked : object
        The argument of every check.

    Returns
    -------
    list of Result
        The result of every promise. An error of the solver is a failure of the promise.

    Raises
    ------
    UserError
        If the solver cannot run with the settings of the user.
    """
    results: dict[str, Result] = {}
    for promise in promises:
        not_kept = [name for name in promise.after if results[name].status != PASS]
        if not_kept:
            results[promise.name] = Result(promise.name, SKIPPED, f"rests on {not_kept[0]}")
            continue
        results[promise.name] = examine_one(promise, checked)
    return list(results.values())


def examine_one(promise: Promise, checked: object) -> Result:
    """Check one promise, whatever its ``after``; see :func:`examine`."""
    try:
        with foreign():
            promise.check(checked)
    except (Skipped, ImportError) as reason:  # ImportError: an optional package is missing
        return Result(promise.name, SKIPPED, str(reason))
    except Broken as reason:
        return Result(promise.name, FAIL, str(reason))
    except Doubtful as reason:
        return Result(promise.name, WARNING, str(reason))
    except UserError:  # a setting of the user is wrong, not the solver
        raise
    except Exception as error:
        return Result(promise.name, FAIL, one_line(error))
    return Result(promise.name, PASS)
