"""Latent consistency models in diffusers folders: the scheduler says that a network is one.

A latent consistency model (Luo et al. 2023) has the network and the schedule of the model that it
was distilled from. New are the boundary condition ``x0 = c_skip z + c_out x0_network``, with
``c_skip = s^2 / (k^2 t^2 + s^2)`` and ``c_out = k t / sqrt(k^2 t^2 + s^2)`` for the training step
``t``, the scaling ``k`` = 10 and ``s`` = 0.5. Some networks also read a strength of guidance.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

SCHEDULER = "LCMScheduler"
SCALING = 10.0
"""The scaling where a file names none: diffusers' default."""


def scheduler_kind(schedule: Mapping[str, object]) -> str:
    """Return the kind in ``diffusers_settings.SCHEDULERS`` of a scheduler with betas."""
    return "lcm" if schedule.get("_class_name") == SCHEDULER else "vp"


def timestep_scaling(schedule: Mapping[str, object], file: Path) -> float | None:
    """Return the scaling of the time in the boundary condition.

    Parameters
    ----------
    schedule : Mapping[str, object]
        The configuration of the scheduler.
    file : Path
        Its file, for error messages.

    Returns
    -------
    float or None
        None for the scheduler of any other model.

    Raises
    ------
    ValueError
        If the scaling is not a positive number.
    """
    if scheduler_kind(schedule) != "lcm":
        return None
    value = schedule.get("timestep_scaling", SCALING)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"{file}: timestep_scaling must be a positive number, got {value!r}")
    return float(value)
