"""The seconds of a row, from the first source that knows them.

The sources are, in this order: ``seconds_pass=``, the rows of ``timings=``, rows of this study with
the same prior, a few calls made here (:mod:`bench.estimate.call_times`), and the minutes that
VIPaint prints (Table 5).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from posterior_bench.bench.analysis import papers
from posterior_bench.bench.config.cell import digest
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.engine.batches import rows_at_once
from posterior_bench.bench.estimate.call_counts import CallCounts
from posterior_bench.bench.estimate.call_times import CallSeconds, Limits, OverLimit, time_calls
from posterior_bench.bench.estimate.cell_parts import DescribedPrior
from posterior_bench.bench.estimate.plan_settings import PlanSettings, call_device
from posterior_bench.bench.estimate.row_cost import CALLS_HERE, PRINTED, UNKNOWN, RowCost
from posterior_bench.bench.estimate.stored_costs import StoredCosts, own_folder

_TABLE = "vipaint-table5"


@dataclass
class RowSeconds:
    """Adds the seconds to the cost of a row; the calls of a prior are timed once.

    Parameters
    ----------
    settings : PlanSettings
        The settings of ``plan``.
    stored : StoredCosts
        The costs of rows that study folders hold.
    """

    settings: PlanSettings
    stored: StoredCosts
    by_prior: dict[str, CallSeconds | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.end = time.monotonic() + self.settings.max_seconds

    @property
    def seconds_left(self) -> float:
        """What is left of ``max_seconds``."""
        return self.end - time.monotonic()

    def add(
        self,
        cost: RowCost,
        counts: CallCounts,
        config: JobConfig,
        choices: Mapping[str, Any],
        described: DescribedPrior,
    ) -> RowCost:
        """Return the cost with its seconds, or with the reason why they are unknown.

        Parameters
        ----------
        cost : RowCost
            The cost without its seconds.
        counts : CallCounts
            The calls of the cell's solver.
        config : JobConfig
            The configuration of the cell.
        choices : Mapping
            The name of the chosen option of every group.
        described : DescribedPrior
            The cell's prior.
        """
        known = self._from_a_pass(cost, config)
        if known is not None:
            return known
        if described.missing:
            return _printed(cost, config, choices)
        if self.settings.measure == "none":
            return replace(cost, missing="measure=none: no call was made here")
        calls = self._calls(config, described)
        if isinstance(calls, str):
            return _printed(replace(cost, missing=calls), config, choices)
        rows = rows_at_once(config.draws, config.batch).rows
        seconds = calls.of(counts.of_row(config.draws)) + counts.overhead(config.draws) / rows
        return replace(cost, seconds=seconds, source=CALLS_HERE, missing="", detail=calls.source)

    def _from_a_pass(self, cost: RowCost, config: JobConfig) -> RowCost | None:
        """Return the cost where the seconds of a pass are set or stored, else None."""
        if (own := self.settings.seconds_pass) is not None:
            return replace(cost, seconds=cost.passes * own, source="seconds_pass", missing="")
        for folder in filter(None, (self.settings.timings, own_folder(config))):
            if (seconds := self.stored.seconds_of_a_pass(folder, config)) is not None:
                named = folder == self.settings.timings
                source = "timings" if named else "the prior's rows here"
                return replace(cost, seconds=cost.passes * seconds, source=source, missing="")
        return None

    def _calls(self, config: JobConfig, described: DescribedPrior) -> CallSeconds | str:
        """Return the seconds of the prior's calls here, or why none were made."""
        rows = rows_at_once(config.draws, config.batch).rows
        key = digest([config.prior, rows, config.execution.changed])
        if key not in self.by_prior:
            assert described.prior is not None
            needed = ["nfe", "nge"]
            if described.prior.is_latent:
                needed += ["decode", "decode_grad", "encode"]
            limits = Limits(self.settings.memory, self.end)
            try:
                self.by_prior[key] = time_calls(
                    config.prior, described.prior, needed, rows, call_device(), limits
                )
            except OverLimit as error:
                self.by_prior[key] = str(error)
            except (RuntimeError, MemoryError) as error:
                self.by_prior[key] = (
                    f"its network could not be called here: {str(error).splitlines()[0]}"
                )
        return self.by_prior[key]


def _printed(cost: RowCost, config: JobConfig, choices: Mapping[str, Any]) -> RowCost:
    """Return the cost with the seconds that VIPaint prints, or as it is."""
    seconds = _printed_seconds(config, choices)
    return replace(cost, seconds=seconds, source=PRINTED) if seconds == seconds else cost


def _printed_seconds(config: JobConfig, choices: Mapping[str, Any]) -> float:
    """Return the seconds of a row from the minutes that VIPaint prints for ten draws of an image.

    The minutes of the fit are shared by the draws.
    """
    minutes = {
        printed.metric: float(printed.value)
        for printed in papers.printed_numbers(_TABLE)
        if choices["data"] in papers.ours().get(("dataset", printed.dataset), ())
        and choices["solver"] in papers.ours().get(("method", printed.method), ())
        and printed.value
    }
    if "time_min" not in minutes:
        return UNKNOWN
    once = minutes.get("time_min_optimization", 0.0)
    return 60 * (once / config.draws + (minutes["time_min"] - once) / 10)
