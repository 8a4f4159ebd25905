"""Check command-line overrides against the YAML files before Hydra composes anything.

Hydra refuses unknown keys of a dataclass, but ``+key=`` opens it, and its messages run over many
lines. Here every mistake is one line with the valid choices, raised before torch is imported.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Sequence
from typing import Any

from posterior_bench.bench.config import hydra_settings, interpolation, prompts
from posterior_bench.bench.config.auto_images import AutoImages
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
from posterior_bench.bench.config.schema import Config
from posterior_bench.bench.config.text_settings import quote, quote_texts, sweeps
from posterior_bench.bench.core.errors import UserError, nearest, unknown

_PLAIN = re.compile(r"([a-z_][a-z0-9_]*(?:\.[a-z_][a-z0-9_]*)?)=([\w./,+-]*)")
"""A setting with a value that no grammar is needed for."""


def check(overrides: Sequence[str], sweep: bool = False, study_sweep: bool = False) -> list[str]:
    """Check overrides and return them as Hydra is to get them.

    Settings of an option get a ``++``: in a sweep Hydra also composes them onto the *default*
    option, which may not have them. A solver in a file gets a name that Hydra finds, and more
    overrides follow those of the user if plugins need them.

    Parameters
    ----------
    overrides : Sequence of str
        The words of the command line.
    sweep : bool, default False
        Whether an override may have several values (``-m``).
    study_sweep : bool, default False
        Whether a study with sweep parameters of its own may be chosen.

    Raises
    ------
    UserError
        For an unknown group, option or key, and for a wrong value.
    """
    commas = sweep or sweeps(overrides)
    overrides = quote_texts(prompts.quote_prompts(with_prior_names(overrides), commas), commas)
    parsed = parse(overrides)
    swept = _study_sweep(parsed)
    _check_sweeps(parsed, swept, sweep, study_sweep)
    plugins = next(
        (_as_names(item.value()) for item in parsed if item.key_or_group == "plugins"), []
    )
    # the command line comes last: it wins over the sweep of a study
    by_group = {
        item.key_or_group: _check_options(item, plugins)
        for item in [*swept, *parsed]
        if item.key_or_group in GROUPS
    }
    chosen = _chosen(by_group)
    settings = [
        item
        for item in parsed
        if item.key_or_group not in GROUPS and not hydra_settings.is_hydras(item)
    ]
    for item in settings:
        _check_key(item, chosen)
    nested = {item.input_line for item in settings if "." in item.key_or_group}
    lines = [f"++{line.lstrip('+')}" if line in nested else line for line in overrides]
    return _with_plugins(lines, by_group.get("solver", []), plugins)


def refuse_typos(overrides: Sequence[str]) -> None:
    """Refuse names that nothing has, where the words are so plain that no parser is needed.

    :func:`check` finds the same mistakes, and all others, but loads Hydra.

    Parameters
    ----------
    overrides : Sequence of str
        The words of the command line, after :func:`with_prior_names`.

    Raises
    ------
    UserError
        For an unknown option, key of the top level, or key of a chosen option.
    """
    matches = [match for word in overrides if (match := _PLAIN.fullmatch(word))]
    plain = [(match[1], match[2]) for match in matches]
    if len(plain) < len(overrides):
        return
    by_group = {key: value.split(",") for key, value in plain if key in GROUPS}
    if any(not re.fullmatch(r"[\w/]+(,[\w/]+)*", ",".join(names)) for names in by_group.values()):
        return
    for group, names in by_group.items():
        for name in names:
            option(group, name)
    if "study" in by_group or any(key == "plugins" for key, _ in plain):
        return  # a study may choose other options
    chosen = _chosen(by_group)
    for key, _ in plain:
        group, _, rest = key.partition(".")
        if not rest and key not in ("prompt", *prompts.SHORT):
            _demand_top(key)
        elif rest and "." not in rest and group in GROUPS and group not in LIST_GROUPS:
            for name in chosen[group]:
                _demand_setting(group, name, rest)


def _check_sweeps(
    parsed: Sequence[Any], swept: Sequence[Any], sweep: bool, study_sweep: bool
) -> None:
    """Refuse several values, on the command line or of a study, where one cell is wanted."""
    several = next((item for item in parsed if item.is_sweep_override()), None)
    parts = _has_parts(parsed)
    if parts and not study_sweep:
        raise UserError(
            "this study expands to several cells, but this command runs exactly one: drop study= "
            "and choose the cell by solver=, data=, mask= and prior="
        )
    if several is not None and not sweep and not ((swept or parts) and study_sweep):
        raise UserError(
            f"'{several.input_line}' is a sweep: add -m to run every value, or give one"
        )
    keys = {item.key_or_group for item in parsed}
    unset = [item.key_or_group for item in swept if item.key_or_group not in keys]
    if unset and not study_sweep:
        raise UserError(
            f"this study sweeps {', '.join(unset)}, but this command runs exactly one cell: "
            "give one value of each"
        )


def parse(overrides: Sequence[str]) -> list[Any]:
    """Parse overrides with Hydra, and refuse those that would run foreign code.

    Foreign code: resolvers (:mod:`bench.config.interpolation`), settings of Hydra's own that name
    classes to import (:mod:`bench.config.hydra_settings`), and keys that make a configuration call
    something.

    Raises
    ------
    UserError
        If an override cannot be read, or would run foreign code.
    """
    # only here: Hydra loads slowly
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
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error).splitlines()[0]


def _quoting(line: str) -> str:
    """Return advice to quote a value for Hydra; nothing for a line that is no setting."""
    key, sign, value = line.partition("=")
    if not sign or not value:
        return ""
    quoted = shlex.quote(f"{key}={quote(value)}")
    return f"; if that is a text, give it in quotes of its own: {quoted}"


def _with_plugins(lines: list[str], solvers: Sequence[str], plugins: list[str]) -> list[str]:
    """Return the overrides with names for solvers in files.

    After them come the overrides that let Hydra find the options of plugins, and a run import
    plugins and files.
    """
    files = [code for name in solvers if isinstance(code := option("solver", name), FileOption)]
    for file in files:
        name = _stored(file)
        # one value of a sweep comes from Hydra with its special characters escaped
        escaped = re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", file.name)
        for text in (quote(file.name), escaped, file.name):
            lines = [
                line.replace(text, name) if line.startswith("solver=") else line for line in lines
            ]
    folders = [quote(f"file://{plugin.conf}") for plugin in plugins_of(plugins)]
    sources = dict.fromkeys([*plugins, *(str(file.code.file) for file in files)])
    more = [f"++plugins=[{','.join(map(quote, sources))}]"] if files else []
    return [*lines, *more, *([f"hydra.searchpath=[{','.join(folders)}]"] if folders else [])]


def _stored(file: FileOption) -> str:
    """Make a solver in a file known to Hydra, also in the jobs of a launcher; return its name."""
    # only here: Hydra loads slowly
    from hydra.core.config_store import ConfigStore

    name = f"{file.code.name}_{file.code.sha}"
    ConfigStore.instance().store(group="solver", name=name, node=file.content)
    return name


def _study_sweep(parsed: Sequence[Any]) -> list[Any]:
    """Return the sweep parameters of the chosen study, as overrides."""
    studies = [
        name for item in parsed if item.key_or_group == "study" for name in _check_options(item, ())
    ]
    sweeps = {name: option("study", name).sweep for name in studies}
    if len(studies) > 1 and (_has_parts(parsed) or any(sweeps.values())):
        raise UserError(
            f"study={','.join(studies)}: a study with a sweep of its own runs alone; give one"
        )
    lines = [f"{key}={value}" for sweep in sweeps.values() for key, value in sweep.items()]
    return parse(lines)


def _has_parts(parsed: Sequence[Any]) -> bool:
    """Return whether a chosen study runs several sweeps (:mod:`bench.config.studies`)."""
    studies = [
        name for item in parsed if item.key_or_group == "study" for name in _as_names(item.value())
    ]
    return any(name in options("study") and option("study", name).parts for name in studies)


def _chosen(by_user: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the options of every group that some job will have.

    They include the options that come with a chosen option.
    """
    chosen = {group: _as_names(value) for group, value in defaults().items()}
    for group in ("data", "study"):
        brought: dict[str, list[str]] = {}
        for name in by_user.get(group, chosen[group]):
            for other, value in option(group, name).brings.items():
                brought.setdefault(other, []).extend(_as_names(value))
        chosen.update(brought)
    return {**chosen, **by_user}


