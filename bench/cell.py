"""A cell: one solver on one data set, mask, operator, prior and seed. Its hash names its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from bench.build import arguments, suited, target
from bench.errors import UserError
from bench.modules import modules_identity
from bench.plugins import in_file
from bench.presets import choose
from priors.execution import Execution

Node = Mapping[str, Any]

_FILE = ("path", "trust_file", "label", "sha256")
"""Settings of a solver that say which file it reads, and what it is called."""


@dataclass(frozen=True)
class Cell:
    """The resolved configuration of one leaderboard line, in plain types that travel to any worker.

    ``name`` hashes what the numbers depend on and nothing else: not the metrics, the executor or where files lie.
    """

    name: str
    identity: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def draws(self) -> int:
        return int(self.config["draws"])

    @property
    def images(self) -> int:
        return int(self.config["data"]["images"])


def cell_of(config: Mapping[str, Any], choices: Mapping[str, Any], data_name: str) -> Cell:
    """The cell of a resolved configuration.

    ``choices`` are the option names Hydra recorded per group; ``data_name`` is the image set's own id, which for a
    folder of files hashes their names.
    """
    solver, code = target(config["solver"]), in_file(config["solver"]["_target_"])
    settings = {**_content(arguments(config["solver"])), **modules_identity(config)}
    canonical = {
        "solver": {
            "class": code.identity if code else config["solver"]["_target_"],
            "version": solver.version,
            **settings,
        },
        "prior": _prior_identity(config["prior"]),
        "data": {"name": data_name, **_without(config["data"], "root")},
        "mask": {"class": config["mask"]["_target_"], **_content(arguments(config["mask"]))},
        "operator": {"class": config["operator"]["_target_"], **_content(arguments(config["operator"]))},
        "seed": config["seed"],
        "draws": config["draws"],
        "budget": config["budget"],
    }
    if changed := Execution.of(config).changed:
        canonical["execution"] = changed  # only then: a cell with the defaults keeps the name it always had
    identity = {
        "solver": str(config["solver"].get("label") or (code.name if code else choices["solver"])),
        **{group: label(group, config[group], str(choices[group])) for group in ("data", "mask", "operator", "prior")},
        "seed": int(config["seed"]),
        "images": int(config["data"]["images"]),
        "draws": int(config["draws"]),
        "variant": variant_of(config, choices["solver"]),
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


def label(group: str, node: Node, name: str) -> str:
    """An option's name and the settings that differ from the shipped ones: ``comod low=0.3``."""
    from bench.catalog import options

    option = options(group).get(name)
    shipped = option.content if option else {}
    settings = _without(node, "_target_", "images", "root", "train", "path")
    if settings.get("sha256"):
        settings["sha256"] = settings["sha256"][:8]  # enough to tell the masks of two folders apart
    return " ".join([name, *(f"{k}={v}" for k, v in settings.items() if v != shipped.get(k))])


def variant_of(config: Mapping[str, Any], solver: str) -> str:
    """What distinguishes this solver setting from the shipped one, for people: ``authors zeta=0.5 budget=nfe:100``.

    The shipped preset is the one that the solver gets with this prior where nobody names one.
    """
    node = config["solver"]
    usual = suited(shipped(node, solver), config["prior"], config["data"])
    words = [str(node["preset"])] if node.get("preset") != usual.get("preset") else []
    settings = _without(node, "_target_", "preset", "presets", "train", *_FILE)
    words += [f"{k}={v}" for k, v in settings.items() if v is not None and v != usual.get(k)]
    if config["budget"]:
        words.append(f"budget={config['budget']}")
    words += [f"{k}={v}" for k, v in Execution.of(config).changed.items()]
    return " ".join(words)


def _preset_identity(config: Node) -> Node:
    """For people: the preset, what it was chosen for, and by whom for this prior; empty where its yaml does not say."""
    choice = choose(config["solver"], config["prior"], config["data"])
    if choice is None or not choice.priors:
        return {}
    return {"preset": choice.preset, "preset_for": ", ".join(choice.priors), "preset_from": choice.origin}


def shipped(node: Node, solver: str) -> Node:
    """The node of a solver as it is without anybody's settings; ``solver`` is the name of the option chosen."""
    from bench.catalog import option, options

    found = option("solver", node["_target_"]) if in_file(node["_target_"]) else options("solver").get(solver)
    return found.content if found else {}


def _prior_identity(node: Node) -> Node:
    """The content of a prior's files, or the parameters of a closed-form one; never a path."""
    from priors.fingerprint import fingerprint

    if "path" in node:
        try:
            return {"fingerprint": fingerprint(node["path"]), **_without(node, "path", "train")}
        except (OSError, ValueError) as error:
            raise UserError(str(error)) from None
    return {"class": node["_target_"], **arguments(node)}


def _content(settings: Node) -> Node:
    """Settings of a solver or mask, with the content of a file in place of where it lies."""
    return _without(settings, "path", "trust_file") if settings.get("sha256") else settings


def _without(node: Node, *keys: str) -> dict[str, Any]:
    return {k: v for k, v in node.items() if k not in keys}
