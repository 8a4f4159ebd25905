"""Exact posterior draws for the metrics that compare with them: made once per measurement, shared
by all solvers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from posterior_bench.bench.config.cell import digest
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
    """``x`` ``(N, R, C, H, W)`` float32 on the CPU, the posterior's ``mode_weights`` ``(N, K)``,
    and ``assign``.
    """

    x: Tensor
    mode_weights: Tensor
    assign: Callable[[Tensor], Tensor]


def exact_reference(config: Mapping[str, Any], prior: Prior, measured: Measurement) -> Reference:
    """Independent exact draws for a measurement; they use the stream ``metric``, so no solver has
    seen them.

    They are kept for the next cell that measures the same, which in a sweep over solvers is the
    next but a few.
    """
    problem = {name: config[name] for name in ("data", "mask", "operator", "prior", "seed")}
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
