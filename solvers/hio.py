"""HIO: phase retrieval by turns between measured amplitudes and the image region; no prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler
from posterior_bench.solvers.shared.likelihood import residual_norm
from posterior_bench.solvers.shared.rows import column

BOUNDS = {"lower": (-1.0, None), "both": (-1.0, 1.0), "none": (None, None)}
"""Bounds of a pixel, by the setting ``bounds``."""
SLACK = 1e-6
"""A pixel that is off by less is right: taking zeros away and putting them back is not exact."""


@dataclass(frozen=True)
class HIO(Sampler):
    """Hybrid input-output of Fienup (1982), from several random starts.

    Parameters
    ----------
    iterations : int, default 1000
        Number of input-output iterations of a start, 0 or more.
    reductions : int, default 100
        Number of iterations of error reduction that end every start, 0 or more.
    beta : float, default 0.9
        Feedback of what is outside the image or its bounds, in (0, 1].
    restarts : int, default 4
        Number of starts, at least 1. The image with the smallest residual is kept.
    bounds : str, default 'lower'
        What is known of a pixel: ``lower``, it is at least -1, which is black; ``both``, it is in
        [-1, 1]; or ``none``.

    Raises
    ------
    ValueError
        If a number is out of its range, or ``bounds`` is unknown.
    """

    card: ClassVar[Card] = Card(
        title="Hybrid input-output",
        paper="Fienup, Phase retrieval algorithms: a comparison, Applied Optics 1982",
        equations="Eq. 44 (input-output) and Eq. 34 (error reduction)",
        deviations=(
            "The prior is not used. A start makes one Fourier transform and one back per "
            "iteration, and no network call.",
            "The support is the image without the zeros around it. With domain=unit the bound is "
            "that of the paper, no value below 0. With domain=signed the zeros are mid-grey, and "
            "the bound is -1.",
            "Of the starts, that with the smallest residual of the measurement is the sample. The "
            "image turned by 180 degrees has the same residual, and may be the one; so has a "
            "shifted one where the border of the image is as black as the zeros around it.",
            "Where noise makes the amplitudes those of no real image, the real part is taken.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"amplitudes"})
    version: ClassVar[int] = 1
    work: ClassVar[tuple[str, ...]] = ()  # no passes of the network

    iterations: int = 1000
    reductions: int = 100
    beta: float = 0.9
    restarts: int = 4
    bounds: str = "lower"

    def __post_init__(self) -> None:
        for name, least in (("iterations", 0), ("reductions", 0), ("restarts", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.beta <= 1:
            raise ValueError(f"beta {self.beta} is outside (0, 1]; the usual value is 0.9")
        if self.bounds not in BOUNDS:
            raise ValueError(f"unknown bounds '{self.bounds}'; valid: {', '.join(BOUNDS)}")

    @override
    @torch.no_grad()
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        best = self._started(obs, noise.uniform(prior.image_shape))
        least = residual_norm(best, obs)
        for _ in range(self.restarts - 1):
            x = self._started(obs, noise.uniform(prior.image_shape))
            left = residual_norm(x, obs)
            best = torch.where(column(left < least, x), x, best)
            least = torch.minimum(least, left)
        return best

    def _started(self, obs: Observation, start: Tensor) -> Tensor:
        """Return images that were reached from a start of uniform numbers in [0, 1)."""
        operator = obs.operator
        wide = operator.embed(2 * start.to(obs.y) - 1)
        for _ in range(self.iterations):
            # Give the frequencies their amplitudes.
            output = operator.with_amplitudes(wide, obs.y)
            # Keep what is an image, and drive what is none towards one.
            wrong = output - self._nearest(obs, output)
            wide = torch.where(wrong.abs() < SLACK, output, wide - self.beta * wrong)
        for _ in range(self.reductions):
            wide = self._nearest(obs, operator.with_amplitudes(wide, obs.y))
        return self._bounded(operator.extract(operator.with_amplitudes(wide, obs.y)))

    def _nearest(self, obs: Observation, wide: Tensor) -> Tensor:
        """Return the nearest images within the bounds, with zeros around them."""
        return obs.operator.embed(self._bounded(obs.operator.extract(wide)))

    def _bounded(self, x: Tensor) -> Tensor:
        low, high = BOUNDS[self.bounds]
        return x if low is None else x.clamp(low, high)
