"""The settings of ``bench plan`` itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from posterior_bench.bench.estimate.machine import free_memory


@dataclass(frozen=True)
class PlanSettings:
    """How ``plan`` finds the hours of a run.

    Parameters
    ----------
    measure : str, default 'calls'
        ``calls``: a few network calls here; ``none``: nothing is run; ``rows``: two images of every
        cell are run at full length.
    seconds_pass : float or None, default None
        Seconds of one forward or backward pass on the machine of the run.
    timings : str or None, default None
        A study folder with rows of the same prior.
    max_seconds : float, default 120
        Seconds that counting and measuring may take together.
    max_memory : int or None, default None
        Bytes for weights and activations; None = half of the free memory of the device.
    """

    measure: str = "calls"
    seconds_pass: float | None = None
    timings: str | None = None
    max_seconds: float = 120.0
    max_memory: int | None = None

    @property
    def memory(self) -> int:
        """Bytes that weights and activations may take."""
        return free_memory(call_device()) // 2 if self.max_memory is None else self.max_memory


def call_device() -> str:
    """Return the device of the calls that ``plan`` makes."""
    return "cuda" if torch.cuda.is_available() else "cpu"
