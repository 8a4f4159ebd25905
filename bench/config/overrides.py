"""Checks command-line overrides against the YAML files before Hydra composes anything.

Hydra refuses unknown keys of a dataclass, but ``+key=`` opens it, and its messages run over many
lines. Here every mistake is one line with the valid choices, raised before torch is imported.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any

from posterior_bench.bench.config import hydra_settings, interpolation, prompts
from posterior_bench.bench.config.catalog import (
    GROUPS,
    LIST_GROUPS,
    FileOption,
    defaults,
    option,
    options,
)
from posterior_bench.bench.config.plugins import plugins_of
from posterior_bench.bench.config.presets import AUTO
from posterior_bench.bench.config.prior_paths import with_prior_names
from posterior_bench.bench.config.text_settings import quote, quote_texts, sweeps
from posterior_bench.bench.core.errors import UserError, nearest, unknown


def check(overrides: Sequence[str], sweep: bool = False, study_sweep: bool = False) -> list[str]:
    """The overrides as Hydra is to get them; UserError on an unknown group, option, key or a wrong
    value.

    ``sweep`` says whether several values are allowed (``-m``), ``study_sweep`` whether a study with
    sweep parameters of its own is.

    Settings of an option get a ``++``: in a sweep Hydra also composes them onto the *default*
    option, which may not have them. A solver in a file is given a name that Hydra finds, and more
    overrides follow the given ones where plugins need them.
    """
    commas = sweep or sweeps(overrides)
    overrides = quote_texts(prompts.quote_prompts(with_prior_names(overrides), commas), commas)
    parsed = parse(overrides)
    several = next((item for item in parsed if item.is_sweep_override()), None)
    swept = _study_sweep(parsed)
    parts = _has_parts(parsed)
    if parts and not study_sweep:
        raise UserError(
            "this study is many cells, and one is wanted here: leave study= away and name the cell "
            "itself"
        )
    if several is not None and not sweep and not ((swept or parts) and study_sweep):
        raise UserError(
            f"'{several.input_line}' is a sweep: add -m to run every value, or give one"
        )
    asked = {item.key_or_group for item in parsed}
    plugins = next(
        (_as_names(item.value()) for item in parsed if item.key_or_group == "plugins"), []
    )
    left = [item.key_or_group for item in swept if item.key_or_group not in asked]
    if left and not study_sweep:
        raise UserError(
            f"this study sweeps {', '.join(left)}, and one cell is wanted here: give one value of "
            f"each"
        )
    # what is on the command line wins over what a study sweeps
    given = {
        item.key_or_group: _check_options(item, plugins)
        for item in [*swept, *parsed]
        if item.key_or_group in GROUPS
    }
    chosen = _chosen(given)
    settings = [
        item
        for item in parsed
        if item.key_or_group not in GROUPS and not hydra_settings.is_hydras(item)
    ]
    for item in settings:
        _check_key(item, chosen)
    nested = {item.input_line for item in settings if "." in item.key_or_group}
    lines = [f"++{line.lstrip('+')}" if line in nested else line for line in overrides]
    return _with_plugins(lines, given.get("solver", []), plugins)


def parse(overrides: Sequence[str]) -> list[Any]:
    """The overrides as Hydra reads them. UserError for what cannot be read, and for what would run
    foreign code.

    Foreign code: resolvers (:mod:`bench.config.interpolation`), settings of Hydra's own that name
    what it imports (:mod:`bench.config.hydra_settings`), and keys that make a configuration call
    something.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    for line in overrides:
        interpolation.refuse(line, f"'{line}'")
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except (OverrideParseException, RecursionError) as error:
        line = str(getattr(error, "override", "") or "an override")
        raise UserError(f"cannot read '{line}': {_why(error)}{_quoting(line)}") from None
    for item in parsed:
        for _, text in interpolation.nested_texts(hydra_settings.values(item)):
            interpolation.refuse(text, f"'{item.input_line}'")
        hydra_settings.refuse_calls(item)
        if hydra_settings.is_hydras(item):
            hydra_settings.check(item)
    return list(parsed)


def _why(error: Exception) -> str:
    return (
        "it is nested too deeply"
        if isinstance(error, RecursionError)
        else str(error).splitlines()[0]
    )


def _quoting(line: str) -> str:
    """How a shell hands on a value in quotes of Hydra's; nothing for a line that is no setting."""
    key, sign, value = line.partition("=")
    if not sign or not value:
        return ""
    return (
        f"; if that is a text, give it in quotes of its own: {shlex.quote(f'{key}={quote(value)}')}"
    )


