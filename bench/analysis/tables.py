"""The leaderboard as people read it: Markdown, LaTeX and the terminal, with one ranking."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from posterior_bench.bench.analysis.letters import share

GROUP = ["data", "mask", "operator", "images", "seed", "content", "task_version"]
"""Cells that agree in these saw the same images and measurements; they stand in one table."""


RANKED = [*GROUP, "prior", "fingerprint", "draws"]
"""Cells that agree in these too are ranked against each other: name and content of the prior, and
draws, because a mean over more draws varies less."""


INCOMPLETE = "†"


RANKING = (
    "Bold: best mean, underlined: second best, among cells measured on the same images with the "
    "same prior and draws. Where there are rank letters, solvers that share one with the best "
    "(second best) are marked too."
)


MOST_DECIMALS = 8


Card = Mapping[str, str]


Style = Callable[[str, str, str], str]


_ARROW = {"up": " ↑", "down": " ↓", "none": ""}


_MARKDOWN = re.compile(r"([\\|*`\[\]])")


_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: "\\" + c for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "·": r"$\cdot$",
    "†": r"\dag{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "∞": r"$\infty$",
    "—": "---",
}


def leaderboard_markdown(frame: pd.DataFrame) -> str:
    """Return GitHub Markdown: a table per group, best mean bold, second underlined, notes below."""
    marks = {"best": "**{}**", "second": "<u>{}</u>", "": "{}"}

    def cell(value: str, ends: str, mark: str) -> str:
        return f"{marks[mark].format(value)} {ends}".strip()

    parts = ["# Leaderboard"]
    for heading, lines in _groups(frame):
        head, *body = _grid(frame, lines, escape_markdown, cell)
        rule = ["---", *["---:"] * (len(head) - 1)]
        parts += [
            "",
            f"## {escape_markdown(heading)}",
            "",
            *(f"| {' | '.join(row)} |" for row in (head, rule, *body)),
        ]
    return "\n".join(
        [
            *parts,
            "",
            *(f"- {escape_markdown(note)}" for note in (RANKING, *frame.attrs["notes"])),
            "",
        ]
    )


def leaderboard_latex(frame: pd.DataFrame) -> str:
    """Return one ``tabular`` with booktabs rules, a heading per group, notes below it."""
    marks = {"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}", "": "{}"}

    def cell(value: str, ends: str, mark: str) -> str:
        return marks[mark].format(escape_latex(value)) + (
            rf" {{\scriptsize {escape_latex(ends)}}}" if ends else ""
        )

    grids = [
        (heading, _grid(frame, lines, escape_latex, cell)) for heading, lines in _groups(frame)
    ]
    head = grids[0][1][0]
    parts = [
        "% needs \\usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
    ]
    parts.append(" & ".join(head) + r" \\")
    for heading, (_, *body) in grids:
        parts += [
            r"\midrule",
            rf"\multicolumn{{{len(head)}}}{{l}}{{\emph{{{escape_latex(heading)}}}}} \\",
        ]
        parts += [" & ".join(row) + r" \\" for row in body]
    parts += [r"\bottomrule", r"\end{tabular}", "", r"\smallskip", r"{\footnotesize"]
    return "\n".join(
        [
            *parts,
            *(rf"{escape_latex(note)}\par" for note in (RANKING, *frame.attrs["notes"])),
            "}",
            "",
        ]
    )


def terminal_table(
    frame: pd.DataFrame, width: int, metrics: int = 4, first: Iterable[str] = ()
) -> Table:
    """Return a table for a terminal of ``width`` characters.

    It shows the solver, the columns that distinguish the groups, one column per kind of metric with
    interval, and costs. Of a metric with several columns, the hole is shown, else the pasted image:
    that is what a solver had to invent. Headings are the column names of the CSV. As many kinds of
    metric are shown as fit, at least one and at most ``metrics``; those named in ``first`` come
    before the others.
    """
    cards = frame.attrs["metrics"]
    wanted = headlines({m: cards[m] for m in first if m in cards}, frame)
    shown = [*wanted, *(m for m in headlines(cards, frame) if m not in wanted)]
    tables = (_terminal(frame, shown[:count]) for count in range(metrics, 0, -1))
    ruler = Console(width=10 * width)
    fitting = (table for table in tables if ruler.measure(table).maximum <= width)
    return next(fitting, _terminal(frame, shown[:1]))


def _terminal(frame: pd.DataFrame, metrics: Sequence[str]) -> Table:
    cards = {name: frame.attrs["metrics"][name] for name in metrics}
    others = ("data", "operator", "images", "seed", "prior", "draws")
    shown = ["mask", *(name for name in others if _varies(frame, name))]
    table = Table(caption="\n".join(frame.attrs["notes"]), caption_justify="left")
    table.add_column("solver", overflow="fold", min_width=12)
    heads = [name + _ARROW[card["direction"]] for name, card in cards.items()]
    for name in (*shown, *heads, "passes", "s / draw", *_count_names(frame)):
        table.add_column(name, justify="left" if name in shown else "right", no_wrap=True)
    marks = {"best": "bold", "second": "underline", "": ""}
    for _, lines in _groups(frame):
        ranks = {m: ranking(lines, m, card["direction"]) for m, card in cards.items()}
        for i, line in lines.iterrows():
            scores = [
                Text.assemble(
                    (_with_interval(line, m), marks[ranks[m][i]]), (_letters(frame, line, m), "dim")
                )
                for m in cards
            ]
            counts = [str(line[name]) for name in _count_names(frame)]
            table.add_row(
                Text(_name(line)),
                *(Text(str(line[c])) for c in shown),
                *scores,
                *_costs(line),
                *counts,
            )
        table.add_section()
    return table


def headlines(metrics: Mapping[str, Card], frame: pd.DataFrame | None = None) -> list[str]:
    """Return one column per kind of metric: ``psnr_hole`` of psnr, psnr_hole, psnr_known, ...

    A column without a value in ``frame`` stands for its kind only where no column has one: without
    masks there are no holes.
    """
    kinds: dict[str, dict[str, str]] = {}
    for name in metrics:
        kind, _, place = name.partition("_")
        if place not in ("hole", "known", "pasted", "hole_pasted", "known_pasted", "ratio"):
            kind, place = name, ""
        kinds.setdefault(kind, {})[place] = name
    found = []
    for places in kinds.values():
        names = [places[p] for p in ("hole", "pasted", *places) if p in places]
        found.append(next((n for n in names if frame is None or frame[n].notna().any()), names[0]))
    return found


def leading(metrics: Mapping[str, Card], lines: pd.DataFrame) -> str | None:
    """Return the metric that a group of lines is sorted by.

    It is the first headline that has a direction and a value.
    """
    names = headlines(metrics, lines)
    return next(
        (m for m in names if metrics[m]["direction"] != "none" and lines[m].notna().any()), None
    )


def rank_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns of rank letters that are shown: those of the headline metrics."""
    return [
        f"{name}_rank"
        for name in headlines(frame.attrs["metrics"], frame)
        if f"{name}_rank" in frame
    ]


