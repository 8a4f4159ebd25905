"""Names of solvers as a paper writes them, from the cards of the methods."""

from __future__ import annotations

import re

from posterior_bench.bench.config.build import target
from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.core.errors import UserError


def display_name(label: str) -> str:
    """Return the name of a solver of a leaderboard, such as ``VIPaint-2`` for ``vipaint2``.

    Changed settings that follow the name stay as they are. A solver that is no shipped option, or
    whose class cannot be loaded here, keeps its name.

    Parameters
    ----------
    label : str
        The solver as the leaderboard shows it.
    """
    name, _, settings = label.partition(" ")
    return f"{_titled(name)} {settings}".strip()


def _titled(name: str) -> str:
    """Return the title of an option: a card may name several methods of one class."""
    option = options("solver").get(name)
    if option is None:
        return name
    try:
        title = str(target(option.content).card.title)
    except (UserError, ImportError, AttributeError):
        return name
    titles = re.sub(r"\s*\([^)]*\)", "", title).split(" and ")
    found = next((each for each in titles if _letters(each) == _letters(name)), titles[0])
    head, rest = _letters(found), _letters(name)
    more = rest.removeprefix(head) if rest != head and rest.startswith(head) else ""
    return f"{found}-{more}" if more else found


def _letters(text: str) -> str:
    """Return the letters and digits alone."""
    return re.sub(r"[^a-z0-9]", "", text.lower())
