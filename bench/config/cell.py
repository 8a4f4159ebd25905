"""A cell: one solver on one data set, mask, operator, prior and seed. Its hash names its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from posterior_bench.bench.config import prompts
from posterior_bench.bench.config.build import arguments, target, with_preset
from posterior_bench.bench.config.catalog import option, options
from posterior_bench.bench.config.image_folders import UNNAMED
from posterior_bench.bench.config.job import Group, JobConfig, Node
from posterior_bench.bench.config.masks import NOT_OF_THE_CLASS, is_shared
from posterior_bench.bench.config.plugins import file_class
from posterior_bench.bench.config.presets import choose
from posterior_bench.bench.config.task_versions import study_text, task_text, task_versions
from posterior_bench.bench.config.trained_modules import modules_identity
from posterior_bench.bench.core import environment
from posterior_bench.bench.core.errors import UserError
from posterior_bench.priors.fingerprint import ROOT, fingerprint, read_spec, resolve, sha256

_FILE = ("trust_file", "label", "sha256")
"""Settings of a solver that describe its file, beside the path."""

_LABELLED: tuple[Group, ...] = ("data", "mask", "operator", "prior")
"""Groups whose option and changed settings tables print."""

_PATHS = {"root", "path", "id_list", "devkit", "modules", "file", "folder"}
_PATH_ENDS = ("_path", "_file", "_dir", "_folder", "_root", "_list")


@dataclass(frozen=True)
class Cell:
    """The resolved configuration of one leaderboard line, in plain types that travel to any worker.

    Parameters
    ----------
    name : str
        A hash of everything that the numbers depend on, and of nothing else: neither the metrics,
        nor the executor, nor the place of files.
    identity : Mapping of str to Any
        What tables print of the cell. ``content`` is a hash of the images in use and
        ``fingerprint`` one of the prior: cells are comparable only if these agree.
    config : JobConfig
        The configuration.
    """

    name: str
    identity: Mapping[str, Any]
    config: JobConfig

    @property
    def draws(self) -> int:
        """How many draws each image has."""
        return self.config.draws

    @property
    def images(self) -> int:
        """How many images are used."""
        return self.config.images


def cell_of(
    config: JobConfig,
    choices: Mapping[str, Any],
    data_name: str,
    images: Sequence[str] | None,
) -> Cell:
    """Return the cell of a configuration.

    Parameters
    ----------
    config : JobConfig
        The validated configuration.
    choices : Mapping
        The name of the chosen option of every group, as Hydra recorded it.
    data_name : str
        The id of the image set, which for a folder of files hashes their names.
    images : sequence of str or None
        The hashes of the images in use (``ImageSet.content``) in the order of their ids; None if
        they are drawn from the prior.
    """
    prior = _prior_identity(config.prior)
    content = digest([data_name, prior, config.seed] if images is None else list(images))
    code = file_class(config.solver["_target_"])
    versions = task_versions(choices)
    labels: dict[str, str] = {
        group: label(group, config.nodes[group], str(choices[group])) for group in _LABELLED
    }
    identity = {
        "solver": str(config.solver.get("label") or (code.name if code else choices["solver"])),
        **labels,
        "seed": config.seed,
        "images": config.images,
        "draws": config.draws,
        "variant": variant_of(config, choices["solver"]),
        "content": content,
        "fingerprint": digest(prior),
        "version": environment.version(),
        "task_version": task_text(versions),
        "study_version": study_text(choices),
        **_preset_identity(config),
    }
    data = {"name": data_name, "content": content}
    name = digest(_canonical(config, prior, data, versions))
    return Cell(name, identity, config)


def _canonical(config: JobConfig, prior: Node, data: Node, versions: Mapping[str, int]) -> Node:
    """Return everything that the numbers of a cell depend on, and nothing else."""
    solver, code = target(config.solver), file_class(config.solver["_target_"])
    mask, operator = config.mask, config.operator
    canonical = {
        "solver": {
            "class": code.identity if code else config.solver["_target_"],
            "version": solver.version,
            **_content(_without(arguments(config.solver), "modules")),
            **modules_identity(config),
        },
        "prior": prior,
        "data": {**data, **_without_paths(prompts.identity(config.data))},
        "mask": {"class": mask["_target_"], **_content(_mask_settings(mask))},
        "operator": {"class": operator["_target_"], **_content(arguments(operator))},
        "seed": config.seed,
        "draws": config.draws,
        "budget": config.budget,
    }
    # what follows enters only where it is not the default: other cells keep the names they had
    if changed := config.execution.changed:
        canonical["execution"] = changed
    if is_shared(mask):
        canonical["shared_mask"] = True
    if raised := {group: version for group, version in versions.items() if version > 1}:
        canonical["task_versions"] = raised
    return canonical


def _mask_settings(mask: Node) -> Node:
    """Return the settings of masks; without ``part`` where it is not used, as before it existed."""
    settings = arguments(mask, NOT_OF_THE_CLASS)
    return settings if settings.get("part") is not None else _without(settings, "part")


def digest(value: Any) -> str:
    """Return 16 hexadecimal digits of the canonical JSON of ``value``."""
    text = json.dumps(_whole(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _whole(value: Any) -> Any:
    """Write 2.0 as 2 in ``value``: one number, one hash."""
    if isinstance(value, Mapping):
        return {k: _whole(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def is_path(name: str, value: Any) -> bool:
    """Return whether a setting is a path.

    The path enters no hash and no table; the content of its file does.
    """
    return (value is None or isinstance(value, str)) and (
        name in _PATHS or name.endswith(_PATH_ENDS)
    )


def label(group: str, node: Node, name: str) -> str:
    """Return the name of an option and its settings that differ from the shipped ones.

    For example ``comod low=0.3``.

    A prior from files has the name in its ``prior.json``; if it is not the prior that is shipped
    under this name, the first digits of its fingerprint follow. A class that is not the option's is
    named. A file is named by the first digits of its hash.
    """
    chosen = options(group).get(name)
    shipped = dict(chosen.content) if chosen else {}
    if group == "data":
        shipped.update({k: v for k, v in UNNAMED.items() if k in shipped and shipped[k] is None})
    shown = prompts.readable(node) if group == "data" else node
    settings = _without(_without_paths(shown), "_target_", "images", "train")
    if settings.get("sha256"):
        settings["sha256"] = settings["sha256"][:8]  # enough to tell the masks of two folders apart
    words = [f"{k}={v}" for k, v in settings.items() if v != shipped.get(k)]
    if group == "prior" and "path" in node:
        recorded, *changed = _names_of(node["path"])
        owner = options("prior").get(recorded)
        # an option in the folder of another one: the same network in other coordinates
        shares = owner is not None and node["path"] == owner.content.get("path")
        own = name if shares and node["path"] == shipped.get("path") else recorded
        return " ".join([own, *changed, *words])
    if shipped and node.get("_target_") != shipped.get("_target_"):
        words.insert(0, f"class={str(node['_target_']).rpartition('.')[2]}")
    return " ".join([name, *words])


def _names_of(path: str) -> list[str]:
    """Return the recorded name of a prior, and its fingerprint unless the product ships it."""
    folder = resolve(path)
    name = " ".join(str(read_spec(folder).get("name") or "unnamed").split())
    own, shipped = fingerprint(folder), ROOT / "priors" / "assets" / name
    ours = (
        Path(name).name == name
        and (shipped / "prior.json").is_file()
        and fingerprint(shipped) == own
    )
    return [name] if ours else [name, f"fingerprint={own[:8]}"]


def variant_of(config: JobConfig, solver: str) -> str:
    """Return in words how the settings of a solver differ from the shipped ones.

    For example ``authors zeta=0.5 budget=nfe:100``.

    The shipped preset is the one that the solver gets with this prior if the user names none.
    """
    node = config.solver
    usual = with_preset(shipped_solver(node, solver), config.prior, config.data)
    words = [str(node["preset"])] if node.get("preset") != usual.get("preset") else []
    settings = _without(_without_paths(node), "_target_", "preset", "presets", "train", *_FILE)
    words += [f"{k}={v}" for k, v in settings.items() if v is not None and v != usual.get(k)]
    if config.budget:
        words.append(f"budget={config.budget}")
    words += [f"{k}={v}" for k, v in config.execution.changed.items()]
    return " ".join(words)


def _preset_identity(config: JobConfig) -> Node:
    """Return the preset, the priors it was chosen for, and by whom; empty if its YAML is silent."""
    choice = choose(config.solver, config.prior, config.data)
    if choice is None or not choice.priors:
        return {}
    return {
        "preset": choice.preset,
        "preset_for": ", ".join(choice.priors),
        "preset_from": choice.origin,
    }


def shipped_solver(node: Node, solver: str) -> Node:
    """Return the node of a solver without settings of the user.

    ``solver`` is the name of the chosen option.
    """
    if file_class(node["_target_"]):
        return option("solver", node["_target_"]).content
    shipped = options("solver").get(solver)
    return shipped.content if shipped else {}


def _prior_identity(node: Node) -> Node:
    """Return the content of a prior's files, or the settings of a closed-form prior."""
    if "path" in node:
        try:
            return {
                "fingerprint": fingerprint(node["path"]),
                **_without(_without_paths(node), "train"),
            }
        except (OSError, ValueError) as error:
            raise UserError(str(error)) from None
    return {"class": node["_target_"], **_content(arguments(node))}


def _content(settings: Node) -> Node:
    """Return settings with the content of a file in place of its path."""
    if settings.get("sha256"):
        return _without(_without_paths(settings), "trust_file")
    paths = {k: v for k, v in settings.items() if is_path(k, v)}
    hashes = {k: _content_at(k, Path(v)) for k, v in paths.items() if v is not None}
    return {**_without(settings, *paths), **hashes}


def _content_at(name: str, path: Path) -> str:
    """Return a hash of a file, or of the names and content of a folder; '' if it is missing."""
    path = path.expanduser()
    try:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        return digest([[p.relative_to(path).as_posix(), sha256(p)] for p in files])
    except FileNotFoundError:
        return ""  # whoever reads it says so
    except OSError as error:
        raise UserError(f"{name}={path} cannot be read: {error.strerror}") from None


def _without_paths(node: Node) -> dict[str, Any]:
    return {k: v for k, v in node.items() if not is_path(k, v)}


def _without(node: Node, *keys: str) -> dict[str, Any]:
    return {k: v for k, v in node.items() if k not in keys}
