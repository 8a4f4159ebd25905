"""``bench diff A B``: two studies against each other, for example last month's and today's.

Cells of the two are matched by content: first cells with the same name, which is a hash of
everything that a number depends on by definition, then cells of the same solver on the same images
with the same mask, operator and prior, at last cells with the same names. Of every pair it says
what has changed, code, versions and settings, and what that did to the numbers: image by image,
with a paired test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from posterior_bench.bench.analysis import provenance
from posterior_bench.bench.analysis.cell_records import CellRecord
from posterior_bench.bench.analysis.columns import to_csv
from posterior_bench.bench.analysis.paired import ALPHA, family
from posterior_bench.bench.analysis.statistics import FEWEST, Array
from posterior_bench.bench.analysis.study_summary import StudySummary, summarise_study
from posterior_bench.bench.config.build import arguments
from posterior_bench.bench.config.cell import is_path
from posterior_bench.bench.core.errors import UserError, unknown
from posterior_bench.bench.store.atomic import write_atomic
from posterior_bench.bench.store.read_study import read_study
from posterior_bench.bench.store.study_files import check_study, read_cell
from posterior_bench.bench.store.truth import recorded

USAGE = "bench diff STUDY_A STUDY_B [metric=NAME] [out=FILE.csv]"
GIVEN = ("metric", "out")
COLUMNS = [
    "solver",
    "data",
    "mask",
    "operator",
    "prior",
    "metric",
    "a",
    "b",
    "difference",
    "lo",
    "hi",
    "p",
    "n",
]
"""Of the table; ``difference`` is B minus A, ``lo`` to ``hi`` its interval, ``p`` adjusted over the
cells of a metric.

