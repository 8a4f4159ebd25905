"""The caption of a table of a paper: what was measured, on how much, and what the marks mean."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from posterior_bench.bench.analysis.article_blocks import FLAGS
from posterior_bench.bench.analysis.article_layout import EMPTY, ArticleTable
from posterior_bench.bench.analysis.columns import range_text


def caption(lines: pd.DataFrame, table: ArticleTable) -> str:
    """Return the caption as plain text.

    Parameters
    ----------
    lines : DataFrame
        The lines of the leaderboard that the table shows.
    table : ArticleTable
        The table.
    """
    entries = [entry for block in table.blocks for each in block.entries.values() for entry in each]
    shown = {flag for entry in entries for flag in entry.flags}
    parts = [_measured(lines)]
    if table.intervals and any(entry.interval for entry in entries):
        parts.append("Brackets: 95 % bootstrap intervals of the means.")
    if any(entry.mark for entry in entries):
        parts.append(
            "Solvers that share a letter cannot be told apart at 5 % (paired sign-flip permutation "
            "tests, adjusted over all pairs). Bold: best mean and what shares a letter with it; "
            "underlined: second best likewise. Columns without letters are not tested."
        )
    else:
        parts.append("Nothing is marked, because no paired test was made.")
    parts += [
        f"{flag} {text[0].upper()}{text[1:]}." for flag, text in FLAGS.items() if flag in shown
    ]
    if any(len(block.entries) < len(table.keys) for block in table.blocks) and table.abreast:
        parts.append(f"{EMPTY} Not run.")
    return " ".join([*parts, _versions(lines)])


def _measured(lines: pd.DataFrame) -> str:
    """Return data, operator, masks, images, draws, seed and prior in a sentence."""
    facts = [
        _named(lines["data"], "data"),
        _named(lines["operator"], "operator"),
        _named(lines["mask"], "mask"),
        f"{range_text(lines['images'])} images with {_counted(lines['draws'])} each",
        _named(lines["seed"], "seed"),
        _named(lines["prior"], "prior"),
    ]
    return f"Means over images, draws averaged first: {'; '.join(facts)}."


def _counted(draws: pd.Series) -> str:
    return f"{range_text(draws)} draw{'s' if (draws > 1).any() else ''}"


def _named(values: Iterable[object], word: str) -> str:
    texts = list(dict.fromkeys(map(str, values)))
    return f"{word}{'s' if len(texts) > 1 and word != 'data' else ''} {', '.join(texts)}"


def _versions(lines: pd.DataFrame) -> str:
    """Return the versions of the product and of the tasks, and the commit."""
    known = [f"posterior-bench {', '.join(lines.attrs.get('versions') or ['of unknown version'])}"]
    known.append(f"tasks {' | '.join(lines['task_version'].drop_duplicates())}")
    commits = sorted({str(commit)[:7] for commit in lines["commit"] if commit})
    known += [f"commit {', '.join(commits)}"] if commits else []
    return f"{'; '.join(known)}."
