"""What a study will cost, before it runs: cells, rows, evaluations and passes of the network, hours
and disk.

It answers in seconds, and says where every figure is from. Passes are counted by running each
solver once on a stand-in network that costs nothing (:mod:`bench.estimate.call_counts`). Hours are these counts
times the seconds of a call, which are, the first that is there: of rows that the study has already,
given by ``seconds_pass=``, of the rows of another study (``timings=``) with the same prior, or of a
few calls made here (:mod:`bench.estimate.call_times`); where the prior is not here, the minutes that VIPaint
prints (Table 5). Disk is the size of shards with as many rows and PNG files of the same size.
``measure=rows`` runs two images of every cell at full length instead. The mask has no say in any of
it.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text

from posterior_bench.bench.analysis import papers
from posterior_bench.bench.config.build import arguments, build, target, with_preset
from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.cell import digest
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.image_folders import missing_settings
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.config.plugins import admit_of
from posterior_bench.bench.config.schema import study_folder
from posterior_bench.bench.config.standin import StandIn
from posterior_bench.bench.core.errors import Inapplicable, UserError
from posterior_bench.bench.engine.arena import build_images
from posterior_bench.bench.engine.cache import shared
from posterior_bench.bench.engine.chunking import pieces_for, planned_workers
from posterior_bench.bench.engine.conditioning import Conditioning
from posterior_bench.bench.engine.job import demand_possible, unchecked
from posterior_bench.bench.engine.plan import CellPlan, cut
from posterior_bench.bench.engine.scoring import png
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.estimate.call_counts import Counts, Kind, Uncounted, count, for_budget
from posterior_bench.bench.estimate.call_times import Pace, TooMuch, measured
from posterior_bench.bench.estimate.machine import free_memory
from posterior_bench.bench.external.folder import Folder
from posterior_bench.bench.external.models import converted_path
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.bench.store.shards import encoded_size
from posterior_bench.bench.store.study_files import read_cell
from posterior_bench.datasets.base import ImageSet
from posterior_bench.metrics.base import SetMetric, to_uint8
from posterior_bench.metrics.features import FeatureMetric
from posterior_bench.priors.base import Prior
from posterior_bench.priors.fingerprint import fingerprint
from posterior_bench.priors.load import load, verify
from posterior_bench.solvers.base import Solver

PROBED_IMAGES = 2
PRINTED, SOURCE = "vipaint-table5", "VIPaint, Table 5 (A6000)"
HERE, OWN_ROWS = "calls here", "rows of this study"
_NAN = float("nan")
_COSTS = ["nfe", "nge", "seconds_fit", "seconds_sample"]
_SKIPPED = "does not apply"
_SAMPLED = 3
"""So many originals are written as PNG to know their size."""


# -- what may be asked -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Ask:
    """The settings of ``plan`` itself.

    measure: ``calls``, a few network calls; ``none``, nothing is run; ``rows``, two images of every
    cell at full length. seconds_pass: of one forward or backward pass. timings: a study folder.
    max_seconds: for counting and measuring together. max_memory: bytes for weights and activations.
    """

    measure: str = "calls"
    seconds_pass: float | None = None
    timings: str | None = None
    max_seconds: float = 120.0
    max_memory: float | None = None

    @property
    def memory(self) -> int:
        """``max_memory``, or half of what is free on the device."""
        return int(self.max_memory if self.max_memory is not None else _free_memory() / 2)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _free_memory() -> int:
    """Bytes that are free on the device of the calls."""
    if _device() == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return free_memory()


# -- the command -----------------------------------------------------------------------------------


def print_single(checked: list[str], overrides: list[str], ask: Ask) -> None:
    """Print the plan of one cell and its cost.

    Parameters
    ----------
    checked : list of str
        Settings of the cell as Hydra gets them.
    overrides : list of str
        The same settings as they were typed.
    ask : Ask
        Settings of the estimate.

    Raises
    ------
    UserError
        If the cell cannot run here. Where only its prior or images are absent, the cost is printed
        before.
    """
    from posterior_bench.bench.core.terminal import out
    from posterior_bench.bench.estimate.one_cell import describe

    try:
        text = describe(checked)
    except Inapplicable:
        raise
    except UserError:
        if lines := _absent([overrides], ask):
            out.print(_table(lines, ask))
        raise
    out.print(text, markup=False, highlight=False)
    (line,) = forecasted([overrides], ask)
    out.print("\n".join(_in_words(line, ask)), markup=False, highlight=False)


def _absent(cells: Sequence[Sequence[str]], ask: Ask) -> list[Line]:
    """The line of a cell whose prior or images are not here; none where it is something else that a
    run refuses.
    """
    estimator = Estimator(ask)
    try:
        config, choices, overrides = next(iter(_configurations(cells)))
        known = estimator._prior(config, choices)
        if not known.missing and not isinstance(estimator._images(config, known), str):
            return []
        line = estimator.line(config, choices, overrides)
    except UserError:
        return []
    return [] if math.isnan(line.cost.passes) or line.cost.source == _SKIPPED else [line]


def forecast(cells: Sequence[Sequence[str]], ask: Ask | None = None) -> Group:
    """The estimate for cells given by their overrides: a line per cell, the sum, and where it is
    all from.
    """
    ask = ask or Ask()
    return _table(forecasted(cells, ask), ask)


def forecasted(cells: Sequence[Sequence[str]], ask: Ask) -> list[Line]:
    """A line per cell."""
    estimator = Estimator(ask)
    return [
        estimator.line(config, choices, overrides)
        for config, choices, overrides in _configurations(cells)
    ]


# -- configurations --------------------------------------------------------------------------------


def _configurations(
    cells: Sequence[Sequence[str]],
) -> Iterable[tuple[JobConfig, dict[str, Any], list[str]]]:
    """The plain configuration, choices and overrides of every cell.

    Hydra takes half a second for each. Cells that differ in the solver alone are therefore composed
    once, and get the solvers' nodes from their files; where that does not give what Hydra gives,
    every one is composed.
    """
    known: dict[tuple[str, ...], tuple[JobConfig, dict[str, Any]] | None] = {}
    for overrides in map(list, cells):
        rest = tuple(
            line for line in overrides if not line.lstrip("+").startswith(("solver=", "solver."))
        )
        node = _solver_node(overrides) if rest != tuple(overrides) else None
        if node is not None and (base := known.get(rest)) is not None:
            name = next(line.partition("=")[2] for line in overrides if line.startswith("solver="))
            yield replace(base[0], solver=node), {**base[1], "solver": name}, overrides
            continue
        cfg, choices = compose(check(overrides, study_sweep=True))
        config = unchecked(cfg)
        if rest not in known:
            known[rest] = (config, dict(choices)) if node == config.solver else None
        yield config, dict(choices), overrides


def _solver_node(overrides: Sequence[str]) -> dict[str, Any] | None:
    """The node of the chosen solver from its file and the settings of the command line; None where
    Hydra must do it.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    names = [str(item.value()) for item in parsed if item.key_or_group == "solver"]
    if len(names) != 1 or names[0] not in options("solver", ()):
        return None
    node = deepcopy(options("solver", ())[names[0]].content)
    if "defaults" in node or "${" in str(node):
        return None
    for item in parsed:
        if item.key_or_group.startswith("solver."):
            key = item.key_or_group.removeprefix("solver.")
            if "." in key:
                return None
            node[key] = item.value()
    return node


