"""Failed rows, and the words by which a row says what is wrong with it."""

from __future__ import annotations

import torch
from torch import Tensor

from posterior_bench.bench.core.errors import TimeoutExceeded
from posterior_bench.bench.core.foreign import described, named, text_of
from posterior_bench.bench.engine.plan import CellPlan, Chunk
from posterior_bench.bench.engine.scoring import Row
from posterior_bench.priors.base import BudgetExceeded

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
    """Return the row status of an error: ``oom``, ``timeout`` or ``error``."""
    text = text_of(error)
    # by its message alone PyTorch tells that the memory of the host ran out
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text:
        return "oom"
    return "timeout" if isinstance(error, TimeoutExceeded) else "error"


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
