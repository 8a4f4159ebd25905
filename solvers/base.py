"""What a solver is: it sees an observation, a prior and a source of noise, and gives back samples.
Nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from posterior_bench.operators.base import Operator
from posterior_bench.priors.base import Condition, Prior


class Noise(Protocol):
    """The only source of randomness a solver has: row ``i`` is drawn by generator ``i``, whatever
    the batch.
    """

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normals, float32, of shape ``(rows, *shape)``."""

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Uniforms on [0, 1), float32, of shape ``(rows, *shape)``."""

    def draws(self, draws: Sequence[int]) -> Noise:
        """Fresh noise for ``(image, draw)`` rows: every row once per draw, neighbours together."""


Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Observation:
    """All a solver may see. ``y``: measurements ``(N, ...)``, zero where nothing was observed;
    never the truth.

    ``perceptual``: a differentiable distance ``(N, C, H, W), (N, C, H, W) -> (N,)`` between images
    in [-1, 1], handed to solvers whose setting ``perceptual`` names one. ``modules``: networks
    trained for this solver and prior, by name, handed to solvers whose setting ``modules`` names a
    folder.
    """

    y: Tensor
    operator: Operator
    cond: Condition | None = None
    perceptual: Distance | None = None
    modules: Mapping[str, nn.Module] | None = None

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.y)

    def repeat(self, times: int) -> Observation:
        """Every row ``times`` times, neighbours together."""
        cond = None if self.cond is None else self.cond.repeat(times)
        return replace(
            self,
            y=self.y.repeat_interleave(times, 0),
            operator=self.operator.repeat(times),
            cond=cond,
        )


@dataclass(frozen=True)
class Samples:
    """``x``: raw samples ``(N, D, C, H, W)`` in [-1, 1] units, not pasted, not clipped.

    ``trace``: how the fit of every image went, for plots, as far as it costs nothing: ``loss``
    ``(N, iterations)``, and pictures ``progress`` ``(N, P, C, H, W)`` of it ``after`` ``(N, P)``
    iterations.
    """

    x: Tensor
    trace: Mapping[str, Tensor] = field(default_factory=dict)


class Posterior(Protocol):
    """What :meth:`Solver.fit` returns: it can be sampled as often as one likes."""

    def sample(self, draws: Sequence[int]) -> Samples:
        """Samples with the given draw indices; a draw's noise depends on its index alone."""


@dataclass(frozen=True)
class Card:
    """What a reader must know before quoting a number; shown by ``bench show`` and in the docs."""

    title: str
    paper: str
    equations: str
    deviations: Sequence[str] = ()
    compat: Mapping[str, str] = field(default_factory=dict)


class Solver:
    """Base of all methods. Hyper-parameters are dataclass fields of the subclass.

    ``needs``: capabilities of the operator (``mask``, ``linear``, ``pinv``, ...) and of the prior
    (``grad``, ``pixel``, ``latent``, ...); a cell without them is refused before any work.
    ``version`` goes up with every change of the numbers and is part of the cell's hash. ``work``:
    the settings, whole numbers, that say how much is done, and lengths counted in them; ``budget=``
    multiplies them all by one factor. Names that a class does not have mean nothing. ``growth``:
    factors per step, whose growth over a whole run then stays what it was. ``margin``: the share by
    which the calls of a run may go beyond those of another with the same settings; a budget leaves
    it.
    """

    card: ClassVar[Card]
    needs: ClassVar[frozenset[str]] = frozenset()
    version: ClassVar[int] = 1
    work: ClassVar[tuple[str, ...]] = ("steps",)
    growth: ClassVar[tuple[str, ...]] = ()
    margin: ClassVar[float] = 0.0

    @property
    def workload(self) -> dict[str, int]:
        """The settings named in :attr:`work` that this class has, and what they are."""
        return {
            name: getattr(self, name)
            for name in self.work
            if name in getattr(self, "__dataclass_fields__", ())
        }

    def scaled(self, factor: float) -> Self:
        """These settings with ``factor`` times the work, in whole numbers of at least 1.

        Raises ValueError where the constructor refuses so little, or so much.
        """
        work = {name: max(1, round(factor * value)) for name, value in self.workload.items()}
        kept = {name: float(f"{getattr(self, name) ** (1 / factor):.6g}") for name in self.growth}
        return replace(self, **work, **kept)  # type: ignore[type-var]

    def lacks(self, has: frozenset[str], sigma: float) -> frozenset[str]:
        """What these settings need and an operator of noise level ``sigma`` and a prior do not
        have.
        """
        return lacking(self.needs, has)

    def fit(self, obs: Observation, prior: Prior, noise: Noise) -> Posterior:
        """Adapt to the observation, once for all draws of an image; ``noise`` has one row per
        image.
        """
        raise NotImplementedError


class Sampler(Solver):
    """A solver with nothing to fit: it only draws."""

    def fit(self, obs: Observation, prior: Prior, noise: Noise) -> Posterior:
        return _Draws(self, obs, prior, noise)

    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        """One sample ``(N, C, H, W)`` per row of ``obs``; rows are already repeated per draw."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Draws:
    sampler: Sampler
    obs: Observation
    prior: Prior
    noise: Noise

    def sample(self, draws: Sequence[int]) -> Samples:
        x = self.sampler.draw(self.obs.repeat(len(draws)), self.prior, self.noise.draws(draws))
        return Samples(x.unflatten(0, (self.obs.n, len(draws))))


def lacking(needs: frozenset[str], has: frozenset[str]) -> frozenset[str]:
    """What is needed and not there.

    A model trained for inpainting (``inpaint``) cannot be asked without a mask and a measurement,
    so it is no prior for a method that does not ask for one: such a method also lacks
    ``unconditional``.
    """
    return (needs - has) | ({"unconditional"} if "inpaint" in has - needs else frozenset())


def norm(r: Tensor) -> Tensor:
    """Euclidean norm of every sample, shape ``(N,)``: losses, norms and clips never mix rows."""
    return torch.linalg.vector_norm(r.flatten(1), dim=1)
