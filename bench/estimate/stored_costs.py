"""The cost of rows that were computed: rows of a study, or of two images run for the estimate."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.config.schema import study_folder
from posterior_bench.bench.core.errors import Inapplicable, UserError
from posterior_bench.bench.engine.plan import CellPlan
from posterior_bench.bench.engine.prepare import prepare
from posterior_bench.bench.engine.serial import Serial
from posterior_bench.bench.estimate.cell_parts import cost_key, prior_key
from posterior_bench.bench.estimate.row_cost import OWN_ROWS, RowCost
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.bench.store.study_files import read_cell

TRIED_IMAGES = 2
"""How many images ``measure=rows`` runs."""

_COLUMNS = ["nfe", "nge", "seconds_fit", "seconds_sample"]


@dataclass(frozen=True)
class StoredCost:
    """The mean cost of the rows of a stored cell.

    Parameters
    ----------
    cost_key : str
        Rows of cells with the same key cost the same.
    prior_key : str
        Passes of cells with the same key take the same time.
    cost : RowCost
        The mean cost.
    """

    cost_key: str
    prior_key: str
    cost: RowCost


@dataclass
class StoredCosts:
    """The costs that study folders hold; each folder is read once."""

    by_folder: dict[str, list[StoredCost]] = field(default_factory=dict)

    def of_cell(self, config: JobConfig) -> RowCost | None:
        """Return the cost of rows that a cell's own study has already, None where it has none."""
        key = cost_key(config)
        return next(
            (each.cost for each in self._read(own_folder(config)) if each.cost_key == key), None
        )

    def seconds_of_a_pass(self, folder: str, config: JobConfig) -> float | None:
        """Return the mean seconds of a pass with the cell's prior in a study, None without rows."""
        key = prior_key(config.prior)
        costs = [
            each.cost
            for each in self._read(folder)
            if each.prior_key == key and each.cost.passes > 0
        ]
        passes = sum(cost.passes for cost in costs)
        return sum(cost.seconds for cost in costs) / passes if passes else None

    def _read(self, folder: str) -> list[StoredCost]:
        if folder not in self.by_folder:
            self.by_folder[folder] = list(_stored_costs(Path(folder)))
        return self.by_folder[folder]


def own_folder(config: JobConfig) -> str:
    """Return the study folder of a cell."""
    return study_folder(config.out, config.study["name"])


def _stored_costs(study: Path) -> Iterable[StoredCost]:
    for path in sorted(study.glob("cells/*/config.yaml")):
        record, store = read_cell(path), RowStore(path.parent)
        rows = store.read(["status", *_COLUMNS])
        if not (rows["status"] == "ok").any():
            continue
        config = JobConfig.of(record["config"])
        cost = _mean_cost(rows, store, OWN_ROWS)
        if cost.seconds == cost.seconds:
            yield StoredCost(cost_key(config), prior_key(config.prior), cost)


def _mean_cost(rows: pd.DataFrame, store: RowStore, source: str) -> RowCost:
    """Return the mean cost of the rows that are ok, and the stored size of a row."""
    good = rows[rows["status"] == "ok"]
    if good.empty:
        return RowCost.unknown(f"{source}: all failed")
    size = sum(path.stat().st_size for path in store.folder.glob("*.parquet")) / len(rows)
    means = good[_COLUMNS].mean()
    nfe, seconds = float(means["nfe"]), float(means["seconds_fit"] + means["seconds_sample"])
    return RowCost(nfe, nfe + float(means["nge"]), seconds, size, source)


def cost_of_two_images(overrides: list[str]) -> RowCost:
    """Run two images of a cell here, with all their draws at full length, and keep only the cost.

    Parameters
    ----------
    overrides : list of str
        The settings of the cell.

    Raises
    ------
    Inapplicable
        If the parts of the cell do not fit together.
    """
    with tempfile.TemporaryDirectory() as folder:
        draws = int(compose(check(overrides, study_sweep=True))[0].draws)
        small = {
            "data.images": TRIED_IMAGES,
            "batch": TRIED_IMAGES * draws,
            "out": folder,
            "quiet": "true",
        }
        kept = [line for line in overrides if line.partition("=")[0] not in small]
        tried = [*kept, *(f"{key}={value}" for key, value in small.items())]
        try:
            plan: CellPlan = prepare(*compose(check(tried, study_sweep=True)))[1]
        except Inapplicable:
            raise
        except UserError as error:
            return RowCost.unknown(str(error))
        for _ in Serial().run(plan, plan.chunks, None):
            pass
        rows = plan.store.read(["status", *_COLUMNS])
        return _mean_cost(rows, plan.store, f"{TRIED_IMAGES} images run here")
