"""Nothing that a solver, metric or data set changes in the process stays there: its state is put
back afterwards.

Cells of a sweep share a process. A solver that makes float64 the default type, or turns gradients
off, would change the numbers of every cell that comes after it. So :func:`isolated` reads a list of
settings before foreign code runs and puts back those that differ when it has ended, however it
ended. Every setting is one :class:`Setting`; a new one is one more line in the lists below.

Not covered is what no list can hold: functions of a library that are replaced, C libraries with
state of their own.
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
    """Foreign code changed something that cannot be put back; rows made so are refused."""


@contextmanager
def isolated(*, numbers: bool = False) -> Iterator[None]:
    """After the block every setting is what it was before; only those that decide ``numbers``, if
    asked so.

    Raises NotPutBack where that is impossible.
    """
    settings = NUMBERS if numbers else (*NUMBERS, *PROCESS)
    before = [setting.read() for setting in settings]
    try:
        yield
    finally:
        lost = _put_back(settings, before)
    if lost:
        raise NotPutBack(
            f"the code changed {', '.join(lost)}, which cannot be put back; leave that alone"
        )


def _put_back(settings: Sequence[Setting], before: Sequence[Any]) -> list[str]:
    """The names of the settings that could not be."""
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
    """Fix what can be set once in a process: afterwards torch refuses, and foreign code gets its
    error.
    """
    with suppress(RuntimeError):
        torch.set_num_interop_threads(torch.get_num_interop_threads())
