"""Check whether the rows of a cell were computed with the same software and hardware.

Rows of one cell must agree in code, version, build, device, threads and precision. Where they do
not, tables say so and do not rank the cell: its number is a mean over two things. Two commits alone
are allowed if the solver's source and the version are recorded and equal; a note names them. Rows
without a recorded code, as those of versions before 0.2.0, count as one code of their own, and
their commits stand in for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from posterior_bench.bench.analysis.columns import VERSIONS
from posterior_bench.bench.config.task_versions import outdated_lines

if TYPE_CHECKING:
    from posterior_bench.bench.analysis.cell_records import CellRecord

DECISIVE = ("code", "version", "build", "device", "threads", "precision")
COLUMNS = (*DECISIVE, "commit")
"""The columns of a row that say what it was computed with."""

_DIGITS = 6


@dataclass(frozen=True)
class Origin:
    """The software and hardware that the good rows of a cell were computed with.

    Parameters
    ----------
    found : mapping of str to sequence of str
        The different values of every column of :data:`COLUMNS`; '' where none is recorded.
    """

    found: Mapping[str, Sequence[str]]

    @property
    def mixed(self) -> str:
        """Return the columns in which rows differ that forbid a ranking, with the values.

        '' if none.
        """
        unknown = self.found.get("code") == [""]
        columns = [*DECISIVE, *(["commit"] if unknown else [])]
        return "; ".join(self._said(name) for name in columns if len(self.found.get(name, ())) > 1)

    @property
    def commits(self) -> Sequence[str]:
        """Return the different commits, if they do not forbid a ranking."""
        return self.found.get("commit", ()) if not self.mixed else ()

    def _said(self, name: str) -> str:
        return f"{name} {', '.join(value or 'not recorded' for value in self.found[name])}"


def origin_of(ok: pd.DataFrame) -> Origin:
    """Return the origin of the rows that have a result."""
    return Origin({name: _different(ok[name]) for name in COLUMNS if name in ok})


def _different(column: pd.Series) -> list[str]:
    whole = pd.api.types.is_numeric_dtype(column)
    values = column.drop_duplicates()
    return sorted(
        {"" if pd.isna(value) else f"{value:g}" if whole else str(value) for value in values}
    )


def data_labels(frame: pd.DataFrame) -> pd.Series:
    """Return the data of every line.

    Where two contents share name, images and seed, the first digits of the hash are added.
    """
    names = frame["data"].astype(str)
    same = frame.groupby(["data", "images", "seed"], sort=False)["content"].transform("nunique") > 1
    suffix = frame["content"].str[:_DIGITS].where(frame["content"] != "", "not recorded")
    return names.where(~same, names + " [" + suffix + "]")


def notes(frame: pd.DataFrame, origins: Sequence[Origin], cells: Sequence[CellRecord]) -> list[str]:
    """Return the notes on the origin of rows; ``origins`` belong to ``cells``."""
    named = dict(zip(frame["cell"], frame["solver"], strict=True))
    found = [(named[cell.name], cell, origin) for cell, origin in zip(cells, origins, strict=True)]
    mixed = [f"{name} [{cell.name[:8]}]: {o.mixed}" for name, cell, o in found if o.mixed]
    commits = [
        f"{name} [{cell.name[:8]}]: {', '.join(o.commits)}"
        for name, cell, o in found
        if len(o.commits) > 1
    ]
    versions = sorted({value for o in origins for value in o.found.get("version", ()) if value})
    unnamed = frame["content"] == ""
    said = [f"Version of posterior-bench: {', '.join(versions)}."] if versions else []
    tasks, studies = ([*frame[name].drop_duplicates()] for name in VERSIONS)
    said.append(
        f"Versions of tasks: {' | '.join(tasks)}. Studies: "
        f"{', '.join(filter(None, studies)) or 'not recorded'}."
    )
    said += [f"WARNING: {line}." for line in outdated_lines(cell.identity for cell in cells)]
    if mixed:
        said.append(f"MIXED rows in one cell, which is ranked nowhere: {' | '.join(mixed)}.")
    if commits:
        said.append(
            f"Rows of several commits with the same source of the solver: {' | '.join(commits)}."
        )
    if unnamed.any() and not unnamed.all():
        said.append(
            f"{int(unnamed.sum())} of {len(frame)} cells are of a version before 0.2.0 and do not "
            "record which pictures they were measured on: they stand apart and are not ranked "
            "with the others."
        )
    stale: dict[str, list[str]] = {}
    for name, cell, _ in found:
        for metric in sorted(cell.stale):
            stale.setdefault(metric, []).append(name)
    said += [
        f"{metric} is left empty for {', '.join(dict.fromkeys(names))}: an earlier version "
        "computed it in another way; run these cells again in another out=DIR."
        for metric, names in sorted(stale.items())
    ]
    return said
