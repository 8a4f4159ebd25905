"""Expand a study into its sweeps: the tables of a paper are rarely the product of a few lists.

A part of a study (``study.parts``) is one product of lists, that is one sweep of Hydra; the parts
run one after another into one folder. An option on the command line (``data=imagenet64``) *narrows*
the parts to those that have it, so that a setting of one data set, such as ``data.root``, can be
given for its parts. A setting on the command line, or ``metrics=``, replaces that of the parts; a
setting of an operator goes to the parts whose operator has it.
``scale=smoke`` puts embedded options in the place of the options of a part.
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
_OUTLASTING = ("trace", "mask.part", "data.showing")


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """Return the overrides of every sweep of a run, with those of the command line.

    A study without parts is one sweep.

    Raises
    ------
    UserError
        If the command line leaves no part of the study.
    """
    typed = _by_key(overrides)
    chosen = {group: typed.get(group) for group in _COMPOSED}
    if "," in f"{chosen['study']}{chosen['scale']}":
        return [list(overrides)]  # the check of overrides refuses it
    study = option("study", chosen["study"] or "default")
    scale = option("scale", chosen["scale"] or "full").content
    settings = dict(scale.get("settings", {}))
    if settings and "out" not in typed:
        # a folder of its own: rows of a small run must not stand among the numbers that count
        settings["study.name"] = f"{study.content['name']}_{scale['name']}"
    if not study.parts:
        return [[*overrides, *_lines({k: v for k, v in settings.items() if k not in typed})]]
    # a list that all parts share is no part's own: the command line replaces it
    narrowing = [group for group in _NARROWING if group in typed and group not in study.sweep]
    names = {group: typed[group].split(",") for group in narrowing}
    rest = [line for line in overrides if line.partition("=")[0] not in names]
    sweeps = [{**_scaled(part, scale), **settings} for part in _narrowed(study, names)]
    own = {line: [_has_setting(sweep, line) for sweep in sweeps] for line in rest}
    return [
        [
            # what no part has stays, so that the check of overrides names it
            *(line for line in rest if own[line][i] or not any(own[line])),
            *_lines({k: v for k, v in sweep.items() if k not in typed or k in names}),
        ]
        for i, sweep in enumerate(sweeps)
    ]


def _has_setting(sweep: Part, line: str) -> bool:
    """Whether the operator of a sweep has the setting of a line; true for all other lines.

    So the file of one operator can be given for the study as a whole.
    """
    group, _, key = line.lstrip("+").partition("=")[0].partition(".")
    if group != "operator" or not key:
        return True
    names = [name for name in _names(sweep.get("operator")) if name in options("operator")]
    return not names or any(key in option("operator", name).content for name in names)


def _by_key(overrides: Sequence[str]) -> dict[str, str]:
    pairs = (line.lstrip("+").partition("=") for line in overrides)
    return {key: value for key, _, value in pairs}


def _narrowed(study: Option, names: Mapping[str, Sequence[str]]) -> list[Part]:
    """Return the parts of a study that have the options of ``names``, with only those options."""
    for group, chosen in names.items():
        _refuse_strangers(study, group, chosen)
    parts = [narrowed for part in study.parts if (narrowed := _narrow(part, names)) is not None]
    if not parts:
        words = " ".join(f"{group}={','.join(chosen)}" for group, chosen in names.items())
        raise UserError(f"no part of study={study.name} has {words} together")
    return parts


def cells(overrides: Sequence[str]) -> list[list[str]]:
    """Return the overrides of every cell of a run, each once and in order."""
    every = [cell for sweep in expand(overrides) for cell in _product(sweep)]
    return [list(cell) for cell in dict.fromkeys(map(tuple, every))]


def refuse_unset(sweeps: Sequence[Sequence[str]]) -> None:
    """Refuse, before any sweep runs, an option with a setting that has no value.

    Raises
    ------
    UserError
        For ``data.root`` of a folder, for example, if no override gives it.
    """
    for sweep in sweeps:
        typed = _by_key(sweep)
        for group in ("data", "mask", "prior", "operator"):
            for name in _names(typed.get(group)):
                _refuse_unset_option(group, name, typed)


def _refuse_unset_option(group: str, name: str, typed: Mapping[str, str]) -> None:
    content = option(group, name).content if name in options(group) else {}
    for key, value in content.items():
        if value == "???" and f"{group}.{key}" not in typed:
            raise UserError(
                f"{group}.{key} is not set for {group}={name}: "
                "give it, or narrow the study to others"
            )


def _refuse_strangers(study: Option, group: str, names: Sequence[str]) -> None:
    valid = dict.fromkeys(name for part in study.parts for name in _names(part.get(group)))
    for name in names:
        if name not in valid:
            typed = (group == "prior" and folder(name)) or name
            raise UserError(
                f"study={study.name} has no {group}={typed} to narrow it to. Valid: "
                f"{', '.join(valid)}"
            )


def _narrow(part: Part, names: Mapping[str, Sequence[str]]) -> Part | None:
    """Return the part with only the options in ``names``; None if a group has none of them."""
    kept = {
        group: [name for name in _names(part.get(group)) if name in chosen]
        for group, chosen in names.items()
    }
    if not all(kept.values()):
        return None
    return {**part, **{group: ",".join(values) for group, values in kept.items()}}


def _scaled(part: Part, scale: Mapping[str, Any]) -> Part:
    """Return the part with the options of a scale in place of its own.

    Of its settings only those stay that make it what it is: the ones that it sweeps over, the part
    of a face that is hidden, and ``trace``. A scale that replaces no option returns the part as it
    is.
    """
    instead: Mapping[str, Mapping[str, str]] = scale.get("instead", {})
    if not instead:
        return part
    kept = {key: value for key, value in part.items() if _outlasts_scale(key, value)}
    scaled = {key: _replaced(value, instead.get(key, {})) for key, value in kept.items()}
    # data of the same kind as the prior that the part names
    data = instead.get("prior", {}).get(str(part.get("prior")))
    return {**scaled, "data": data} if data else scaled


def _outlasts_scale(key: str, value: Any) -> bool:
    if key in GROUPS:
        return key != "prior"
    subject = key.startswith("solver.") or key == "data.label"
    swept = subject and isinstance(value, str) and "," in value
    return key in _OUTLASTING or (swept and key != "solver.preset")


def _replaced(value: Any, instead: Mapping[str, str]) -> Any:
    if isinstance(value, bool):
        return value
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
    """Yield the overrides of every cell of a sweep, with the study's own sweep."""
    # only here: Hydra loads slowly
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    typed = {item.key_or_group for item in parsed}
    studies = [item.value() for item in parsed if item.key_or_group == "study"]
    named = bool(studies) and isinstance(studies[-1], str)
    sweep = option("study", str(studies[-1])).sweep if named else {}
    own = [f"{key}={value}" for key, value in sweep.items() if key not in typed]
    items = [*parsed, *OverridesParser.create().parse_overrides(own)]
    yield from (list(lines) for lines in product(*map(_choices, items)))


def _choices(item: Any) -> list[str]:
    """Return the single overrides that a sweep stands for; any other override as it is."""
    # only here: Hydra loads slowly
    from hydra.core.override_parser.types import Glob

    key, value = item.key_or_group, item.value()
    if isinstance(value, Glob) and key in GROUPS and key not in LIST_GROUPS:
        return [f"{key}={name}" for name in value.filter(list(options(key)))]
    if item.is_sweep_override():
        # Hydra escapes a colon (budget=passes:25), and quotes would keep the backslash
        choices = (choice.replace(r"\:", ":") for choice in item.sweep_string_iterator())
        return [f"{key}={choice}" for choice in choices]
    return [item.input_line]
