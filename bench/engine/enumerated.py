"""Exact posteriors of images whose distribution is known to the data set, such as cartoon faces.

``solver=exact`` draws from them. A solver sees no data set, so the benchmark makes the posterior in
its place, as it does for images that were made elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from posterior_bench.bench.config.build import data_caps
from posterior_bench.bench.core.errors import Inapplicable, UserError
from posterior_bench.bench.core.streams import Noise
from posterior_bench.bench.engine.measurement import Measurement
from posterior_bench.datasets.base import NUMBERS, ImageSet, KnownPosterior
from posterior_bench.priors.base import Prior
from posterior_bench.solvers.base import Samples, Solver
from posterior_bench.solvers.exact import ENUMERATED, Exact


def are_enumerated(solver: Solver | type[Solver], data: Mapping[str, Any]) -> bool:
    """Whether the data set gives the posterior that a solver, or one of a class, draws from."""
    kind = solver if isinstance(solver, type) else type(solver)
    return issubclass(kind, Exact) and ENUMERATED in data_caps(data)


def demand_posterior(images: ImageSet) -> None:
    """Refuse images whose posterior cannot be enumerated here.

    Raises
    ------
    UserError
        If a package is missing; the line says how to install it.
    """
    try:
        images.demand_posterior()
    except (ImportError, ValueError) as error:
        raise UserError(f"the exact posterior is not available: {error}") from None


@dataclass(frozen=True)
class Enumerated:
    """The posteriors of a batch of images.

    Parameters
    ----------
    posteriors : sequence of KnownPosterior
        One for every image.
    noise : Noise
        The source of randomness, one row per image.
    """

    posteriors: Sequence[KnownPosterior]
    noise: Noise

    def sample(self, draws: Sequence[int]) -> Samples:
        """Draw samples; see :meth:`solvers.base.Posterior.sample`."""
        device = self.noise.draws(draws[:1]).uniform(()).device
        numbers = self.noise.draws(draws).host_uniform((NUMBERS,)).double().numpy()
        each = numbers.reshape(len(self.posteriors), len(draws), NUMBERS)
        rows = [p.sample(own) for p, own in zip(self.posteriors, each, strict=True)]
        return Samples(torch.stack([torch.from_numpy(x) for x in rows]).to(device))


def enumerated(images: ImageSet, prior: Prior, measured: Measurement, noise: Noise) -> Enumerated:
    """Return the posteriors of measured images.

    They know what the solvers know: the class of an image too, if the prior is told it.

    Parameters
    ----------
    images : ImageSet
        The image set, whose distribution is known.
    prior : Prior
        The prior that the other solvers use.
    measured : Measurement
        The measured images.
    noise : Noise
        The source of randomness, one row per image.

    Raises
    ------
    Inapplicable
        If the operator has no mask.
    UserError
        If a package is missing, or no image of the distribution fits the measurement.
    """
    operator = measured.operator
    if operator.mask is None:
        raise Inapplicable("posteriors are enumerated for masks alone; choose operator=inpainting")
    told = prior.num_classes > 0 and prior.num_classes == images.num_classes
    labels = measured.labels.tolist() if told and measured.labels is not None else None
    posteriors = []
    for i, (y, mask) in enumerate(zip(measured.y.cpu(), operator.mask.cpu(), strict=True)):
        label = None if labels is None else labels[i]
        try:
            posterior = images.posterior(y.numpy(), mask[0].numpy(), float(operator.sigma), label)
        except (ImportError, ValueError) as error:
            raise UserError(f"image {measured.keys[i].image}: {error}") from None
        posteriors.append(posterior)
    return Enumerated(posteriors, noise)