def _values(item: Any, plugins: Sequence[str] = ()) -> list[Any]:
    """Return the values of an override: its own, each of a sweep, or the matches of a glob."""
    # only here: Hydra loads slowly
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
                f"'{item.input_line}': {group} takes one name; "
                "a comma list without brackets sweeps (-m)"
            )
        names += _as_names(value)
    for name in names:
        origin = option(group, name).plugin
        if origin and origin not in plugins:
            raise UserError(
                f"{group}={name} comes with the plugin {origin}: "
                f"plugins=[{origin}] lets this run import it"
            )
    if not names:
        raise UserError(f"'{item.input_line}' names no {group}. Valid: {', '.join(options(group))}")
    return names


def _check_key(item: Any, chosen: dict[str, list[str]]) -> None:
    """Check a setting: of the top level, of a metric, or of every chosen option of a group."""
    key = item.key_or_group
    if item.is_delete():
        raise UserError(
            f"'{item.input_line}': nothing here can be deleted; set the value you want instead"
        )
    group, _, rest = key.partition(".")
    if not rest:
        _check_top(key, item)
    elif group not in GROUPS:
        raise unknown("group", group, GROUPS)
    elif group in LIST_GROUPS:
        _check_metric(item, rest, chosen[group])
    elif rest.split(".")[0] == "presets":
        raise UserError(
            f"'{item.input_line}': presets are fixed; "
            f"set {group}.{key.rpartition('.')[2]}=VALUE itself"
        )
    else:
        for name in chosen[group]:
            _check_setting(item, group, name, rest)


