"""Failed rows, and the words by which a row says what is wrong with it."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from posterior_bench.bench.core.errors import TimeoutExceeded
from posterior_bench.bench.core.foreign import Left, described, named, text_of
from posterior_bench.bench.engine.plan import CellPlan, Chunk
from posterior_bench.bench.engine.scoring import Row
from posterior_bench.priors.base import BudgetExceeded

_MEMORY_RAN_OUT = re.compile(
    # the first of the host; the others of CUDA, HIP and their libraries, as in
    # CUBLAS_STATUS_ALLOC_FAILED, CUFFT_ALLOC_FAILED and miopenStatusAllocFailed
    r"can't allocate memory|out of memory|ALLOC(?:ATION)?_?FAILED|OutOfMemory"
    r"|cudaErrorMemoryAllocation",
    re.IGNORECASE,
)
"""Messages of plain errors of PyTorch where memory ran out."""

_DEVICE_FAILED = re.compile(
    r"\b(?:CUDA|HIP|cuDNN|cuBLAS|cuFFT|cuSOLVER|cuSPARSE|MIOpen|rocBLAS|NCCL)(?: driver)? error\b"
    r"|_STATUS_(?:EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR|NOT_INITIALIZED)|CUFFT_EXEC_FAILED"
    r"|device-side assert|illegal memory access|unspecified launch failure|misaligned address"
    r"|uncorrectable ECC|\bXid\b|fallen off the bus",
    re.IGNORECASE,
)
"""Messages of a device or its libraries after which it mostly answers no more."""

_REFUSED = re.compile(
    r"NOT_SUPPORTED|INVALID_(?:VALUE|SIZE|TYPE|PLAN)|BAD_PARAM|ARCH_MISMATCH|no kernel image"
    r"|invalid (?:argument|configuration argument|device function)"
)
"""Among them, calls that the device refuses without harm: again in another process."""

FAR = 8.0
"""Larger values are no images in [-1, 1] with noise; 0..255 and 0..65535 are usual mistakes."""


def failed_rows(
    plan: CellPlan, chunk: Chunk, status: str, message: str, fixed: Row | None = None
) -> list[Row]:
    """Return the rows of a chunk that produced nothing."""
    fixed = fixed or {"cell": plan.cell.name}
    return [
        {**fixed, "image_id": image, "draw": d, "status": status, "message": message}
        for image in chunk.images
        for d in chunk.draws(plan.cell.draws)
    ]


def status_of(error: Exception) -> str:
    """Return the row status of an error: ``oom``, ``timeout`` or ``error``.

    ``lost`` is no status of a row: the device answers no more, and the rows can be had from another
    process.
    """
    if isinstance(error, TimeoutExceeded):
        return "timeout"
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "oom"
    if not isinstance(error, RuntimeError) or isinstance(error, Left):
        return "error"  # the text of a user's own error decides nothing
    text = text_of(error)
    if _MEMORY_RAN_OUT.search(text):
        return "oom"
    failed = isinstance(error, torch.AcceleratorError) or _DEVICE_FAILED.search(text)
    return "lost" if failed and not _REFUSED.search(text) else "error"


def one_line(error: BaseException) -> str:
    """Return type, first line and place of an error: short enough for a table."""
    return named(error) if isinstance(error, BudgetExceeded | TimeoutExceeded) else described(error)


def demand_real(x: Tensor) -> Tensor:
    """Return ``x``, the images of a solver.

    Raises
    ------
    TypeError
        If it is no tensor of real floating numbers: anything else would be changed silently.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"the solver returned {type(x).__name__} in place of a tensor of images")
    if not x.is_floating_point():
        raise TypeError(
            f"the solver returned images of {x.dtype}; give real ones of float32, with values in "
            "[-1, 1]"
        )
    return x


def demand_shape(x: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError if the images of a solver have another shape."""
    if x.shape != shape:
        raise ValueError(f"the solver returned {tuple(x.shape)}, not {shape}")


def note_on(reach: float) -> str:
    """Return the message of a good row whose largest value is ``reach``; mostly empty."""
    if reach <= FAR:
        return ""
    return f"values reach {reach:.3g}; images lie in [-1, 1], and what is outside was cut off"
