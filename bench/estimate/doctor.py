"""``python -m bench doctor``: everything a run needs, looked at before a second of an accelerator
is spent.

Weights are never loaded: the files of a prior are compared by hash, name and shape with a network
on the meta device.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig, OmegaConf
from rich.markup import escape
from rich.table import Table

from posterior_bench.bench.config.build import build, target
from posterior_bench.bench.config.cell import digest
from posterior_bench.bench.core.errors import BAD_INPUT
from posterior_bench.bench.core.terminal import out
from posterior_bench.bench.engine.executor import cpu_workers
from posterior_bench.bench.estimate.machine import Machine, free_memory
from posterior_bench.bench.estimate.problems import attempt as _attempt
from posterior_bench.bench.estimate.problems import misfits, unreadable

if TYPE_CHECKING:
    from posterior_bench.bench.estimate.memory import Costs, Estimate
    from posterior_bench.datasets.base import ImageSet
    from posterior_bench.masks.base import MaskGenerator
    from posterior_bench.priors.base import Prior

State = Literal["ok", "warning", "missing"]
_COLOURS = {"ok": "green", "warning": "yellow", "missing": "red"}
_ROW_BYTES = 2048
"""A row without its image: scores, counters and names."""
_LARGE = 50e6
"""Parameters from which a network is a matter of days without a GPU."""


@dataclass(frozen=True)
class Finding:
    """One check: its state, what was found, and for what is not there the exact name or command
    that makes it good.
    """

    check: str
    state: State
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Need:
    """What one cell needs of memory, and how much more its executor needs of it with several
    workers at once.
    """

    prior: str
    title: str
    estimate: Estimate
    config: Mapping[str, Any]
    workers: int


def doctor(jobs: Sequence[Sequence[str]], machine: Machine) -> int:
    """Examine jobs for a machine and print the findings.

    Parameters
    ----------
    jobs : sequence of sequence of str
        The settings of every job, as Hydra gets them.
    machine : Machine
        The machine that the run is meant for.

    Returns
    -------
    int
        0 if nothing is missing, else 2.
    """
    visit = Visit(machine, several=len(jobs) > 1)
    findings = list(
        dict.fromkeys([*(f for overrides in jobs for f in visit.cell(overrides)), *visit.summary()])
    )
    _print(findings)
    return BAD_INPUT if any(finding.state == "missing" for finding in findings) else 0


def examine(overrides: Sequence[str]) -> Iterator[Finding]:
    """Every finding of one configuration. UserError only for a command line that is wrong
    itself.
    """
    visit = Visit(Machine())
    yield from visit.cell(overrides)
    yield from visit.summary()


def findings(cfg: DictConfig, choices: Mapping[str, Any]) -> Iterator[Finding]:
    """What a run is refused for, of a composed configuration, which is changed where something is
    not set.
    """
    yield from Visit(Machine(), costs=False).composed(cfg, choices)


class Visit:
    """The checks of one or ``several`` cells for a ``machine``: what cells have in common is looked
    at once.

    ``cell`` gives the findings of a cell, ``summary``, at the end, those of all cells together:
    memory and disk. Without ``costs`` memory is not estimated.
    """

    def __init__(self, machine: Machine, several: bool = False, costs: bool = True) -> None:
        self.machine, self.several, self.costs = machine, several, costs
        self.needs: list[Need] = []
        self.disk: dict[str, tuple[Mapping[str, Any], int]] = {}
        self.rows: list[tuple[Mapping[str, Any], int]] = []
        self._done: dict[str, Any] = {}

    def once(self, check: Callable[..., Any], *about: Any, key: Any = None) -> Any:
        """``check(*about)``, or what it gave for an equal ``key`` (by default all it is about)."""
        name = (
            f"{check.__name__} "
            f"{digest(json.loads(json.dumps(about if key is None else key, default=str)))}"
        )
        if name not in self._done:
            result = check(*about)
            self._done[name] = list(result) if isinstance(result, Iterator) else result
        return self._done[name]

    def cell(self, overrides: Sequence[str]) -> Iterator[Finding]:
        """Every finding of one configuration by itself."""
        from posterior_bench.bench.config.compose import compose

        yield from self.composed(*compose(list(overrides)))

    def composed(self, cfg: DictConfig, choices: Mapping[str, Any]) -> Iterator[Finding]:
        """The same of a composed configuration, which is changed where something is not set."""
        from posterior_bench.bench.engine.run import plain

        unset = list(_unset(cfg, choices))
        if not any(finding.check.startswith("prior") for finding in unset):
            unset += [
                Finding(f"prior {choices['prior']}", "missing", line) for line in unreadable(cfg)
            ]
        yield from unset
        config = plain(cfg)
        names = {group: str(name) for group, name in choices.items()}
        left_out = {finding.check.split()[0] for finding in unset}
        there = lambda *groups: not left_out.intersection(groups)  # noqa: E731
        seed, node = (
            config["seed"],
            {group: config[group] for group in ("solver", "data", "mask", "operator", "prior")},
        )
        prior, of_prior = (
            self.once(_prior, config, names["prior"], key=node["prior"])
            if there("prior")
            else (None, [])
        )
        yield from of_prior
        about = [node["data"], node["prior"] if _drawn(config) else "", seed]
        images, of_images = (
            self.once(_images, config, prior, key=about) if there("data") else (None, [])
        )
        yield from self._named(of_images, names["data"])
        mask = None
        if there("mask"):
            mask, of_mask = self.once(_mask, config, images, key=[node["mask"], about])
            yield from self._named(of_mask, names["mask"])
        yield from self.once(_metrics, config, key=config["metrics"])
        if self.costs and there("solver", "operator"):
            yield from self._memory(config, names, prior)
        if prior is not None and there("solver", "operator"):
            ways = [
                config[key]
                for key in ("precision", "channels_last", "compile", "checkpointing", "plugins")
            ]
            about = [
                *(node[group] for group in ("solver", "data", "operator", "prior")),
                config["metrics"],
                seed,
                ways,
            ]
            fit = self.once(
                _fit,
                config,
                prior,
                images,
                mask is not None,
                key=[about, images is None, mask is None],
            )
            yield from self._named(fit, names["solver"])
        if prior is not None:
            self._count(config, prior)
        yield _folder(config)
        yield from _packages(config)
        yield from _device(config, self.machine)

    def summary(self) -> Iterator[Finding]:
        """What all cells together need: of memory, the most for every prior; of disk, the sum."""
        for prior in dict.fromkeys(need.prior for need in self.needs):
            most = max(
                (n for n in self.needs if n.prior == prior),
                key=lambda n: n.estimate.total() * n.workers,
            )
            yield _memory(most, self.machine, f" ({most.title})" if self.several else "")
            yield from _slow(most, self.machine)
        yield from dict.fromkeys(
            f for config, chunks in self.rows for f in _gpus(config, chunks, self.machine)
        )
        for config, needed in self.disk.values():
            yield _disk(config, needed)

    def _named(self, findings: Iterable[Finding], name: str) -> list[Finding]:
        """Findings of one option, by its name where there are others."""
        return [replace(f, check=f"{f.check} {name}") if self.several else f for f in findings]

    def _memory(
        self, config: Mapping[str, Any], names: Mapping[str, str], prior: Prior | None
    ) -> Iterator[Finding]:
        """What is wrong with the networks; the cell's need of memory is kept for the summary."""
        built = self.once(
            _networks, config["prior"], names["prior"], prior, key=[config["prior"], prior is None]
        )
        if built is None:
            return
        costs, problem = built
        if problem:
            remedy = (
                "convert the prior again: `python -m bench convert` says which setting is "
                "not "
                "served"
            )
            found = Finding("network", "missing", f"it cannot be called: {problem}", remedy)
            yield from self._named([found], names["prior"])
            return
        kept = (
            "solver",
            "operator",
            "prior",
            "metrics",
            "draws",
            "batch",
            "precision",
            "checkpointing",
        )
        found, problem = self.once(_estimate, config, costs, key=[config[key] for key in kept])
        if problem:
            yield Finding("memory", "warning", f"not estimated for {names['solver']}: {problem}")
        elif found is not None:
            self.needs.append(
                Need(names["prior"], names["solver"], found, config, _sharing(config, self.machine))
            )

    def _count(self, config: Mapping[str, Any], prior: Prior) -> None:
        """Add up what the cells of a study folder store, and into how many chunks each is cut."""
        from posterior_bench.bench.estimate.memory import rows_at_once

        images, draws, folder = config["data"]["images"], config["draws"], str(_study(config)[0])
        needed = self.disk.get(folder, (config, 0))[1] + images * draws * (
            math.prod(prior.image_shape) + _ROW_BYTES
        )
        self.disk[folder] = config, needed
        self.rows.append((config, -(-images // rows_at_once(draws, config["batch"]).images)))


def _unset(cfg: DictConfig, choices: Mapping[str, object]) -> Iterator[Finding]:
    """Settings that only the user knows; set to nothing here, so that the rest can be looked at."""
    for group in ("solver", "data", "mask", "operator", "prior"):
        for key in [key for key in cfg[group] if OmegaConf.is_missing(cfg[group], key)]:
            found = f"{group}.{key} is not set for {group}={choices[group]}"
            yield Finding(f"{group} settings", "missing", found, f"{group}.{key}=VALUE")
            OmegaConf.update(cfg, f"{group}.{key}", "")


def _prior(config: Mapping[str, Any], name: str) -> tuple[Prior | None, list[Finding]]:
    """The prior on the meta device; one in closed form as it is."""
    from posterior_bench.bench.config.catalog import options
    from posterior_bench.priors.load import load, verify
    from posterior_bench.priors.memory import weight_bytes

    node, check = config["prior"], f"prior {name}"
    if target(node) is not load:
        prior, problem = _attempt(lambda: build(node))
        return prior, [
            Finding(check, "missing", problem)
            if problem
            else Finding(check, "ok", "needs no files")
        ]
    option = options("prior").get(name)
    mend = [] if option else ["prior=PATH, a folder with prior.json or one of diffusers"]
    prior, problem = _attempt(lambda: verify(node["path"]))
    if problem:
        shipped = str(option.content.get("path")) if option else ""
        commands = re.findall(
            r"`(bench [^`]*)`", option.summary.replace(shipped, node["path"]) if option else ""
        )
        command = [f"bench train prior={name}"] if "train" in node else commands
        wanted = f"{node['path']}/prior.json and the .safetensors files it names"
        remedy = ": ".join([*(mend or [wanted]), *(f"python -m {line}" for line in command[:1])])
        return None, [Finding(check, "missing", problem.partition("; make")[0], remedy)]
    size = f"{weight_bytes(prior) / 2**20:.0f} MiB of weights"
    shape = " x ".join(map(str, prior.image_shape))
    return prior, [
        Finding(
            check, "ok", f"{node['path']}: hashes, tensor names and shapes; {size}, images {shape}"
        )
    ]


def _images(
    config: Mapping[str, Any], prior: Prior | None
) -> tuple[ImageSet | None, list[Finding]]:
    """The images of the run, every one of them read once."""
    from posterior_bench.bench.engine.arena import PriorDraws, build_images

    node, count = config["data"], config["data"]["images"]
    if prior is None and target(node) is PriorDraws:
        return None, [Finding("data", "warning", "is drawn from the prior, which is missing")]
    seed = int(config["seed"])
    images, problem = _attempt(lambda: build_images(node, prior, seed))  # type: ignore[arg-type]
    if problem:
        return None, [
            Finding(
                "data",
                "missing",
                problem,
                "data.root=FOLDER; docs/data.md says what must lie there",
            )
        ]
    where = f"{images.name}: {len(images)} images of {' x '.join(map(str, images.shape))}"
    if count > len(images):
        found = f"data.images={count}, but there are only {len(images)} images"
        return images, [Finding("data", "missing", found, f"data.images={len(images)} or less")]
    damaged = images.check(list(images.ids)[:count])
    findings = [
        Finding(
            "data",
            "ok",
            f"{where}; the {count} of this run " + ("read" if not damaged else "looked at"),
        )
    ]
    findings += [Finding("data", "warning", line) for line in images.notes()]
    return images, findings + [
        Finding("damaged images", "missing", line, "restore the file") for line in damaged
    ]


def _mask(
    config: Mapping[str, Any], images: ImageSet | None
) -> tuple[MaskGenerator | None, list[Finding]]:
    """Masks of the run's images; those of files are all read."""
    from posterior_bench.bench.external.content import hidden_share, mask_with_content

    mask, problem = _attempt(lambda: build(config["mask"]))
    if mask is not None and images is not None:
        problem = _attempt(lambda: mask_with_content(config, mask, images))[1]
    path = config["mask"].get("path")
    if not problem and path and not Path(path).expanduser().exists():
        problem = f"{path} does not exist"
    if problem:
        remedy = "mask.path=PATH; docs/masks.md says what may lie there" if path else ""
        return None, [Finding("mask", "missing", problem, remedy)]
    if not path:
        return mask, [Finding("mask", "ok", "drawn from the seed")]
    if images is None:
        return mask, [
            Finding(
                "mask",
                "ok",
                f"{path} is there; whether it has a mask for every image is not known yet",
            )
        ]
    share = (
        f": {hidden_share(config, mask, images)}" if mask is not None and images is not None else ""
    )
    return mask, [Finding("mask", "ok", f"{path}: a mask for every image{share}")]


def _metrics(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Weights of the metrics and the reference values of their cards."""
    from posterior_bench.bench.engine.cache import shared

    nodes, good = config["metrics"].items(), []
    for name, node in nodes:
        problem = _attempt(lambda node=node: shared("metric", node, "cpu").check())[1]  # type: ignore[misc]
        if problem:
            yield Finding(f"metric {name}", "missing", problem)
        else:
            good.append(name)
    if good:
        yield Finding("metrics", "ok", f"weights there, reference values met: {', '.join(good)}")


def _fit(
    config: Mapping[str, Any], prior: Prior, images: ImageSet | None, masks: bool
) -> list[Finding]:
    """Whether solver, prior, operator and data go together, and what the solver itself needs is
    there.
    """
    solver = config["solver"]["_target_"].rpartition(".")[2]
    wrong = misfits(config, prior, images, masks)
    if config["study"].get("skip_inapplicable") and any(misfit.inapplicable for misfit in wrong):
        return [
            Finding("solver", "warning", f"this study leaves it out: {misfit.found}")
            for misfit in wrong
        ]
    ok = Finding("solver", "ok", f"{solver} has what it needs of prior, operator and data")
    return [Finding("solver", "missing", misfit.found, misfit.remedy) for misfit in wrong] or [ok]


def _drawn(config: Mapping[str, Any]) -> bool:
    from posterior_bench.bench.engine.arena import are_drawn

    return are_drawn(config["data"])


def _networks(
    node: Mapping[str, Any], name: str, prior: Prior | None
) -> tuple[Costs | None, str] | None:
    """What counts the calls of a prior's networks, or why they cannot be called; None where there
    is no network.

    Where the weights are missing, the networks are those that its files or its layout describe.
    """
    from posterior_bench.bench.config.catalog import options
    from posterior_bench.bench.estimate.architecture import without_weights
    from posterior_bench.bench.estimate.memory import Costs

    option = options("prior").get(name)
    if prior is None and "path" in node:
        prior = _attempt(lambda: without_weights(node, option.summary if option else ""))[0]
    if prior is None or prior.net is None:
        return None
    costs = Costs(prior)
    return costs, _attempt(costs.check)[1]


def _estimate(config: Mapping[str, Any], costs: Costs) -> tuple[Estimate | None, str]:
    """The memory of a cell, or why it is not known; neither for a solver that does not fit to the
    prior.
    """
    from posterior_bench.bench.estimate.memory import estimate

    solver, problem = _attempt(lambda: build(config["solver"]))
    if problem:
        return None, ""  # a finding of its own
    has = costs.prior.caps | target(config["operator"]).caps
    if solver.lacks(has, float(config["operator"].get("sigma") or 0)):
        return None, ""
    found: tuple[Estimate | None, str] = _attempt(lambda: estimate(config, costs))
    return found


def _memory(need: Need, machine: Machine, whose: str) -> Finding:
    """An estimate of the most that a worker takes, against what there is, and the largest batch
    that fits.
    """
    from posterior_bench.bench.estimate.memory import SLACK

    found, workers = need.estimate, need.workers
    place, room = _room(need.config, machine)
    needed = workers * (1 + SLACK) * found.total()
    size, draws = found.size, min(found.draws, found.batch)
    rows = (
        f"{size.images} images with {draws} draws at once"
        if size.images > 1
        else f"{draws} draws at once"
    )
    said = f"about {_gib(needed)} GiB on {place}{whose}: {_gib(found.weights)} GiB of weights, "
    said += f"{_gib(found.activations())} GiB for {rows}, a tenth for the allocator"
    said += f", {workers} workers" if workers > 1 else ""
    largest = min(found.largest_batch(room / workers), need.config["data"]["images"] * found.draws)
    said += f"; {_gib(room)} GiB are {'there' if machine.elsewhere else 'free'}"
    if needed <= room:
        words = f"up to batch={largest} fits" if largest > found.batch else "this batch fits"
        return Finding(f"memory {need.prior}" if whose else "memory", "ok", f"{said}; {words}")
    spare = (
        ""
        if need.config["checkpointing"] == "call"
        else ", or checkpointing=call where a solver takes gradients"
    )
    remedy = (
        f"batch={largest} is the largest that fits{spare}"
        if largest
        else f"not even batch=1 fits{spare}"
    )
    return Finding(f"memory {need.prior}" if whose else "memory", "missing", said, remedy)


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f}" if size >= 2**30 else f"{size / 2**30:.2g}"


def _room(config: Mapping[str, Any], machine: Machine) -> tuple[str, int]:
    """What the memory belongs to, and how much of it a worker may take."""
    return (machine.name, machine.memory) if machine.memory is not None else _free_memory(config)


def _sharing(config: Mapping[str, Any], machine: Machine) -> int:
    """How many workers share one memory: those of Ray on a machine without GPUs."""
    import torch

    gpus = machine.gpus if machine.elsewhere else torch.cuda.device_count()
    if gpus or "ray" not in config["executor"]["_target_"].lower():
        return 1
    return int(config["executor"].get("workers") or cpu_workers())


def _device(config: Mapping[str, Any], machine: Machine) -> Iterator[Finding]:
    """Whether there is the GPU that is asked for; of another machine nobody can say more than its
    user did.
    """
    import torch

    problem = _attempt(lambda: build(config["executor"]))[1]
    if problem:
        yield Finding("executor", "missing", problem)
        return
    asked = str(config["executor"].get("device") or "auto")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked.startswith("cuda") and not machine.elsewhere and _index(asked) >= there:
        found = (
            f"executor.device={asked}, but this machine has {there or 'no'} GPU{'s' * (there > 1)}"
        )
        remedy = (
            "executor.device=auto; or say what the run is meant for, for example "
            "memory=80GiB "
            "gpus=8"
        )
        yield Finding("device", "missing", found, remedy)


def _index(device: str) -> int:
    """The number of a GPU, 0 where none is given."""
    number = device.partition(":")[2]
    return int(number) if number.isdecimal() else 0


def _slow(need: Need, machine: Machine) -> Iterator[Finding]:
    """Whether a large network would run without a GPU."""
    parameters = need.estimate.weights / 4
    if _room(need.config, machine)[0] in ("cpu", "a CPU") and parameters > _LARGE:
        words = f"no GPU, and {parameters / 1e6:.0f} M parameters take seconds to minutes a call"
        yield Finding("device", "warning", words)


def _gpus(config: Mapping[str, Any], chunks: int, machine: Machine) -> Iterator[Finding]:
    """Whether a cell keeps all GPUs of another machine at work."""
    gpus = machine.gpus or 0
    if gpus > 1 and "ray" not in config["executor"]["_target_"].lower():
        yield Finding("GPUs", "warning", f"executor=serial uses one of {gpus}", "executor=ray")
    elif chunks < (workers := min(gpus, config["executor"].get("workers") or gpus)):
        words = f"a cell of {chunks} chunks keeps {chunks} of {workers} GPUs at work"
        yield Finding("GPUs", "warning", words, "a smaller batch= makes more chunks")


def _free_memory(config: Mapping[str, Any]) -> tuple[str, int]:
    """The device of the workers and what is free there now."""
    import torch

    asked = str(config["executor"].get("device") or "auto")
    if asked != "cpu" and torch.cuda.is_available():
        index = _index(asked)
        name = (
            f"cuda:{index}" if 0 < index < torch.cuda.device_count() else "cuda"
        )  # no such GPU is another finding
        return name, int(torch.cuda.mem_get_info(name)[0])
    return "cpu", free_memory()


def _study(config: Mapping[str, Any]) -> tuple[Path, Path]:
    """The study folder, and the part of its path that exists."""
    from posterior_bench.bench.config.schema import study_folder

    study = Path(study_folder(config["out"], config["study"]["name"])).absolute()
    return study, next(path for path in (study, *study.parents) if path.exists())


def _disk(config: Mapping[str, Any], needed: int) -> Finding:
    """Rows with their PNG, which are no larger than the pixels, against the space beside the study
    folder.
    """
    free = shutil.disk_usage(_study(config)[1]).free
    found = f"rows take at most {needed / 2**20:.0f} MiB; {free / 2**20:.0f} MiB are free"
    state: State = "missing" if needed > free else "warning" if 2 * needed > free else "ok"
    return Finding(
        "disk", state, found, "" if state == "ok" else "make room, or give out= on another disk"
    )


def _folder(config: Mapping[str, Any]) -> Finding:
    study, there = _study(config)
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return Finding("study folder", "ok", f"{study} can be written")
    return Finding(
        "study folder", "missing", f"{there} cannot be written", "choose another with out=DIR"
    )


def _packages(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Optional packages that only some executors need; those of metrics and data are named by their
    own checks.
    """
    if "ray" in config["executor"]["_target_"].lower():
        there = find_spec("ray") is not None
        found = "ray is installed" if there else "executor=ray needs the package ray"
        yield Finding(
            "packages", "ok" if there else "missing", found, "" if there else "pip install ray"
        )


def _print(findings: Sequence[Finding]) -> None:
    """A table on a terminal; elsewhere one line a finding, its remedy indented below it."""
    if not out.is_terminal:
        width = max((len(finding.check) for finding in findings), default=0)
        for finding in findings:
            out.print(
                f"{finding.state:<7}  {finding.check:<{width}}  {finding.found}", markup=False
            )
            if finding.remedy:
                out.print(f"{'':<7}  {'':<{width}}  -> {finding.remedy}", markup=False)
        return
    table = Table("check", "state", "found", box=None, pad_edge=False)
    for finding in findings:
        remedy = f"\n→ {finding.remedy}" if finding.remedy else ""
        colour = _COLOURS[finding.state]
        table.add_row(
            finding.check, f"[{colour}]{finding.state}[/{colour}]", escape(finding.found + remedy)
        )
    out.print(table)
