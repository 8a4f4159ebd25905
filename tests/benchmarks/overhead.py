"""Measure what a chunk of rows takes beside its network, and where that time goes.

    python tests/benchmarks/overhead.py                                  # this machine's CPU
    python tests/benchmarks/overhead.py --device cuda --budget 240 --json overhead.json
    python tests/benchmarks/overhead.py --table overhead.json            # print stored records

The ratio of a solver is the time of a whole chunk, loading excluded, over the time of its calls of
network, encoder and decoder alone, with their gradients. 1 means that nothing else takes time. A
solver runs with few steps (``--steps``); the calls of that run are recorded and replayed on the
same inputs. What a chunk does once (measuring, metrics, PNG, writing) is measured by itself, and
counts as it does in a run with all the steps of the solver's preset.

On the CPU the ratio must not depend on how busy the machine is, and a network of 100 ms is noisier
than the solver's part of it. So ``own``, the time beside the network, is measured around networks
that cost next to nothing, in turns with a replay of these networks, and the network's calls are
timed one by one on the same inputs. ``fashion`` and ``fashion_latent`` are the embedded priors.
``wide`` has states of 3 x 64 x 64, and a pass of network, encoder or decoder is taken to last 10 ms
a row, which is less than any published prior takes on the CPU. ``--direct`` measures the ratio of
the real run and the real replay too. All are seconds of the processor, one thread.

``--model`` needs no GPU and measures none: it counts the launches, bytes and waits of a solver on
states of 3 x 64 x 64, and adds them to the launches and operations of ADM-64 (:class:`Model`).

On a GPU the ratio is that of the real run and the replay, each between two synchronisations: the
CPU runs ahead of the GPU, so parts do not add up. ``adm64`` is an untrained network of 296 million
parameters on 3 x 64 x 64 pixels, ``ldm256`` has the same network and an autoencoder with factor 4
on 256 pixels. Records are written to ``--json`` one by one.

Ratios are medians over repeats in which both sides take turns. It asserts no time.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before torch starts CUDA

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.core.environment import environment
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.core.streams import Key
from posterior_bench.bench.core.streams import Noise as SeededNoise
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.scoring import png
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.engine.solving import score_images
from posterior_bench.bench.engine.worker import Worker
from posterior_bench.bench.estimate.call_counts import CannotCount, PriorKind, count_calls
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.metrics.base import to_uint8
from posterior_bench.operators.base import Operator
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.base import Prior
from posterior_bench.priors.execution import PRECISIONS, Execution
from posterior_bench.priors.latents import KL
from posterior_bench.priors.low_precision import tf32
from posterior_bench.priors.nets import UNet2D
from posterior_bench.priors.process import VP
from posterior_bench.priors.replaced import replaced
from posterior_bench.solvers.base import Noise, Observation, Solver

PASS = 10e-3
"""Seconds a row of a pass, for the pretended networks of ``wide``."""

GOAL = 1.05
BATCHES = (8, 1, 16)
FEW = 6
NO_LOOP = {"folder", "torchscript", "prior", "exact", "conditional"}
"""Solvers without a loop over the prior's network, or with a network of their own."""

FIRST = (
    *("dps", "vipaint2", "repaint", "ddrm", "reddiff", "psld", "resample", "daps", "diffpir"),
    *("ddnm", "mgdm", "vipaint4", "tds", "copaint", "pigdm", "mmps", "ding", "blended"),
)
"""The solvers that are measured first where time is short."""

EMBEDDED = {"fashion": (), "fashion_latent": ("prior=fashion_latent", "data=fashion32")}
LARGE = ("adm64", "ldm256")
PLACES = (*LARGE, *EMBEDDED, "wide", "model")
METHODS = ("A", "At", "pinv", "prox", "paste", "observe", "residual", "first_guess", "spectrum")


# -- clocks ----------------------------------------------------------------------------------------


def timed(function: Callable[[], object], device: str) -> float:
    """Return the seconds of a call: of the processor, or until a GPU has finished."""
    if device == "cpu":
        start = time.process_time()
        function()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turns(
    functions: Sequence[Callable[[], object]], repeats: int, device: str
) -> list[list[float]]:
    """Return the seconds of functions that take turns, after one turn that is not timed."""
    for function in functions:
        timed(function, device)
    return [[timed(function, device) for function in functions] for _ in range(repeats)]


