"""Trying something that may fail, for checks that go on afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from posterior_bench.bench.core.errors import UserError

_EXPECTED = UserError | ValueError | OSError | ImportError | RuntimeError


def attempt(make: Callable[[], Any]) -> tuple[Any, str]:
    """Return the result of ``make`` and an empty text, or None and one line on why it failed.

    Whatever foreign code raises is caught. The line names the class of an unexpected error.
    """
    try:
        return make(), ""
    except Exception as error:
        line = next(iter(str(error).splitlines()), "")
        expected = isinstance(error, _EXPECTED)
        return None, line if line and expected else f"{type(error).__name__}: {line}"