# -- one cell --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """Of one row: network evaluations (forward), passes (forward and backward), seconds and stored
    bytes.

    What is unknown is NaN. ``source``: where the seconds are from, in few words; ``missing``: why
    they are not known, and ``detail`` what the notes below the table say of them.
    """

    nfe: float
    passes: float
    seconds: float
    size: float
    source: str
    missing: str = ""
    detail: str = ""


SKIPPED = Cost(0.0, 0.0, 0.0, 0.0, _SKIPPED)


@dataclass(frozen=True)
class Line:
    """One cell: its names, its ``rows`` in ``chunks`` for so many ``workers``, and the cost of one
    row.
    """

    title: str
    data: str
    prior: str
    rows: int
    chunks: int
    workers: int
    cost: Cost


@dataclass(frozen=True)
class Known:
    """What is known of a prior: itself on the meta device or in closed form, or ``missing``, why it
    is not here.
    """

    prior: Prior | None
    kind: Kind
    missing: str = ""


class _Bare(Session):
    """A session of a cell whose files may be missing: what tells whether its parts fit together,
    and nothing else.
    """

    def __init__(self, config: JobConfig, solver: Solver, prior: Prior, images: ImageSet):
        self.config, self.solver, self.prior, self.images, self.metrics = (
            config,
            solver,
            prior,
            images,
            {},
        )
        # of images that are not here nobody knows the prompts
        node = {"images": 0} if isinstance(images, StandIn) else config.data
        self.told = Conditioning(node, images, prior, config.prior.get("path"))
        self._check_fit()


@dataclass
class Estimator:
    """Estimates cell after cell; what cells share is counted and measured once."""

    ask: Ask
    priors: dict[str, Known] = field(default_factory=dict)
    images: dict[str, ImageSet | str] = field(default_factory=dict)
    counts: dict[str, Counts | str] = field(default_factory=dict)
    paces: dict[str, Pace | str] = field(default_factory=dict)
    probes: dict[str, Cost] = field(default_factory=dict)
    recorded: dict[str, list[Recorded]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.end = time.monotonic() + self.ask.max_seconds

    def line(self, config: JobConfig, choices: Mapping[str, Any], overrides: list[str]) -> Line:
        """The estimate for a cell."""
        admit_of(config)
        config = config.with_settings("prior", converted_path(config.prior, quiet=True))
        config = config.with_settings("data", missing_settings(config.data, config.prior))
        demand_possible(config)
        config = replace(config, solver=with_preset(config.solver, config.prior, config.data))
        names = [str(choices[group]) for group in ("solver", "data", "mask", "operator")]
        title = "  ".join(names[:3] if names[3] == "inpainting" else names)
        images, draws = config.images, config.draws
        try:
            cost, chunks, workers = self._cost(config, choices, overrides)
        except Inapplicable:
            cost, chunks, workers = SKIPPED, 0, 1
        except UserError as error:
            cost, chunks, workers = Cost(_NAN, _NAN, _NAN, _NAN, "unknown", str(error)), 0, 1
        return Line(title, names[1], str(choices["prior"]), images * draws, chunks, workers, cost)

    def _cost(
        self, config: JobConfig, choices: Mapping[str, Any], overrides: list[str]
    ) -> tuple[Cost, int, int]:
        known, solver = self._prior(config, choices), build(config.solver)
        images = self._images(config, known)
        _demand_fit(config, solver, known, images)
        workers = planned_workers(build(config.executor))
        missing = known.missing or (images if isinstance(images, str) else "")
        counts, why = self._counted(config, choices, solver, known)
        metrics = {name: shared("metric", node, "cpu") for name, node in config.metrics.items()}
        draws, padded = config.draws, max(1, config.batch // config.draws)
        parts = cut(draws, config.batch, pieces_for(config, solver, metrics, workers))
        chunks = math.ceil(config.images / padded) * len(parts)
        size = self._size(config, known, images, metrics, padded, len(parts[0]))
        if isinstance(solver, Folder):
            return Cost(0, 0, 0, size, "nothing is run"), chunks, workers
        of_row = counts.of_row(draws) if counts else {}
        nfe = of_row.get("nfe", _NAN)
        cost = Cost(nfe, nfe + of_row.get("nge", _NAN), _NAN, size, "unknown", missing or why)
        if (own := self._own_rows(config)) is not None:
            return replace(own, size=own.size or size), chunks, workers
        if self.ask.measure == "rows" and not missing:
            key = _same(config)
            self.probes[key] = self.probes.get(key) or _probed(overrides)
            return self.probes[key], chunks, workers
        return self._timed(cost, counts, config, choices, known, solver), chunks, workers

    def _prior(self, config: JobConfig, choices: Mapping[str, Any]) -> Known:
        node = config.prior
        if (key := digest(node)) not in self.priors:
            self.priors[key] = _known(node, str(choices["prior"]))
        return self.priors[key]

    def _images(self, config: JobConfig, known: Known) -> ImageSet | str:
        """The image set, or why it is not here."""
        node = config.data
        key = digest([{k: v for k, v in node.items() if k != "images"}, config.prior, config.seed])
        if key not in self.images:
            unset = [name for name, value in node.items() if value == "???"]
            try:
                if unset:
                    raise UserError(f"data.{unset[0]} is not set; give data.{unset[0]}=VALUE")
                self.images[key] = build_images(node, known.prior, config.seed)
            except (UserError, OSError, ValueError, ImportError) as error:
                self.images[key] = str(error).splitlines()[0]
        return self.images[key]

    def _counted(
        self, config: JobConfig, choices: Mapping[str, Any], solver: Solver, known: Known
    ) -> tuple[Counts | None, str]:
        """The calls of the solver, or why they are not known; its work is chosen where the cell has
        a budget.
        """
        node = config.solver
        key = digest(
            [
                node["_target_"],
                arguments(node),
                known.kind.key,
                _public(config.operator),
                config.budget,
            ]
            + ([config.draws] if config.budget else [])
        )
        if key not in self.counts:
            try:
                chosen = for_budget(config, choices, solver, known.kind)
                if (left := self.end - time.monotonic()) <= 0:
                    raise Uncounted(
                        f"max_seconds={self.ask.max_seconds:g} are over; a greater one counts the "
                        f"rest"
                    )
                self.counts[key] = count(build(chosen.solver), known.kind, config.operator, left)
            except Uncounted as error:
                self.counts[key] = str(error)
        found = self.counts[key]
        return (None, found) if isinstance(found, str) else (found, "")

    def _timed(
        self,
        cost: Cost,
        counts: Counts | None,
        config: JobConfig,
        choices: Mapping[str, Any],
        known: Known,
        solver: Solver,
    ) -> Cost:
        """The cost with the seconds of its passes, from the first source that has something to
        say.
        """
        if counts is None:
            return cost
        draws = config.draws
        if self.ask.seconds_pass is not None:
            return replace(
                cost, seconds=cost.passes * self.ask.seconds_pass, source="seconds_pass", missing=""
            )
        for folder in filter(None, (self.ask.timings, _folder(config))):
            if (pace := self._recorded_pace(folder, config)) is not None:
                words = "timings" if folder == self.ask.timings else "the prior's rows here"
                return replace(cost, seconds=cost.passes * pace, source=words, missing="")
        if known.missing:
            return self._printed(cost, config, choices)
        if self.ask.measure == "none":
            return replace(cost, missing="measure=none: no call was made here")
        pace_or_reason = self._pace(config, known)
        if isinstance(pace_or_reason, str):
            return self._printed(replace(cost, missing=pace_or_reason), config, choices)
        rows = max(1, config.batch // draws) * min(draws, config.batch)
        overhead = (counts.fit_seconds / draws + counts.draw_seconds) / rows
        seconds = pace_or_reason.of(counts.of_row(draws)) + overhead
        return replace(cost, seconds=seconds, source=HERE, missing="", detail=pace_or_reason.source)

    def _pace(self, config: JobConfig, known: Known) -> Pace | str:
        """Seconds of the prior's calls here, or why none were made; all kinds of call are timed at
        once.
        """
        draws, batch = config.draws, config.batch
        rows = max(1, batch // draws) * min(draws, batch)
        key = digest([config.prior, rows, config.execution.changed])
        if key not in self.paces:
            assert known.prior is not None
            needed = [
                "nfe",
                "nge",
                *(["decode", "decode_grad", "encode"] if known.prior.is_latent else []),
            ]
            try:
                self.paces[key] = measured(
                    config.prior, known.prior, needed, rows, _device(), self.ask.memory, self.end
                )
            except TooMuch as error:
                self.paces[key] = str(error)
            except (RuntimeError, MemoryError) as error:
                self.paces[key] = (
                    f"its network could not be called here: {str(error).splitlines()[0]}"
                )
        return self.paces[key]

    def _printed(self, cost: Cost, config: JobConfig, choices: Mapping[str, Any]) -> Cost:
        seconds = _printed_seconds(config, choices)
        return replace(cost, seconds=seconds, source=SOURCE) if seconds == seconds else cost

    def _records(self, folder: str) -> list[Recorded]:
        if folder not in self.recorded:
            self.recorded[folder] = list(_recorded(Path(folder)))
        return self.recorded[folder]

    def _own_rows(self, config: JobConfig) -> Cost | None:
        """The cost of the rows that the study has of this cell, or of one that differs in the mask
        alone.
        """
        found = [
            record for record in self._records(_folder(config)) if record.same == _same(config)
        ]
        return found[0].cost if found else None

    def _recorded_pace(self, folder: str, config: JobConfig) -> float | None:
        """Seconds a pass of the rows that a study has with this prior."""
        prior = _prior_key(config.prior)
        costs = [
            record.cost
            for record in self._records(folder)
            if record.prior == prior and record.cost.passes > 0
        ]
        passes = sum(cost.passes for cost in costs)
        return sum(cost.seconds for cost in costs) / passes if passes else None

    def _size(
        self,
        config: JobConfig,
        known: Known,
        images: ImageSet | str,
        metrics: Mapping[str, Any],
        padded: int,
        draws: int,
    ) -> float:
        """Bytes of a row, as a share of a shard like those that the run will write."""
        shape: tuple[int, ...] | None = known.prior.image_shape if known.prior is not None else None
        if shape is None and isinstance(images, ImageSet):
            shape = tuple(images.shape)
        if shape is None and config.data.get("size") is not None:
            shape = (
                1 if config.data.get("mode") == "grey" else 3,
                *[int(config.data["size"])] * 2,
            )
        if shape is None:
            return _NAN
        key = digest([config.data, shape, sorted(metrics), padded, draws])
        if key not in self.sizes:
            pixels = _png_size(images, shape)
            rows = min(padded, config.images) * draws
            self.sizes[key] = _shard_size(rows, pixels, metrics) / rows
        return self.sizes[key]

    @cached_property
    def sizes(self) -> dict[str, float]:
        """Bytes of a row by what they depend on."""
        return {}


def _known(node: Mapping[str, Any], name: str) -> Known:
    """The prior of a node, without its weights."""
    try:
        prior: Prior = verify(node["path"]) if target(node) is load else build(node)
    except (UserError, OSError, ValueError) as error:
        option = options("prior").get(name)
        kind = Kind.described(option.summary if option else "")
        return Known(None, kind, str(error).splitlines()[0])
    return Known(prior, Kind.of(prior))


def _demand_fit(config: JobConfig, solver: Solver, known: Known, images: ImageSet | str) -> None:
    """Raise Inapplicable for a cell that a run would refuse; what is missing is assumed to fit."""
    prior = known.prior if known.prior is not None else known.kind.stand_in()
    if isinstance(images, str) or known.prior is None:
        images = StandIn(prior.image_shape, prior.num_classes)
    _Bare(config, solver, prior, images)
    if known.prior is not None:
        try:
            if (execution := config.execution).changed and known.prior.net is None:
                known.prior.run_as(execution)
        except ValueError as error:
            raise Inapplicable(str(error)) from None


def _public(node: Mapping[str, Any]) -> dict[str, Any]:
    """A node's class and settings, without the hash that a plan adds."""
    return {
        "_target_": node["_target_"],
        **{k: v for k, v in arguments(node).items() if k != "sha256"},
    }


