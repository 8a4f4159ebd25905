"""Tables for papers (``bench table``): LaTeX that fits a column or a page, with its caption.

Marks and letters are those of the paired tests of the leaderboard. A column without tests, as of a
metric of all images, has no marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, product
from pathlib import Path

import pandas as pd

from posterior_bench.bench.analysis import leaderboard
from posterior_bench.bench.analysis.article_blocks import (
    Block,
    Entry,
    blocks,
    chosen_cells,
    chosen_columns,
    column_title,
    side_columns,
)
from posterior_bench.bench.analysis.article_caption import caption
from posterior_bench.bench.analysis.article_layout import EMPTY, SIZES, ArticleTable
from posterior_bench.bench.analysis.paper_styles import WIDTHS, PaperStyle, paper_style, text_width
from posterior_bench.bench.analysis.tables import escape_latex
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.store.atomic import write_atomic

CAPTION_SIZE, CAPTION_LEADING = 10, 12


@dataclass(frozen=True)
class TableWish:
    """What a table of a paper shows.

    Parameters
    ----------
    metrics : sequence of str
        Metrics and costs; empty for the first headlines and the passes.
    rows : sequence of str
        Solvers in their order; empty for all, best first.
    style : str
        A name of :data:`bench.analysis.paper_styles.STYLES`.
    width : str or None
        ``column`` or ``page``; None for the first that holds the table.
    interval : bool or None
        Whether intervals are shown; None for where they fit.
    where : mapping of str to str
        Columns of the leaderboard and the values that cells must have there.
    """

    metrics: Sequence[str] = ()
    rows: Sequence[str] = ()
    style: str = "neurips"
    width: str | None = None
    interval: bool | None = None
    where: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fitted:
    """A table that fits.

    Parameters
    ----------
    table : ArticleTable
        The table.
    kind : str
        ``column`` or ``page``.
    room : float
        The width of that, in points.
    caption : str
        Its caption, as plain text.
    """

    table: ArticleTable
    kind: str
    room: float
    caption: str


def write(study: Path, wish: TableWish, path: Path) -> Fitted:
    """Write the table of a study, and return it.

    Raises
    ------
    UserError
        If a name does not exist, or the table fits nowhere.
    """
    frame = leaderboard.build(study)
    found = fitted(frame, wish)
    write_atomic(path, latex(frame, found, wish, path.stem).encode())
    return found


def fitted(frame: pd.DataFrame, wish: TableWish) -> Fitted:
    """Return the first layout that fits: with intervals, narrow, and in large letters if possible.

    Parameters
    ----------
    frame : DataFrame
        The leaderboard.
    wish : TableWish
        What is shown.

    Raises
    ------
    UserError
        If a name does not exist, or the table fits nowhere.
    """
    style = paper_style(wish.style)
    lines = chosen_cells(frame, wish.rows, wish.where)
    columns = chosen_columns(lines, wish.metrics)
    tried: list[tuple[float, float, float]] = []
    for table, kind in _layouts(lines, columns, wish):
        room, words = style.width(kind), caption(lines, table)
        height = table.height + _caption_height(words, room)
        if table.width <= room and height <= style.height:
            return Fitted(table, kind, room, words)
        tried.append((table.width, height, room))
    raise _too_large(tried, style, wish)


def _layouts(
    lines: pd.DataFrame, columns: Sequence[str], wish: TableWish
) -> Iterator[tuple[ArticleTable, str]]:
    """Yield layouts, the best first; columns that were not asked for are left out at last."""
    fewest = len(columns) if wish.metrics else min(2, len(columns))
    side = side_columns(lines)
    kept: dict[int, list[Block]] = {}
    for interval in (True, False) if wish.interval is None else (wish.interval,):
        for count in range(len(columns), fewest - 1, -1):
            # passes stand at the end, and stay
            shown = columns if count == len(columns) else [*columns[: count - 1], columns[-1]]
            found = kept.setdefault(count, blocks(lines, shown))
            titles = [column_title(lines, name) for name in shown]
            abreast = (True, False) if len(found) > 1 else (True,)
            for kind, size, row in product(_kinds(wish), SIZES, abreast):
                yield ArticleTable(found, side, titles, size, row, interval), kind


def _kinds(wish: TableWish) -> Sequence[str]:
    return WIDTHS if wish.width is None else (wish.width,)


def _caption_height(words: str, room: float) -> float:
    return (text_width(words, CAPTION_SIZE) // room + 2) * CAPTION_LEADING


def _too_large(
    tried: Sequence[tuple[float, float, float]], style: PaperStyle, wish: TableWish
) -> UserError:
    """Return the error for a table that fits nowhere."""
    width, height, room = min(tried, key=lambda one: (one[0] > one[2], one[0] / one[2]))
    if width > room:
        return UserError(
            f"the table does not fit: it is {width:.0f} pt wide, and style={wish.style} has "
            f"{room:.0f} pt; name fewer metrics=[...], give interval=false, width=page, or choose "
            "cells with mask=, data= and the like"
        )
    return UserError(
        f"the table does not fit: it is {height:.0f} pt high with its caption, and "
        f"style={wish.style} has {style.height:.0f} pt; name solvers with rows=[...], or choose "
        "cells with mask=, data= and the like"
    )


# -- LaTeX -----------------------------------------------------------------------------------------


def latex(frame: pd.DataFrame, found: Fitted, wish: TableWish, name: str) -> str:
    """Return the table as LaTeX, with its notes as comments.

    Parameters
    ----------
    frame : DataFrame
        The leaderboard.
    found : Fitted
        The table.
    wish : TableWish
        What is shown.
    name : str
        The label after ``tab:``.
    """
    table = found.table
    place = paper_style(wish.style).environment(found.kind, "table")
    comments = ["needs \\usepackage{booktabs}", *frame.attrs["notes"]]
    words = _text(found.caption).replace(r" \%", r"~\%")
    label = re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-")
    return "\n".join(
        [
            *(f"% {' '.join(comment.split())}" for comment in comments),
            rf"\begin{{{place}}}[t]",
            r"\centering",
            rf"\caption{{{words}}}",
            rf"\label{{tab:{label}}}",
            r"\vspace{4pt}",
            rf"{_sized(table.size)}\setlength{{\tabcolsep}}{{{table.gap}pt}}%",
            *(_abreast(table) if table.abreast else _below(table)),
            rf"\end{{{place}}}",
            "",
        ]
    )


def _abreast(table: ArticleTable) -> list[str]:
    """Return the tabular of blocks side by side."""
    count, left = len(table.titles), len(table.side)
    lines = _opened(table, count * len(table.blocks))
    if any(block.heading for block in table.blocks):
        spans = (rf"\multicolumn{{{count}}}{{c}}{{{_text(b.heading)}}}" for b in table.blocks)
        lines.append(" & ".join([*[""] * left, *spans]) + r" \\")
        starts = [left + 1 + i * count for i in range(len(table.blocks))]
        lines.append("".join(rf"\cmidrule(lr){{{s}-{s + count - 1}}}" for s in starts))
    lines += [*_heads(table, len(table.blocks)), r"\midrule"]
    nothing = [Entry(EMPTY)] * count
    for key in table.keys:
        entries = (entry for block in table.blocks for entry in block.entries.get(key, nothing))
        lines.append(_line(table, key, entries))
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _below(table: ArticleTable) -> list[str]:
    """Return the tabular of blocks one below the other."""
    lines = [*_opened(table, len(table.titles)), *_heads(table, 1)]
    for block in table.blocks:
        heading = rf"\multicolumn{{{table.columns}}}{{@{{}}l}}{{\emph{{{_text(block.heading)}}}}}"
        lines += [r"\midrule", rf"{heading} \\"]
        lines += [_line(table, key, entries) for key, entries in block.entries.items()]
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _opened(table: ArticleTable, values: int) -> list[str]:
    left = "l" + "r" * (len(table.side) - 1)
    return [rf"\begin{{tabular}}{{@{{}}{left}{'r' * values}@{{}}}}", r"\toprule"]


def _heads(table: ArticleTable, times: int) -> list[str]:
    """Return the one or two lines of titles."""
    upper, lower = ([_text(head[i]) for head in table.heads] * times for i in (0, 1))
    side = [_SIDES[name] for name in table.side]
    above = [" & ".join([*[""] * len(side), *upper]) + r" \\"] if any(upper) else []
    return [*above, " & ".join([*side, *lower]) + r" \\"]


def _line(table: ArticleTable, key: Sequence[str], entries: Iterable[Entry]) -> str:
    boxes = cycle(table.boxes)
    values = (_entry(table, entry, *box) for entry, box in zip(entries, boxes, strict=False))
    return " & ".join([*map(_text, key), *values]) + r" \\"


def _entry(table: ArticleTable, entry: Entry, letters: float, interval: float) -> str:
    """Return an entry whose letters and interval are as wide as those of its column."""
    marks = {"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}", "": "{}"}
    text = EMPTY if entry.value == "—" else marks[entry.mark].format(_text(entry.value))
    if letters:
        raised = entry.letters + "".join(_text(flag) for flag in entry.flags)
        text += rf"\makebox[{letters:.1f}pt][l]{{\textsuperscript{{{raised}}}}}"
    if interval:
        ends = rf"{_sized(table.small)}{_text(entry.interval)}" if entry.interval else ""
        text += rf" \makebox[{interval:.1f}pt][r]{{{ends}}}"
    return text


def _sized(size: int) -> str:
    return rf"\fontsize{{{size}}}{{{size * 1.2:.1f}}}\selectfont "


def _text(text: str) -> str:
    """Return text as LaTeX."""
    plain = escape_latex(text)
    for sign, command in _SIGNS.items():
        plain = plain.replace(sign, command)
    return plain


_SIDES = {"solver": "Method", "prior": "Prior", "draws": "Draws"}

_SIGNS = {"‡": r"\ddag{}", "§": r"\S{}"}
"""Signs at values that a table of all metrics does not have."""
