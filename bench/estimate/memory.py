"""An estimate of the memory that a worker takes for a cell, without weights and data.

Dry runs with one row, with two images, and with two draws of an image
(:mod:`bench.estimate.dry_run`) give the memory of the solver. It is linear in images and rows, so
these three points say what any batch takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.engine.batches import BatchSize, rows_at_once
from posterior_bench.bench.engine.enumerated import are_enumerated
from posterior_bench.bench.estimate.dry_run import Peaks, dry_run
from posterior_bench.bench.estimate.network_memory import NetworkMemory
from posterior_bench.bench.estimate.scoring_memory import (
    image_bytes,
    perceptual_weights,
    scoring_bytes,
)
from posterior_bench.bench.external.folder import Folder
from posterior_bench.priors.memory import weight_bytes

SLACK = 0.1
"""The share that allocators and kernels take on top."""

_MOST_ROWS = 2**16
"""The largest batch that is looked at."""


@dataclass(frozen=True)
class Linear:
    """Bytes that grow with the batch: ``constant + row * rows + image * images``."""

    constant: float
    row: float
    image: float

    @classmethod
    def through(cls, one: int, images: int, draws: int) -> Linear:
        """Return the function through three points.

        Parameters
        ----------
        one : int
            Bytes of one image with one draw.
        images : int
            Bytes of two images with one draw each.
        draws : int
            Bytes of one image with two draws.
        """
        row = draws - one
        image = images - one - row
        return cls(one - row - image, row, image)

    def at(self, size: BatchSize) -> float:
        """Return the bytes of a batch."""
        return self.constant + self.row * size.rows + self.image * size.images


@dataclass(frozen=True)
class Estimate:
    """Bytes of one worker.

    Parameters
    ----------
    weights : int
        Weights of all networks.
    draws : int
        Draws of every image.
    batch : int
        Rows of a network batch at most.
    image : int
        One output.
    fit, sample : Linear
        The peaks of the solver's two parts.
    left : Linear
        Bytes that the solver still holds while its samples are scored.
    scores : Linear
        Bytes that the metrics take.
    """

    weights: int
    draws: int
    batch: int
    image: int
    fit: Linear
    sample: Linear
    left: Linear
    scores: Linear

    @property
    def size(self) -> BatchSize:
        """Images, and draws of each image, in one network batch."""
        return rows_at_once(self.draws, self.batch)

    def activations(self, batch: int | None = None) -> int:
        """Return the peak without the weights: of the fit, of sampling, or of scoring.

        Parameters
        ----------
        batch : int or None, default None
            Another batch than the cell's.
        """
        size = self.size if batch is None else rows_at_once(self.draws, batch)
        # draws that were sampled before the last block of draws
        done = self.image * size.images * (self.draws - size.draws)
        scored = self.left.at(size) + done + self.scores.at(BatchSize(size.images, self.draws))
        return round(max(self.fit.at(size), self.sample.at(size) + done, scored))

    def total(self, batch: int | None = None) -> int:
        """Return the bytes of weights and activations."""
        return self.weights + self.activations(batch)

    def largest_batch(self, memory: float) -> int:
        """Return the largest ``batch`` that fits into ``memory`` bytes with slack, 0 if none."""
        return largest_batch(self.total, memory)


def largest_batch(total: Callable[[int], float], memory: float) -> int:
    """Return the largest ``batch`` whose ``total`` bytes fit with slack, 0 if none does."""

    def fits(batch: int) -> bool:
        return (1 + SLACK) * total(batch) <= memory

    if not fits(1):
        return 0
    good, bad = 1, 2
    while fits(bad) and bad < _MOST_ROWS:
        good, bad = bad, 2 * bad
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def estimate(config: JobConfig, memory: NetworkMemory) -> Estimate:
    """Estimate the memory of a cell's worker.

    Parameters
    ----------
    config : JobConfig
        The configuration of the cell.
    memory : NetworkMemory
        The memory of its prior's networks.

    Raises
    ------
    Exception
        If the solver does not fit prior and operator; whatever the solver raises.
    """
    prior = memory.prior
    prior.run_as(replace(config.execution, compile=False))
    sizes = (BatchSize(1, 1), BatchSize(2, 1), BatchSize(1, 2))
    solver = build(config.solver)
    if isinstance(solver, Folder) or are_enumerated(solver, config.data):  # they call no network
        runs = [Peaks(0, 0, 0)] * len(sizes)
    else:
        runs = [dry_run(config, memory, size) for size in sizes]
    fit, sample, left = (
        Linear.through(*(getattr(run, name) for run in runs)) for name in ("fit", "sample", "left")
    )
    constant, row, metric_weights = scoring_bytes(config, prior)
    return Estimate(
        weights=weight_bytes(prior) + metric_weights + perceptual_weights(config, prior),
        draws=config.draws,
        batch=config.batch,
        image=image_bytes(prior),
        fit=fit,
        sample=sample,
        left=left,
        scores=Linear(constant, row, 0.0),
    )
