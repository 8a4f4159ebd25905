"""Add metrics to finished rows from stored images, without sampling (``bench score``)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from posterior_bench.bench.analysis.cell_records import card_version
from posterior_bench.bench.config.build import target
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.masks import build_masks
from posterior_bench.bench.config.plugins import demand_trusted
from posterior_bench.bench.config.task_versions import TASK, outdated
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.core.foreign import described, foreign
from posterior_bench.bench.core.isolation import isolated
from posterior_bench.bench.engine.arena import PriorDraws, build_images
from posterior_bench.bench.engine.cache import shared
from posterior_bench.bench.engine.chunking import together
from posterior_bench.bench.engine.heartbeat import beating
from posterior_bench.bench.engine.measurement import batch_of, measure
from posterior_bench.bench.engine.metric_networks import Nodes, checked_metrics, demand_same_weights
from posterior_bench.bench.engine.plan import Chunk
from posterior_bench.bench.engine.scoring import (
    Row,
    check_chooser,
    demand_numbers,
    put_values,
    score_rows,
)
from posterior_bench.bench.store.atomic import write_atomic
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.bench.store.study_files import check_study, plan_text, planned_cells, read_cell
from posterior_bench.bench.store.truth import demand_same
from posterior_bench.datasets.base import ImageSet
from posterior_bench.masks.base import MaskGenerator
from posterior_bench.metrics.base import AnyMetric, DrawSet, ValueMetric, from_uint8


@dataclass(frozen=True)
class Scored:
    """The result of scoring a study.

    It counts shards with new columns and shards that had them, and lists rows without an image and
    ``unchecked`` cells, whose rows do not say which pictures they were measured on.
    """

    written: int
    there: int
    unstored: Sequence[str]
    unchecked: Sequence[str] = ()


class StoredCell:
    """A cell of a study as its folder describes it.

    That is enough to measure its images again and to read its rows.
    """

    def __init__(self, folder: Path, device: str):
        self.folder, self.device, self.store = folder, device, RowStore(folder)
        self.record: dict[str, Any] = read_cell(folder / "config.yaml")
        self.config = JobConfig.of(self.record["config"])
        self.draws = int(self.record["identity"]["draws"])

    def load(self) -> None:
        """Images and masks; a prior only where the images are drawn from it."""
        nodes = self.config.nodes
        demand_trusted(nodes[group] for group in nodes if group != "solver")  # none is run here
        needs_prior = target(self.config.data) is PriorDraws
        prior = shared("prior", self.config.prior, self.device) if needs_prior else None
        self.images: ImageSet = build_images(self.config.data, prior, self.config.seed)
        self.mask: MaskGenerator = build_masks(self.config.mask)

    def admit(self, metrics: Mapping[str, AnyMetric]) -> None:
        """UserError for metrics that this cell's images, chunks or columns do not allow."""
        tasks = {k: v for k, v in outdated(self.record["identity"]).items() if k[0] in TASK}
        for (group, name), (then, now) in tasks.items():
            raise UserError(
                f"the cell {self.record['cell']} was measured with version {then} of "
                f"{group}={name}, and version {now} is another task (docs/versions.md); run it "
                "again, or score it with the release that made it"
            )
        apart = any(
            len(Chunk(name, ()).draws(self.draws)) < self.draws for name in self.record["chunks"]
        )
        if apart and (names := together(metrics)):
            raise UserError(
                f"{', '.join(names)} cannot be added to the cell {self.record['cell']}: it needs "
                f"all draws of an image "
                "in one chunk, and here they are spread over several; choose it when the cell is "
                "run in another out=DIR"
            )
        for name, metric in metrics.items():
            try:
                channels, height, width = self.images.shape
                metric.admit((channels, height, width))
            except ValueError as error:
                raise UserError(str(error)) from None
            if isinstance(metric, ValueMetric) and metric.of not in {
                *metrics,
                *self.record["metrics"],
            }:
                raise UserError(
                    f"metric '{name}' needs the values of '{metric.of}'; choose that too"
                )
            check_chooser(metric, {*metrics, *self.record["metrics"]})
            recorded, present = (
                card_version(self.record["metrics"].get(name, {})),
                getattr(metric.card, "version", 1),
            )
            if name in self.record["metrics"] and recorded < present:
                raise UserError(
                    f"the cell {self.record['cell']} has '{name}' as an earlier version computed "
                    f"it (version "
                    f"{recorded}, now {present}), and stored values are never replaced; run it "
                    f"again in another out=DIR"
                )

    def demand_originals(self, chunk: Chunk, metrics: Mapping[str, AnyMetric]) -> bool:
        """Return whether the rows of a chunk say on which images they were measured.

        Raises
        ------
        UserError
            Naming the first image that is not the one its rows were measured on.
        """
        columns = self.store.columns_of(chunk.name)
        if all({*metric.columns} <= columns for metric in metrics.values()):
            return True
        rows = (
            self.store.table(chunk.name)
            .select(["image_id", "status", *({"truth"} & columns)])
            .to_pandas()
        )
        if "truth" not in rows or rows["truth"].isna().all():
            return not (rows["status"] == "ok").any()
        demand_same(rows, self.images, f"{self.record['cell']}: ")
        return True

    def declare(self, nodes: Nodes, metrics: Mapping[str, AnyMetric]) -> None:
        """Write the cards beside those that are there, before any row gets a value."""
        known = self.record["metrics"]
        cards = {name: asdict(metric.card) for name, metric in metrics.items() if name not in known}
        if cards:
            self.record["metrics"] = {**known, **cards}
            stored = self.record["config"]
            stored["metrics"] = {**stored["metrics"], **{name: nodes[name] for name in cards}}
            write_atomic(self.folder / "config.yaml", plan_text(self.record).encode())

    @property
    def chunks(self) -> Iterator[Chunk]:
        """Those that are stored."""
        done = self.store.done()
        return (
            Chunk(name, images) for name, images in self.record["chunks"].items() if name in done
        )

    @torch.no_grad()
    def score(self, chunk: Chunk, metrics: Mapping[str, AnyMetric]) -> tuple[bool, list[str]]:
        """Add the columns that a shard lacks.

        Returns whether there were any, and its good rows that have no image.
        """
        names, frame = self.store.stored(chunk.name)
        lacking = {name: m for name, m in metrics.items() if {*m.columns} - {*names}}
        if not lacking:
            return False, []
        stored = frame["png"].map(lambda png: isinstance(png, bytes)).to_numpy(bool)
        bare = frame[(frame["status"] == "ok") & ~stored]
        lost = [
            f"{self.record['cell']}: {row.image_id} draw {row.draw}" for row in bare.itertuples()
        ]
        with beating(self.folder, chunk.name):
            usable = torch.from_numpy(stored & (frame["status"] == "ok").to_numpy())
            try:
                with isolated(), foreign():
                    rows = self._rows(chunk, frame, usable, lacking)
                    demand_numbers(rows)
            except UserError:
                raise
            except Exception as error:
                raise UserError(
                    f"{self.record['cell']}: {', '.join(lacking)} failed on chunk {chunk.name}: "
                    f"{described(error)}; "
                    "what was scored before is kept"
                ) from error
            self.store.extend(
                chunk.name, [{k: v for k, v in row.items() if k not in names} for row in rows]
            )
        return True, lost

    def _rows(
        self, chunk: Chunk, frame: pd.DataFrame, usable: Tensor, metrics: Mapping[str, AnyMetric]
    ) -> list[Row]:
        # the last chunk is filled up as when it was sampled: a measurement may depend on the batch
        # in its last bits
        padded = [
            *chunk.images,
            *[chunk.images[-1]] * (int(self.record["padded"]) - len(chunk.images)),
        ]
        measured = measure(self.config, self.images, self.mask, padded, self.device)
        blank = torch.zeros(tuple(self.images.shape))
        x = torch.stack(
            [_decoded(png) if ok else blank for png, ok in zip(frame["png"], usable, strict=True)]
        )
        draws = len(chunk.draws(self.draws))
        filler = (len(padded) - len(chunk.images)) * draws
        x = torch.cat([x, blank.expand(filler, *blank.shape)]).to(self.device)
        finite = torch.cat([usable, torch.zeros(filler, dtype=torch.bool)])
        operator = measured.operator
        seen = operator.first_guess(measured.y) if operator.mask is None else measured.y
        drawn = DrawSet(x.unflatten(0, (-1, draws)), measured.truth, operator.mask, seen)
        rows = score_rows(metrics, batch_of(measured, x, draws), drawn, finite)[: len(frame)]
        wanted = {m.of for m in metrics.values() if isinstance(m, ValueMetric)}
        known = {of: list(frame[of]) if of in frame else [row[of] for row in rows] for of in wanted}
        values = {
            of: torch.tensor(v, dtype=torch.float64).view(-1, draws) for of, v in known.items()
        }
        put_values(rows, metrics, values)
        return rows


