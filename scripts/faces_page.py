"""Write docs/faces.md: who loses variants of cartoon faces, and who invents impossible ones.

    python -m scripts.leaderboard collect   # runs/ -> docs/leaderboard/*.parquet
    python -m scripts.faces_page            # docs/leaderboard -> the page and its figure

The text around the tables is ``docs/leaderboard/faces.txt``. Every interval and every test is
computed again from the committed values, one per image, solver and metric.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scripts import leaderboard
from scripts.faces_scatter import X, Y, faces_scatter
from scripts.leaderboard import FACES, FACES_LARGE, NOTHING_TO_TUNE, Published

from posterior_bench.bench.analysis.families import Family, family
from posterior_bench.bench.analysis.figures import render
from posterior_bench.bench.analysis.letters import ranks
from posterior_bench.bench.analysis.statistics import FEWEST, Array, means_over_images
from posterior_bench.bench.conformance.reference_pages.markdown import codes
from posterior_bench.bench.store.atomic import write_atomic

PAGE, FIGURE = leaderboard.ROOT / "docs" / "faces.md", leaderboard.DATA / "faces.svg"
MASKS = {
    "mouth": "Mouth hidden",
    "eyes": "Eyes hidden",
    "hair": "Hair hidden",
    "half": "Right half hidden",
    "rotated": "Hidden beyond a rotated line",
}
DIRECTIONS = {
    "face_weights_error": "down",
    "face_coverage": "up",
    "face_distance": "down",
    "face_calibration": "none",
}
"""The columns, and their better directions."""
ALT = (
    "A panel per mask: the error of the variants' frequencies of every solver against the distance "
    "of its draws to possible faces"
)
ARROWS = {"down": " ↓", "up": " ↑", "none": ""}


@dataclass(frozen=True)
class Column:
    """One metric of the solvers of a table.

    Parameters
    ----------
    metric : str
        Its name.
    values : DataFrame
        The value of every image (line) and solver (column). Images on which a solver has no value
        are left out.
    tested : Family
        The tests of all pairs of solvers.
    """

    metric: str
    values: pd.DataFrame
    tested: Family

    def apart(self, than: str, sign: int) -> list[str]:
        """Return the solvers whose mean is told apart from that of ``than``.

        Those above it for a ``sign`` of 1, those below it for -1.
        """
        names = list(self.values)
        k, means = names.index(than), self.values.mean()
        return [
            name
            for i, name in enumerate(names)
            if name != than and self.tested.differ[i, k] and sign * (means[name] - means[than]) > 0
        ]

    def differences(self, than: str) -> Iterator[tuple[str, str]]:
        """Yield every other solver with its mean less that of ``than``, and the interval."""
        names = list(self.values)
        k = names.index(than)
        for i, name in enumerate(names):
            if name != than:
                mean = (self.values[name] - self.values[than]).mean()
                lo, hi = self.tested.interval(i, k)
                text = f"{mean:+.3f} [{lo:.3f}, {hi:.3f}]"
                yield name, f"**{text}**" if self.tested.differ[i, k] else text

    def texts(self) -> dict[str, str]:
        """Return what the table says of every solver: mean, 95 % interval and letters."""
        columns = [self.values[name].to_numpy(float) for name in self.values]
        way = DIRECTIONS[self.metric]
        named = [""] * len(columns) if way == "none" else ranks(self.tested, way)
        means = intervals(columns, self.metric)
        return {
            name: f"{mean} {letters}".strip()
            for name, mean, letters in zip(self.values, means, named, strict=True)
        }


def intervals(columns: Sequence[Array], key: str) -> list[str]:
    """Return the mean of every column with its 95 % interval."""
    found = means_over_images(columns, key)
    return [
        f"{mean:.3f} [{lo:.3f}, {hi:.3f}]"
        for mean, lo, hi in zip(found.mean, found.lo, found.hi, strict=True)
    ]


@dataclass(frozen=True)
class Board:
    """The solvers that a study ran behind one mask.

    Parameters
    ----------
    study : Published
        The study.
    mask : str
        A key of :data:`MASKS`.
    cells : DataFrame
        A line per solver.
    columns : sequence of Column
        The metrics, not empty.
    """

    study: Published
    mask: str
    cells: pd.DataFrame
    columns: Sequence[Column]


def columns_of(cells: pd.DataFrame, images: pd.DataFrame) -> list[Column]:
    """Return the metrics of the cells of one mask."""
    found = []
    long = images.merge(cells[["cell", "label"]], on="cell")
    for metric in DIRECTIONS:
        values = long.pivot_table(index="image_id", columns="label", values=metric).dropna()
        if len(values) >= FEWEST:
            tested = family(values.to_numpy(float).T, metric)
            found.append(Column(metric, values, tested))
    return found


def boards() -> list[Board]:
    """Return what the committed files hold, mask by mask, the largest study first."""
    cells, images = leaderboard.read("cells"), leaderboard.read("images")
    assert cells is not None
    assert images is not None
    # what `exact` cannot enumerate has no value of any solver
    sound = (cells["missing"] == 0) & ((cells["failed"] == 0) | (cells["solver"] == "exact"))
    masks = np.array([leaderboard.mask_of(cell) for _, cell in cells.iterrows()])
    found = []
    for mask in MASKS:
        for study in (FACES_LARGE, FACES):
            own = cells[sound & (cells["study"] == study.name) & (masks == mask)]
            columns = columns_of(own, images)
            if columns:
                found.append(Board(study, mask, own, columns))
    return found


def section(board: Board) -> Iterator[str]:
    """Yield the heading, the verdicts and the table of a mask."""
    size = board.cells.iloc[0]
    yield f"### {MASKS[board.mask]}: {size['images']} images, {size['draws']} draws of each"
    yield from ("", *(f"- {verdict}" for verdict in verdicts(board.columns)), "")
    yield from (*table(board), "")


def points(every: Sequence[Board]) -> dict[str, pd.DataFrame]:
    """Return what the figure shows: means and intervals of its two metrics, mask by mask."""
    found = {}
    for board in every:
        by = {column.metric: column.values for column in board.columns}
        if board.study == FACES_LARGE and X in by and Y in by:
            parts = [_with_intervals(by[metric], metric) for metric in (X, Y)]
            found[MASKS[board.mask]] = pd.concat(parts, axis=1)
    return found


def _with_intervals(values: pd.DataFrame, metric: str) -> pd.DataFrame:
    found = means_over_images([values[name].to_numpy(float) for name in values], metric)
    ends = {metric: found.mean, f"{metric}_lo": found.lo, f"{metric}_hi": found.hi}
    return pd.DataFrame(ends, index=list(values))


def differences(every: Sequence[Board], metric: str, than: str) -> Iterator[str]:
    """Yield a table of the differences of a metric from that of ``than``, a column per mask.

    The solvers with the smallest error come first. What is told apart is bold.
    """
    by: dict[str, dict[str, str]] = {}
    means = {}
    for board in every:
        for column in board.columns:
            if board.study == FACES_LARGE and column.metric == metric and than in column.values:
                by[board.mask] = dict(column.differences(than))
                means[board.mask] = column.values.mean()
    order = pd.DataFrame(means).mean(axis=1).sort_values(ascending=DIRECTIONS[metric] == "down")
    yield f"| solver | {' | '.join(MASKS[mask].lower() for mask in by)} |"
    yield f"| --- |{' ---: |' * len(by)}"
    for name in order.index:
        if name != than:
            yield f"| `{name}` | {' | '.join(texts.get(name, '') for texts in by.values())} |"


def verdicts(columns: Sequence[Column]) -> Iterator[str]:
    """Yield sentences on who is told apart from draws of the posterior and of the prior."""
    by = {column.metric: column for column in columns}
    told = [
        f"{np.triu(c.tested.differ, 1).sum()} by `{c.metric}` ({len(c.values)} images)"
        for c in columns
        if DIRECTIONS[c.metric] != "none"
    ]
    count = columns[0].values.shape[1]
    pairs = count * (count - 1) // 2
    yield f"Of {pairs} pairs, these are told apart: {', '.join(told)}."
    for metric, than, sign, text in (
        ("face_weights_error", "exact", 1, "Farther from the posterior than exact draws"),
        ("face_weights_error", "prior", -1, "Nearer to the posterior than draws of the prior"),
        ("face_coverage", "exact", -1, "Cover less of the posterior than exact draws"),
    ):
        if metric in by and than in by[metric].values:
            found = [n for n in by[metric].apart(than, sign) if n not in NOTHING_TO_TUNE]
            yield f"{text} (`{metric}`): {codes(found) or 'none'}."


def table(board: Board) -> Iterator[str]:
    """Yield the lines of a table: the references first, then the solvers by the first metric."""
    columns = board.columns
    heads = [f"`{c.metric}`{ARROWS[DIRECTIONS[c.metric]]}" for c in columns]
    yield f"| solver | {' | '.join(heads)} | passes | settings |"
    yield f"| --- |{' ---: |' * (len(heads) + 1)} --- |"
    texts: list[Mapping[str, str]] = [column.texts() for column in columns]
    order = columns[0].values.mean().sort_values(kind="stable").index
    ahead = [name for name in board.study.reference if name in order]
    for name in [*ahead, *(n for n in order if n not in ahead)]:
        own = board.cells[board.cells["label"] == name]
        scores = [text.get(name, "") for text in texts]
        end = [f"{own['passes'].mean():.0f}", leaderboard.settings(FACES, own)]
        yield f"| {' | '.join([f'`{name}`', *scores, *end])} |"


def samples() -> Iterator[str]:
    """Yield the error of the prior itself: its samples beside faces of the distribution."""
    path = leaderboard.DATA / "face_samples.csv"
    if not path.exists():
        return
    found = pd.read_csv(path)
    heads = [f"`{metric}`" for metric in DIRECTIONS]
    yield f"| style | of | number | {' | '.join(heads)} |"
    yield f"| --- | --- | ---: |{' ---: |' * len(heads)}"
    for _, line in found.iterrows():
        scores = [f"{line[metric]:.3f}" for metric in DIRECTIONS]
        number = f"{line['count']:.0f}"
        yield f"| {' | '.join([line['style'], line['of'], number, *scores])} |"
    wide = found[found["style"] != "mean"].pivot_table(index="style", columns="of")
    columns = [(wide[m]["samples"] - wide[m]["faces"]).to_numpy(float) for m in DIRECTIONS]
    scores = intervals(columns, "samples")
    yield f"| all | samples - faces, 95 % over styles | | {' | '.join(scores)} |"


def page(every: Sequence[Board]) -> str:
    """Return the page."""
    parts = {
        "origin": leaderboard.origin([FACES_LARGE, FACES]),
        "figure": [f"![{ALT}](leaderboard/{FIGURE.name})"],
        "weights": differences(every, "face_weights_error", "exact"),
        "coverage": differences(every, "face_coverage", "prior"),
        "tables": (line for board in every for line in section(board)),
        "samples": samples(),
        "searches": leaderboard.searches([FACES]),
    }
    return leaderboard.filled("faces.txt", parts)


def main() -> None:
    """Write the page and its figure."""
    every = boards()
    write_atomic(FIGURE, render(faces_scatter(points(every)), "svg"))
    write_atomic(PAGE, page(every).encode())


if __name__ == "__main__":
    main()
