"""Reads the command line of one verb: words, options, settings ``KEY=VALUE``, settings of a run.

Everything is declared once, on :class:`Parser`. Parsing, ``bench VERB --help`` and completion in
the shell read the same declarations.
"""

from __future__ import annotations

import argparse
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from posterior_bench.bench.core.environment import NAME, origin, version
from posterior_bench.bench.core.errors import UserError, unknown

_KEY = re.compile(r"[+~]*[A-Za-z_][\w./@:]*=")
_RUN_SETTINGS = {
    "GROUP=NAME": "a choice, such as solver=dps or data=fashion; `bench ls` lists them",
    "SETTING=VALUE": "any setting of a run; `bench --help` lists those of the run itself, "
    "`bench show GROUP=NAME` those of a choice",
}
"""Help on the settings of a run."""
_HELP_COLUMN, _WIDTH = 26, 98


@dataclass(frozen=True)
class Setting:
    """A setting ``KEY=VALUE`` that belongs to the verb, and not to a run.

    Parameters
    ----------
    key : str
        The word before the ``=``; also the name of the value.
    metavar : str
        What the help shows in place of a value.
    help : str
        What the setting does.
    read : callable
        Turns the text into a value. Raises ValueError with the end of the sentence "KEY ...",
        such as "takes true or false".
    default : object
        The value where the setting is left out.
    required : bool
        Whether the verb refuses a command line without it.
    """

    key: str
    metavar: str
    help: str
    read: Callable[[str], Any] = str
    default: Any = None
    required: bool = False

    def value(self, text: str) -> Any:
        """Return the value that a text stands for."""
        try:
            return self.read(text)
        except ValueError as error:
            raise UserError(f"{self.key}={text}: {self.key} {error}") from None

    @property
    def explanation(self) -> str:
        """The help with the default."""
        if self.required:
            return f"{self.help} (required)"
        if self.default in (None, False, ()):
            return self.help
        return f"{self.help} (default: {self.default})"