def _same(config: JobConfig) -> str:
    """What must agree so that a row costs the same: all but images, mask, seed and metrics."""
    nodes = [_public(node) for node in (config.solver, config.operator)]
    return digest(
        [
            nodes,
            _prior_key(config.prior),
            config.draws,
            config.budget,
            config.execution.changed,
        ]
    )


def _prior_key(node: Mapping[str, Any]) -> str:
    """The content of a prior's files; where they are not here, what the configuration says."""
    if "path" in node:
        try:
            return fingerprint(node["path"])
        except (OSError, ValueError):
            return str(node["path"])
    return digest(_public(node))


def _folder(config: JobConfig) -> str:
    return study_folder(config.out, config.study["name"])


# -- rows that are there ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    """What the rows of a stored cell cost; ``same`` and ``prior`` say for which other cells that
    holds.
    """

    same: str
    prior: str
    cost: Cost


def _recorded(study: Path) -> Iterable[Recorded]:
    for path in sorted(study.glob("cells/*/config.yaml")):
        record, store = read_cell(path), RowStore(path.parent)
        rows = store.read(["status", *_COSTS])
        if not (rows["status"] == "ok").any():
            continue
        config = JobConfig.of(record["config"])
        cost = _of(rows, store, OWN_ROWS)
        if cost.seconds == cost.seconds:
            yield Recorded(_same(config), _prior_key(config.prior), cost)


def _of(rows: pd.DataFrame, store: RowStore, source: str) -> Cost:
    """Means over the rows that are ok, and the size of what is stored."""
    good = rows[rows["status"] == "ok"]
    if good.empty:
        return Cost(_NAN, _NAN, _NAN, _NAN, "unknown", f"{source}: all failed")
    size = sum(path.stat().st_size for path in store.folder.glob("*.parquet")) / len(rows)
    means = good[_COSTS].mean()
    nfe, seconds = float(means["nfe"]), float(means["seconds_fit"] + means["seconds_sample"])
    return Cost(nfe, nfe + float(means["nge"]), seconds, size, source)


def _probed(overrides: list[str]) -> Cost:
    """Two images of the cell, with all their draws, run here at full length and thrown away."""
    from posterior_bench.bench.engine.prepare import prepare
    from posterior_bench.bench.engine.serial import Serial

    with tempfile.TemporaryDirectory() as folder:
        draws = int(compose(check(overrides, study_sweep=True))[0].draws)
        small = {
            "data.images": PROBED_IMAGES,
            "batch": PROBED_IMAGES * draws,
            "out": folder,
            "quiet": "true",
        }
        kept = [line for line in overrides if line.partition("=")[0] not in small]
        probe = [*kept, *(f"{key}={value}" for key, value in small.items())]
        try:
            plan: CellPlan = prepare(*compose(check(probe, study_sweep=True)))[1]
        except Inapplicable:
            raise
        except UserError as error:
            return Cost(_NAN, _NAN, _NAN, _NAN, "unknown", str(error))
        for _ in Serial().run(plan, plan.chunks, None):
            pass
        return _of(
            plan.store.read(["status", *_COSTS]), plan.store, f"{PROBED_IMAGES} images run here"
        )


def _printed_seconds(config: JobConfig, choices: Mapping[str, Any]) -> float:
    """What VIPaint prints for ten draws of an image; what is spent once per image is shared by the
    draws.
    """
    found = {
        printed.metric: float(printed.value)
        for printed in papers.printed_numbers(PRINTED)
        if choices["data"] in papers.ours().get(("dataset", printed.dataset), ())
        and choices["solver"] in papers.ours().get(("method", printed.method), ())
        and printed.value
    }
    if "time_min" not in found:
        return _NAN
    once = found.get("time_min_optimization", 0.0)
    return 60 * (once / config.draws + (found["time_min"] - once) / 10)


# -- disk ------------------------------------------------------------------------------------------


def _png_size(images: ImageSet | str, shape: Sequence[int]) -> int:
    """Bytes of an image: the mean of the first originals as PNG; of all pixels uncompressed where
    they are not here.
    """
    try:
        if isinstance(images, ImageSet):
            some = to_uint8(images.images(list(images.ids)[:_SAMPLED]))
            return math.ceil(sum(len(png(pixels)) for pixels in some) / len(some))
    except (OSError, ValueError):
        pass
    return math.prod(shape)


def _shard_size(rows: int, pixels: int, metrics: Mapping[str, Any]) -> int:
    """Bytes of a shard with so many rows, made up of values that are as long as real ones."""
    values: dict[str, object] = {}
    for metric in metrics.values():
        if isinstance(metric, FeatureMetric):
            width = 256 if "stlpips" in metric.network.column else 2048
            values |= dict.fromkeys(metric.columns, [0.123456789] * width)
        elif isinstance(metric, SetMetric):
            values |= dict.fromkeys(metric.columns, [0.123456789] * 16)
        else:
            values |= {name: 0.123456789 for name in metric.columns}
    numbers = (
        "seconds_fit",
        "seconds_sample",
        "nfe",
        "nge",
        "decode",
        "decode_grad",
        "encode",
        "encode_grad",
    )
    texts = {
        "device": "cpu",
        "build": torch.__version__,
        "precision": "float32",
        "version": "0.0.0",
    }
    hashes = {"commit": 40, "truth": 16, "code": 16}
    return encoded_size(
        [
            {
                "cell": "0" * 16,
                "image_id": f"{i:012d}",
                "draw": i,
                "status": "ok",
                "message": "",
                "png": os.urandom(pixels),
                "peak_mib": 1.0,
                "threads": 1,
                "padded_batch": 1,
                **{name: float(i) for name in numbers},
                **texts,
                **{name: os.urandom(length // 2).hex() for name, length in hashes.items()},
                **values,
            }
            for i in range(rows)
        ]
    )


# -- words -----------------------------------------------------------------------------------------


def _table(lines: Sequence[Line], ask: Ask) -> Group:
    table = Table(box=None, pad_edge=False)
    for name in ("cell", "rows", "NFE", "passes", "hours", "MiB", "hours from"):
        left = name in ("cell", "hours from")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for line in lines:
        if line.cost.source == _SKIPPED:
            table.add_row(Text(line.title, "dim"), "", "", "", "", "", Text(_SKIPPED, "dim"))
            continue
        table.add_row(
            Text(line.title), str(line.rows), *_numbers(line.rows, line.cost), line.cost.source
        )
    run = [line for line in lines if line.cost.source != _SKIPPED]
    return Group(table, *map(Text, [_sum(run), *_notes(run, ask)]))


def _sum(run: Sequence[Line]) -> str:
    nfe, passes, hours, size = (
        _significant(
            pd.Series([line.rows * getattr(line.cost, name) for line in run], dtype=float).sum()
            / unit
        )
        for name, unit in (("nfe", 1), ("passes", 1), ("seconds", 3600), ("size", 2**20))
    )
    words = (
        f"Estimate: {len(run)} cells, {sum(line.rows for line in run)} rows, {nfe} network "
        f"evaluations, {passes} "
        f"passes (forward + backward), {hours} hours, {size} MiB on disk"
    )
    left_out = [
        f"without the {name} of {count} cells"
        for name, key in (("passes", "passes"), ("hours", "seconds"))
        if (count := sum(math.isnan(getattr(line.cost, key)) for line in run))
    ]
    return ", ".join([words, *left_out]) + "."


def _in_words(line: Line, ask: Ask) -> list[str]:
    """What ``plan`` prints of one cell, in the manner of the lines above it."""
    nfe, passes, hours, size = _numbers(line.rows, line.cost)
    source = {HERE: line.cost.detail}.get(line.cost.source, line.cost.source)
    why = f": {line.cost.missing}" if line.cost.missing else ""
    return [
        f"passes   {passes} (forward + backward), of them {nfe} forward",
        f"hours    {hours} of one worker, from {source}{why}",
        f"disk     {size} MiB",
        *(f"         {note}" for note in _notes([line], ask)),
    ]


def _notes(run: Sequence[Line], ask: Ask) -> list[str]:
    """Where the figures are from, and every reason why one is missing once, with its data and
    prior.
    """
    sources = {line.cost.source for line in run}
    notes = []
    if any(line.cost.passes == line.cost.passes and line.cost.source != OWN_ROWS for line in run):
        notes.append(
            "Passes: counted, by running each solver once on a stand-in network that costs nothing "
            "(CoPaint's line "
            "search takes a few more or less)."
        )
    if HERE in sources:
        details = dict.fromkeys(
            (line.prior, line.cost.detail) for line in run if line.cost.source == HERE
        )
        calls = "; ".join(f"{prior}: {detail}" for prior, detail in details)
        notes.append(
            f"Hours: passes times the seconds of a call here, within "
            f"max_seconds={ask.max_seconds:g} and max_memory="
            f"{ask.memory / 2**30:.1f}GiB ({calls}). Expect half to twice that on an idle machine; "
            f"batch 1 says too "
            "much of small networks and of GPUs."
        )
    if "seconds_pass" in sources:
        notes.append(
            f"Hours: passes times seconds_pass={ask.seconds_pass:g}; an autoencoder's calls come "
            f"on top."
        )
    if "timings" in sources:
        notes.append(
            f"Hours: passes times the seconds a pass of rows with the same prior in {ask.timings}."
        )
    if SOURCE in sources:
        notes.append(
            "Hours from VIPaint, Table 5: as printed for an A6000, because the network could not "
            "be called."
        )
    notes.append("Disk: shards of as many rows, with PNG files as large as the originals; "
                 "uncompressed where they are "
                 "not here.")  # fmt: skip
    workers = max((line.workers for line in run), default=1)
    notes.append(
        "Hours are those of one worker like this one, metrics and loading not counted"
        + (f"; this run has {workers} workers." if workers > 1 else ".")
    )
    return notes + [f"Not measured, {where}: {reason}" for reason, where in _reasons(run).items()]


def _reasons(run: Sequence[Line]) -> dict[str, str]:
    """Every reason for missing hours, with the data and prior that it is about and its number of
    cells.
    """
    cells: dict[str, list[Line]] = {}
    for line in run:
        if line.cost.missing:
            cells.setdefault(line.cost.missing, []).append(line)
    return {
        reason: f"data={','.join(dict.fromkeys(line.data for line in lines))} "
        f"prior={','.join(dict.fromkeys(line.prior for line in lines))} ({len(lines)} "
        f"cell{'s'[: len(lines) != 1]})"
        for reason, lines in cells.items()
    }


def _numbers(rows: int, cost: Cost) -> list[str]:
    return [
        _significant(rows * value)
        for value in (cost.nfe, cost.passes, cost.seconds / 3600, cost.size / 2**20)
    ]


def _significant(value: float) -> str:
    if value != value:
        return "?"
    return f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:.2g}"
