"""The heading of a report: the title of the study, its question, and what it consists of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from posterior_bench.bench.analysis.columns import range_text
from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.store.study_files import study_settings

LISTED = 4
"""So many names are listed in a question; of more, their number is said."""

HASH = re.compile(r" sha256=\w+")
"""What tells two folders of masks apart in a table; a question reads better without it."""


def heading(study: Path, board: pd.DataFrame, measurements: int) -> dict[str, str]:
    """Return ``title``, ``question``, ``about`` and ``size`` of a study.

    The title and the question are ``study.title`` and ``study.question`` of its configuration.
    Without a title, the name of the study stands there, or that of its folder if no ``study=`` was
    chosen. Without a question, one is made from the solvers, data and masks.

    Parameters
    ----------
    study : Path
        The study folder.
    board : DataFrame
        The leaderboard.
    measurements : int
        How many groups of cells saw the same measurements.
    """
    settings = study_settings(study).get("study", {})
    name = str(settings.get("name") or "default")
    known = options("study").get(name) if name != "default" else None
    size = (
        _count(board["solver"].nunique(), "solver"),
        _count(measurements, "measurement"),
        _count(len(board), "cell"),
        f"{range_text(board['images'])} images",
        f"{range_text(board['draws'])} draws",
    )
    return {
        "title": str(
            settings.get("title") or (study.resolve().name if name == "default" else name)
        ),
        "question": str(settings.get("question") or question(board, settings.get("paper"))),
        "about": known.summary if known else "",
        "size": " · ".join(size),
    }


def question(board: pd.DataFrame, paper: object = None) -> str:
    """Return the question that the cells of a study answer.

    Parameters
    ----------
    board : DataFrame
        The leaderboard.
    paper : str, optional
        The table of a paper that the study repeats.
    """
    if paper:
        return f"Do the numbers printed in {paper} hold?"
    solvers, data, masks = ([*dict.fromkeys(board[k])] for k in ("solver", "data", "mask"))
    operators = [*dict.fromkeys(str(text).split(" ")[0] for text in board["operator"])]
    alone = len(solvers) == 1
    subject = f"How good is {solvers[0]}" if alone else f"Which of {len(solvers)} solvers is best"
    where = f" on {_listed(data, 'data sets')}"
    if operators == ["inpainting"]:
        return f"{subject}{where}, behind {_listed(masks, 'masks')} masks?"
    return f"{subject}{where}, with {_listed(operators, 'operators')}?"


def _listed(names: Sequence[object], kind: str) -> str:
    """Return ``a, b and c``, or how many there are."""
    texts = list(dict.fromkeys(HASH.sub("", str(name)) for name in names))
    if len(texts) > LISTED:
        return f"{len(texts)} {kind}" if kind != "masks" else f"{len(texts)} kinds of"
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
