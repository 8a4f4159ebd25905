"""Run a cell with ``data.images=auto``: add images until a mean is known well enough.

The images of a cell are the first of its data set, so the rows of a cell with 16 images are rows of
the one with 24. A cell is run, looked at, and becomes the next larger one, which takes over its
rows. So what stays is an ordinary cell with that many images: the same name, the same rows.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from omegaconf import DictConfig

from posterior_bench.bench.analysis.sequential import Look, look
from posterior_bench.bench.config.auto_images import AutoImages
from posterior_bench.bench.core import terminal
from posterior_bench.bench.core.errors import unknown
from posterior_bench.bench.engine import display
from posterior_bench.bench.engine.cache import shared
from posterior_bench.bench.engine.plan import CellPlan
from posterior_bench.bench.engine.prepare import prepare
from posterior_bench.bench.engine.run import Outcome, execute
from posterior_bench.bench.store.atomic import write_atomic
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.bench.store.study_files import plan_text, read_cell

_ALIKE = ("solver", "variant", "data", "mask", "operator", "prior", "seed", "draws")
"""What the cells of one solver agree in while it grows."""


def rule_of(cfg: DictConfig) -> AutoImages | None:
    """Return when a configuration has enough images; None if it says how many it has."""
    return AutoImages.of(cfg.data.get("images"))


def with_images(cfg: DictConfig, images: int, batch: int | None = None) -> DictConfig:
    """Return the configuration with so many images, and the same batch or another."""
    changed = copy.deepcopy(cfg)
    changed.data.images = images
    if batch is not None:
        changed.batch = batch
    return changed


def grow(
    cfg: DictConfig,
    choices: Mapping[str, Any],
    rule: AutoImages,
    study: Path,
    largest: CellPlan,
    sweep: bool = False,
) -> Outcome:
    """Run a cell with more and more images; return the outcome of the last.

    Rows of an interrupted run count. The looks are planned from the limit and the batch alone, so
    they are the same however often the command is given.

    Parameters
    ----------
    cfg, choices
        As in :func:`bench.engine.prepare.prepare`.
    rule : AutoImages
        When there are enough images.
    study : Path
        The study folder.
    largest : CellPlan
        The plan of the cell with as many images as the limit, which was not recorded.
    sweep : bool, default False
        As in :func:`bench.engine.run.execute`.

    Raises
    ------
    UserError
        If the cell has no such metric.
    """
    _demand_metric(largest, rule.metric)
    cfg = with_images(cfg, rule.limit, largest.cell.config.batch)
    looks = rule.looks(largest.padded)
    before = _grown(cfg, choices, study, largest)
    start = max((plan.cell.images for plan in before), default=0)
    progress = (display.SWEEP.there, len(display.SWEEP.took))
    for images in [n for n in looks if n >= start] or looks[-1:]:
        display.SWEEP.back_to(*progress)
        plan = prepare(with_images(cfg, images), choices, grown=True)[1]
        _take_over(plan, [each for each in before if each.folder != plan.folder])
        outcome = execute(with_images(cfg, images), study, plan, sweep)
        seen = look(_means(plan.store, rule.metric), len(looks))
        _record(plan, rule, looks, seen)
        if seen.half_width <= rule.half_width or outcome.stopped or images == rule.limit:
            break
        if not outcome.quiet:
            terminal.out.print(f"{_words(plan, rule, seen)}; more images follow", markup=False)
        before = [plan]
    if not outcome.quiet:
        limit = "rows failed" if outcome.stopped else f"limit of {rule.limit} images"
        end = "reached" if seen.half_width <= rule.half_width else limit
        terminal.remark(f"bench: {_words(plan, rule, seen)}: {end}")
    return outcome


def _demand_metric(plan: CellPlan, metric: str) -> None:
    """Raise UserError unless every row has a number for the metric."""
    found = [shared("metric", node, "cpu") for node in plan.cell.config.metrics.values()]
    columns = [name for each in found if each.card.level != "set" for name in each.columns]
    if metric not in columns:
        raise unknown("metric of data.images=auto", metric, columns)


def _grown(
    cfg: DictConfig, choices: Mapping[str, Any], study: Path, largest: CellPlan
) -> list[CellPlan]:
    """Return the cells in the study that are this one with fewer images, or with more.

    Only those that grew: a cell that was asked for by its number of images stays as it is.
    """
    wanted = {key: largest.cell.identity[key] for key in _ALIKE}
    found = []
    for path in sorted(study.glob("cells/*/config.yaml")):
        recorded = read_cell(path)
        alike = {key: recorded["identity"].get(key) for key in _ALIKE} == wanted
        if recorded.get("grown") and alike:
            images = int(recorded["identity"]["images"])
            plan = prepare(with_images(cfg, images), choices, write=False)[1]
            found += [plan] if plan.folder == path.parent else []
    return found


def _take_over(plan: CellPlan, others: Sequence[CellPlan]) -> None:
    """Copy the rows of other cells that are rows of this one too.

    Smaller cells are removed, but for those that were asked for by their number of images.
    """
    for other in others:
        done = plan.store.done()
        chunks = [other.store.table(name) for name in sorted(other.store.done())]
        table = pa.concat_tables(chunks, promote_options="default") if chunks else None
        if table is not None:
            keys = zip(table["image_id"].to_pylist(), table["draw"].to_pylist(), strict=True)
            place = {key: i for i, key in enumerate(keys)}
            for chunk in plan.chunks:
                rows = [place.get(key) for key in chunk.keys(plan.cell.draws)]
                if chunk.name not in done and None not in rows:
                    plan.store.adopt(chunk.name, table.take(rows))
        if other.cell.images < plan.cell.images and _has_grown(other):
            shutil.rmtree(other.folder)


def _has_grown(plan: CellPlan) -> bool:
    return bool(read_cell(plan.folder / "config.yaml").get("grown"))


def _means(store: RowStore, metric: str) -> Any:
    """Return the mean of a metric over the draws of every image that has rows which are ok."""
    # rows that all failed have no such column
    rows = store.read().reindex(columns=["image_id", "status", metric])
    return rows[rows["status"] == "ok"].groupby("image_id")[metric].mean().to_numpy(float)


def _record(plan: CellPlan, rule: AutoImages, looks: Sequence[int], seen: Look) -> None:
    """Write into the plan of the cell how it stopped."""
    path = plan.folder / "config.yaml"
    auto = {
        "metric": rule.metric,
        "half_width": rule.half_width,
        "limit": rule.limit,
        "looks": len(looks),
        "mean": seen.mean,
        "found": seen.half_width,
        "reached": seen.half_width <= rule.half_width,
    }
    write_atomic(path, plan_text({**read_cell(path), "auto": auto}).encode())


def _words(plan: CellPlan, rule: AutoImages, seen: Look) -> str:
    """Return what is known after a look."""
    return (
        f"{display.title(plan)}: {rule.metric} {seen.mean:.4g} ± {seen.half_width:.2g} from "
        f"{plan.cell.images} images (± {rule.half_width:g} wanted)"
    )
