"""``bench completion``: completion of command lines in bash.

It completes verbs, groups, options, and the settings of the chosen options.
``eval "$(bench completion bash)"`` in ``~/.bashrc`` turns it on. Answers come from the parsers and
the YAML files alone, so a press of the tab key costs a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from posterior_bench.bench.cli.parser import Parser
from posterior_bench.bench.cli.verb import Verb
from posterior_bench.bench.config.catalog import GROUPS, LIST_GROUPS, option, options
from posterior_bench.bench.config.settings import SETTINGS
from posterior_bench.bench.core.errors import UserError

SCRIPT = """\
_bench() {
    local IFS=$'\\n'
    COMPREPLY=($(bench completion words "${COMP_LINE:0:$COMP_POINT}" 2>/dev/null))
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
}
complete -o default -F _bench bench
"""


def verb(others: Sequence[Verb]) -> Verb:
    """Return the verb, which completes the names and settings of the other verbs."""

    def run(shell: str, line: str | None) -> int:
        """Print the script of a shell, or the words that may follow in an unfinished line."""
        if shell == "bash" and line is None:
            print(SCRIPT, end="")
        elif shell == "words" and line is not None:
            print("\n".join(candidates(line, {each.name: each for each in (*others, own)})))
        else:
            raise UserError(
                "'completion' takes the name of a shell, and knows bash: "
                'eval "$(bench completion bash)"'
            )
        return 0

    own = Verb(
        name="completion",
        does="print the script that completes verbs, groups, options and settings in a shell",
        example='eval "$(bench completion bash)"',
        more="Put the line of the example into ~/.bashrc.",
        add_arguments=add_arguments,
        run=run,
        prints_only=True,
    )
    return own


def add_arguments(parser: Parser) -> None:
    """Declare the shell, and the line that the script asks about."""
    parser.add_argument("shell", metavar="bash", help="the shell")
    parser.add_argument(
        "line", nargs="?", metavar="LINE", help="with `words` for the shell: an unfinished line"
    )


def candidates(line: str, verbs: Mapping[str, Verb]) -> list[str]:
    """Return what the last word of an unfinished line may become.

    bash takes ``=`` for the end of a word. So of ``GROUP=`` the answer is what may follow.

    Parameters
    ----------
    line : str
        The line up to the cursor.
    verbs : mapping of str to Verb
        All verbs by their names.

    Returns
    -------
    list of str
        The words, in order.
    """
    words = line.split()[1:] if line[-1:].strip() else [*line.split()[1:], ""]
    last = words[-1] if words else ""
    name = words[0] if len(words) > 1 and words[0] in verbs else "run"
    key, sign, value = last.partition("=")
    if sign:
        return _continued(value, options(key) if key in GROUPS else ())
    parser = verbs[name].parser()
    found = [*verbs] if len(words) < 2 else []
    if parser.takes_run_settings or name == "show":
        found += _run_settings(words)
    found += [*parser.option_names, *(f"{key}=" for key in parser.settings)]
    return _starting(last, found)


def _run_settings(words: Sequence[str]) -> list[str]:
    """Return groups, top-level settings, and the settings of the options that the line names."""
    named = [word.split("=", 1) for word in words if word.partition("=")[0] in GROUPS]
    chosen = [
        option(group, name)
        for group, name in named
        if name in options(group) and group not in LIST_GROUPS
    ]
    own = [f"{each.group}.{key}=" for each in chosen for key in each.parameters]
    return [*(f"{group}=" for group in GROUPS), *(f"{key}=" for key in SETTINGS), *own]


def _continued(value: str, names: Iterable[str]) -> list[str]:
    """Return the value with each name that continues it after the last comma or bracket."""
    start = max(value.rfind(","), value.rfind("[")) + 1
    return [value[:start] + name for name in _starting(value[start:], names)]


def _starting(text: str, names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(text)})
