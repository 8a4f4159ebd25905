"""What an executor is: it runs the chunks of a plan, in any order and on any machine.

A chunk and its rows are the same with every executor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from posterior_bench.bench.core.cores import cores
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
    # heavy: an executor is built before anything needs torch
    import torch

    from posterior_bench.bench.engine.device import fix_workspace

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        if not torch.cuda.is_available():
            raise UserError(
                f"executor.device={name}, but this machine has no CUDA device; use "
                f"executor.device=cpu"
            )
        fix_workspace()  # whatever the caller does there first
    return name


def cpu_workers() -> int:
    """Return how many workers a machine without GPUs gets by default."""
    return max(1, cores() // 2)


def threads_each(workers: int, nodes: Sequence[Mapping[str, float]]) -> int:
    """Return the CPU threads of each worker, the same for all: rows depend on their number.

    Parameters
    ----------
    workers : int
        How many workers share the machines.
    nodes : sequence of mapping of str to float
        The cores (``CPU``) and GPUs (``GPU``) of every machine. Where there are GPUs, workers run
        on these machines alone, one on each GPU.
    """
    with_gpus = [node for node in nodes if node.get("GPU")]
    if with_gpus:
        share = min(node.get("CPU", 0) // min(node["GPU"], workers) for node in with_gpus)
    else:
        share = sum(node.get("CPU", 0) for node in nodes) // workers
    return max(1, int(share))


def threads_words(workers: int, threads: int) -> str:
    """Return the line that says how many workers and threads there are."""
    return (
        f"{workers} worker{'s'[: workers != 1]} with {threads} CPU thread{'s'[: threads != 1]} "
        f"each; a serial run with threads={threads} gives the same rows"
    )
