"""State of the process that may change how the next cell runs, or what a person sees of it."""

from __future__ import annotations

import gc
import locale
import logging
import os
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile

from posterior_bench.bench.core.setting import UNREADABLE, Setting, attribute


def _directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # the folder was removed under the run
        return ""


def _change_directory(value: str) -> None:
    if value:
        os.chdir(value)


def _set_environment(value: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(value)
    time.tzset()


def _mask() -> int:
    value = os.umask(0o022)  # it cannot be read in another way
    os.umask(value)
    return value


def _filters() -> list[Any]:
    return list(warnings.filters)


def _set_filters(value: list[Any]) -> None:
    warnings.resetwarnings()  # tells the warnings module that they have changed
    warnings.filters[:] = value  # type: ignore[index]


_SIGNALS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGCHLD),
    *(signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGUSR1, signal.SIGUSR2),
)


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in _SIGNALS}


def _set_handlers(value: dict[int, Any]) -> None:
    for number, handler in value.items():
        if signal.getsignal(number) is not handler and handler is not None:
            signal.signal(number, handler)


_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


def _timers() -> list[Any]:
    """Return for each timer whether it stands still; a running one is not compared."""
    return [UNREADABLE if signal.getitimer(kind)[0] > 0 else "still" for kind in _TIMERS]


def _stop_timers(value: list[Any]) -> None:
    """Stop alarms that foreign code set: they would end the process once its handler is gone."""
    for kind, before in zip(_TIMERS, value, strict=True):
        if before == "still":
            signal.setitimer(kind, 0)


def _limits() -> list[tuple[int, int]]:
    return [resource.getrlimit(kind) for kind in _LIMITS]


def _set_limits(value: list[tuple[int, int]]) -> None:
    for kind, limit in zip(_LIMITS, value, strict=True):
        resource.setrlimit(kind, limit)


_LIMITS = (
    *(resource.RLIMIT_AS, resource.RLIMIT_CORE, resource.RLIMIT_CPU, resource.RLIMIT_DATA),
    *(resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_STACK),
)


def _logging() -> tuple[Any, ...]:
    root = logging.root
    return root.manager.disable, root.level, list(root.handlers)


def _set_logging(value: tuple[Any, ...]) -> None:
    disabled, level, handlers = value
    logging.disable(disabled)
    logging.root.setLevel(level)
    logging.root.handlers[:] = handlers


def _collector() -> tuple[Any, ...]:
    return gc.isenabled(), gc.get_threshold()


def _set_collector(value: tuple[Any, ...]) -> None:
    gc.set_threshold(*value[1])
    (gc.enable if value[0] else gc.disable)()


def _in_main_thread(read: Callable[[], Any], nothing: Any) -> Callable[[], Any]:
    """Return a reader for the main thread, where alone signals are handled."""
    return lambda: read() if threading.current_thread() is threading.main_thread() else nothing


PROCESS: tuple[Setting, ...] = (
    Setting("the working directory", _directory, _change_directory),
    Setting("environment variables", lambda: dict(os.environ), _set_environment),
    Setting("the umask", _mask, os.umask),
    Setting(
        "the locale",
        lambda: locale.setlocale(locale.LC_ALL),
        lambda to: locale.setlocale(locale.LC_ALL, to),
    ),
    Setting("warning filters", _filters, _set_filters),
    attribute(warnings, "showwarning"),
    # timers before handlers, and both before the signals that wait are let in
    Setting("timers", _timers, _stop_timers),
    Setting("signal handlers", _in_main_thread(_handlers, {}), _set_handlers),
    Setting(
        "blocked signals",
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, []),
        lambda value: signal.pthread_sigmask(signal.SIG_SETMASK, value),
    ),
    *(
        attribute(sys, name)
        for name in ("stdout", "stderr", "stdin", "excepthook", "displayhook", "unraisablehook")
    ),
    attribute(threading, "excepthook"),
    Setting(
        "sys.path", lambda: list(sys.path), lambda value: sys.path.__setitem__(slice(None), value)
    ),
    Setting(
        "sys.argv", lambda: list(sys.argv), lambda value: sys.argv.__setitem__(slice(None), value)
    ),
    Setting("the trace function", sys.gettrace, sys.settrace),
    Setting("the profile function", sys.getprofile, sys.setprofile),
    Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    Setting("the switch interval", sys.getswitchinterval, sys.setswitchinterval),
    Setting("digits of large numbers", sys.get_int_max_str_digits, sys.set_int_max_str_digits),
    Setting("the garbage collector", _collector, _set_collector),
    Setting("logging", _logging, _set_logging),
    Setting("limits of the process", _limits, _set_limits),
    Setting(
        "the processors in use",
        lambda: os.sched_getaffinity(0),
        lambda value: os.sched_setaffinity(0, value),
    ),
    Setting(
        "numpy's way to print", np.get_printoptions, lambda value: np.set_printoptions(**value)
    ),
    Setting(
        "torch's way to print",
        lambda: dict(vars(torch._tensor_str.PRINT_OPTS)),
        lambda value: vars(torch._tensor_str.PRINT_OPTS).update(value),
    ),
    attribute(Image, "MAX_IMAGE_PIXELS"),
    attribute(ImageFile, "LOAD_TRUNCATED_IMAGES"),
)
"""What may change how the next cell runs, or what a person sees of it."""
