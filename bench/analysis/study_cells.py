"""The cells of two studies: which belong together, and what has changed between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from posterior_bench.bench.analysis import provenance
from posterior_bench.bench.analysis.cell_records import CellRecord, card_version
from posterior_bench.bench.analysis.study_summary import StudySummary
from posterior_bench.bench.config.build import arguments
from posterior_bench.bench.config.cell import is_path
from posterior_bench.bench.store.read_study import read_study
from posterior_bench.bench.store.study_files import read_cell
from posterior_bench.bench.store.truth import truth_hashes

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


def match_lines(a: pd.DataFrame, b: pd.DataFrame) -> list[tuple[pd.Series, pd.Series]]:
    """Return pairs of lines, each line at most once.

    A round pairs the lines that its columns identify without doubt in both studies.
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


@dataclass(frozen=True)
class StudyCell:
    """A cell of one of the studies.

    Parameters
    ----------
    line : Series
        Its line in the leaderboard.
    record : CellRecord
        Its ``config.yaml``.
    origin : provenance.Origin
        The software and hardware of its rows.
    images : DataFrame
        The value of every metric by image, draws averaged.
    truth : DataFrame | None
        The hash of the picture of every row.
    """

    line: pd.Series
    record: CellRecord
    origin: provenance.Origin
    images: pd.DataFrame
    truth: pd.DataFrame | None

    @property
    def name(self) -> str:
        """Return solver, data and mask, for people."""
        return " · ".join(str(self.line[key]) for key in ("label", "data", "mask"))

    def values(self, metric: str) -> pd.Series:
        """Return the values of a metric by image."""
        return self.images[metric].dropna()

    def facts(self) -> dict[str, str]:
        """Return everything that a number may depend on, by name."""
        config = read_cell(self.record.folder / "config.yaml").get("config") or {}
        found = dict(_settings(config))
        found |= {
            name: ", ".join(values) or "not recorded" for name, values in self.origin.found.items()
        }
        found |= {key: str(self.line[key]) or "not recorded" for key in FACTS}
        return {_NAMES.get(key, key): value for key, value in found.items()}


_NAMES = {
    "code": "source of the solver",
    "content": "pictures (hash)",
    "fingerprint": "prior (fingerprint)",
    "task_version": "versions of the task",
}
FACTS = ("content", "fingerprint", "task_version")
"""Columns of a line that say what was measured."""


def study_cells(study: StudySummary, folder: Path) -> dict[str, StudyCell]:
    """Return every cell of a study, by its name."""
    images = {cell: part.droplevel("cell") for cell, part in study.images.groupby(level="cell")}
    none = study.images.iloc[:0].droplevel("cell")  # of a cell without a row that is ok
    truths = dict(iter(read_study(folder, ["truth"]).groupby("cell")))
    lines = {str(line["cell"]): line for _, line in study.lines.iterrows()}
    return {
        cell.name: StudyCell(
            lines[cell.name], cell, part.origin, images.get(cell.name, none), truths.get(cell.name)
        )
        for cell, part in zip(study.cells, study.parts, strict=True)
    }


def _settings(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the settings of a cell as they took effect, presets filled in, without paths."""
    for group in ("solver", "data", "mask", "operator", "prior"):
        node = config.get(group) or {}
        for key, value in {"class": node.get("_target_"), **arguments(node)}.items():
            if not is_path(key, value):
                yield f"{group}.{key}", str(value)
    for key in ("draws", "seed", "budget", "precision"):
        if key in config:
            yield key, str(config[key])


def changes_between(a: StudyCell, b: StudyCell) -> Iterator[str]:
    """Yield one text per fact that is different in B."""
    one, two = a.facts(), b.facts()
    solver = str(a.line["solver"])
    for key in dict.fromkeys([*one, *two]):
        if one.get(key) != two.get(key):
            owner = f"{solver}: " if key.startswith(("solver.", "source")) else ""
            yield f"{owner}{key}: {one.get(key, 'not set')} -> {two.get(key, 'not set')}"


def same_definition(metric: str, a: StudyCell, b: StudyCell) -> bool:
    """Return whether both studies computed a metric with the same version and the same network."""
    cards = [side.record.metrics.get(metric, {}) for side in (a, b)]
    definitions = [(card_version(card), str(card.get("weights") or "")) for card in cards]
    return definitions[0] == definitions[1]


def other_task(a: StudyCell, b: StudyCell) -> str:
    """Return why the numbers of two cells are of different tasks; empty if they are not."""
    one, two = (str(side.line["task_version"]) for side in (a, b))
    return "" if one == two else f"versions of the task differ: {one} in A and {two} in B"


def other_pictures(a: pd.DataFrame | None, b: pd.DataFrame | None) -> str:
    """Return why the rows of two cells cannot be paired; empty if they can."""
    if a is None or b is None:
        return "it has no rows in one of the studies"
    one, two = truth_hashes(a), truth_hashes(b)
    other = [image for image, picture in one.items() if two.get(image, picture) != picture]
    return f"{len(other)} images are other pictures under the same name" if other else ""
