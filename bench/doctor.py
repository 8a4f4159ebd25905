"""``python -m bench doctor``: everything a run needs, looked at before a second of an accelerator is spent.

Weights are never loaded: the files of a prior are compared by hash, name and shape with a network on the meta device.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig, OmegaConf
from rich.markup import escape
from rich.table import Table

from bench.build import build, target
from bench.console import out
from bench.errors import BAD_INPUT
from bench.problems import attempt as _attempt
from bench.problems import misfits, unreadable

if TYPE_CHECKING:
    from datasets.base import ImageSet
    from masks.base import MaskGenerator
    from priors.base import Prior

State = Literal["ok", "warning", "missing"]
_COLOURS = {"ok": "green", "warning": "yellow", "missing": "red"}
_ROW_BYTES = 2048
"""A row without its image: scores, counters and names."""
_LARGE = 50e6
"""Parameters from which a network is a matter of days without a GPU."""


@dataclass(frozen=True)
class Finding:
    """One check: its state, what was found, and for what is not there the exact name or command that makes it good."""

    check: str
    state: State
    found: str
    remedy: str = ""


def doctor(arguments: Sequence[str]) -> int:
    """Examine one configuration, or each of a sweep; print what was found. 0 if nothing is missing, else 2."""
    findings = list(dict.fromkeys(f for overrides in _jobs(arguments) for f in examine(overrides)))
    _print(findings)
    return BAD_INPUT if any(finding.state == "missing" for finding in findings) else 0


def _jobs(arguments: Sequence[str]) -> list[list[str]]:
    """The overrides of every job: one, or with ``-m`` one for every combination of the comma lists."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra._internal.utils import get_args_parser
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from bench.overrides import check

    given = get_args_parser().parse_args(list(arguments))
    checked = check(given.overrides, given.multirun)
    if not given.multirun:
        return [checked]
    parsed = OverridesParser.create().parse_overrides(checked)
    return [job for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]


def examine(overrides: Sequence[str]) -> Iterator[Finding]:
    """Every finding of one configuration. UserError only for a command line that is wrong itself."""
    from bench.app import compose

    yield from findings(*compose(list(overrides)))


def findings(cfg: DictConfig, choices: Mapping[str, Any]) -> Iterator[Finding]:
    """The same of a composed configuration, which is changed where something is not set."""
    from bench.run import plain

    unset = list(_unset(cfg))
    name = str(choices["prior"])
    if not any(finding.check.startswith("prior") for finding in unset):
        unset += [Finding(f"prior {name}", "missing", line) for line in unreadable(cfg)]
    yield from unset
    config = plain(cfg)
    left_out = {finding.check.split()[0] for finding in unset}
    prior, of_prior = _prior(config, name) if "prior" not in left_out else (None, [])
    yield from of_prior
    images, of_images = _images(config, prior) if "data" not in left_out else (None, [])
    yield from of_images
    mask, of_mask = _mask(config, images) if "mask" not in left_out else (None, [])
    yield from of_mask
    yield from _metrics(config)
    if prior is not None:
        yield from _memory(config, prior)
        yield _disk(config, prior.image_shape)
    if prior is not None and not {"solver", "operator"} & left_out:
        wrong = [Finding("solver", "missing", *problem) for problem in misfits(config, prior, images, mask is not None)]
        yield from wrong or [_fits(config)]
    yield _folder(config)
    yield from _packages(config)


def _unset(cfg: DictConfig) -> Iterator[Finding]:
    """Settings that only the user knows; set to nothing here, so that the rest can be looked at."""
    for group in ("solver", "data", "mask", "operator", "prior"):
        for key in [key for key in cfg[group] if OmegaConf.is_missing(cfg[group], key)]:
            yield Finding(f"{group} settings", "missing", f"{group}.{key} is not set", f"{group}.{key}=VALUE")
            OmegaConf.update(cfg, f"{group}.{key}", "")


