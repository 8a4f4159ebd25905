"""Completion of command lines in bash: verbs, groups, options, and the settings of the chosen ones.

``eval "$(bench completion bash)"`` in ``~/.bashrc`` turns it on. Answers come from the YAML files
alone, so a press of the tab key costs a fraction of a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from posterior_bench.bench.cli.verbs import HELP
from posterior_bench.bench.core.errors import UserError

SCRIPT = """\
_bench() {
    local IFS=$'\\n'
    COMPREPLY=($(bench completion words "${COMP_LINE:0:$COMP_POINT}" 2>/dev/null))
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
}
complete -o default -F _bench bench
"""


def command(arguments: Sequence[str]) -> int:
    """The verb: ``bash`` prints the script, ``words LINE`` what may follow in an unfinished command
    line.
    """
    if list(arguments) == ["bash"]:
        print(SCRIPT, end="")
        return 0
    if len(arguments) == 2 and arguments[0] == "words":
        print("\n".join(candidates(arguments[1])))
        return 0
    raise UserError(
        "'completion' takes the name of a shell, and knows bash: eval \"$(bench completion bash)\""
    )


def candidates(line: str) -> list[str]:
    """What the last word of an unfinished line may become; of ``GROUP=``, what may follow the
    ``=``.

    bash takes ``=`` for the end of a word, so that is where its word begins.
    """
    words = line.split()[1:] if line[-1:].strip() else [*line.split()[1:], ""]
    last = words[-1] if words else ""
    verb = words[0] if len(words) > 1 and words[0] in HELP else "run"
    key, sign, value = last.partition("=")
    if sign:
        return _after(value, _values(key))
    found = [*HELP] if len(words) < 2 else []
    if HELP[verb].settings or verb == "show":
        found += _keys(words)
    found += [option.split()[0] for option in HELP[verb].options if option.startswith("-")]
    return _starting(last, found)


def _keys(words: Sequence[str]) -> list[str]:
    """Groups, top-level settings, and the settings of the options that the line names."""
    from posterior_bench.bench.config.catalog import GROUPS, LIST_GROUPS, option, options
    from posterior_bench.bench.config.settings import SETTINGS

    named = [word.split("=", 1) for word in words if word.partition("=")[0] in GROUPS]
    chosen = [
        option(group, name)
        for group, name in named
        if name in options(group) and group not in LIST_GROUPS
    ]
    own = [f"{found.group}.{key}=" for found in chosen for key in found.parameters]
    return [*(f"{group}=" for group in GROUPS), *(f"{key}=" for key in SETTINGS), *own]


def _values(key: str) -> list[str]:
    from posterior_bench.bench.config.catalog import GROUPS, options

    return list(options(key)) if key in GROUPS else []


def _after(value: str, names: Iterable[str]) -> list[str]:
    """The names that go on what is typed, behind its last comma or bracket."""
    match = re.search(r"[^,\[]*$", value)
    assert match is not None
    return [value[: match.start()] + name for name in _starting(match[0], names)]


def _starting(text: str, names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(text)})
