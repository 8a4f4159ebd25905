"""Results of a check: one per promise and place, and a report per solver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PASS, FAIL, WARNING, SKIPPED = "pass", "fail", "warning", "skipped"


@dataclass(frozen=True)
class Result:
    """The result of one promise.

    Parameters
    ----------
    name : str
        Name of the promise.
    status : str
        ``pass``, ``fail``, ``warning`` or ``skipped``.
    reason : str, default ''
        Why the status is not ``pass``.
    """

    name: str
    status: str
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """All results of one solver.

    Parameters
    ----------
    solver : str
        Its name, as in ``solver=NAME``.
    columns : Mapping of str to Sequence of Result
        Results by place: ``code``, the name of each prior, and ``operator`` if it was checked.
    """

    solver: str
    columns: Mapping[str, Sequence[Result]]

    @property
    def failures(self) -> list[tuple[str, Result]]:
        """Broken promises, each with its column."""
        return self._with(FAIL)

    @property
    def warnings(self) -> list[tuple[str, Result]]:
        """Warnings, each with its column."""
        return self._with(WARNING)

    def _with(self, status: str) -> list[tuple[str, Result]]:
        return [
            (name, r)
            for name, results in self.columns.items()
            for r in results
            if r.status == status
        ]
