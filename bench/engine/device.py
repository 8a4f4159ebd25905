"""The device of a worker: its clock, its memory, its name and its products in TensorFloat-32."""

from __future__ import annotations

import gc
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


@contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Compute products of a GPU in TensorFloat-32 while the block runs.

    Elsewhere, and in every score, products stay float32.
    """
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    try:
        products.allow_tf32 = convolutions.allow_tf32 = enabled
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def repeatable() -> None:
    """Let the device choose the same kernel for the same shape in every run, in float32."""
    torch.backends.cudnn.benchmark = False
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