def _with_plugins(lines: list[str], solvers: Sequence[str], plugins: list[str]) -> list[str]:
    """The lines with names for solvers in files; behind them what lets Hydra find, and a run
    import, the rest.
    """
    files = [found for name in solvers if isinstance(found := option("solver", name), FileOption)]
    for found in files:
        name = _stored(found)
        for written in (quote(found.name), found.name):
            lines = [
                line.replace(written, name) if line.startswith("solver=") else line
                for line in lines
            ]
    folders = [quote(f"file://{plugin.conf}") for plugin in plugins_of(plugins)]
    admitted = dict.fromkeys([*plugins, *(str(found.code.file) for found in files)])
    more = [f"++plugins=[{','.join(map(quote, admitted))}]"] if files else []
    return [*lines, *more, *([f"hydra.searchpath=[{','.join(folders)}]"] if folders else [])]


def _stored(found: FileOption) -> str:
    """Make a solver in a file known to Hydra, on this machine and where a launcher sends a job;
    returns its name.
    """
    from hydra.core.config_store import ConfigStore

    name = f"{found.code.name}_{found.code.sha}"
    ConfigStore.instance().store(group="solver", name=name, node=found.content)
    return name


def _study_sweep(parsed: Sequence[Any]) -> list[Any]:
    """The sweep parameters of the chosen study, as overrides."""
    asked = [
        name for item in parsed if item.key_or_group == "study" for name in _check_options(item, ())
    ]
    sweeps = {name: option("study", name).sweep for name in asked}
    if len(asked) > 1 and (_has_parts(parsed) or any(sweeps.values())):
        raise UserError(
            f"study={','.join(asked)}: a study with a sweep of its own runs alone; give one"
        )
    lines = [f"{key}={value}" for sweep in sweeps.values() for key, value in sweep.items()]
    return parse(lines)


def _has_parts(parsed: Sequence[Any]) -> bool:
    """Whether a chosen study runs several sweeps (:mod:`bench.config.studies`)."""
    asked = [
        name for item in parsed if item.key_or_group == "study" for name in _as_names(item.value())
    ]
    return any(name in options("study") and option("study", name).parts for name in asked)


def _chosen(given: dict[str, list[str]]) -> dict[str, list[str]]:
    """The options of every group that some job will have, with those that a chosen option brings
    along.
    """
    chosen = {group: _as_names(value) for group, value in defaults().items()}
    for group in ("data", "study"):
        brought: dict[str, list[str]] = {}
        for name in given.get(group, chosen[group]):
            for other, value in option(group, name).brings.items():
                brought.setdefault(other, []).extend(_as_names(value))
        chosen.update(brought)
    return {**chosen, **given}


def _values(item: Any, plugins: Sequence[str] = ()) -> list[Any]:
    """The plain values of an override: one, or each of a sweep; a glob, the options of the group
    that it names.
    """
    from hydra.core.override_parser.types import ChoiceSweep, Glob, Sweep

    value = item.value()
    if isinstance(value, Glob) and item.key_or_group in GROUPS:
        return value.filter(list(options(item.key_or_group, plugins)))
    if isinstance(value, ChoiceSweep):
        return list(hydra_settings.values(item))
    return [] if isinstance(value, Sweep | Glob) else [value]


def _as_names(value: Any) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else [str(value)]


def _check_options(item: Any, plugins: Sequence[str]) -> list[str]:
    group = item.key_or_group
    if item.is_delete() or item.is_add():
        raise UserError(f"'{item.input_line}': a group is chosen with {group}=NAME")
    names: list[str] = []
    for value in _values(item, plugins):
        if isinstance(value, list) and group not in LIST_GROUPS:
            raise UserError(
                f"'{item.input_line}': {group} takes one name; a comma list without brackets "
                f"sweeps (-m)"
            )
        names += _as_names(value)
    for name in names:
        origin = option(group, name).plugin
        if origin and origin not in plugins:
            raise UserError(
                f"{group}={name} comes with the plugin {origin}: plugins=[{origin}] lets this run "
                f"import it"
            )
    if not names:
        raise UserError(f"'{item.input_line}' names no {group}. Valid: {', '.join(options(group))}")
    return names


