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
from posterior_bench.bench.config.image_folders import UNNAMED
from posterior_bench.bench.config.job import Group, JobConfig, Node
from posterior_bench.bench.config.plugins import file_class
from posterior_bench.bench.config.presets import choose
from posterior_bench.bench.config.trained_modules import modules_identity
from posterior_bench.bench.core.errors import UserError

_FILE = ("trust_file", "label", "sha256")
"""Settings of a solver that say what its file holds and how it is called, beside the path."""

_LABELLED: tuple[Group, ...] = ("data", "mask", "operator", "prior")
"""Groups of which people read the option and its changed settings."""

_PATHS = {"root", "path", "id_list", "devkit", "modules", "file", "folder"}
_PATH_ENDS = ("_path", "_file", "_dir", "_folder", "_root", "_list")


@dataclass(frozen=True)
class Cell:
    """The resolved configuration of one leaderboard line, in plain types that travel to any worker.

    ``name`` hashes what the numbers depend on and nothing else: not the metrics, the executor or
    where files lie. ``identity`` is what people read of it, with ``content``, a hash of the images
    in use, and ``fingerprint``, one of the prior: cells are comparable only where these agree.
    """

    name: str
    identity: Mapping[str, Any]
    config: JobConfig

    @property
    def draws(self) -> int:
        return self.config.draws

    @property
    def images(self) -> int:
        return self.config.images


def cell_of(
    config: JobConfig,
    choices: Mapping[str, Any],
    data_name: str,
    images: Sequence[str] | None,
) -> Cell:
    """The cell of a resolved configuration.

    ``choices`` are the option names Hydra recorded per group; ``data_name`` is the image set's own
    id, which for a folder of files hashes their names; ``images`` are the hashes of the images in
    use (``ImageSet.content``), in the order of their ids, or None where they are drawn from the
    prior.
    """
    from posterior_bench.bench.core.environment import version

    solver, code = target(config.solver), file_class(config.solver["_target_"])
    settings = {
        **_content(_without(arguments(config.solver), "modules")),
        **modules_identity(config),
    }
    prior = _prior_identity(config.prior)
    content = digest([data_name, prior, config.seed] if images is None else list(images))
    canonical = {
        "solver": {
            "class": code.identity if code else config.solver["_target_"],
            "version": solver.version,
            **settings,
        },
        "prior": prior,
        "data": {
            "name": data_name,
            "content": content,
            **_without_paths(prompts.identity(config.data)),
        },
        "mask": {"class": config.mask["_target_"], **_content(arguments(config.mask))},
        "operator": {
            "class": config.operator["_target_"],
            **_content(arguments(config.operator)),
        },
        "seed": config.seed,
        "draws": config.draws,
        "budget": config.budget,
    }
    if changed := config.execution.changed:
        canonical["execution"] = (
            changed  # only then: a cell with the defaults keeps the name it always had
        )
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
        "version": version(),
        **_preset_identity(config),
    }
    return Cell(digest(canonical), identity, config)


def digest(value: Any) -> str:
    """16 hexadecimal digits of the canonical JSON of ``value``."""
    text = json.dumps(_whole(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _whole(value: Any) -> Any:
    """``value`` with 2.0 written as 2: one number, one hash."""
    if isinstance(value, Mapping):
        return {k: _whole(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def is_path(name: str, value: Any) -> bool:
    """Whether a setting says where something lies: that enters no hash and no table, what lies
    there does.
    """
    return (value is None or isinstance(value, str)) and (
        name in _PATHS or name.endswith(_PATH_ENDS)
    )


def label(group: str, node: Node, name: str) -> str:
    """An option's name and the settings that differ from the shipped ones: ``comod low=0.3``.

    A prior from files has the name in its ``prior.json``, and where it is not the one shipped under
    that name the first digits of its fingerprint. Another class than the option's is named, and a
    file by the first digits of its hash.
    """
    from posterior_bench.bench.config.catalog import options

    option = options(group).get(name)
    shipped = dict(option.content) if option else {}
    if group == "data":
        shipped.update({k: v for k, v in UNNAMED.items() if k in shipped and shipped[k] is None})
    shown = prompts.readable(node) if group == "data" else node
    settings = _without(_without_paths(shown), "_target_", "images", "train")
    if settings.get("sha256"):
        settings["sha256"] = settings["sha256"][:8]  # enough to tell the masks of two folders apart
    words = [f"{k}={v}" for k, v in settings.items() if v != shipped.get(k)]
    if group == "prior" and "path" in node:
        return " ".join([*_names_of(node["path"]), *words])
    if shipped and node.get("_target_") != shipped.get("_target_"):
        words.insert(0, f"class={str(node['_target_']).rpartition('.')[2]}")
    return " ".join([name, *words])


def _names_of(path: str) -> list[str]:
    """What a prior from files is called: the name it records, and its fingerprint unless the
    product ships it.
    """
    from posterior_bench.priors.fingerprint import ROOT, fingerprint, read_spec, resolve

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
    """What distinguishes this solver setting from the shipped one, for people: ``authors zeta=0.5
    budget=nfe:100``.

    The shipped preset is the one that the solver gets with this prior where nobody names one.
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
    """For people: the preset, what it was chosen for, and by whom for this prior; empty where its
    yaml does not say.
    """
    choice = choose(config.solver, config.prior, config.data)
    if choice is None or not choice.priors:
        return {}
    return {
        "preset": choice.preset,
        "preset_for": ", ".join(choice.priors),
        "preset_from": choice.origin,
    }


def shipped_solver(node: Node, solver: str) -> Node:
    """The node of a solver as it is without anybody's settings; ``solver`` is the name of the
    option chosen.
    """
    from posterior_bench.bench.config.catalog import option, options

    found = (
        option("solver", node["_target_"])
        if file_class(node["_target_"])
        else options("solver").get(solver)
    )
    return found.content if found else {}


def _prior_identity(node: Node) -> Node:
    """The content of a prior's files, or the parameters of a closed-form one; never a path."""
    from posterior_bench.priors.fingerprint import fingerprint

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
    """Settings of a solver, mask, operator or prior, with the content of a file in place of where
    it lies.
    """
    if settings.get("sha256"):
        return _without(_without_paths(settings), "trust_file")
    paths = {k: v for k, v in settings.items() if is_path(k, v)}
    found = {k: _content_at(k, Path(v)) for k, v in paths.items() if v is not None}
    return {**_without(settings, *paths), **found}


def _content_at(name: str, path: Path) -> str:
    """A hash of a file, or of all files in a folder with their names there; '' for what is not
    there.
    """
    from posterior_bench.priors.fingerprint import sha256

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
