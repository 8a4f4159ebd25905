"""A solver with few steps, for runs whose images nobody keeps."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from dataclasses import replace

from posterior_bench.solvers.base import Solver

FEW = 4
_SHORTENED = ("steps", "iterations", "levels", "every")
"""Ends of the names of settings that a short run sets to a small number."""


def shortened(solver: Solver) -> Solver:
    """Return the solver with few steps that uses its networks as before.

    A solver whose settings allow no fewer steps is returned as it is.
    """
    with suppress(ValueError):
        solver = solver.scaled(FEW / max(FEW, *solver.workload.values(), 0))
    values = {f.name: getattr(solver, f.name) for f in dataclasses.fields(solver)}  # type: ignore[arg-type]
    long = {k for k, v in values.items() if type(v) is int and k.endswith(_SHORTENED) and v > FEW}
    few = {name: 1 if name == "every" else FEW for name in values if name in long}
    try:
        return replace(solver, **few)  # type: ignore[type-var]
    except ValueError:
        return solver