``n`` counts the images that both have a finite value of.
"""

_SIZE = ("images", "draws", "seed")
_PLACE = ("mask", "operator", "prior")
_ROUNDS = (
    ("cell",),
    ("solver", "variant", "content", *_PLACE, *_SIZE),
    ("solver", "content", *_PLACE, *_SIZE),
    ("solver", "variant", "data", *_PLACE, *_SIZE),
    ("solver", "data", *_PLACE, *_SIZE),
)
"""By which columns cells are matched, the surest first."""

_LISTED = 20


@dataclass(frozen=True)
class Difference:
    """What two studies have in common and what not.

    ``pairs``: lines of matched cells, A's and B's. ``alone``: the names of cells that only A has,
    and only B. ``changes``: sentences, each with the number of pairs it is true of. ``table``:
    :data:`COLUMNS`, a line per pair and metric; ``refused``: of which pairs the numbers are not
    compared, and why.
    """

    pairs: int
    alone: tuple[Sequence[str], Sequence[str]]
    changes: Mapping[str, int]
    table: pd.DataFrame
    refused: Sequence[str]

    def text(self) -> str:
        """All of it for a terminal, a fact a line; of the numbers those that differ surely, and a
        count of the rest.
        """
        lines = [f"{self.pairs} cells are in both studies."]
        for side, names in zip("AB", self.alone, strict=True):
            if names:
                lines.append(f"Only in {side}: {len(names)} cells ({_some(names)}).")
        lines += ["", "What changed:" if self.changes else "No code, version or setting changed."]
        lines += [f"  {change} ({_count(count, 'cell')})" for change, count in self.changes.items()]
        lines += [f"Not compared: {reason}." for reason in self.refused]
        return "\n".join([*lines, "", *self._numbers()])

    def _numbers(self) -> list[str]:
        table = self.table
        if not len(table):
            return ["There are no numbers to compare."]
        equal = table["difference"].eq(0) & table["a"].eq(table["b"]) & table["lo"].eq(0)
        surely = table[table["p"] <= ALPHA]
        said = (
            f"{len(table)} means were compared: {int(equal.sum())} are equal on every image, "
            f"{len(surely)} differ "
        )
        lines = [
            f"{said}surely (paired sign-flip test, adjusted over the cells of a metric, 5 %), the "
            f"others cannot be "
            "told apart."
        ]
        few = int((table["n"] < FEWEST).sum())
        if few:
            lines.append(f"{few} of them are of fewer than {FEWEST} images, which are not tested.")
        order = (
            surely["difference"]
            .abs()
            .div(surely["hi"] - surely["lo"])
            .sort_values(ascending=False)
            .index
        )
        lines += [_line(surely.loc[i]) for i in order[:_LISTED]]
        if len(order) > _LISTED:
            lines.append(f"  and {len(order) - _LISTED} more; out=FILE.csv writes them all")
        return lines


def command(arguments: Sequence[str]) -> str:
    """Compare as the command line says, and return the text to print; writes the table where
    ``out=`` says.

    Raises UserError, one line, for what is not a study and for an unknown setting or metric.
    """
    folders, given = _parsed(arguments)
    found = diff(folders[0], folders[1], given.get("metric"))
    if out := given.get("out"):
        try:
            write_atomic(Path(out), to_csv(found.table))
        except OSError as error:
            raise UserError(f"out={out} cannot be written: {error.strerror}") from None
    return found.text()


def _parsed(arguments: Sequence[str]) -> tuple[list[Path], dict[str, str]]:
    folders = [Path(argument) for argument in arguments if "=" not in argument]
    if len(folders) != 2:
        raise UserError(f"'diff' takes two study folders: {USAGE}")
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    for key in given:
        if key not in GIVEN:
            raise unknown("setting of diff", key, GIVEN)
    for folder in folders:
        check_study(folder)
    return folders, given


def diff(a: Path, b: Path, metric: str | None = None) -> Difference:
    """Compare two studies; ``metric``: one of theirs instead of all that both have.

    Raises UserError for a metric that they do not both have.
    """
    try:
        one, two = (summarise_study(folder) for folder in (a, b))
    except ValueError as error:
        raise UserError(str(error)) from None
    metrics = [name for name in one.images if name in two.images]
    if metric is not None and metric not in metrics:
        raise unknown("metric of both studies", metric, metrics)
    pairs = match(one.lines, two.lines)
    changes, refused, lines = Counter[str](), list[tuple[str, str]](), list[list[object]]()
    sides_a, sides_b = _sides(one, a), _sides(two, b)
    for line_a, line_b in pairs:
        first, second = sides_a[line_a["cell"]], sides_b[line_b["cell"]]
        changes.update(_changes(first, second))
        if reason := _other_pictures(first.truth, second.truth):
            refused.append((reason, first.name))
            continue
        for chosen in [metric] if metric else metrics:
            if _same_definition(chosen, first, second):
                lines += _numbers(first, second, chosen)
            else:
                refused.append((f"the two versions compute {chosen} in different ways", first.name))
    table = pd.DataFrame(lines, columns=COLUMNS)
    table["p"] = table.groupby("metric")["p"].transform(_holm)
    matched = [{str(pair[side]["cell"]) for pair in pairs} for side in (0, 1)]
    alone = (_others(one.lines, matched[0]), _others(two.lines, matched[1]))
    return Difference(len(pairs), alone, dict(changes.most_common()), table, _counted(refused))


def _others(lines: pd.DataFrame, matched: Collection[str]) -> list[str]:
    """The solvers of the cells that are not matched."""
    return lines.loc[~lines["cell"].isin([*matched]), "label"].astype(str).tolist()


def match(a: pd.DataFrame, b: pd.DataFrame) -> list[tuple[pd.Series, pd.Series]]:
    """Pairs of lines, each line at most once; a round pairs what its columns name without doubt on
    both sides.
    """
    pairs: list[tuple[pd.Series, pd.Series]] = []
    for columns in _ROUNDS:
        sides: list[dict[tuple[str, ...], Any]] = []
        for frame in (a, b):
            known = {*(pair[len(sides)].name for pair in pairs)}
            left = frame[[i not in known for i in frame.index]]
            if "content" in columns:
                left = left[left["content"] != ""]
            keys = pd.Series(
                [tuple(map(str, key)) for key in left[[*columns]].to_numpy()], index=left.index
            )
            sides.append({key: i for i, key in keys[~keys.duplicated(keep=False)].items()})
        pairs += [
            (a.loc[i], b.loc[sides[1][key]]) for key, i in sides[0].items() if key in sides[1]
        ]
    return pairs


# -- what changed ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Side:
    """A cell of one of the studies: its line, its record, and what its rows were computed with and
    measured on.

    ``images``: the value of every metric by image, draws averaged. ``truth``: the hash of the
    picture of every row.
    """

    line: pd.Series
    record: CellRecord
    origin: provenance.Origin
    images: pd.DataFrame
    truth: pd.DataFrame | None

    @property
    def name(self) -> str:
        """Solver, data and mask, for people."""
        return " · ".join(str(self.line[key]) for key in ("label", "data", "mask"))

    def values(self, metric: str) -> pd.Series:
        """The values of a metric by image."""
        return self.images[metric].dropna()

    def facts(self) -> dict[str, str]:
        """Everything that a number may depend on, by name."""
        config = read_cell(self.record.folder / "config.yaml").get("config") or {}
        found = dict(_settings(config))
        found |= {
            name: ", ".join(values) or "not recorded" for name, values in self.origin.found.items()
        }
        found |= {key: str(self.line[key]) or "not recorded" for key in ("content", "fingerprint")}
        return {_NAMES.get(key, key): value for key, value in found.items()}


_NAMES = {
    "code": "source of the solver",
    "content": "pictures (hash)",
    "fingerprint": "prior (fingerprint)",
}


def _sides(study: StudySummary, folder: Path) -> dict[str, _Side]:
    """Every cell of a study, by its name."""
    images = {cell: part.droplevel("cell") for cell, part in study.images.groupby(level="cell")}
    none = study.images.iloc[:0].droplevel("cell")  # of a cell without a row that is ok
    truths = dict(iter(read_study(folder, ["truth"]).groupby("cell")))
    lines = {str(line["cell"]): line for _, line in study.lines.iterrows()}
    return {
        cell.name: _Side(
            lines[cell.name], cell, part.origin, images.get(cell.name, none), truths.get(cell.name)
        )
        for cell, part in zip(study.cells, study.parts, strict=True)
    }


def _settings(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The settings of a cell as they took effect, presets filled in, without paths."""
    for group in ("solver", "data", "mask", "operator", "prior"):
        node = config.get(group) or {}
        for key, value in {"class": node.get("_target_"), **arguments(node)}.items():
            if not is_path(key, value):
                yield f"{group}.{key}", str(value)
    for key in ("draws", "seed", "budget", "precision"):
        if key in config:
            yield key, str(config[key])


