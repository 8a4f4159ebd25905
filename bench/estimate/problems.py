"""All problems of a command at once, each with the setting that repairs it.

The checks are those of :mod:`bench.estimate.doctor`. A run makes them only after it was refused,
so a run that can start does not wait for them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from posterior_bench.bench.core.errors import Inapplicable, UserError

if TYPE_CHECKING:  # a mistake in the settings is answered without Hydra
    from omegaconf import DictConfig

    from posterior_bench.bench.estimate.finding import Finding

TYPED: list[str] = []
"""The words after the verb, as they were typed."""

_FOLDER = "study folder"
_JOINED = "; and "
"""Between several things that a run lacks."""

_NO_REFUSAL = ("memory", "disk", "device")
"""Checks of doctor for which no run is refused."""


class Problems(UserError):
    """Everything that a run lacks: one line, or a heading and a line for each problem.

    Parameters
    ----------
    lines : sequence of str
        The problems.
    """

    def __init__(self, lines: Sequence[str]):
        super().__init__("; ".join(lines))
        self.lines = [str(UserError(line)) for line in lines]

    def __str__(self) -> str:
        if len(self.lines) == 1:
            return f"{self.lines[0]} (everything that is needed: {doctor_command()})"
        ends = [f"  everything that is needed: {doctor_command()}"]
        return "\n".join(
            [f"{len(self.lines)} problems", *(f"  {line}" for line in self.lines), *ends]
        )


class InapplicableProblems(Problems, Inapplicable):
    """Problems of a run whose parts do not fit together."""


def remember_typed(words: Sequence[str]) -> None:
    """Remember the words after the verb, for the command that a refusal prints."""
    TYPED[:] = words


def doctor_command() -> str:
    """Return the command that checks everything that a run of these settings needs."""
    settings = [word for word in TYPED if not word.startswith("-") or word in ("-m", "--multirun")]
    return shlex.join(["python", "-m", "bench", "doctor", *settings])


@contextmanager
def collected(cfg: DictConfig, choices: Mapping[str, Any]) -> Iterator[None]:
    """Name all problems that ``doctor`` finds where the block is refused for one of them.

    Parameters
    ----------
    cfg : DictConfig
        The composed configuration.
    choices : Mapping
        The name of the chosen option of every group.

    Raises
    ------
    Problems
        If the block raises UserError and ``doctor`` finds something missing.
    """
    try:
        yield
    except UserError as error:
        skipped = isinstance(error, Inapplicable) and cfg.study.get("skip_inapplicable")
        lines = [] if skipped or isinstance(error, Problems) else _lines(cfg, choices, error)
        if not lines:
            raise
        kind = InapplicableProblems if isinstance(error, Inapplicable) else Problems
        raise kind(lines) from error


def _lines(cfg: DictConfig, choices: Mapping[str, Any], error: UserError) -> list[str]:
    """Return a line for each finding, the prior first, and for each part of the error beside them.

    There are none where nothing is found. A need that several metrics share is one line.
    """
    found = sorted(
        _missing(cfg, choices), key=lambda finding: not finding.check.startswith("prior ")
    )
    if not found:
        return []
    text = str(error)
    own = [
        part for part in text.split(_JOINED) if not any(_says(finding, part) for finding in found)
    ]
    lines = [_line(finding, text) for finding in found]
    # an error that no finding names comes first; the rest of an error with several parts comes last
    ordered = [*lines, *own] if _JOINED in text else [*own, *lines]
    return list(
        {line.partition("' needs ")[2] or line: line for line in reversed(ordered)}.values()
    )[::-1]


def _says(finding: Finding, text: str) -> bool:
    """Return whether a finding is about the same problem as a part of an error."""
    return (
        finding.found in text
        or text in finding.found
        or (finding.check == _FOLDER and _FOLDER in text)
    )


def _line(finding: Finding, text: str) -> str:
    """Return a finding and its remedy, or the error of the run where it says more."""
    if finding.found != text and finding.found in text and _JOINED not in text:
        return text
    return f"{finding.found} -> {finding.remedy}" if finding.remedy else finding.found


def _missing(cfg: DictConfig, choices: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield the findings for which a run is refused."""
    # heavy: imports most of the product, and only a refused run needs it
    from posterior_bench.bench.estimate.doctor import refusals

    try:
        for finding in refusals(deepcopy(cfg), choices):
            if finding.state == "missing" and finding.check not in _NO_REFUSAL:
                # a run has one option of each group, so its name says nothing
                found = re.sub(r" is not set for \S+$", " is not set", finding.found)
                yield replace(finding, found=found)
    except (UserError, ValueError, OSError):
        return  # a setting itself is wrong: the error of the run says it
