"""State of torch, NumPy and Python that may change the numbers of the next cell."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from posterior_bench.bench.core.setting import UNREADABLE, Setting, attribute, read_or_unreadable


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
    """Return whether the processor keeps denormal numbers; torch can set that but not read it."""
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
    """Return a reader that asks nothing of GPUs before they are in use: asking would start them."""
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
    """Return how exact float32 products are, by torch's older switches and by its newer names."""
    names = tuple(torch._C._get_fp32_precision_getter(*place) for place in _PRECISIONS)
    return (
        read_or_unreadable(torch.get_float32_matmul_precision),
        read_or_unreadable(lambda: _CUDNN.allow_tf32),
        *names,
    )


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
