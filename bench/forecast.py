"""What a study will cost, before it runs: cells, rows, evaluations and passes of the network, hours and disk.

The cost of a row is read from rows that the study already has, else measured on two images in a folder that is thrown
away, else, where the prior or the data are not here, taken from the minutes that VIPaint prints (Table 5). The mask has
no say in it, so cells that differ in the mask alone are measured once. All of it is an estimate and says so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from rich.console import Group
from rich.table import Table
from rich.text import Text

from bench import paper
from bench.app import compose
from bench.cell import digest
from bench.errors import Inapplicable, UserError
from bench.overrides import check
from bench.own import following
from bench.plan import CellPlan

PROBED_IMAGES = 2
PRINTED, SOURCE = "vipaint-table5", "VIPaint, Table 5 (A6000)"
_COSTS = ["nfe", "nge", "seconds_fit", "seconds_sample"]
_SKIPPED = "does not apply"


@dataclass(frozen=True)
class Cost:
    """Of one row: network evaluations (forward), passes (forward and backward), seconds and stored bytes.

    What is unknown is NaN; ``source`` says where the numbers are from.
    """

    nfe: float
    passes: float
    seconds: float
    size: float
    source: str


_NAN = float("nan")
UNKNOWN = Cost(_NAN, _NAN, _NAN, _NAN, "unknown")


@dataclass(frozen=True)
class Line:
    """One cell of the study, its ``rows`` and the cost of one of them."""

    title: str
    rows: int
    cost: Cost


def forecast(cells: Sequence[Sequence[str]]) -> Group:
    """The estimate for cells given by their overrides: a line per cell, and the sum."""
    known: dict[str, Cost] = {}
    return _table([_line(list(overrides), known) for overrides in cells])


def _line(overrides: list[str], known: dict[str, Cost]) -> Line:
    cfg, choices = compose(check(overrides, study_sweep=True))
    title = "  ".join(str(choices[group]) for group in ("solver", "data", "mask", "operator"))
    if choices["operator"] == "inpainting":
        title = title.rpartition("  ")[0]
    rows = int(following(OmegaConf.to_container(cfg, resolve=True))["data"]["images"]) * int(cfg.draws)  # type: ignore
    same = {k: str(cfg[k]) for k in ("solver", "operator", "prior", "draws", "budget")}
    key = digest({**same, "data": choices["data"]})
    if key not in known:
        known[key] = _cost(overrides, choices)
    return Line(title, rows, known[key])


def _cost(overrides: list[str], choices: Mapping[str, Any]) -> Cost:
    """By the first source that has something to say."""
    from bench.run import prepare

    try:
        plan = prepare(*compose(check(overrides, study_sweep=True)), write=False)[1]
    except Inapplicable:
        return Cost(0.0, 0.0, 0.0, 0.0, _SKIPPED)
    except UserError:
        return _printed(*compose(check(overrides, study_sweep=True)))
    stored = plan.store.read(["status", *_COSTS])
    if (stored["status"] == "ok").any():
        return _of(stored, plan, "rows of this study")
    return _probed(overrides)


def _probed(overrides: list[str]) -> Cost:
    """Two images of the cell, with all their draws, run here and thrown away."""
    from bench.executors import Serial
    from bench.run import prepare

    with tempfile.TemporaryDirectory() as folder:
        draws = int(compose(check(overrides, study_sweep=True))[0].draws)
        small = {"data.images": PROBED_IMAGES, "batch": PROBED_IMAGES * draws, "out": folder, "quiet": "true"}
        kept = [line for line in overrides if line.partition("=")[0] not in small]
        probe = [*kept, *(f"{key}={value}" for key, value in small.items())]
        plan = prepare(*compose(check(probe, study_sweep=True)))[1]
        for _ in Serial().run(plan, plan.chunks, None):
            pass
        return _of(plan.store.read(["status", *_COSTS]), plan, f"{PROBED_IMAGES} images run here")


def _of(rows: pd.DataFrame, plan: CellPlan, source: str) -> Cost:
    """Means over the rows that are ok, and the size of what is stored."""
    good = rows[rows["status"] == "ok"]
    if good.empty:
        return replace(UNKNOWN, source=f"{source}: all failed")
    size = sum(path.stat().st_size for path in Path(plan.store.folder).glob("*.parquet")) / len(rows)
    means = good[_COSTS].mean()
    nfe, seconds = float(means["nfe"]), float(means["seconds_fit"] + means["seconds_sample"])
    return Cost(nfe, nfe + float(means["nge"]), seconds, size, source)


def _printed(cfg: DictConfig, choices: Mapping[str, Any]) -> Cost:
    """What is printed for ten draws of an image; its evaluations are counted in several units.

    What is spent once per image is shared by the draws. Pixels are counted as if they were not compressed.
    """
    found = {
        printed.metric: float(printed.value)
        for printed in paper.read(PRINTED)
        if choices["data"] in paper.ours().get(("dataset", printed.dataset), ())
        and choices["solver"] in paper.ours().get(("method", printed.method), ())
        and printed.value
    }
    size = 3.0 * int(cfg.data.size) ** 2 if "size" in cfg.data else float("nan")
    if "time_min" not in found:
        return replace(UNKNOWN, size=size)
    once = found.get("time_min_optimization", 0.0)
    seconds = 60 * (once / cfg.draws + (found["time_min"] - once) / 10)
    nfe = found.get("nfe", found.get("nfe_optimization", 0.0) / cfg.draws + found.get("nfe_sampling", 0.0))
    return Cost(nfe, _NAN, seconds, size, SOURCE)  # backward passes are not printed


def _table(lines: Iterable[Line]) -> Group:
    lines = list(lines)
    table = Table(box=None, pad_edge=False)
    for name in ("cell", "rows", "NFE", "passes", "hours", "MiB", "cost of a row from"):
        table.add_column(name, justify="left" if name[:2] in ("ce", "co") else "right", no_wrap=True)
    for line in lines:
        if line.cost.source == _SKIPPED:
            table.add_row(Text(line.title, "dim"), "", "", "", "", "", Text(_SKIPPED, "dim"))
            continue
        table.add_row(Text(line.title), str(line.rows), *_numbers(line.rows, line.cost), line.cost.source)
    run = [line for line in lines if line.cost.source != _SKIPPED]
    total = sum(line.rows for line in run)
    nfe, passes, hours, size = (
        _significant(pd.Series([line.rows * getattr(line.cost, name) for line in run]).sum() / unit)
        for name, unit in (("nfe", 1), ("passes", 1), ("seconds", 3600), ("size", 2**20))
    )
    words = (
        f"Estimate: {len(run)} cells, {total} rows, {nfe} network evaluations, {passes} passes (forward + backward), "
        f"{hours} hours, {size} MiB on disk"
    )
    open_ = [line for line in run if line.cost.seconds != line.cost.seconds]
    notes = [words + (f", without {len(open_)} cells of unknown cost" if open_ else "") + "."]
    if any(line.cost.source in (SOURCE, UNKNOWN.source) for line in run):
        notes.append(
            "What could not be run here: hours and evaluations as printed, disk as if nothing were compressed, passes "
            "unknown and left out of the sum."
        )
    notes.append("Hours are those of one worker like the one that was measured, metrics and loading not counted.")
    return Group(table, *map(Text, notes))


def _numbers(rows: int, cost: Cost) -> list[str]:
    return [_significant(rows * value) for value in (cost.nfe, cost.passes, cost.seconds / 3600, cost.size / 2**20)]


def _significant(value: float) -> str:
    if value != value:
        return "?"
    return f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:.2g}"
