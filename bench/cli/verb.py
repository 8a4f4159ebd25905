"""The description of a verb: its name, purpose, arguments and function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from posterior_bench.bench.cli.parser import Parser


@dataclass(frozen=True)
class Verb:
    """One verb of the command line.

    Parameters
    ----------
    name : str
        The word that is typed.
    does : str
        Its purpose, in one sentence without a capital and a full stop.
    example : str
        A command that works.
    add_arguments : callable
        Declares words, options and settings on a :class:`~bench.cli.parser.Parser`.
    run : callable
        Does the work and returns the exit code. Every declared value is a keyword argument.
    more : str, default ""
        Further text of the help.
    prints_only : bool, default False
        Whether the result is the printed text, so that nothing is lost where its reader has gone.
    abbreviations : bool, default False
        Whether options may be shortened, as Hydra allows for its own.
    """

    name: str
    does: str
    example: str
    add_arguments: Callable[[Parser], None]
    run: Callable[..., int]
    more: str = ""
    prints_only: bool = False
    abbreviations: bool = False

    def parser(self) -> Parser:
        """Return the parser of the words after the verb."""
        parser = Parser(self.name, self.does, self.example, self.more, self.abbreviations)
        self.add_arguments(parser)
        return parser
