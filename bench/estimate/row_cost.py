"""The cost of one row, and the estimate for a cell."""

from __future__ import annotations

from dataclasses import dataclass

UNKNOWN = float("nan")
"""A figure that is not known."""

CALLS_HERE, OWN_ROWS, NOT_APPLICABLE = "calls here", "rows of this study", "does not apply"
PRINTED = "VIPaint, Table 5 (A6000)"
"""Where seconds are from; the table prints these words."""


@dataclass(frozen=True)
class RowCost:
    """The cost of one row; an unknown figure is NaN.

    Parameters
    ----------
    nfe : float
        Network evaluations (forward passes).
    passes : float
        Forward and backward passes.
    seconds : float
        Seconds that the solver takes.
    size : float
        Bytes on disk.
    source : str
        In few words, where the seconds are from.
    missing : str, default ''
        Why they are unknown.
    detail : str, default ''
        How they were measured, for the notes below the table.
    """

    nfe: float
    passes: float
    seconds: float
    size: float
    source: str
    missing: str = ""
    detail: str = ""

    @classmethod
    def unknown(cls, why: str) -> RowCost:
        """Return a cost of which nothing is known."""
        return cls(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, "unknown", why)


SKIPPED = RowCost(0.0, 0.0, 0.0, 0.0, NOT_APPLICABLE)
"""The cost of a cell that a run would skip."""


@dataclass(frozen=True)
class CellEstimate:
    """The estimate for one cell.

    Parameters
    ----------
    title : str
        The names of its options.
    data, prior : str
        The names of its data and prior.
    rows, chunks : int
        How many rows and chunks it has.
    workers : int
        How many workers its executor has.
    cost : RowCost
        The cost of one row.
    """

    title: str
    data: str
    prior: str
    rows: int
    chunks: int
    workers: int
    cost: RowCost
