"""Put back the state of the process that a solver, metric or data set changes.

Cells of a sweep share a process. A solver that makes float64 the default type, or turns gradients
off, would change the numbers of every later cell. So :func:`isolated` reads a list of settings
before foreign code runs, and puts back those that differ afterwards. Each piece of state is one
:class:`Setting`, in :mod:`bench.core.number_settings` or :mod:`bench.core.process_settings`.

Two kinds of change are not covered: functions of a library that are replaced, and state inside C
libraries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch

from posterior_bench.bench.core.number_settings import NUMBERS
from posterior_bench.bench.core.process_settings import PROCESS
from posterior_bench.bench.core.setting import Setting, same_value


class NotPutBack(RuntimeError):
    """Foreign code changed state that cannot be put back; its rows are refused."""


@contextmanager
def isolated(*, numbers: bool = False) -> Iterator[None]:
    """Put back every setting after the block.

    Parameters
    ----------
    numbers : bool, default False
        Only the settings that decide numbers.

    Raises
    ------
    NotPutBack
        If a setting cannot be put back.
    """
    settings = NUMBERS if numbers else (*NUMBERS, *PROCESS)
    before = [setting.read() for setting in settings]
    try:
        yield
    finally:
        lost = _put_back(settings, before)
    if lost:
        raise NotPutBack(
            f"the code changed {', '.join(lost)}, which cannot be put back; do not change it"
        )


def _put_back(settings: Sequence[Setting], before: Sequence[Any]) -> list[str]:
    """Return the names of the settings that could not be put back."""
    lost = []
    for setting, value in zip(settings, before, strict=True):
        try:
            if same_value(setting.read(), value):
                continue
            setting.write(value)
            if not same_value(setting.read(), value):
                lost.append(setting.name)
        except Exception:
            lost.append(setting.name)
    return lost


def keep_threads() -> None:
    """Fix torch's inter-op threads, which can be set once: foreign code then gets an error."""
    with suppress(RuntimeError):
        torch.set_num_interop_threads(torch.get_num_interop_threads())