def _check_metric(item: Any, key: str, metrics: Sequence[str]) -> None:
    if key not in {setting for name in metrics for setting in _column_settings(name)}:
        example = ",".join(sorted(options("metrics"))[:3])
        raise UserError(f"'{item.input_line}': choose metrics with metrics=[{example},...]")


def _check_setting(item: Any, group: str, name: str, key: str) -> None:
    """Check that an option has a setting, and that the values fit it."""
    content = option(group, name).content
    valid = _demand_setting(group, name, key)
    for value in _values(item):
        _check_value(item, name, key, value, content, valid.get(key))


def _demand_setting(group: str, name: str, key: str) -> dict[str, Any]:
    """Return the settings of an option; raise UserError if this one is not among them."""
    chosen = option(group, name)
    content = chosen.content
    valid = {**chosen.parameters, **({"preset": None} if "presets" in content else {})}
    valid |= dict.fromkeys((*prompts.SETTINGS, *prompts.LABELS)) if group == "data" else {}
    in_a_block = "." in key and isinstance(content.get(key.split(".")[0]), dict)
    if key not in valid and not in_a_block:
        elsewhere = "" if nearest(key, valid) else _elsewhere(group, key, name)
        raise UserError(f"{unknown(f'key of {group}={name}', key, valid)}{elsewhere}")
    return valid


def _elsewhere(group: str, key: str, name: str) -> str:
    """Return advice on the other options of the group that have such a setting.

    For example ``executor.workers`` is a setting of ``executor=ray``.
    """
    others = [
        other for other, each in options(group).items() if other != name and key in each.parameters
    ]
    if not others:
        return ""
    some = ", ".join(f"{group}={other}" for other in others[:4])
    some += ", ..." if len(others) > 4 else ""
    which = "that" if len(others) == 1 else "one of them"
    return f". '{key}' is a setting of {some}: choose {which} too"


def _in_groups(key: str) -> str:
    """Return advice on the groups with such a setting: ``workers`` is ``executor.workers``."""
    groups = [
        group
        for group in GROUPS
        if group not in LIST_GROUPS and any(key in o.parameters for o in options(group).values())
    ]
    if not groups:
        return ""
    written = " or ".join(f"{group}.{key}=VALUE" for group in groups)
    return f". A setting of an option is written {written}"


def _column_settings(name: str) -> list[str]:
    """Return the settings of a metric that name the user's own file: ``kid_torchscript.path``."""
    nodes = option("metrics", name).parameters.items()
    return [
        f"{column}.{key}"
        for column, node in nodes
        if "trust_file" in node
        for key in node
        if key[0] != "_"
    ]


def _top_fields() -> dict[str, str]:
    """Return the settings of the top level with their annotations."""
    return {f.name: str(f.type) for f in dataclasses.fields(Config) if f.name not in GROUPS}


def _demand_top(key: str) -> None:
    """Raise UserError for a setting that the top level does not have."""
    every = [*_top_fields(), *GROUPS]
    if key not in every:
        similar = nearest(key, every)
        raise UserError(f"{unknown('key', key, every)}{'' if similar else _in_groups(key)}")


def _check_top(key: str, item: Any) -> None:
    """Check a setting of the top level against its type in the schema."""
    fields = _top_fields()
    _demand_top(key)
    if item.is_add():
        raise UserError(f"'{item.input_line}': {key} exists already; write {key}=VALUE")
    for value in _values(item):
        problem = _misfit(key, value, fields[key])
        if problem:
            raise UserError(f"{key}={'null' if value is None else value}: {key} {problem}")


def _misfit(key: str, value: Any, annotation: str) -> str:
    """Return why a value does not fit the annotation of a setting; empty if it does."""
    if value is None:
        return "" if "None" in annotation else "needs a value"
    if key == "batch" and value == "auto":
        return ""
    if annotation.startswith("int") and type(value) is not int:
        return f"takes a whole number{', or auto' * (key == 'batch')}"
    if annotation.startswith("float") and isinstance(value, bool | str | list | dict):
        return "takes a number"
    if annotation == "bool" and not isinstance(value, bool):
        return "takes true or false"
    if annotation.startswith("list") and not isinstance(value, list):
        return f"takes a list, for example {key}=[{value}]"
    if key in ("draws", "batch", "threads") and value < 1:
        return "must be at least 1"
    return ""


def _check_value(
    item: Any, name: str, key: str, value: Any, content: dict[str, Any], example: Any
) -> None:
    """Check a value of an option's setting by the type of the value in its YAML file."""
    if key == "preset":
        if value not in (AUTO, *content["presets"]):
            raise unknown(f"preset of {name}", str(value), [AUTO, *content["presets"]])
        return
    if key == "images" and AutoImages.of(value):
        return
    kinds = {bool: "true or false", int: "a whole number", float: "a number"}
    if type(example) not in kinds or value is None or (isinstance(value, str) and "${" in value):
        return
    fits = isinstance(value, type(example)) and isinstance(value, bool) == isinstance(example, bool)
    if not fits and not (isinstance(example, float) and type(value) is int):
        raise UserError(f"{item.input_line}: {key} takes {kinds[type(example)]} (now {example})")