def _beside(frame: pd.DataFrame, metric: str) -> list[str]:
    """Return the columns shown right of a metric: its rank letters, and the printed number."""
    rank, printed = f"{metric}_rank", f"{metric}_paper"
    has_printed = printed in frame and (frame[printed] != "").any()
    return [*([rank] if rank in rank_columns(frame) else []), *([printed] if has_printed else [])]


def _letters(frame: pd.DataFrame, line: pd.Series, metric: str) -> str:
    """Return the rank letters of a line, as wide as the widest of the column."""
    name = f"{metric}_rank"
    return f" {line[name]:<{frame[name].str.len().max()}}" if name in frame else ""


def _count_names(frame: pd.DataFrame) -> list[str]:
    """Return ``failed``, and ``missing`` if a row is missing."""
    return ["failed", *(["missing"] if frame["missing"].any() else [])]


def ranking(lines: pd.DataFrame, metric: str, direction: str) -> pd.Series:
    """Return ``best``, ``second`` or nothing per line of a group; ties share a place.

    Lines are ranked that agree in :data:`RANKED`; a line alone has no place. Lines tie if they
    share a rank letter, or without letters if their means are equal. Three kinds of cells are left
    out: with failed or missing rows, because dropping hard images would make a solver look better;
    with infinite values, because dropping perfect images would make it look worse; and with mixed
    rows.
    """
    places = pd.Series("", index=lines.index, dtype=object)
    if direction == "none" or len(lines) < 2:
        return places
    infinite = lines[f"{metric}_inf"] > 0
    sound = (lines["failed"] == 0) & (lines["missing"] == 0) & (lines["mixed"] == "")
    for _, left in lines[sound & lines[metric].notna() & ~infinite].groupby(RANKED, sort=False):
        for place in ("best", "second") if len(left) > 1 else ():
            tied = _tied(left, metric, direction)
            places[left.index[tied]] = place
            left = left[~tied]
    return places


def _tied(lines: pd.DataFrame, metric: str, direction: str) -> pd.Series:
    """Return which lines cannot be told apart from the one with the best mean."""
    values = lines[metric]
    best = values == (values.max() if direction == "up" else values.min())
    rank = lines.get(f"{metric}_rank", pd.Series("", index=lines.index))
    shared = [any(share(name, other) for other in rank[best]) for name in rank]
    return best | pd.Series(shared, index=lines.index, dtype=bool)


