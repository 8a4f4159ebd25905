"""The space in which ``bench tune`` looks for the settings of a solver.

``space`` in ``conf/solver/*.yaml`` names settings. A list holds the values to choose from. A
mapping is a range: ``{low: 0.1, high: 10, log: true}``; it holds whole numbers if ``low`` and
``high`` are whole. A solver whose file has no ``space`` gets a range
around every number of its preset. No torch is imported here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from posterior_bench.bench.config.presets import effective_settings
from posterior_bench.bench.core.errors import UserError, unknown

DIGITS = 3
"""Values of a range have so many significant digits, so that a preset can be read and copied."""

_FACTOR = 10.0
"""A range that nobody declared goes from the preset's value over this to its value times this."""


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``; with ``log`` evenly on a logarithmic scale.

    Raises
    ------
    ValueError
        If ``low`` is not below ``high``, or not above 0 with ``log``.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        numbers = (self.low, self.high)
        if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
            raise ValueError(f"low {self.low!r} and high {self.high!r} must be numbers")
        if not (isfinite(self.low) and isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low {self.low} must be below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low} must be above 0 where log is true")

    @property
    def whole(self) -> bool:
        """Whether the range holds whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def rounded(self, value: float) -> float:
        """Return the value with :data:`DIGITS` significant digits, within the range."""
        if self.whole:
            return round(value)
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high and (not self.whole or value == round(value))


@dataclass(frozen=True)
class Choices:
    """Some values of any kind, without an order.

    Raises
    ------
    ValueError
        If there are fewer than two.
    """

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if len(self.values) < 2:
            raise ValueError("a list needs at least two values to choose from")

    def __contains__(self, value: object) -> bool:
        return value in self.values


Space = Mapping[str, Range | Choices]


def space_of(
    solver: Mapping[str, Any], name: str, preset: str, fixed: Collection[str] = ()
) -> Space:
    """Return the search space of a solver.

    Parameters
    ----------
    solver : Mapping of str to Any
        The solver's node, with presets.
    name : str
        What an error calls the solver.
    preset : str
        The preset that the search begins with.
    fixed : collection of str
        Settings that something else decides: the work, of which a budget decides.

    Returns
    -------
    Mapping of str to Range or Choices
        By setting; empty if the solver has no number to change.

    Raises
    ------
    UserError
        If ``space`` names an unknown setting or one of ``fixed``, or declares no range.
    """
    settings = effective_settings(solver, preset)
    declared = solver.get("space")
    if declared is None:
        return _around(settings, fixed)
    space = {}
    for key, node in declared.items():
        if key not in settings:
            raise unknown(f"setting in the space of {name}", key, settings)
        if key in fixed:
            raise UserError(
                f"the space of {name} has {key}, which the budget decides; take it out of the space"
            )
        space[key] = _read(node, f"the space of {name}, {key}")
    return space


def _read(node: Any, where: str) -> Range | Choices:
    try:
        if isinstance(node, Mapping):
            return Range(**node)
        if isinstance(node, list | tuple):
            return Choices(tuple(node))
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from None
    raise UserError(
        f"{where}: give a list of values, or a range such as {{low: 0.1, high: 10, log: true}}"
    )


def _around(settings: Mapping[str, Any], fixed: Collection[str]) -> dict[str, Range | Choices]:
    """Return a range around every positive number.

    Whole numbers are halved and doubled; a share stays a share.
    """
    space: dict[str, Range | Choices] = {}
    for key, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or key in fixed:
            continue
        if isinstance(value, int) and value > 1:
            space[key] = Range(max(1, value // 2), 2 * value, log=True)
        elif isinstance(value, float) and value > 0 and isfinite(value):
            high = 1.0 if value <= 1 and value * _FACTOR > 1 else value * _FACTOR
            space[key] = Range(value / _FACTOR, high, log=True)
    return space
