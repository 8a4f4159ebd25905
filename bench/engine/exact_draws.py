"""Exact posterior draws for the metrics that compare with them.

They are made once per measurement and shared by all solvers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from posterior_bench.bench.config.cell import digest
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.core.streams import Noise
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.exact import Exact

if TYPE_CHECKING:
    from posterior_bench.bench.engine.measurement import Measurement
    from posterior_bench.priors.base import Prior

DRAWS = 512
SIGMA_FLOOR = 0.001
"""The noise a measurement is taken to have at least: what ``solver=exact`` takes too."""

_CACHE_BYTES = 512 * 2**20
_CACHE: dict[str, Reference] = {}


@dataclass(frozen=True)
class Reference:
    """Exact draws of a measurement.

    ``x`` ``(N, R, C, H, W)`` float32 on the CPU, the ``mode_weights`` ``(N, K)`` of the posterior,
    and ``assign``, which returns the mode of an image.
    """

    x: Tensor
    mode_weights: Tensor
    assign: Callable[[Tensor], Tensor]


def exact_reference(config: JobConfig, prior: Prior, measured: Measurement) -> Reference:
    """Return independent exact draws for a measurement.

    They use the stream ``metric``, which no solver has seen. They are kept for the next cells that
    measure the same, as in a sweep over solvers.
    """
    problem = [config.data, config.mask, config.operator, config.prior, config.seed]
    key = digest(
        [problem, [key.image for key in measured.keys], measured.truths, str(prior.device)]
    )
    if key not in _CACHE:
        _CACHE[key] = _draw(prior, measured)
        while len(_CACHE) > 1 and sum(kept.x.nbytes for kept in _CACHE.values()) > _CACHE_BYTES:
            _CACHE.pop(next(iter(_CACHE)))
    return _CACHE[key]


def _draw(prior: Prior, measured: Measurement) -> Reference:
    if not isinstance(prior, MixturePrior):
        raise ValueError(
            f"exact draws need a Gaussian mixture, not a {type(prior).__name__}; leave such "
            f"metrics out"
        )
    noise = Noise(measured.keys, "metric", prior.device)
    posterior = Exact(sigma_floor=SIGMA_FLOOR).fit(
        Observation(measured.y, measured.operator), prior, noise
    )
    weights = torch.stack([mixture.weights for mixture in posterior.mixtures])
    return Reference(
        posterior.sample(range(DRAWS)).x.float().cpu(), weights.cpu(), prior.responsibilities
    )
