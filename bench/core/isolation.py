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

import gc
import locale
import logging
import os
import random
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile


class NotPutBack(RuntimeError):
    """Foreign code changed something that cannot be put back; rows made so are refused."""


@dataclass(frozen=True)
class Setting:
    """One piece of state: its name for people, how it is read, and how a value that was read is put
    back.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


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
            if _same(setting.read(), value):
                continue
            setting.write(value)
            if not _same(setting.read(), value):
                lost.append(setting.name)
        except Exception:
            lost.append(setting.name)
    return lost


UNREADABLE = object()
"""In place of a value that could not be read; where it was so before, nothing is demanded
afterwards."""


def _same(a: Any, b: Any) -> bool:
    """Whether ``a`` is what ``b`` was: tensors and arrays too, alone or inside lists, tuples and
    dictionaries.
    """
    if b is UNREADABLE:
        return True
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) < 100:
        return len(a) == len(b) and all(map(_same, a, b))
    return a is b or bool(a == b)


def attribute(owner: Any, name: str, label: str = "") -> Setting:
    """The attribute of a module or object, compared and put back as the object that it is."""
    label = label or f"{getattr(owner, '__name__', type(owner).__name__)}.{name}"
    return Setting(
        label,
        lambda: _readable(lambda: getattr(owner, name)),
        lambda value: setattr(owner, name, value),
    )


# -- torch -----------------------------------------------------------------------------------------


def _default_device() -> str | None:
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return None if context is None else str(context.device)


def _set_tensor_type(device: str) -> None:
    torch.set_default_tensor_type(
        "torch.FloatTensor" if device == "cpu" else "torch.cuda.FloatTensor"
    )


def _deterministic() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def _inference(enabled: bool) -> None:
    guard = torch.inference_mode(enabled)
    guard.__enter__()
    _GUARDS.append(guard)  # the mode lasts as long as its object


_GUARDS: list[Any] = []
_AUTOCAST = ("cpu", "cuda")


def _autocast() -> tuple[Any, ...]:
    torch.autocast_increment_nesting()
    depth = torch.autocast_decrement_nesting()
    kinds = [
        (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in _AUTOCAST
    ]
    return torch.is_autocast_cache_enabled(), depth, *kinds


def _set_autocast(value: tuple[Any, ...]) -> None:
    cache, depth, *kinds = value
    torch.clear_autocast_cache()
    while _autocast()[1] > depth:
        torch.autocast_decrement_nesting()
    while _autocast()[1] < depth:
        torch.autocast_increment_nesting()
    torch.set_autocast_cache_enabled(cache)
    for kind, (enabled, dtype) in zip(_AUTOCAST, kinds, strict=True):
        torch.set_autocast_enabled(kind, enabled)
        torch.set_autocast_dtype(kind, dtype)


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _denormals() -> bool:
    """Whether the processor keeps numbers below the smallest normal one; torch can set that and not
    tell it.
    """
    return bool(torch.full((), 1e-310, dtype=torch.float64, device="cpu").mul(1.0) != 0)


def _hooks() -> dict[str, dict[Any, Any]]:
    module = torch.nn.modules.module
    return {
        name: dict(value)
        for name, value in vars(module).items()
        if name.startswith("_global_") and "hooks" in name
    }


def _set_hooks(value: dict[str, dict[Any, Any]]) -> None:
    for name, hooks in value.items():
        there = getattr(torch.nn.modules.module, name)
        there.clear()
        there.update(hooks)


def _with_cuda(read: Callable[[], Any]) -> Callable[[], Any]:
    """Nothing is asked of GPUs before somebody uses one: asking would start them."""
    return lambda: read() if torch.cuda.is_initialized() else UNREADABLE


_MATMUL, _CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn
_SDP = ("flash", "mem_efficient", "math", "cudnn")


def _reductions() -> tuple[bool, ...]:
    # pairs where split-k can be set apart, else one flag
    return (
        _MATMUL.allow_fp16_reduced_precision_reduction,
        _MATMUL.allow_bf16_reduced_precision_reduction,
    )


def _set_reductions(value: tuple[bool, ...]) -> None:
    (
        _MATMUL.allow_fp16_reduced_precision_reduction,
        _MATMUL.allow_bf16_reduced_precision_reduction,
    ) = value


def _precisions() -> tuple[Any, ...]:
    """How exact float32 products are, by torch's older switches and by its newer names, which it
    keeps apart.
    """
    names = tuple(torch._C._get_fp32_precision_getter(*place) for place in _PRECISIONS)
    return (
        _readable(torch.get_float32_matmul_precision),
        _readable(lambda: _CUDNN.allow_tf32),
        *names,
    )


def _readable(read: Callable[[], Any]) -> Any:
    """What ``read`` gives; torch refuses to answer where the older and the newer way contradict
    each other.
    """
    try:
        return read()
    except RuntimeError:
        return UNREADABLE


def _set_precisions(value: tuple[Any, ...]) -> None:
    products, convolutions, *names = value
    if products is not UNREADABLE:
        torch.set_float32_matmul_precision(products)
    if convolutions is not UNREADABLE:
        _CUDNN.allow_tf32 = convolutions
    for place, precision in zip(_PRECISIONS, names, strict=True):
        torch._C._set_fp32_precision_setter(*place, precision)


_PRECISIONS = (
    *(("generic", "all"), ("cuda", "all"), ("cuda", "matmul"), ("cuda", "conv"), ("cuda", "rnn")),
    *(("mkldnn", "all"), ("mkldnn", "matmul"), ("mkldnn", "conv"), ("mkldnn", "rnn")),
)

NUMBERS: tuple[Setting, ...] = (
    # the mode first: within it others cannot be set
    Setting("torch's inference mode", torch.is_inference_mode_enabled, _inference),
    Setting("torch's default device", _default_device, torch.set_default_device),
    Setting("torch's default tensor type", torch._C._get_default_device, _set_tensor_type),
    Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Setting("torch's threads", torch.get_num_threads, torch.set_num_threads),
    Setting(
        "torch's inter-op threads", torch.get_num_interop_threads, torch.set_num_interop_threads
    ),
    Setting("torch's gradient mode", torch.is_grad_enabled, torch.set_grad_enabled),
    Setting("torch's autocast", _autocast, _set_autocast),
    Setting(
        "torch's anomaly mode", _anomaly, lambda value: torch.autograd.set_detect_anomaly(*value)
    ),
    Setting(
        "torch's deterministic algorithms",
        _deterministic,
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    attribute(torch.utils.deterministic, "fill_uninitialized_memory"),
    Setting("torch's precision of products", _precisions, _set_precisions),
    Setting("torch's reduced precision", _reductions, _set_reductions),
    *(attribute(_CUDNN, name) for name in ("enabled", "benchmark", "deterministic")),
    *(
        attribute(torch.backends.mkldnn, name)
        for name in ("enabled", "deterministic", "allow_tf32")
    ),
    *(
        Setting(
            f"torch's {name} attention",
            getattr(torch.backends.cuda, f"{name}_sdp_enabled"),
            getattr(torch.backends.cuda, f"enable_{name}_sdp"),
        )
        for name in _SDP
    ),
    Setting("denormal numbers", _denormals, lambda value: torch.set_flush_denormal(not value)),
    Setting("torch's hooks of all modules", _hooks, _set_hooks),
    Setting("the current GPU", _with_cuda(torch.cuda.current_device), torch.cuda.set_device),
    Setting("torch's random state", torch.get_rng_state, torch.set_rng_state),
    Setting(
        "torch's random state on GPUs",
        _with_cuda(torch.cuda.get_rng_state_all),
        torch.cuda.set_rng_state_all,
    ),
    Setting("numpy's random state", np.random.get_state, np.random.set_state),
    Setting("Python's random state", random.getstate, random.setstate),
    Setting("numpy's treatment of errors", np.geterr, lambda value: np.seterr(**value)),
    Setting("numpy's error handler", np.geterrcall, np.seterrcall),
)
"""What may change the numbers of the next cell."""

# -- the process -----------------------------------------------------------------------------------


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
    """Whether each timer stands still; of one that runs before foreign code does, nothing is
    demanded.
    """
    return [UNREADABLE if signal.getitimer(kind)[0] > 0 else "still" for kind in _TIMERS]


def _stop_timers(value: list[Any]) -> None:
    """An alarm that foreign code has set would end the process once its handler has gone."""
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
    """Signals can be handled in the main thread alone; elsewhere there is nothing to put back."""
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


def keep_threads() -> None:
    """Fix what can be set once in a process: afterwards torch refuses, and foreign code gets its
    error.
    """
    with suppress(RuntimeError):
        torch.set_num_interop_threads(torch.get_num_interop_threads())
