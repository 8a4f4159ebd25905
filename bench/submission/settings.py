"""The settings that make a cell, as words of the command line, and the cell that they make here.

A bundle does not bring a configuration that is built: it names options of this product and values
of their settings, and the configuration is composed from the YAML files that lie here. So no class,
file or plugin of the submitter can be named. The name of the cell is a hash of everything that its
numbers depend on, so the two configurations are the same if and only if the names are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.cell import is_path
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.config.schema import defaults
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.plan import CellPlan
from posterior_bench.bench.engine.prepare import prepare
from posterior_bench.bench.submission.members import Refusal

_GROUPS = ("data", "prior", "mask", "operator", "solver")
_OF_THE_RUN = (
    *("seed", "draws", "batch", "budget", "precision", "channels_last", "compile"),
    *("checkpointing", "frozen_convolutions", "tile"),
)
_ALWAYS = ("seed", "draws", "batch")
_NEVER = {
    *("_target_", "presets", "train", "trust_file", "sha256", "label_map", "prompts", "encoder"),
    *("captions", "labels", "text_encoder", "preset_for", "plugins"),
}
"""Settings that name files or code, or that a plan adds."""

_KEY = re.compile(rf"({'|'.join(_GROUPS)})\.([a-z][a-z0-9_]*)")
_NAME = re.compile(r"[A-Za-z0-9_]+(/[A-Za-z0-9_]+)?")
_PLAIN = re.compile(r"[A-Za-z0-9_.:+-]+")
_FREE_TEXTS = ("data.prompt", "data.class_prompt", "data.label")
_FORBIDDEN = ("$", "\\", "/", "~")


def settings_of(record: Mapping[str, Any]) -> list[str]:
    """Return the words that make the cell of a study again.

    Parameters
    ----------
    record : mapping
        The ``config.yaml`` of the cell.

    Raises
    ------
    UserError
        If a setting names a file or code of its own.
    """
    config, identity = record["config"], record["identity"]
    words = []
    for group in _GROUPS:
        name = str(identity[group]).partition(" ")[0]
        if name not in options(group):
            raise UserError(f"{group}={name} is no option that everybody has")
        words.append(f"{group}={name}")
    words += [word for group in _GROUPS for word in _changed(group, config[group], identity)]
    usual = defaults()
    for key in _OF_THE_RUN:
        value = config.get(key)
        if value is not None and (key in _ALWAYS or value != usual.get(key)):
            words.append(f"{key}={_text(value)}")
    return words


def _changed(group: str, node: Mapping[str, Any], identity: Mapping[str, Any]) -> Iterator[str]:
    shipped = options(group)[str(identity[group]).partition(" ")[0]].content
    own = shipped if group != "data" else {**shipped, **(shipped.get("data") or {})}
    for key, value in node.items():
        if key in _NEVER or is_path(key, value):
            if key in ("captions", "labels") and value is not None:
                raise UserError(f"{group}.{key} names a file of its own")
            continue
        if value != own.get(key) and (group != "solver" or value is not None):
            yield f"{group}.{key}={_text(value)}"


def _text(value: Any) -> str:
    """Return a value in Hydra's grammar."""
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, Mapping):
        raise UserError("a setting is a mapping")
    return json.dumps(value)  # null, true, false and numbers are spelt as in JSON


def demand_admitted(words: Sequence[str]) -> None:
    """Raise Refusal for a word that a bundle may not say.

    Parameters
    ----------
    words : sequence of str
        Settings that a bundle tells.
    """
    for word in words:
        key, sign, value = word.partition("=")
        named = _KEY.fullmatch(key)
        if key in _GROUPS:
            good = bool(_NAME.fullmatch(value)) and value in options(key)
        elif named:
            good = named[2] not in _NEVER and not is_path(named[2], "")
        else:
            good = key in _OF_THE_RUN
        risky = any(sign in value for sign in _FORBIDDEN) and key not in (*_GROUPS, *_FREE_TEXTS)
        if not good or not sign or risky or "${" in value or len(value) > 1000:
            raise Refusal(f"the setting {word[:80]!r} may not stand in a bundle")


def recomposed(
    words: Sequence[str], metrics: Mapping[str, Any], out: Path, root: Path | None = None
) -> CellPlan:
    """Return the plan of the cell that settings make here; nothing is written.

    Parameters
    ----------
    words : sequence of str
        Settings for which :func:`demand_admitted` holds.
    metrics : mapping
        The nodes of the metrics, ours, by column.
    out : Path
        Where a run of the cell would write.
    root : Path, default None
        The folder of the images, where they do not come with the product.

    Raises
    ------
    UserError
        If the cell cannot be made here: data, weights or options are missing.
    """
    more = [f"data.root={json.dumps(str(root))}"] if root else []
    cfg, choices = compose(
        check([*words, *more, "metrics=[psnr]", "quiet=true", f"out={json.dumps(str(out))}"])
    )
    cfg.metrics = dict(metrics)
    return prepare(cfg, choices, write=False)[1]


def shown_config(config: Any) -> dict[str, Any]:
    """Return what a bundle tells of a configuration: no paths, and nothing about the machine."""
    record: dict[str, Any] = config.record()
    groups = {group: _without_paths(record[group]) for group in _GROUPS}
    return {**groups, **{key: record[key] for key in _OF_THE_RUN}}


def _without_paths(value: Any) -> Any:
    """Return a value in types of JSON, without the settings that are paths."""
    if isinstance(value, Mapping):
        kept = {str(k): v for k, v in value.items() if not is_path(str(k), v) and k != "train"}
        return {key: _without_paths(part) for key, part in kept.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(part) for part in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)