# -- recorded calls --------------------------------------------------------------------------------


@dataclass
class Call:
    """One call, with its inputs cut off from their graph.

    ``graph`` says whether a graph was made, ``gradients`` how many gradients were taken through it.
    """

    part: str
    function: Callable[..., Any]
    inputs: tuple[Any, ...]
    graph: bool
    gradients: int = 0
    weight: Tensor | None = None

    @classmethod
    def of(cls, part: str, function: Callable[..., Any], inputs: tuple[Any, ...]) -> Call:
        """Return the call of a function that is about to happen."""
        graph = torch.is_grad_enabled() and any(
            isinstance(value, Tensor) and value.requires_grad for value in inputs
        )
        kept = tuple(
            value.detach().requires_grad_(value.requires_grad)
            if isinstance(value, Tensor)
            else value
            for value in inputs
        )
        return cls(part, function, kept, graph)

    def done(self, output: Any) -> Any:
        """Count the gradients through the output of the call."""
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(self._count)
        return output

    def _count(self, _slope: Tensor) -> None:
        self.gradients += 1

    @property
    def rows(self) -> int:
        """Number of rows of the call."""
        return len(self.inputs[0])

    def __call__(self) -> None:
        if not self.graph:
            with torch.no_grad():
                self.function(*self.inputs)
            return
        with torch.enable_grad():
            leaves = [v for v in self.inputs if isinstance(v, Tensor) and v.requires_grad]
            output = self.function(*self.inputs)
            for _ in range(self.gradients):
                if self.weight is None:
                    self.weight = torch.ones_like(output)
                torch.autograd.grad(output, leaves, self.weight, retain_graph=self.gradients > 1)


