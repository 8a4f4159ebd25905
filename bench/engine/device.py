"""The device of a worker: its clock, its memory and its name."""

from __future__ import annotations

import gc
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def clock(device: str) -> Iterator[Callable[[], float]]:
    """Yield a function that returns the seconds of the block, work of the device included."""
    _synchronize(device)
    start = end = time.perf_counter()
    yield lambda: end - start
    _synchronize(device)
    end = time.perf_counter()


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def fix_workspace() -> None:
    """Give cuBLAS the workspace with which its sums have an order.

    cuBLAS and torch read the setting once, at the first product of the process on a GPU.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"


def repeatable(device: str) -> None:
    """Let a device compute the same bits in every run, in float32.

    A GPU chooses the same kernel for the same shape, and only among kernels whose sums have an
    order; an operation that has no such kernel raises. On the CPU every kernel is of that kind, and
    torch's switch stays off: it would choose other kernels there.
    """
    ordered = not device.startswith("cpu")
    if ordered:
        fix_workspace()
    torch.use_deterministic_algorithms(ordered)
    # torch would fill every new tensor with NaN, so that errors repeat too
    torch.utils.deterministic.fill_uninitialized_memory = not ordered  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = ordered
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def reset_peak(device: str) -> None:
    """Start the measurement of :func:`peak_mib` on a GPU; a process cannot start it anew."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def peak_mib(device: str) -> float:
    """Return the peak memory so far in MiB: of the GPU, else of the process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def free_memory(device: str) -> None:
    """Give back the memory of tensors that nobody holds any more."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def device_name(device: str) -> str:
    """Return the name of the GPU, or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