def score(study: Path, nodes: Nodes, device: str = "cpu") -> Scored:
    """Add metrics to every stored shard of a study. What is there already is left as it is.

    Raises UserError before any work where a metric cannot be computed from 8-bit images, or by this
    installation.
    """
    check_study(study)
    nodes = checked_metrics(nodes)
    metrics: dict[str, AnyMetric] = {
        name: shared("metric", node, device) for name, node in nodes.items()
    }
    blind = [name for name, metric in metrics.items() if metric.unrounded]
    if blind:
        raise UserError(
            f"{', '.join(blind)} cannot be added: it looks at outputs before they are rounded to 8 "
            f"bits, and only "
            "rounded images are stored; choose it when the cell is run"
        )
    cells = [StoredCell(path.parent, device) for path in planned_cells(study)]
    for cell in cells:
        demand_same_weights(cell.record["cell"], cell.record["config"]["metrics"], nodes)
        cell.load()
        cell.admit(metrics)
    # all of them before anything is written
    unchecked = [
        cell
        for cell in cells
        if not all([cell.demand_originals(chunk, metrics) for chunk in cell.chunks])
    ]
    outcomes: list[tuple[bool, list[str]]] = []
    for cell in cells:
        cell.declare(nodes, metrics)
        outcomes += [cell.score(chunk, metrics) for chunk in cell.chunks]
    lost = [row for _, rows in outcomes for row in rows]
    written = sum(new for new, _ in outcomes)
    return Scored(
        written, len(outcomes) - written, lost, [str(cell.record["cell"]) for cell in unchecked]
    )


def usual_device() -> str:
    """Return the device that metrics are computed on: a GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _decoded(png: bytes) -> Tensor:
    """``(C, H, W)`` in [-1, 1]."""
    pixels = np.array(Image.open(io.BytesIO(png)))
    return from_uint8(torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1))
