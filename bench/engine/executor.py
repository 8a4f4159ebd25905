"""What an executor is: it runs the chunks of a plan, in any order and on any machine.

A chunk and its rows are the same with every executor.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Protocol

from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.plan import CellPlan, Chunk

Counts = dict[str, int]
"""How many rows of a chunk have each status."""


class Executor(Protocol):
    """Runs chunks in any order."""

    def run(
        self, plan: CellPlan, chunks: Sequence[Chunk], threads: int | None
    ) -> Iterator[tuple[Chunk, Counts]]:
        """Yield each chunk with its number of rows per status, once it is stored."""


def device_called(name: str) -> str:
    """Return the device that a setting names; ``auto`` is a GPU where there is one.

    Raises
    ------
    UserError
        If a GPU is named and there is none.
    """
    import torch  # heavy: an executor is built before anything needs torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            f"executor.device={name}, but this machine has no CUDA device; use executor.device=cpu"
        )
    return name


def cpu_workers() -> int:
    """Return how many workers a machine without GPUs gets by default."""
    return max(1, (os.cpu_count() or 2) // 2)
