"""The cost of a study before it runs: cells, rows, network calls, hours and disk.

Calls are counted by running each solver once on a stand-in network that costs nothing
(:mod:`bench.estimate.call_counts`). Hours are these counts times the seconds of a call
(:mod:`bench.estimate.row_seconds`), unless rows of the same kind were computed
(:mod:`bench.estimate.stored_costs`). Disk is the size of shards with as many rows and with PNG
files of the same size (:mod:`bench.estimate.row_size`). The mask changes none of these figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from posterior_bench.bench.config.build import arguments, build, with_preset
from posterior_bench.bench.config.cell import digest
from posterior_bench.bench.config.image_folders import missing_settings
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.plugins import admit_of
from posterior_bench.bench.core.errors import Inapplicable, UserError
from posterior_bench.bench.engine.arena import build_images
from posterior_bench.bench.engine.batches import rows_at_once
from posterior_bench.bench.engine.cache import shared
from posterior_bench.bench.engine.chunking import pieces_for, planned_workers
from posterior_bench.bench.engine.job import demand_possible
from posterior_bench.bench.engine.plan import cut
from posterior_bench.bench.estimate.call_counts import (
    CallCounts,
    CannotCount,
    count_calls,
    for_budget,
)
from posterior_bench.bench.estimate.cell_parts import (
    DescribedPrior,
    cost_key,
    demand_fit,
    settings_of,
)
from posterior_bench.bench.estimate.plan_settings import PlanSettings
from posterior_bench.bench.estimate.requested_cells import RequestedCell, compose_cells
from posterior_bench.bench.estimate.row_cost import SKIPPED, UNKNOWN, CellEstimate, RowCost
from posterior_bench.bench.estimate.row_seconds import RowSeconds
from posterior_bench.bench.estimate.row_size import image_shape, png_size, shard_size
from posterior_bench.bench.estimate.stored_costs import StoredCosts, cost_of_two_images
from posterior_bench.bench.external.folder import Folder
from posterior_bench.bench.external.models import converted_path
from posterior_bench.datasets.base import ImageSet
from posterior_bench.metrics.base import AnyMetric
from posterior_bench.solvers.base import Solver


def estimate_cells(cells: Sequence[Sequence[str]], settings: PlanSettings) -> list[CellEstimate]:
    """Estimate the cost of cells.

    Parameters
    ----------
    cells : sequence of sequence of str
        The settings of each cell.
    settings : PlanSettings
        The settings of ``plan``.

    Raises
    ------
    UserError
        If a setting has a value that no run could use.
    """
    estimator = Estimator(settings)
    return [estimator.estimate(cell) for cell in compose_cells(cells)]


@dataclass(frozen=True)
class _Parts:
    """The objects of a cell, and the form of its chunks."""

    solver: Solver
    described: DescribedPrior
    images: ImageSet | str
    metrics: dict[str, AnyMetric]
    images_of_chunk: int
    draws_of_chunk: int
    chunks: int
    workers: int

    @property
    def missing(self) -> str:
        """Why the prior or the images are not here."""
        return self.described.missing or (self.images if isinstance(self.images, str) else "")


@dataclass
class Estimator:
    """Estimates cell after cell; what cells share is counted and measured once.

    Parameters
    ----------
    settings : PlanSettings
        The settings of ``plan``.
    """

    settings: PlanSettings
    priors: dict[str, DescribedPrior] = field(default_factory=dict)
    images: dict[str, ImageSet | str] = field(default_factory=dict)
    counts: dict[str, CallCounts | str] = field(default_factory=dict)
    tried: dict[str, RowCost] = field(default_factory=dict)
    sizes: dict[str, float] = field(default_factory=dict)
    stored: StoredCosts = field(default_factory=StoredCosts)

    def __post_init__(self) -> None:
        self.seconds = RowSeconds(self.settings, self.stored)

    def estimate(self, cell: RequestedCell) -> CellEstimate:
        """Return the estimate for a cell; the reason is in it where it cannot be built.

        Raises
        ------
        UserError
            If a setting has a value that no run could use.
        """
        cell = cell._replace(config=_completed(cell.config))
        names = [str(cell.choices[group]) for group in ("solver", "data", "mask", "operator")]
        title = "  ".join(names[:3] if names[3] == "inpainting" else names)
        chunks, workers = 0, 1
        try:
            parts = self._parts(cell)
            cost, chunks, workers = self._cost(cell, parts), parts.chunks, parts.workers
        except Inapplicable:
            cost = SKIPPED
        except UserError as error:
            cost = RowCost.unknown(str(error))
        rows = cell.config.images * cell.config.draws
        return CellEstimate(
            title, names[1], str(cell.choices["prior"]), rows, chunks, workers, cost
        )

    def lacks_files(self, cell: RequestedCell) -> bool:
        """Return whether the prior or the images of a cell are not here."""
        described = self._prior(cell)
        return bool(described.missing) or isinstance(self._images(cell.config, described), str)

    def _parts(self, cell: RequestedCell) -> _Parts:
        config = cell.config
        described, solver = self._prior(cell), build(config.solver)
        images = self._images(config, described)
        demand_fit(config, solver, described, images)
        workers = planned_workers(build(config.executor))
        metrics = {name: shared("metric", node, "cpu") for name, node in config.metrics.items()}
        pieces = cut(config.draws, config.batch, pieces_for(config, solver, metrics, workers))
        together = rows_at_once(config.draws, config.batch).images
        chunks = math.ceil(config.images / together) * len(pieces)
        return _Parts(solver, described, images, metrics, together, len(pieces[0]), chunks, workers)

    def _cost(self, cell: RequestedCell, parts: _Parts) -> RowCost:
        config = cell.config
        counts, why = self._counted(cell, parts)
        size = self._size(config, parts)
        if isinstance(parts.solver, Folder):
            return RowCost(0, 0, 0, size, "nothing is run")
        if (own := self.stored.of_cell(config)) is not None:
            return replace(own, size=own.size or size)
        if self.settings.measure == "rows" and not parts.missing:
            key = cost_key(config)
            self.tried[key] = self.tried.get(key) or cost_of_two_images(cell.overrides)
            return self.tried[key]
        if counts is None:
            return RowCost(UNKNOWN, UNKNOWN, UNKNOWN, size, "unknown", parts.missing or why)
        calls = counts.of_row(config.draws)
        nfe, passes = calls["nfe"], calls["nfe"] + calls["nge"]
        cost = RowCost(nfe, passes, UNKNOWN, size, "unknown", parts.missing)
        return self.seconds.add(cost, counts, config, cell.choices, parts.described)

    def _prior(self, cell: RequestedCell) -> DescribedPrior:
        node = cell.config.prior
        if (key := digest(node)) not in self.priors:
            self.priors[key] = DescribedPrior.of(node, str(cell.choices["prior"]))
        return self.priors[key]

    def _images(self, config: JobConfig, described: DescribedPrior) -> ImageSet | str:
        """Return the image set, or why it is not here."""
        node = config.data
        key = digest([{k: v for k, v in node.items() if k != "images"}, config.prior, config.seed])
        if key not in self.images:
            unset = [name for name, value in node.items() if value == "???"]
            try:
                if unset:
                    raise UserError(f"data.{unset[0]} is not set; give data.{unset[0]}=VALUE")
                self.images[key] = build_images(node, described.prior, config.seed)
            except (UserError, OSError, ValueError, ImportError) as error:
                self.images[key] = str(error).splitlines()[0]
        return self.images[key]

    def _counted(self, cell: RequestedCell, parts: _Parts) -> tuple[CallCounts | None, str]:
        """Return the calls of the solver, or None and the reason.

        Where the cell has a budget, the solver's work is chosen for it first.
        """
        config, node, kind = cell.config, cell.config.solver, parts.described.kind
        about = [node["_target_"], arguments(node), kind.key, settings_of(config.operator)]
        key = digest([*about, config.budget, *([config.draws] if config.budget else [])])
        if key not in self.counts:
            try:
                chosen = for_budget(config, cell.choices, parts.solver, kind)
                self.counts[key] = self._count(build(chosen.solver), parts, config.operator)
            except CannotCount as error:
                self.counts[key] = str(error)
        counts = self.counts[key]
        return (None, counts) if isinstance(counts, str) else (counts, "")

    def _count(self, solver: Solver, parts: _Parts, operator: Any) -> CallCounts:
        if (left := self.seconds.seconds_left) <= 0:
            raise CannotCount(
                f"max_seconds={self.settings.max_seconds:g} are over; a greater one counts the rest"
            )
        return count_calls(solver, parts.described.kind, operator, left)

    def _size(self, config: JobConfig, parts: _Parts) -> float:
        """Return the bytes of a row, as a share of a shard that the run will write."""
        shape = image_shape(config, parts.described.prior, parts.images)
        if shape is None:
            return UNKNOWN
        together, draws = parts.images_of_chunk, parts.draws_of_chunk
        key = digest([config.data, shape, sorted(parts.metrics), together, draws])
        if key not in self.sizes:
            pixels = png_size(parts.images, shape)
            rows = min(together, config.images) * draws
            self.sizes[key] = shard_size(rows, pixels, parts.metrics) / rows
        return self.sizes[key]


def _completed(config: JobConfig) -> JobConfig:
    """Return the configuration with the prior's folder, the images and the preset filled in.

    Raises
    ------
    UserError
        If a setting has a value that no run could use.
    """
    admit_of(config)
    config = config.with_settings("prior", converted_path(config.prior, quiet=True))
    config = config.with_settings("data", missing_settings(config.data, config.prior))
    demand_possible(config)
    return replace(config, solver=with_preset(config.solver, config.prior, config.data))
