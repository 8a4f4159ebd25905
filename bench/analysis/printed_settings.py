"""Settings that a paper prints in a table, read from the solver of a cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from posterior_bench.bench.core.errors import UserError

PRE, POST, NEITHER = "PRE", "POST", "-"
"""Whether a network was trained for inpainting, was not, or has trained modules beside it."""


def steps(solver: Any) -> str:
    """Return the steps of a solver as LatentPaint's Table 1 counts them.

    For RePaint it prints the transitions, down and up: 4570 for 250 steps, not its 2410 network
    calls.
    """
    # loads torch: a table without steps is read without it
    from posterior_bench.solvers.repaint import RePaint
    from posterior_bench.solvers.shared.walk import walk

    if isinstance(solver, RePaint):
        moves = walk(solver.steps, solver.jump_length, solver.resamples)
        return str(sum(abs(t - s) for t, s in moves))
    return str(getattr(solver, "steps", ""))


def conditioning_type(solver: Any) -> str:
    """Return the type of conditioning as LatentPaint's Table 1 names it."""
    if "inpaint" in solver.needs:
        return PRE
    return NEITHER if getattr(solver, "modules", None) else POST


SETTINGS: Mapping[str, Callable[[Any], str]] = {
    "steps": steps,
    "conditioning_type": conditioning_type,
}
"""What reads a printed setting, by its name in the table."""


def printed_setting(name: str, node: Mapping[str, Any]) -> str:
    """Return a setting of the solver that a cell recorded; empty if it cannot be built here.

    A plugin that this command does not name is not loaded.
    """
    # loads torch: a table without such settings is read without it
    from posterior_bench.bench.config.build import build

    try:
        return SETTINGS[name](build(node))
    except (UserError, TypeError, ValueError):
        return ""
