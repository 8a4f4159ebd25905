"""OT-ODE: PiGDM along the ODE of a flow, from a start that has seen the measurement."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler
from posterior_bench.solvers.shared.guidance import RATIO_MAX, gaussian_pull

GAINS = ("gamma_t", "exact")
COMPAT = ("none", "released")


@dataclass(frozen=True)
class OTODE(Sampler):
    """OT-ODE, the training-free linear image inverse via flows of Pokle et al. (2024).

    In the coordinates of a flow it is PiGDM without fresh noise: the prediction is corrected by
    ``sigma_t^2 / alpha_t`` times the score of ``N(y; A D, r_t^2 A At + sigma_y^2 I)``, where
    ``r_t^2 = data_std^2 sigma_t^2 / (data_std^2 alpha_t^2 + sigma_t^2)``.

    Parameters
    ----------
    steps : int, default 90
        Number of steps, one network call and one backward pass each. The paper counts the steps of
        the whole time axis, of which ``1 - start`` are made: 90 of 100.
    start : float, default 0.1
        Share of ``At y`` in the first state, in [0, 1); the rest is noise. 0 is pure noise.
    gain : str, default 'gamma_t'
        Factor of the correction: ``gamma_t`` is ``sqrt(t / (t^2 + (1 - t)^2))`` with ``t = alpha /
        (alpha + sigma)``; ``exact`` is 1, with which it is PiGDM.
    data_std : float, default 1.0
        Standard deviation of the data, positive, in [-1, 1] units. The paper has 1.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance. The gradient goes through both
        branches.
    grid : str, default 'uniform_time'
        Law of the noise levels: a kind of :meth:`priors.base.Prior.grid`.
    compat : str, default 'none'
        ``none`` or ``released``.

    Raises
    ------
    ValueError
        If ``start`` is outside [0, 1), ``gain`` or ``compat`` is unknown, ``data_std`` is not
        positive, or it is not 1 and ``compat`` is ``released``.
    """

    card: ClassVar[Card] = Card(
        title="OT-ODE",
        paper="Pokle et al., Training-free Linear Image Inverses via Flows, TMLR 2024",
        equations="Algorithm 1: start from the noised adjoint, Euler steps of the corrected "
        "velocity, with gamma_t or 1",
        deviations=(
            "With gain=exact, start=0 and the same grid the samples are those of PiGDM with eta 0. "
            "The guidance is the code of that solver.",
            "The released code calls the network twice a step, and throws one result away. Here it "
            "is called once.",
            "The linear system is solved by the proximal step of the operator; the released code "
            "has 100 iterations of GMRES where it knows no closed form.",
            "A flow starts at ratio 1000, not at pure noise, if start is 0.",
        ),
        compat={
            "released": "The variance r_t^2 of the branch for super-resolution in the code of "
            "PnP-Flow and FLOWER, whose tables have it: alpha_t^2 is multiplied by the number of "
            "steps of the whole time axis. At t = 0.1 of 100 steps r_t^2 is 0.45, not 0.99. Other "
            "tasks have no such branch."
        },
    )
    needs: ClassVar[frozenset[str]] = frozenset({"grad", "linear", "prox", "pixel"})
    version: ClassVar[int] = 1

    steps: int = 90
    start: float = 0.1
    gain: str = "gamma_t"
    data_std: float = 1.0
    guidance: float = 1.0
    grid: str = "uniform_time"
    compat: str = "none"

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1:
            raise ValueError(f"start {self.start} is outside [0, 1); 0 is pure noise")
        for name, valid in (("gain", GAINS), ("compat", COMPAT)):
            if getattr(self, name) not in valid:
                raise ValueError(
                    f"unknown {name} '{getattr(self, name)}'; valid: {', '.join(valid)}"
                )
        if not self.data_std > 0:
            raise ValueError(f"data_std must be positive, got {self.data_std}")
        if self.compat == "released" and self.data_std != 1:
            raise ValueError("compat=released goes with data_std=1 only")

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        process, sigma_y = prior.process, obs.operator.sigma
        ratio = (1 - self.start) / self.start if self.start else RATIO_MAX
        top = prior.level(min(ratio, process.ratio_max, RATIO_MAX))
        levels = prior.grid(self.steps, self.grid, start=top)
        # Start from a mixture of the adjoint and noise, as in a flow.
        share = self.start * (top.alpha + top.sigma)
        z = share * obs.operator.At(obs.y) + top.sigma * noise.normal(prior.latent_shape)
        for t, s in pairwise(levels):
            # Predict the clean image, and the pull of the measurement on the noisy one.
            r2 = self._variance(t)
            x0, pull = gaussian_pull(z, t, sigma_y**2 / r2, obs, prior, self.guidance)
            # Correct the prediction, and take a step of the ODE.
            x0 = x0 + self._gain(t) * t.sigma**2 / (t.alpha * r2) * pull
            z = process.bridge(z, x0, t, s, 0.0, None)
        return z

    def _variance(self, t: Level) -> float:
        """Return the variance ``r_t^2`` that the prediction is taken to have."""
        signal = (self.data_std * t.alpha) ** 2
        if self.compat == "released":
            signal *= round(self.steps / (1 - self.start))
        return float((self.data_std * t.sigma) ** 2 / (signal + t.sigma**2))

    def _gain(self, t: Level) -> float:
        """Return the factor of the correction."""
        ratio = float(t.ratio)
        return math.sqrt((1 + ratio) / (1 + ratio**2)) if self.gain == "gamma_t" else 1.0