def _prior(config: Mapping[str, Any], name: str) -> tuple[Prior | None, list[Finding]]:
    """The prior on the meta device; one in closed form as it is."""
    from bench.catalog import options
    from priors.load import load, verify
    from priors.memory import weight_bytes

    node, check = config["prior"], f"prior {name}"
    if target(node) is not load:
        prior, problem = _attempt(lambda: build(node))
        return prior, [Finding(check, "missing", problem) if problem else Finding(check, "ok", "needs no files")]
    option = options("prior").get(name)
    mend = [] if option else ["prior=PATH, a folder with prior.json or one of diffusers"]
    prior, problem = _attempt(lambda: verify(node["path"]))
    if problem:
        shipped = str(option.content.get("path")) if option else ""
        commands = re.findall(r"`(bench [^`]*)`", option.summary.replace(shipped, node["path"]) if option else "")
        command = [f"bench train prior={name}"] if "train" in node else commands
        wanted = f"{node['path']}/prior.json and the .safetensors files it names"
        remedy = ": ".join([*(mend or [wanted]), *(f"python -m {line}" for line in command[:1])])
        return None, [Finding(check, "missing", problem.partition("; make")[0], remedy)]
    size = f"{weight_bytes(prior) / 2**20:.0f} MiB of weights"
    shape = " x ".join(map(str, prior.image_shape))
    return prior, [Finding(check, "ok", f"{node['path']}: hashes, tensor names and shapes; {size}, images {shape}")]


def _images(config: Mapping[str, Any], prior: Prior | None) -> tuple[ImageSet | None, list[Finding]]:
    """The images of the run, every one of them read once."""
    from bench.arena import PriorDraws, build_images

    node, count = config["data"], config["data"]["images"]
    if prior is None and target(node) is PriorDraws:
        return None, [Finding("data", "warning", "is drawn from the prior, which is missing")]
    seed = int(config["seed"])
    images, problem = _attempt(lambda: build_images(node, prior, seed))  # type: ignore[arg-type]
    if problem:
        root = f"data.root={node['root']}" if node.get("root") else "data.root=FOLDER"
        return None, [Finding("data", "missing", problem, f"{root}; docs/data.md says what must lie there")]
    where = f"{images.name}: {len(images)} images of {' x '.join(map(str, images.shape))}"
    if count > len(images):
        found = f"data.images={count}, but there are only {len(images)} images"
        return images, [Finding("data", "missing", found, f"data.images={len(images)} or less")]
    damaged = images.check(list(images.ids)[:count])
    findings = [Finding("data", "ok", f"{where}; the {count} of this run " + ("read" if not damaged else "looked at"))]
    return images, findings + [Finding("damaged images", "missing", line, "restore the file") for line in damaged]


def _mask(config: Mapping[str, Any], images: ImageSet | None) -> tuple[MaskGenerator | None, list[Finding]]:
    """Masks of the run's images; those of files are all read."""
    from bench.external import hidden_share, pinned_mask

    mask, problem = _attempt(lambda: build(config["mask"]))
    if mask is not None and images is not None:
        problem = _attempt(lambda: pinned_mask(config, mask, images))[1]
    path = config["mask"].get("path")
    if problem:
        return None, [Finding("mask", "missing", problem, f"mask.path={path}" if path else "")]
    if not path:
        return mask, [Finding("mask", "ok", "drawn from the seed")]
    share = f": {hidden_share(config, mask, images)}" if mask is not None and images is not None else ""
    return mask, [Finding("mask", "ok", f"{path}: a mask for every image{share}")]