class Parser(argparse.ArgumentParser):
    """The parser of one verb.

    A mistake is a :class:`UserError` of one line, not a usage text of many.

    Parameters
    ----------
    verb : str
        The name of the verb.
    does : str
        What it does, in one sentence without a capital and a full stop.
    example : str
        A command that works.
    more : str, default ""
        What else the help says.
    abbreviations : bool, default False
        Whether options may be shortened, as Hydra allows for its own.
    """

    def __init__(
        self, verb: str, does: str, example: str, more: str = "", abbreviations: bool = False
    ) -> None:
        self.verb, self.example, self.more = verb, example, more
        self.option_names: list[str] = []
        self.settings: dict[str, Setting] = {}
        self.takes_run_settings = False
        self.help_text: Callable[[], str] | None = None
        super().__init__(
            prog=f"bench {verb}",
            description=f"{does[0].upper()}{does[1:]}.",
            formatter_class=_Formatter,
            add_help=False,
            allow_abbrev=abbreviations,
        )
        self.add_argument("-h", "--help", action="help", help="show this text")
        self.add_argument("--version", action=_Version, help=argparse.SUPPRESS)

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        """Declare a word or an option, as argparse does, and remember its name for completion."""
        if settings.get("help", argparse.SUPPRESS) != argparse.SUPPRESS:
            self.option_names += [name for name in names if name.startswith("--")]
            if all(len(name) == 2 for name in names):
                self.option_names += [name for name in names if name.startswith("-")]
        return super().add_argument(*names, **settings)

    def add_setting(
        self,
        key: str,
        metavar: str,
        help: str,
        read: Callable[[str], Any] = str,
        default: Any = None,
        required: bool = False,
    ) -> None:
        """Declare a setting ``KEY=VALUE`` of the verb itself; see :class:`Setting`."""
        self._take_settings()
        self.settings[key] = Setting(key, metavar, help, read, default, required)

    def add_run_settings(self) -> None:
        """Declare that settings of a run may follow; they become the value ``overrides``."""
        self._take_settings()
        self.takes_run_settings = True

    def _take_settings(self) -> None:
        if not (self.settings or self.takes_run_settings):
            self.add_argument(
                "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="settings, see below"
            )

    def read(self, words: Sequence[str]) -> dict[str, Any]:
        """Read a command line.

        Parameters
        ----------
        words : sequence of str
            What follows the verb.

        Returns
        -------
        dict
            The value of every word, option and setting by its name. Settings of a run are the
            list ``overrides``.

        Raises
        ------
        UserError
            If a word is missing, unknown or has a value that cannot be read.
        SystemExit
            After the help or the version.
        """
        # where the verb has settings of its own, a word KEY=VALUE is none of the words it counts
        apart = [word for word in words if self.settings and _KEY.match(word)]
        found, unread = self.parse_known_intermixed_args([w for w in words if w not in apart])
        if unread:
            raise self._unread(unread[0])
        values = vars(found)
        if not (self.settings or self.takes_run_settings):
            return values
        rest, settings = self._split([*values.pop("overrides"), *apart])
        if self.takes_run_settings:
            settings["overrides"] = rest
        elif rest:
            raise self._unread(rest[0])
        return {**values, **settings}

    def error(self, message: str) -> NoReturn:
        """Raise UserError with argparse's message and an example."""
        raise UserError(
            f"'{self.verb}': {message}; for example: {self.example} "
            f"(`bench {self.verb} --help` lists all options)"
        )

    def format_help(self) -> str:
        """Return the text of ``bench VERB --help``."""
        if self.help_text is not None:
            return self.help_text()
        parts = [f"settings:\n{columns(self._setting_lines())}"] if self._setting_lines() else []
        parts += [textwrap.fill(self.more, _WIDTH)] if self.more else []
        self.epilog = "\n\n".join([*parts, f"example:\n  {self.example}"])
        return super().format_help()

    def _setting_lines(self) -> dict[str, str]:
        own = {f"{key}={each.metavar}": each.explanation for key, each in self.settings.items()}
        return {**own, **(_RUN_SETTINGS if self.takes_run_settings else {})}

    def _split(self, words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
        """Return the settings of a run, and the values of the verb's own settings."""
        values = {key: setting.default for key, setting in self.settings.items()}
        typed, rest = set(), []
        for word in words:
            key, sign, text = word.partition("=")
            if sign and key in self.settings:
                values[key] = self.settings[key].value(text)
                typed.update([key] if text else [])
            else:
                rest.append(word)
        missing = [
            f"{key}=" for key, each in self.settings.items() if each.required and key not in typed
        ]
        if missing and (self.takes_run_settings or not rest):
            raise UserError(
                f"'{self.verb}' needs {', '.join(missing)}; for example: {self.example}"
            )
        return rest, values

    def _unread(self, word: str) -> UserError:
        """Return the error for a word that nothing takes."""
        key, sign, _ = word.partition("=")
        if word.startswith("-") and len(word) > 1:
            return unknown(f"option of '{self.verb}'", key, self.option_names)
        if sign and self.settings:
            return unknown(f"setting of {self.verb}", key, self.settings)
        return UserError(
            f"'{self.verb}': '{word}' is one word too many; for example: {self.example}"
        )


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help of a fixed width, so that it reads the same in a terminal and in a file."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=_HELP_COLUMN, width=_WIDTH)


class _Version(argparse.Action):
    """Prints the version and ends; it is looked up only then."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(version_line())
        parser.exit()


def version_line() -> str:
    """Return the version, with the commit where one is known."""
    source = origin()
    changes = " with changes" if source["dirty"] else ""
    known = source["commit"] != "unknown"
    commit = f" (commit {source['commit'][:12]}{changes})" if known else ""
    return f"{NAME} {version()}{commit}"


def columns(texts: dict[str, str]) -> str:
    """Return names and their texts in two columns, long texts wrapped."""
    lines = []
    for name, text in texts.items():
        indent = " " * _HELP_COLUMN
        first, *others = textwrap.wrap(text, _WIDTH - _HELP_COLUMN) or [""]
        head = f"  {name}"
        if len(head) > _HELP_COLUMN - 2:
            lines += [head, indent + first]
        else:
            lines.append(f"{head:<{_HELP_COLUMN}}{first}")
        lines += [indent + line for line in others]
    return "\n".join(lines)


# -- how the texts of settings are read ------------------------------------------------------------


def true_or_false(text: str) -> bool:
    """Return the value of ``true`` or ``false``."""
    if text not in ("true", "false"):
        raise ValueError("takes true or false")
    return text == "true"


def positive(text: str) -> float:
    """Return a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError("takes a number above 0")
    return number


def whole_number(text: str) -> int:
    """Return a whole number of at least 1."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError("takes a whole number of at least 1")
    return int(text)


def names(text: str) -> list[str]:
    """Return the names of a list such as ``[a,b]``."""
    return [part.strip(" '\"") for part in text.strip("[]").split(",") if part.strip()]