def _changes(a: _Side, b: _Side) -> Iterator[str]:
    """One text per fact that is another in B."""
    one, two = a.facts(), b.facts()
    solver = str(a.line["solver"])
    for key in dict.fromkeys([*one, *two]):
        if one.get(key) != two.get(key):
            owner = f"{solver}: " if key.startswith(("solver.", "source")) else ""
            yield f"{owner}{key}: {one.get(key, 'not set')} -> {two.get(key, 'not set')}"


def _same_definition(metric: str, a: _Side, b: _Side) -> bool:
    """Whether both studies computed a metric in the same way: the same version, and the same
    network.
    """
    cards = [side.record.metrics.get(metric, {}) for side in (a, b)]
    definitions = [
        (provenance.card_version(card), str(card.get("weights") or "")) for card in cards
    ]
    return definitions[0] == definitions[1]


def _other_pictures(a: pd.DataFrame | None, b: pd.DataFrame | None) -> str:
    """Why the rows of two cells cannot be paired; nothing where they can."""
    if a is None or b is None:
        return "it has no rows in one of the studies"
    one, two = recorded(a), recorded(b)
    other = [image for image, picture in one.items() if two.get(image, picture) != picture]
    return f"{len(other)} images are other pictures under the same name" if other else ""


# -- numbers ---------------------------------------------------------------------------------------


def _numbers(first: _Side, second: _Side, metric: str) -> list[list[object]]:
    """The line of a pair and a metric, ``p`` not adjusted yet; none where no image has a value of
    both.
    """
    a, b = first.values(metric), second.values(metric)
    both = a.index.intersection(b.index)
    one, two = a[both].to_numpy(float), b[both].to_numpy(float)
    finite = np.isfinite(one) & np.isfinite(two)
    one, two = one[finite], two[finite]
    if not len(one):
        return []
    named = [first.line[key] for key in ("label", "data", "mask", "operator", "prior")]
    means = [one.mean(), two.mean(), (two - one).mean()]
    return [[*named, metric, *means, *_tested(one, two, metric), len(one)]]


def _tested(a: Array, b: Array, key: str) -> tuple[float, float, float]:
    """The interval of B minus A and the p value of the pair alone; NaN where there are too few
    images.
    """
    if np.array_equal(a, b):
        return 0.0, 0.0, 1.0
    if len(a) < FEWEST:
        return np.nan, np.nan, np.nan
    found = family(np.stack([a, b]), key)
    return *found.interval(1, 0), float(found.p[0, 1])


def _holm(p: pd.Series) -> pd.Series:
    """Adjusted p values (Holm, "A simple sequentially rejective multiple test procedure", 1979);
    NaN stays.
    """
    known = p.dropna().sort_values()
    factors = np.arange(len(known), 0, -1)
    adjusted = pd.Series(
        np.minimum(np.maximum.accumulate(known.to_numpy() * factors), 1.0), index=known.index
    )
    return adjusted.reindex(p.index)


# -- words -----------------------------------------------------------------------------------------


def _line(row: pd.Series) -> str:
    place = " · ".join(str(row[key]) for key in ("solver", "data", "mask"))
    means = f"{row['a']:.4g} -> {row['b']:.4g} ({row['difference']:+.2g}"
    interval = f"95 % interval of this pair [{row['lo']:+.2g}, {row['hi']:+.2g}]"
    return (
        f"  {place}  {row['metric']}: {means}, {interval}, adjusted p = {row['p']:.2g}, "
        f"{row['n']} images)"
    )


def _counted(refused: Sequence[tuple[str, str]]) -> list[str]:
    """Reasons with the pairs they are of; each is said once."""
    by_reason: dict[str, list[str]] = {}
    for reason, name in refused:
        by_reason.setdefault(reason, []).append(name)
    return [f"{_some(names)}: {reason}" for reason, names in by_reason.items()]


def _some(names: Sequence[str]) -> str:
    shown = list(dict.fromkeys(names))
    return ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"
