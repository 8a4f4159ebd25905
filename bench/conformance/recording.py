"""Noise and priors that record how a solver uses them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Meter, Prior
from posterior_bench.solvers.base import Noise


@dataclass
class RecordingNoise(Noise):
    """Noise that records its calls, and is NaN in the rows of chosen images.

    Parameters
    ----------
    inner : Noise
        The noise that is handed on.
    nan_rows : range, default range(0)
        Rows in which normals are NaN.
    calls : list of str
        The methods that were called, in order.
    """

    inner: Noise
    nan_rows: range = field(default_factory=lambda: range(0))
    calls: list[str] = field(default_factory=list)

    @override
    def normal(self, shape: Sequence[int]) -> Tensor:
        self.calls.append("normal")
        x = self.inner.normal(shape)
        x[self.nan_rows.start : self.nan_rows.stop] = torch.nan
        return x

    @override
    def uniform(self, shape: Sequence[int]) -> Tensor:
        self.calls.append("uniform")
        return self.inner.uniform(shape)

    @override
    def host_uniform(self, shape: Sequence[int]) -> Tensor:
        self.calls.append("uniform")
        return self.inner.host_uniform(shape)

    @override
    def draws(self, draws: Sequence[int]) -> RecordingNoise:
        rows = range(self.nan_rows.start * len(draws), self.nan_rows.stop * len(draws))
        return RecordingNoise(self.inner.draws(draws), rows, self.calls)


@contextmanager
def count_network_rows(prior: Prior) -> Iterator[Meter]:
    """Count the rows that reach the network, independently of the prior's own meter.

    Parameters
    ----------
    prior : Prior
        The prior. Without a network, the rows of calls of ``denoise`` are counted.

    Yields
    ------
    Meter
        A meter whose ``nfe`` is the number of rows so far.
    """
    count = Meter()
    if prior.net is not None:
        handle = prior.net.register_forward_pre_hook(
            lambda _module, inputs: count.add("nfe", len(inputs[0]))
        )
        try:
            yield count
        finally:
            handle.remove()
        return
    denoise = prior.denoise

    def counting(z: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        count.add("nfe", len(z))
        return denoise(z, *args, **kwargs)

    # an attribute of the object hides the method of its class
    vars(prior)["denoise"] = counting
    try:
        yield count
    finally:
        del vars(prior)["denoise"]
