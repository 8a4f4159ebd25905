"""Studies of several sweeps: the tables of a paper are rarely the product of a few lists.

A part of a study (``study.parts``) is one product of lists, that is one sweep of Hydra's; the parts
run one after another into one folder. What the command line says of a group *narrows* the parts
(``data=imagenet64``), so that a setting of one data set, such as ``data.root``, can be given for
the parts it is meant for; what it says of a setting or of the metrics replaces what the parts say.
``scale=smoke`` puts what is embedded in the place of what a part names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from posterior_bench.bench.config.catalog import GROUPS, LIST_GROUPS, Option, option, options
from posterior_bench.bench.config.prior_paths import folder
from posterior_bench.bench.core.errors import UserError

Part = dict[str, Any]

_NARROWING = ("solver", "data", "mask", "operator", "prior")
_COMPOSED = ("study", "scale")


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of every sweep of a run, the given ones included; those alone where the study
    has no parts.

    Raises UserError where the command line leaves no part.
    """
    given = {
        key: value for key, _, value in (line.lstrip("+").partition("=") for line in overrides)
    }
    chosen = {group: given.get(group) for group in _COMPOSED}
    if "," in f"{chosen['study']}{chosen['scale']}":
        return [list(overrides)]  # told apart by the check of overrides
    study, scale = (
        option("study", chosen["study"] or "default"),
        option("scale", chosen["scale"] or "full").content,
    )
    settings = dict(scale.get("settings", {}))
    if settings and "out" not in given:
        settings["study.name"] = (
            f"{study.content['name']}_{scale['name']}"  # never among the numbers that count
        )
    if not study.parts:
        return [[*overrides, *_lines({k: v for k, v in settings.items() if k not in given})]]
    names = {group: given[group].split(",") for group in _NARROWING if group in given}
    for group, asked in names.items():
        _refuse_strangers(study, group, asked)
    rest = [line for line in overrides if line.partition("=")[0] not in names]
    parts = [narrowed for part in study.parts if (narrowed := _narrow(part, names)) is not None]
    if not parts:
        raise UserError(
            f"no part of study={study.name} has {' '.join(f'{g}={given[g]}' for g in names)} "
            f"together"
        )
    scaled = [{**_scaled(part, scale), **settings} for part in parts]
    return [
        [*rest, *_lines({k: v for k, v in part.items() if k not in given or k in names})]
        for part in scaled
    ]


def cells(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of every cell of a run, each once and in order: all sweeps of :func:`expand`
    written out.
    """
    every = [cell for sweep in expand(overrides) for cell in _product(sweep)]
    return [list(cell) for cell in dict.fromkeys(map(tuple, every))]


def refuse_unset(sweeps: Sequence[Sequence[str]]) -> None:
    """UserError, before any sweep runs, where one of them names an option with a setting that
    nobody gave.
    """
    for sweep in sweeps:
        given = {
            key: value for key, _, value in (line.lstrip("+").partition("=") for line in sweep)
        }
        for group in ("data", "mask", "prior"):
            for name in _names(given.get(group)):
                content = option(group, name).content if name in options(group) else {}
                for key in (f"{group}.{key}" for key, value in content.items() if value == "???"):
                    if key not in given:
                        raise UserError(
                            f"{key} is not set for {group}={name}: give it, or narrow the study to "
                            f"others"
                        )


def _refuse_strangers(study: Option, group: str, asked: Sequence[str]) -> None:
    there = dict.fromkeys(name for part in study.parts for name in _names(part.get(group)))
    for name in asked:
        if name not in there:
            asked_for = (group == "prior" and folder(name)) or name
            raise UserError(
                f"study={study.name} has no {group}={asked_for} to narrow it to. Valid: "
                f"{', '.join(there)}"
            )


def _narrow(part: Part, names: Mapping[str, Sequence[str]]) -> Part | None:
    """The part with only those options that are in ``names``; None if a group is left with none."""
    kept = {
        group: [name for name in _names(part.get(group)) if name in asked]
        for group, asked in names.items()
    }
    if not all(kept.values()):
        return None
    return {**part, **{group: ",".join(values) for group, values in kept.items()}}


def _scaled(part: Part, scale: Mapping[str, Any]) -> Part:
    """The part with what stands in for its options, without settings of its own; as it is where
    nothing does.
    """
    instead: Mapping[str, Mapping[str, str]] = scale.get("instead", {})
    if not instead:
        return part
    groups = {key: value for key, value in part.items() if key in GROUPS and key != "prior"}
    replaced = {key: _replaced(value, instead.get(key, {})) for key, value in groups.items()}
    return replaced


def _replaced(value: Any, instead: Mapping[str, str]) -> Any:
    names = list(dict.fromkeys(instead.get(name, name) for name in _names(value)))
    return names if isinstance(value, list) else ",".join(names)


def _names(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(name) for name in value] if isinstance(value, list) else str(value).split(",")


def _lines(part: Mapping[str, Any]) -> list[str]:
    return [f"{key}={_text(value)}" for key, value in part.items()]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)


def _product(overrides: Sequence[str]) -> Iterator[list[str]]:
    """One list of overrides per value of every sweep, those of the study's own sweep included."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    given = {item.key_or_group: item for item in parsed}
    studies = [item.value() for item in parsed if item.key_or_group == "study"]
    sweep = (
        option("study", str(studies[-1])).sweep if studies and isinstance(studies[-1], str) else {}
    )
    own = [f"{key}={value}" for key, value in sweep.items() if key not in given]
    items = [*parsed, *OverridesParser.create().parse_overrides(own)]
    yield from (list(lines) for lines in product(*map(_choices, items)))


def _choices(item: Any) -> list[str]:
    """Every single override that a swept one stands for; itself if it is none."""
    from hydra.core.override_parser.types import Glob

    value = item.value()
    if (
        isinstance(value, Glob)
        and item.key_or_group in GROUPS
        and item.key_or_group not in LIST_GROUPS
    ):
        return [
            f"{item.key_or_group}={name}" for name in value.filter(list(options(item.key_or_group)))
        ]
    if item.is_sweep_override():
        return [f"{item.key_or_group}={choice}" for choice in item.sweep_string_iterator()]
    return [item.input_line]