def _check_key(item: Any, chosen: dict[str, list[str]]) -> None:
    key = item.key_or_group
    if item.is_delete():
        raise UserError(
            f"'{item.input_line}': nothing here can be deleted; set the value you want instead"
        )
    group, _, rest = key.partition(".")
    if not rest:
        _check_top(key, item)
        return
    if group not in GROUPS:
        raise unknown("group", group, GROUPS)
    if group in LIST_GROUPS:
        if rest in {key for name in chosen[group] for key in _column_settings(name)}:
            return
        raise UserError(
            f"'{item.input_line}': choose metrics with "
            f"metrics=[{','.join(sorted(options(group))[:3])},...]"
        )
    if rest.split(".")[0] == "presets":
        raise UserError(
            f"'{item.input_line}': presets are fixed; set {group}.{key.rpartition('.')[2]}=VALUE "
            f"itself"
        )
    for name in chosen[group]:
        content = option(group, name)
        valid = {**content.parameters, **({"preset": None} if "presets" in content.content else {})}
        valid |= dict.fromkeys(prompts.SETTINGS) if group == "data" else {}
        if rest not in valid and not (
            isinstance(content.content.get(rest.split(".")[0]), dict) and "." in rest
        ):
            raise UserError(
                f"{unknown(f'key of {group}={name}', rest, valid)}{_elsewhere(group, rest, name)}"
            )
        for value in _values(item):
            _check_value(item, name, rest, value, content.content, valid.get(rest))


def _elsewhere(group: str, key: str, name: str) -> str:
    """Which other options of the group have such a setting: ``executor.workers`` is one of
    ``executor=ray``.
    """
    others = [
        other
        for other, found in options(group).items()
        if other != name and key in found.parameters
    ]
    if not others:
        return ""
    named = ", ".join(f"{group}={other}" for other in others[:4]) + (
        ", ..." if len(others) > 4 else ""
    )
    return (
        f". '{key}' is a setting of {named}: choose "
        f"{'that' if len(others) == 1 else 'one of them'} too"
    )


def _in_groups(key: str) -> str:
    """Which groups have options with such a setting: ``workers`` is ``executor.workers``."""
    found = [
        g
        for g in GROUPS
        if g not in LIST_GROUPS and any(key in o.parameters for o in options(g).values())
    ]
    return (
        f". A setting of an option is written {' or '.join(f'{g}.{key}=VALUE' for g in found)}"
        if found
        else ""
    )


def _column_settings(name: str) -> list[str]:
    """Settings of the columns of a metric that name a file of the user's own:
    ``kid_torchscript.path``.
    """
    nodes = option("metrics", name).parameters.items()
    return [
        f"{column}.{key}"
        for column, node in nodes
        if "trust_file" in node
        for key in node
        if key[0] != "_"
    ]


def _check_top(key: str, item: Any) -> None:
    from posterior_bench.bench.config.schema import Config

    fields = {f.name: f.type for f in dataclasses.fields(Config) if f.name not in GROUPS}
    if key not in fields:
        there = nearest(key, [*fields, *GROUPS])
        raise UserError(
            f"{unknown('key', key, [*fields, *GROUPS])}{'' if there else _in_groups(key)}"
        )
    if item.is_add():
        raise UserError(f"'{item.input_line}': {key} exists already; write {key}=VALUE")
    for value in _values(item):
        numeric = str(fields[key]).startswith("int")
        if (
            numeric
            and value is not None
            and (isinstance(value, bool) or not isinstance(value, int))
        ):
            raise UserError(f"{key}={value}: {key} takes a whole number")
        if str(fields[key]).startswith("float") and (isinstance(value, bool | str | list | dict)):
            raise UserError(f"{key}={value}: {key} takes a number")
        if value is None and "None" not in str(fields[key]):
            raise UserError(f"{key}=null: {key} needs a value")
        if str(fields[key]) == "bool" and not isinstance(value, bool):
            raise UserError(f"{key}={value}: {key} takes true or false")
        if str(fields[key]).startswith("list") and not isinstance(value, list):
            raise UserError(f"{key}={value}: {key} takes a list, for example {key}=[{value}]")
        if key in ("draws", "batch", "threads") and value is not None and value < 1:
            raise UserError(f"{key}={value}: {key} must be at least 1")


def _check_value(
    item: Any, name: str, key: str, value: Any, content: dict[str, Any], example: Any
) -> None:
    if key == "preset":
        if value not in (AUTO, *content["presets"]):
            raise unknown(f"preset of {name}", str(value), [AUTO, *content["presets"]])
        return
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
    if (
        example is None
        or value is None
        or type(example) not in kinds
        or (isinstance(value, str) and "${" in value)
    ):
        return
    fits = isinstance(value, type(example)) and isinstance(value, bool) == isinstance(example, bool)
    if (
        not fits
        and not (isinstance(example, float) and type(value) is int)
        and not isinstance(example, str)
    ):
        raise UserError(f"{item.input_line}: {key} takes {kinds[type(example)]} (now {example})")
