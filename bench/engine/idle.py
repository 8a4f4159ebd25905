"""Networks of a prior that a worker does not need for now wait in the memory of the host.

While images are scored, the prior waits. While a solver works, the autoencoder of a latent prior
waits except in its calls, until the solver takes a gradient through it. Numbers are the same bit
for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import nn

from posterior_bench.priors.base import Prior
from posterior_bench.priors.offload import HostCopy


class Idle:
    """The networks of a prior, and when they wait.

    Parameters
    ----------
    on : bool
        False leaves every network where it is.
    prior : Prior
        The prior.
    """

    def __init__(self, on: bool, prior: Prior):
        self.on, self.prior = on, prior
        self._net, self._latent = _copy(prior.net), _copy(prior.latent)

    def sampling(self) -> AbstractContextManager[None]:
        """Return a block in which a solver works."""
        return self.prior.lending(self._latent) if self.on else nullcontext()

    def scoring(self) -> AbstractContextManager[None]:
        """Return a block in which images are scored."""
        return self._scoring() if self.on else nullcontext()

    @contextmanager
    def _scoring(self) -> Iterator[None]:
        with self._net.parked(), self._latent.parked():
            yield


def _copy(module: nn.Module | None) -> HostCopy:
    return HostCopy([] if module is None else [module])