def _metrics(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Weights of the metrics and the reference values of their cards."""
    from bench.worker import shared

    nodes, good = config["metrics"].items(), []
    for name, node in nodes:
        problem = _attempt(lambda node=node: shared("metric", node, "cpu").check())[1]  # type: ignore[misc]
        if problem:
            yield Finding(f"metric {name}", "missing", problem)
        else:
            good.append(name)
    if good:
        yield Finding("metrics", "ok", f"weights there, reference values met: {', '.join(good)}")


def _fits(config: Mapping[str, Any]) -> Finding:
    solver = config["solver"]["_target_"].rpartition(".")[2]
    return Finding("solver", "ok", f"{solver} has what it needs of prior, operator and data")


def _memory(config: Mapping[str, Any], prior: Prior) -> Iterator[Finding]:
    """An estimate for one gradient through network and decoder at the full batch, against what is free."""
    from priors.memory import kept_bytes, weight_bytes

    if prior.net is None:
        return
    weights, (kept, problem) = weight_bytes(prior), _attempt(lambda: kept_bytes(prior))
    if problem:
        remedy = "convert the prior again: `python -m bench convert` says which setting is not served"
        yield Finding("network", "missing", f"it cannot be called: {problem}", remedy)
        return
    device, free = _free_memory(config)
    gradient = "grad" in target(config["solver"]).needs
    # a call that is computed again for its gradient is there alone
    rows = max(kept.values()) if config["checkpointing"] == "call" else sum(kept.values())
    needed = weights + (rows * max(config["batch"], 1) if gradient else 0)
    parts = f"{weights / 2**30:.2f} GiB of weights"
    if gradient:
        parts += f" and {rows / 2**30:.2f} GiB kept for the gradient of each of {config['batch']} rows"
    found = f"at least {needed / 2**30:.1f} GiB on {device} ({parts}); {free / 2**30:.1f} GiB are free"
    fits = needed <= free
    yield Finding("memory", "ok" if fits else "missing", found, "" if fits else "a smaller batch=, checkpointing=call")
    if device == "cpu" and weights / 4 > _LARGE:
        words = f"no GPU, and {weights / 4e6:.0f} M parameters take seconds to minutes a call"
        yield Finding("device", "warning", words)


def _free_memory(config: Mapping[str, Any]) -> tuple[str, int]:
    """The device of the workers and what is free there now."""
    import torch

    asked = str(config["executor"].get("device") or "auto")
    if asked != "cpu" and torch.cuda.is_available():
        name = "cuda" if asked == "auto" else asked
        return name, int(torch.cuda.mem_get_info(name)[0])
    available = re.search(r"MemAvailable:\s+(\d+)", _read("/proc/meminfo"))
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return "cpu", int(available.group(1)) * 1024 if available else pages


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def _study(config: Mapping[str, Any]) -> tuple[Path, Path]:
    """The study folder, and the part of its path that exists."""
    from bench.schema import study_folder

    study = Path(study_folder(config["out"], config["study"]["name"])).absolute()
    return study, next(path for path in (study, *study.parents) if path.exists())


def _disk(config: Mapping[str, Any], shape: Sequence[int]) -> Finding:
    """Rows with their PNG, which are no larger than the pixels, against the space beside the study folder."""
    channels, height, width = shape
    rows = config["data"]["images"] * config["draws"]
    needed, free = rows * (channels * height * width + _ROW_BYTES), shutil.disk_usage(_study(config)[1]).free
    found = f"{rows} rows take at most {needed / 2**20:.0f} MiB; {free / 2**20:.0f} MiB are free"
    state: State = "missing" if needed > free else "warning" if 2 * needed > free else "ok"
    return Finding("disk", state, found, "" if state == "ok" else "make room, or give out= on another disk")


def _folder(config: Mapping[str, Any]) -> Finding:
    study, there = _study(config)
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return Finding("study folder", "ok", f"{study} can be written")
    return Finding("study folder", "missing", f"{there} cannot be written", "choose another with out=DIR")


def _packages(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Optional packages that only some executors need; those of metrics and data are named by their own checks."""
    if "ray" in config["executor"]["_target_"].lower():
        there = find_spec("ray") is not None
        found = "ray is installed" if there else "executor=ray needs the package ray"
        yield Finding("packages", "ok" if there else "missing", found, "" if there else "pip install ray")


def _print(findings: Sequence[Finding]) -> None:
    """A table on a terminal; elsewhere one line a finding, its remedy indented below it."""
    if not out.is_terminal:
        width = max(len(finding.check) for finding in findings)
        for finding in findings:
            out.print(f"{finding.state:<7}  {finding.check:<{width}}  {finding.found}", markup=False)
            if finding.remedy:
                out.print(f"{'':<7}  {'':<{width}}  -> {finding.remedy}", markup=False)
        return
    table = Table("check", "state", "found", box=None, pad_edge=False)
    for finding in findings:
        remedy = f"\n→ {finding.remedy}" if finding.remedy else ""
        colour = _COLOURS[finding.state]
        table.add_row(finding.check, f"[{colour}]{finding.state}[/{colour}]", escape(finding.found + remedy))
    out.print(table)