def escape_markdown(text: str) -> str:
    """Return ``text`` as it stands inside a table cell."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split())).replace("<", "&lt;")


def escape_latex(text: str) -> str:
    """Return ``text`` with LaTeX's special characters spelt out."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _grid(
    frame: pd.DataFrame, lines: pd.DataFrame, escape: Callable[[str], str], cell: Style
) -> list[list[str]]:
    """Return header and lines of a group, escaped.

    ``cell`` formats a value with interval and place.
    """
    cards = _valued(frame)
    more = [name for name in ("prior", "draws") if _varies(frame, name)]
    beside = {m: _beside(frame, m) for m in cards}
    scored = [
        head
        for m, card in cards.items()
        for head in (metric_title(card), *(_last_word(c) for c in beside[m]))
    ]
    heads = ["solver", *more, *scored, "passes", "s / draw", "failed", "missing"]
    ranks = {m: ranking(lines, m, card["direction"]) for m, card in cards.items()}
    grid = [[escape(head) for head in heads]]
    for i, line in lines.iterrows():
        names = [escape(_name(line)), *(escape(str(line[name])) for name in more)]
        scores = [
            text
            for m in cards
            for text in (
                cell(*value_and_interval(line, m), ranks[m][i]),
                *(escape(_with_flag(line, c)) for c in beside[m]),
            )
        ]
        grid.append([*names, *scores, *(escape(text) for text in (*_costs(line), *_counts(line)))])
    return grid


def _valued(frame: pd.DataFrame) -> Mapping[str, Card]:
    """Return the metrics that some cell has a value of; all metrics if there are none."""
    cards: Mapping[str, Card] = frame.attrs["metrics"]
    return {m: card for m, card in cards.items() if frame[m].notna().any()} or cards


def _last_word(column: str) -> str:
    return column.rpartition("_")[2]


def _with_flag(line: pd.Series, column: str) -> str:
    """Return rank letters, or a printed value with its flag."""
    flag = line.get(f"{column}_flag", "")
    return f"{line[column]} ({flag})" if flag else str(line[column])


def _groups(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    several = _varies(frame, "task_version")
    for names, lines in frame.groupby(GROUP, sort=False):
        data, mask, operator, images, seed, _, versions = names
        heading = f"{data} · {mask} · {operator} · {images} images · seed {seed}"
        yield f"{heading} · versions {versions}" if several else heading, lines


def _varies(frame: pd.DataFrame, column: str) -> bool:
    return frame[column].nunique() > 1


def _name(line: pd.Series) -> str:
    return (
        f"{line['solver']} {INCOMPLETE}"
        if line["failed"] or line["missing"]
        else str(line["solver"])
    )


def metric_title(card: Mapping[str, str]) -> str:
    """Return the title of a metric with its unit and an arrow to better values."""
    unit = f" ({card['unit']})" if card["unit"] else ""
    return f"{card['title']}{unit}{_ARROW[card['direction']]}"


def _costs(line: pd.Series) -> list[str]:
    seconds = line["seconds_fit"] + line["seconds_sample"]
    return [significant(line["passes"]), significant(seconds)]


def _counts(line: pd.Series) -> list[str]:
    return [str(line["failed"]), str(line["missing"])]


def value_and_interval(line: pd.Series, metric: str) -> tuple[str, str]:
    """Return a value and its interval ``[lo, hi]`` as text, where there is one.

    Beside the interval stands the number of images with an infinite value, which is in neither.
    """
    value, lo, hi = (float(line[f"{metric}{end}"]) for end in ("", "_lo", "_hi"))
    places = decimals(value, lo, hi)
    ends = [] if math.isnan(lo) else [f"[{number(lo, places)}, {number(hi, places)}]"]
    if infinite := int(line[f"{metric}_inf"]):
        ends.append(f"({infinite} of {infinite + int(line[f'{metric}_n'])} infinite)")
    return number(value, places), " ".join(ends)


def _with_interval(line: pd.Series, metric: str) -> str:
    return " ".join(value_and_interval(line, metric)).strip()


def decimals(value: float, lo: float = math.nan, hi: float = math.nan) -> int:
    """Return how many decimals a value gets: two significant digits of half its interval.

    At least one significant digit of the value itself is shown, with up to two more decimals; four
    significant digits where there is no interval.
    """
    half = (hi - lo) / 2
    if not (math.isfinite(half) and half > 0):
        return _places(value, 4)
    fitting = _places(half, 2)
    return max(fitting, min(_places(value, 2), fitting + 2))


def _places(value: float, digits: int) -> int:
    """Return the decimals of a number with so many significant digits."""
    if not math.isfinite(value) or value == 0:
        return digits
    return max(digits - 1 - math.floor(math.log10(abs(value))), 0)


def number(value: float, places: int) -> str:
    """Return ``value`` with so many decimals, as a power of ten if these are many.

    Zero has no sign.
    """
    if math.isnan(value):
        return "—"
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞"
    text = f"{value:.{places}f}" if places <= MOST_DECIMALS else f"{value:.2e}"
    return text.removeprefix("-") if float(text) == 0 else text


def significant(value: float) -> str:
    """Return three significant digits without an exponent."""
    if not math.isfinite(value) or value == 0:
        return number(value, 0)
    return f"{value:,.{max(2 - math.floor(math.log10(abs(value))), 0)}f}".replace(",", "")
