"""All verbs of the command line, and the text of ``bench --help``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from posterior_bench.bench.cli import (
    board,
    check,
    compact,
    compare,
    completion,
    convert,
    diff,
    doctor,
    embed_prompts,
    export_masks,
    figure,
    frontier,
    leaderboard,
    ls,
    new_solver,
    pack,
    plan,
    report,
    run,
    score,
    score_samples,
    show,
    status,
    submit,
    table,
    train,
    try_photo,
    tune,
    verify,
)
from posterior_bench.bench.config.catalog import defaults
from posterior_bench.bench.config.settings import SETTINGS
from posterior_bench.bench.core.errors import unknown

_MODULES = (
    try_photo,
    run,
    plan,
    ls,
    show,
    doctor,
    check,
    new_solver,
    export_masks,
    pack,
    score_samples,
    leaderboard,
    table,
    figure,
    report,
    compare,
    diff,
    frontier,
    score,
    compact,
    status,
    submit,
    verify,
    board,
    convert,
    embed_prompts,
    train,
    tune,
)
_OTHERS = [module.VERB for module in _MODULES]
VERBS = {verb.name: verb for verb in (*_OTHERS, completion.verb(_OTHERS))}
"""All verbs by their names, in the order of the help."""

USUAL = "run"
"""The verb of a command line without one."""

EXIT_CODES = {
    0: "every row is ok or accepted; the verb did what it was asked for",
    1: "some rows are not (a cell whose first rows all fail alike is stopped), or a check failed",
    2: "the input was wrong, no worker can start, or the machine refused: disk, quota, permission, "
    "memory, open files",
    3: "an error inside this program; one line says where its traceback was written",
    130: "interrupted (Ctrl-C)",
    143: "terminated (SIGTERM)",
}

_OVERVIEW = """\
bench [verb] [settings]      (or: python -m bench [verb] [settings])

verbs; bench VERB --help has the options of one
{verbs}

examples
  bench solver=repaint mask=comod data.images=32 draws=4
  bench -m solver=blended,repaint,dps,vipaint2 mask=rotated,comod,palette
  bench study=arena      # a study that sweeps by itself; solver=dps,ddnm and the like narrow it

settings
  {choices}
{settings}

An interrupted run continues when the same command is given again. --cfg job shows the resolved
configuration, of a study that of its first cell. --version prints the version.
docs/command-line.md: quoting, completion in the shell, settings of the launcher.

exit codes
{codes}"""


def split_verb(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split a command line into its verb and the rest.

    Parameters
    ----------
    words : sequence of str
        The words after the program's name.

    Returns
    -------
    tuple of (str or None, list of str)
        The verb as it was typed, or None where it was left out; and what follows it.
        ``help VERB`` is ``VERB --help``.
    """
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if words and "=" not in words[0] and not words[0].startswith(("-", "+", "~")):
        return words[0], list(words[1:])
    return None, list(words)


def run_verb(name: str | None, words: Sequence[str]) -> int:
    """Run a verb.

    Parameters
    ----------
    name : str or None
        The verb; None for :data:`USUAL`, whose help is then that of all verbs.
    words : sequence of str
        What follows the verb.

    Returns
    -------
    int
        The exit code.

    Raises
    ------
    UserError
        If the verb is unknown, or its command line wrong.
    """
    verb = VERBS.get(name or USUAL)
    if verb is None:
        raise unknown("verb", str(name), VERBS)
    parser = verb.parser()
    if name is None:
        parser.help_text = overview
    return verb.run(**parser.read(words))


def overview() -> str:
    """Return the text of ``bench --help``."""
    return _OVERVIEW.format(
        verbs=_lines({name: verb.does for name, verb in VERBS.items()}),
        choices="  ".join(f"{group}={value}" for group, value in defaults().items()),
        settings=_lines({f"{key}=": text for key, text in SETTINGS.items()}),
        codes=_lines({str(code): text for code, text in EXIT_CODES.items()}),
    )


def _lines(texts: Mapping[str, str]) -> str:
    """Return a line for every name, with its text."""
    width = max(map(len, texts))
    return "\n".join(f"  {name:<{width}}  {text}" for name, text in texts.items())