@contextmanager
def recorded(prior: Prior, operator: Operator) -> Iterator[dict[str, list[Call]]]:
    """Gather the calls of a prior's networks (``net``) and of an operator within a block."""
    calls: dict[str, list[Call]] = {"net": [], "operator": []}
    depth = [0]

    def network(part: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def called(*inputs: Any) -> Tensor:
            call = Call.of(part, function, inputs)
            calls["net"].append(call)
            return call.done(function(*inputs))  # type: ignore[no-any-return]

        return called

    def method(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        # Of the class, because solvers repeat the operator.
        def called(self: Operator, *inputs: Any) -> Any:
            if depth[0]:  # it serves another method
                return function(self, *inputs)
            call = Call.of(name, lambda *values: function(self, *values), inputs)
            calls["operator"].append(call)
            depth[0] += 1
            try:
                return call.done(function(self, *inputs))
            finally:
                depth[0] -= 1

        return called

    kind = type(operator)
    before = {name: vars(kind)[name] for name in METHODS if name in vars(kind)}
    with ExitStack() as stack:
        stack.enter_context(replaced(prior, run_network=network("network", prior.run_network)))
        if (latent := prior.latent) is not None:
            parts = {name: network(name, getattr(latent, name)) for name in ("encode", "decode")}
            stack.enter_context(replaced(latent, **parts))
        for name in METHODS:
            setattr(kind, name, method(name, getattr(kind, name)))
        try:
            yield calls
        finally:
            for name in METHODS:
                setattr(kind, name, before[name]) if name in before else delattr(kind, name)


@dataclass
class RecordedNoise:
    """Noise that records what was drawn, to draw as much again."""

    inner: Noise
    calls: list[Callable[[], Tensor]] = field(default_factory=list)

    def normal(self, shape: Sequence[int]) -> Tensor:
        self.calls.append(lambda: self.inner.normal(shape))
        return self.inner.normal(shape)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        self.calls.append(lambda: self.inner.uniform(shape))
        return self.inner.uniform(shape)

    def host_uniform(self, shape: Sequence[int]) -> Tensor:
        self.calls.append(lambda: self.inner.host_uniform(shape))
        return self.inner.host_uniform(shape)

    def draws(self, draws: Sequence[int]) -> RecordedNoise:
        return RecordedNoise(self.inner.draws(draws), self.calls)


# -- problems --------------------------------------------------------------------------------------


@dataclass
class Case:
    """A solver with few steps, and the problem that it solves."""

    solver: Solver
    full: Solver
    obs: Observation
    prior: Prior
    keys: Sequence[Key]
    operator_node: Mapping[str, Any]

    def noise(self) -> RecordedNoise:
        """Return the noise of a run."""
        return RecordedNoise(SeededNoise(self.keys, "solver", str(self.prior.device)))

    def run(self) -> None:
        """Fit and draw once."""
        noise = SeededNoise(self.keys, "solver", str(self.prior.device))
        self.solver.fit(self.obs, self.prior, noise).sample([0])

    def record(self) -> tuple[dict[str, list[Call]], RecordedNoise]:
        """Fit and draw once, and return the calls."""
        noise = self.noise()
        with recorded(self.prior, self.obs.operator) as calls:
            self.solver.fit(self.obs, self.prior, noise).sample([0])
        return calls, noise


def cell(name: str, problem: str, device: str) -> Session:
    """Return a solver's cell on an embedded prior."""
    given = [f"solver={name}", "data.images=16", *EMBEDDED[problem]]
    return Session(job_of(compose(check(given))[0]), device)


def embedded(session: Session, rows: int, steps: int) -> Case:
    """Return the case of a cell on an embedded prior."""
    measured = session.measure(list(session.images.ids)[:rows])
    cond = session.condition(measured)
    obs = Observation(measured.y, measured.operator, cond, session.perceptual, session.modules)
    solver = with_steps(session.solver, steps)
    node = session.config.operator
    return Case(solver, session.solver, obs, session.prior, measured.keys, node)


def with_steps(solver: Solver, steps: int) -> Solver:
    """Return the solver with about so many steps.

    Loops within a step keep their length: they run without the network, so fewer of them would make
    the ratio better than it is. A solver whose settings allow no fewer steps is returned as it is.
    """
    most = max(solver.workload.values(), default=0)
    if most <= steps:
        return solver
    fewer = solver
    with suppress(ValueError):
        fewer = solver.scaled(steps / most)
    every = getattr(solver, "every", None)
    if type(every) is int:  # what happens every few steps happens in a short run as well
        share = max(1, round(every * steps / most))
        with suppress(ValueError):
            fewer = replace(fewer, every=share)  # type: ignore[type-var]
    return fewer


def on_prior(case: Case, prior: Prior) -> Case:
    """Return the case of the same solver on another prior, half of each image hidden."""
    rows, size, device = case.obs.n, prior.image_shape[-1], prior.device
    generator = torch.Generator().manual_seed(5)
    x = (torch.rand(rows, *prior.image_shape, generator=generator) * 2 - 1).to(device)
    mask = torch.arange(size).lt(size // 2).expand(rows, 1, size, size).contiguous()
    operator = Inpainting(mask.to(device))
    keys = [Key(0, "overhead", str(i)) for i in range(rows)]
    obs = replace(case.obs, y=operator.A(x), operator=operator, cond=None)
    return replace(case, obs=obs, prior=prior, keys=keys)


class Half(nn.Module):
    """A network that costs next to nothing."""

    def forward(self, z: Tensor, t: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        return 0.5 * z


@contextmanager
def cheap(prior: Prior) -> Iterator[None]:
    """Let the networks of a prior cost next to nothing within a block."""
    times = 2 if prior.learned_var else 1
    image, state = prior.image_shape, prior.latent_shape

    def resized(x: Tensor, shape: tuple[int, ...]) -> Tensor:
        # an autoencoder's output is a tensor of its own, not a view
        mean = x[:, : shape[0]] if len(x[0]) >= shape[0] else x[:, :1]
        if shape[-1] > x.shape[-1]:
            mean = F.interpolate(mean, size=shape[1:], mode="nearest")
        else:
            mean = F.avg_pool2d(mean, x.shape[-1] // shape[-1])
        return mean if len(mean[0]) == shape[0] else mean.repeat(1, shape[0], 1, 1)

    with ExitStack() as stack:
        stack.enter_context(
            replaced(prior, run_network=lambda x, t, values: torch.cat([0.5 * x] * times, 1))
        )
        if prior.latent is not None:
            parts = {
                "encode": lambda x, noise=None: resized(x, state),
                "decode": lambda z: resized(z, image),
            }
            stack.enter_context(replaced(prior.latent, **parts))
        yield


def wide(latent: bool) -> Prior:
    """Return a prior on states of 3 x 64 x 64 whose networks are never run."""
    process = VP.scheduled("scaled_linear", 0.0015, 0.0195)
    size = 128 if latent else 64
    return Prior(
        process, Half(), (3, size, size), "eps", latent=autoencoder(2, (8,)) if latent else None
    )


def large(latent: bool, device: str) -> Prior:
    """Return an untrained prior of the size of ADM-64, on pixels or on latents."""
    channels = [192, 384, 576, 768]
    config = {
        "sample_size": 64,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": channels,
        "layers_per_block": 3,
        "down_block_types": ["DownBlock2D", *["AttnDownBlock2D"] * 3],
        "up_block_types": [*["AttnUpBlock2D"] * 3, "UpBlock2D"],
        "attention_head_dim": 64,
        "resnet_time_scale_shift": "scale_shift",
    }
    process = VP.scheduled("scaled_linear", 0.0015, 0.0195)
    size = 256 if latent else 64
    with torch.device(device), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = UNet2D(config)
        coder = autoencoder(4, (128, 256, 512)) if latent else None
    return Prior(process, net, (3, size, size), "eps", latent=coder).to(device)


def autoencoder(factor: int, channels: tuple[int, ...]) -> KL:
    """Return an untrained autoencoder with 3 channels of latents."""
    widths = [*channels, *channels[-1:] * (int(math.log2(factor)) + 1 - len(channels))]
    config = {
        "block_out_channels": widths,
        "layers_per_block": 2,
        "latent_channels": 3,
        "norm_num_groups": min(32, widths[0]),
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
    }
    return KL(config, 0.0, 1.0)


# -- records ---------------------------------------------------------------------------------------


@dataclass
class Record:
    """What was measured of one solver, problem and batch.

    Seconds are those of the short run: ``network`` of the calls, ``own`` of everything else,
    ``noise`` and ``operator`` of these parts of ``own``. ``length`` is how many times as many
    passes a run with all steps has. ``ratio`` is that of fit and draws alone, ``lowest`` and
    ``highest`` are its extremes over the repeats.
    """

    solver: str
    problem: str
    batch: int
    device: str
    precision: str
    method: str
    passes: float
    calls: int
    network: float
    own: float
    noise: float
    operator: float
    ratio: float
    lowest: float
    highest: float
    length: float | None = None


def part_seconds(case: Case, device: str, repeats: int) -> tuple[Any, list[list[float]]]:
    """Return the calls of a case, and seconds of run, networks, noise and operator in turns."""
    calls, noise = case.record()
    functions = (
        case.run,
        lambda: [call() for call in calls["net"]],
        lambda: [draw() for draw in noise.calls],
        lambda: [call() for call in calls["operator"]],
    )
    return calls["net"], in_turns(functions, repeats, device)


def passes_of(calls: Sequence[Call], rows: int) -> float:
    """Return the forward and backward passes of the network for each row."""
    net = [call for call in calls if call.part == "network"]
    return sum(call.rows * (1 + call.gradients) for call in net) / rows


def direct(case: Case, where: tuple[str, str, int], device: str, repeats: int) -> Record:
    """Measure run and replay of the prior's own networks."""
    calls, rounds = part_seconds(case, device, repeats)
    ratios = [whole / alone for whole, alone, *_ in rounds]
    _, alone, noise, operator = map(statistics.median, zip(*rounds, strict=True))
    ratio = statistics.median(ratios)
    return Record(
        *where,
        device=device,
        precision=case.prior.execution.label,
        method="direct",
        passes=passes_of(calls, case.obs.n),
        calls=sum(call.part == "network" for call in calls),
        network=alone,
        own=alone * (ratio - 1),
        noise=noise,
        operator=operator,
        ratio=ratio,
        lowest=min(ratios),
        highest=max(ratios),
    )


class Costs:
    """Seconds of the calls of a prior's networks, each kind of call measured once."""

    def __init__(self, repeats: int = 5) -> None:
        self.repeats = repeats
        self.found: dict[tuple[str, str, int, bool], tuple[float, float]] = {}

    def of(self, call: Call, problem: str, prior: Prior) -> float:
        """Return the seconds of a recorded call with all its gradients."""
        if problem == "wide":
            return PASS * call.rows * (1 + call.gradients)
        key = (problem, call.part, call.rows, call.graph)
        if key not in self.found:
            holder = prior if call.part == "network" else prior.latent
            name = "run_network" if call.part == "network" else call.part
            forward = replace(call, function=getattr(holder, name), gradients=0)
            both = replace(forward, gradients=1)
            functions = (forward, both) if call.graph else (forward, forward)
            rounds = in_turns(functions, self.repeats, "cpu")
            self.found[key] = tuple(map(statistics.median, zip(*rounds, strict=True)))  # type: ignore[assignment]
        one, two = self.found[key]
        return one + call.gradients * (two - one)


def stand_in(case: Case, where: tuple[str, str, int], costs: Costs, repeats: int) -> Record:
    """Measure the solver's own time around cheap networks, and the time of the real calls."""
    with cheap(case.prior):
        calls, rounds = part_seconds(case, "cpu", repeats)
    network = sum(costs.of(call, where[1], case.prior) for call in calls)
    owns = [whole - alone for whole, alone, *_ in rounds]
    _, _, noise, operator = map(statistics.median, zip(*rounds, strict=True))
    own = statistics.median(owns)
    return Record(
        *where,
        device="cpu",
        precision=case.prior.execution.label,
        method="stand-in",
        passes=passes_of(calls, case.obs.n),
        calls=sum(call.part == "network" for call in calls),
        network=network,
        own=own,
        noise=noise,
        operator=operator,
        ratio=1 + own / network,
        lowest=1 + min(owns) / network,
        highest=1 + max(owns) / network,
    )


def length_of(case: Case, short: Record) -> float | None:
    """Return the passes of a run with all steps over those of the short run; None if unknown."""
    try:
        counts = count_calls(case.full, PriorKind.of(case.prior), case.operator_node, 10.0)
    except CannotCount:
        return None
    row = counts.of_row(1)
    return (row["nfe"] + row["nge"]) / short.passes


@dataclass
class Once:
    """Seconds of what a chunk does once, beside fit and draws."""

    problem: str
    batch: int
    device: str
    measure: float
    metrics: float
    png: float
    write: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.measure + self.metrics + self.png + self.write


def once(session: Session, problem: str, rows: int, device: str, repeats: int = 5) -> Once:
    """Measure what a chunk does once."""
    ids = list(session.images.ids)[:rows]
    measured = session.measure(ids)
    x = (
        measured.truth
        + 0.1 * SeededNoise(measured.keys, "metric", device).normal(measured.truth.shape[1:])
    ).clamp(-1, 1)
    with tempfile.TemporaryDirectory() as folder:
        store = RowStore(Path(folder) / ("0" * 16))
        scored = score_images(session, measured, x, 1)
        rows_ = [
            {"cell": store.cell, "image_id": image, "draw": 0, **row}
            for image, row in zip(ids, scored, strict=True)
        ]
        pixels = to_uint8(x)
        functions = (
            lambda: session.measure(ids),
            lambda: score_images(session, measured, x, 1),
            lambda: [png(one) for one in pixels],
            lambda: store.write("00000", rows_),
        )
        rounds = in_turns(functions, repeats, device)
    measuring, scoring, image, writing = map(statistics.median, zip(*rounds, strict=True))
    return Once(problem, rows, device, measuring, scoring - image, image, writing)


@dataclass
class Results:
    """Everything that was measured, written to a file after every record."""

    path: Path | None
    facts: dict[str, Any]
    records: list[Record] = field(default_factory=list)
    onces: list[Once] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def save(self) -> None:
        """Write the file anew, whole or not at all."""
        if self.path is None:
            return
        content = {
            **self.facts,
            "records": [asdict(record) for record in self.records],
            "once": [asdict(one) for one in self.onces],
            "skipped": self.skipped,
        }
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        part.replace(self.path)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Return stored results."""
        content = json.loads(path.read_text(encoding="utf-8"))
        records = [Record(**record) for record in content.pop("records")]
        onces = [Once(**one) for one in content.pop("once")]
        skipped = content.pop("skipped")
        return cls(None, content, records, onces, skipped)


def facts(device: str) -> dict[str, Any]:
    """Return the date and the machine of a measurement."""
    found = environment()
    gpu: dict[str, Any] = {}
    if device != "cpu":
        gpu = {
            "card": torch.cuda.get_device_name(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "commit": found["commit"],
        "processor": found["processor"],
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **gpu,
    }


# -- the two machines ------------------------------------------------------------------------------


def on_cpu(results: Results, given: argparse.Namespace, end: float) -> None:
    """Measure every solver, problem and batch on the CPU."""
    costs, wides = Costs(), {latent: wide(latent) for latent in (False, True)}
    for problem in EMBEDDED if given.problems is None else set(given.problems) & set(EMBEDDED):
        for batch in given.batch:
            results.onces.append(once(cell("dps", problem, "cpu"), problem, batch, "cpu"))
    for name in given.solvers:
        lengths: dict[str, float | None] = {}
        for problem in EMBEDDED:
            try:
                session = cell(name, problem, "cpu")
            except (UserError, ImportError) as error:  # deepinv may be absent
                results.skipped[f"{name} {problem}"] = str(error)
                continue
            for batch in given.batch:
                case = embedded(session, batch, given.steps)
                for where, one in (
                    (problem, case),
                    ("wide", on_prior(case, wides[case.prior.is_latent])),
                ):
                    if time.monotonic() > end or (given.problems and where not in given.problems):
                        continue
                    done = {(r.solver, r.problem, r.batch) for r in results.records}
                    if (name, where, batch) in done:
                        continue  # on pixels
                    measured(results, name, where, one, given, costs, lengths)
                    results.save()


def measured(
    results: Results,
    name: str,
    problem: str,
    case: Case,
    given: argparse.Namespace,
    costs: Costs,
    lengths: dict[str, float | None],
) -> None:
    """Measure one case on the CPU, and keep the record or the reason why there is none."""
    where = (name, problem, case.obs.n)
    if lacking := case.solver.lacks(case.prior.caps | case.obs.operator.caps, 0.0):
        results.skipped[f"{name} {problem}"] = f"needs {', '.join(sorted(lacking))}"
        return
    real = problem != "wide"
    if real and (given.direct or "features" in case.solver.needs):
        record = direct(case, where, "cpu", 3)
    elif "features" in case.solver.needs:
        results.skipped[f"{name} {problem}"] = "needs the features of a real network"
        return
    else:
        record = stand_in(case, where, costs, given.repeats)
    if real and problem not in lengths:
        lengths[problem] = length_of(case, record)
    record.length = lengths.get(problem)
    results.records.append(record)
    print(line(record), file=sys.stderr, flush=True)


def on_gpu(results: Results, given: argparse.Namespace, end: float) -> None:
    """Measure on a GPU, the most important first, until time is over."""
    device = given.device
    Worker(device)  # it asks the device for the kernels that runs use
    loaded: dict[str, Any] = {}
    for batch in given.batch:
        for problem in given.problems or [*LARGE, *EMBEDDED]:
            for name in given.solvers:
                if time.monotonic() > end:
                    results.skipped["the rest"] = "the budget of seconds was spent"
                    return
                try:
                    case = case_of(name, problem, batch, given.steps, device, loaded)
                    case.prior.run_as(Execution(precision=given.precision))
                    with tf32(case.prior.execution.tf32):
                        record = direct(case, (name, problem, batch), device, given.repeats)
                    results.records.append(record)
                    print(line(record), file=sys.stderr, flush=True)
                except Exception as error:  # the others are measured all the same
                    results.skipped[f"{name} {problem} {batch}"] = (
                        f"{type(error).__name__}: {error}"
                    )
                    torch.cuda.empty_cache()
                results.save()
            if problem in EMBEDDED:
                session = next(one for key, one in loaded.items() if key.endswith(f" {problem}"))
                results.onces.append(once(session, problem, batch, device))


def case_of(
    name: str, problem: str, batch: int, steps: int, device: str, loaded: dict[str, Any]
) -> Case:
    """Return a case on a device; sessions and priors are kept in ``loaded``.

    Raises
    ------
    UserError
        If the solver does not fit the prior.
    """
    base = {"adm64": "fashion", "ldm256": "fashion_latent"}.get(problem, problem)
    key = f"{name} {base}"
    if key not in loaded:
        loaded[key] = cell(name, base, device)
    case = embedded(loaded[key], batch, steps)
    if problem in LARGE:
        if problem not in loaded:
            loaded[problem] = large(problem == "ldm256", device)
        case = on_prior(case, loaded[problem])
    if lacking := case.solver.lacks(case.prior.caps | case.obs.operator.caps, 0.0):
        raise UserError(f"needs {', '.join(sorted(lacking))}")
    return case


def line(record: Record) -> str:
    """Return one record for a person who waits."""
    return (
        f"{record.solver} {record.problem} batch {record.batch}: {record.ratio:.3f} "
        f"({record.lowest:.3f} to {record.highest:.3f}), network {1e3 * record.network:.1f} ms, "
        f"own {1e3 * record.own:.1f} ms"
    )


# -- a model of a GPU ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """Seconds of a GPU from counts, with round numbers; nothing of it is measured.

    A launch takes ``launch`` seconds of the host, or the time of its bytes if that is longer, and a
    wait for the device ``wait``. A network takes its launches or its operations, whichever takes
    longer: forward, and with a gradient, as counted for ADM-64. Numbers of ``noise`` seconds a row
    are drawn by ``threads``, ahead of the network: what takes longer than the network is waited
    for, and so is the copy of every tensor of noise from pageable memory.
    """

    launch: float = 10e-6
    wait: float = 20e-6
    bytes_a_second: float = 2e12
    flop_a_second: float = 300e12
    noise: float = 45e-6
    threads: int = 4
    launches: tuple[int, int] = (972, 2205)
    flop: tuple[float, float] = (0.219e12, 0.451e12)

    def network(self, calls: Sequence[Call]) -> float:
        """Return the seconds of calls of the network; an autoencoder counts as one more network."""
        seconds = 0.0
        for call in calls:
            launches, flop = self.launches[0], self.flop[0]
            launches += call.gradients * (self.launches[1] - self.launches[0])
            flop += call.gradients * (self.flop[1] - self.flop[0])
            seconds += max(self.launch * launches, call.rows * flop / self.flop_a_second)
        return seconds

    def own(self, counts: Counts) -> float:
        """Return the seconds of the solver's own operations."""
        moved = sum(max(self.launch, size / self.bytes_a_second) for size in counts.sizes)
        return moved + self.wait * counts.waits


class Counts(TorchDispatchMode):
    """The bytes of every operation on tensors, and how often the host reads a number.

    Every such number counts as a wait, also where it would be on the host already, so there are too
    many rather than too few.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.waits = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._local_scalar_dense.default:
            self.waits += 1
        returns = func._schema.returns
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
        if not view and any(t.dim() > 0 for t in tensors):
            self.sizes.append(sum(t.nbytes for t in tensors))
        return out


def modelled(case: Case, where: tuple[str, str, int], model: Model) -> Record:
    """Return what the model says of one case on cheap networks."""
    with cheap(case.prior):
        calls, noise = case.record()
        counts, alone, drawn = Counts(), Counts(), Counts()
        with counts:
            case.run()
        with alone:
            for call in calls["net"]:
                call()
        with drawn:
            for draw in noise.calls:
                draw()
    # The operations of the cheap networks and of the CPU's random numbers are not the solver's.
    for part in (alone, drawn):
        for size in part.sizes:
            if size in counts.sizes:
                counts.sizes.remove(size)
    network, own = model.network(calls["net"]), model.own(counts)
    rows = case.obs.n
    drawing = model.noise * rows * len(noise.calls) / min(model.threads, rows)
    copies = len(noise.calls) * (model.launch + model.wait)
    waiting = max(drawing - network - own, 0.0) + copies
    ratio = 1 + (own + waiting) / network
    return Record(
        *where,
        device="model",
        precision="bf16",
        method="model",
        passes=passes_of(calls["net"], rows),
        calls=sum(call.part == "network" for call in calls["net"]),
        network=network,
        own=own + waiting,
        noise=waiting,
        operator=0.0,
        ratio=ratio,
        lowest=ratio,
        highest=ratio,
    )


def on_paper(results: Results, given: argparse.Namespace, end: float) -> None:
    """Compute the ratio of every solver and batch by the model."""
    wides = {latent: wide(latent) for latent in (False, True)}
    for name in given.solvers:
        for problem in EMBEDDED:
            done = {record.solver for record in results.records}
            if name in done or time.monotonic() > end:
                continue
            try:
                session = cell(name, problem, "cpu")
                for batch in given.batch:
                    case = embedded(session, batch, given.steps)
                    case = on_prior(case, wides[case.prior.is_latent])
                    if "features" in case.solver.needs:
                        raise UserError("needs the features of a real network")
                    results.records.append(modelled(case, (name, "model", batch), Model()))
                    print(line(results.records[-1]), file=sys.stderr, flush=True)
            except (UserError, ImportError) as error:  # deepinv may be absent
                results.skipped[f"{name} {problem}"] = str(error)


# -- tables ----------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--table", type=Path, help="print stored records")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--direct", action="store_true")
    parser.add_argument("--model", action="store_true", help="compute the ratio on a GPU")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16+tf32", help="on a GPU")
    parser.add_argument("--solvers", type=lambda text: text.split(","))
    parser.add_argument("--problems", type=lambda text: text.split(","))
    parser.add_argument("--batch", type=lambda text: [int(n) for n in text.split(",")])
    given = parser.parse_args(arguments)
    if given.table:
        print(tables(Results.read(given.table)))
        return
    end = time.monotonic() + given.budget
    here = given.device == "cpu"
    given.batch = given.batch or list(BATCHES)
    given.steps = given.steps or (FEW if here else 6)
    given.repeats = given.repeats or 3
    given.solvers = given.solvers or [
        *FIRST,
        *(name for name in options("solver") if name not in {*NO_LOOP, *FIRST}),
    ]
    if here:
        torch.set_num_threads(1)
    results = Results(given.json, facts(given.device))
    (on_paper if given.model else on_cpu if here else on_gpu)(results, given, end)
    results.save()
    print(tables(results))


def tables(results: Results) -> str:
    """Return all results as Markdown."""
    words = [f"{key} {value}" for key, value in results.facts.items()]
    parts = [", ".join(words), ratio_table(results.records)]
    if results.onces:
        parts.append(share_table(results))
    parts.append("\n".join(f"{name}: {reason}" for name, reason in results.skipped.items()))
    return "\n\n".join(parts)


def ratio_table(records: Sequence[Record]) -> str:
    """Return the ratios of fit and draws, a column for every problem and batch."""
    columns = sorted({(r.problem, r.batch) for r in records}, key=lambda c: (PLACES.index(c[0]), c))
    found = {(r.solver, r.problem, r.batch): r for r in records}
    titles = [f"{problem}, {batch}" for problem, batch in columns]
    rows = []
    for name in dict.fromkeys(r.solver for r in records):
        here = [found.get((name, *column)) for column in columns]
        rows.append([name, *("" if r is None else f"{r.ratio:.3f}" for r in here)])
    return markdown(["solver", *titles], rows)


def share_table(results: Results) -> str:
    """Return the ratio of whole chunks of 8 rows with all steps, and where their time goes."""
    onces = {(one.problem, one.batch): one for one in results.onces}
    rows = []
    for record in results.records:
        one = onces.get((record.problem, 8))
        if record.batch != 8 or one is None or record.length is None:
            continue
        network, own = record.length * record.network, record.length * record.own
        total = network + own + one.seconds
        inner = [record.length * record.noise, record.length * record.operator]
        shares = [*inner, own - sum(inner), one.metrics, one.png, one.measure + one.write]
        rows.append(
            [
                f"{record.solver}, {record.problem}",
                f"{total:.1f}",
                f"{total / network:.3f}",
                *(f"{100 * max(share, 0.0) / total:.1f}" for share in shares),
            ]
        )
    titles = ["solver, prior", "seconds of 8 rows", "ratio of the chunk", "% noise", "% operator"]
    return markdown(
        [*titles, "% rest of the solver", "% metrics", "% PNG", "% measuring, writing"], rows
    )


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column is text."""
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main(sys.argv[1:])
