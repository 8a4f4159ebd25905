"""The contract of a solver: it sees an observation, a prior and a source of noise.

It returns samples of clean images, and has no other input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from posterior_bench.operators.base import Operator
from posterior_bench.priors.base import Condition, Prior


class Noise(Protocol):
    """The only source of randomness of a solver.

    Each row has a generator of its own, so a row's noise does not depend on the batch it is in.
    """

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw standard normals.

        Parameters
        ----------
        shape : Sequence[int]
            Shape of one row.

        Returns
        -------
        Tensor
            Float32 of shape ``(rows, *shape)``.
        """

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Draw uniform numbers on [0, 1).

        Parameters
        ----------
        shape : Sequence[int]
            Shape of one row; ``()`` for one number per row.

        Returns
        -------
        Tensor
            Float32 of shape ``(rows, *shape)``.
        """

    def host_uniform(self, shape: Sequence[int]) -> Tensor:
        """Draw the numbers of :meth:`uniform`, but on the host, whatever the device.

        A solver that chooses a level or an index by them would wait for a GPU otherwise.

        Parameters
        ----------
        shape : Sequence[int]
            Shape of one row; ``()`` for one number per row.

        Returns
        -------
        Tensor
            Float32 of shape ``(rows, *shape)``, on the CPU.
        """

    def draws(self, draws: Sequence[int]) -> Noise:
        """Return fresh noise with one row per pair of image and draw.

        Parameters
        ----------
        draws : Sequence[int]
            Indices of the draws, the same for every image.

        Returns
        -------
        Noise
            Noise whose rows are ordered by image, then by draw. A row depends on its image and its
            draw index alone.
        """


Distance = Callable[[Tensor, Tensor], Tensor]
"""A differentiable distance of images ``(N, C, H, W)`` in [-1, 1], one number ``(N,)`` per pair."""


@dataclass(frozen=True)
class Observation:
    """Everything that a solver may see of a problem; the true image is not part of it.

    Parameters
    ----------
    y : Tensor
        Measurements ``(N, ...)``, in [-1, 1] units, zero where nothing was observed.
    operator : Operator
        The operator ``A`` that made them, with the noise level ``sigma``.
    cond : Condition | None, default None
        Labels or prompts of the images, as the prior's network takes them.
    perceptual : Distance | None, default None
        A perceptual distance. It is handed to a solver whose setting ``perceptual`` names one.
    modules : Mapping[str, nn.Module] | None, default None
        Networks that were trained for this solver and prior, by name. They are handed to a solver
        whose setting ``modules`` names a folder.
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
        """Return an observation with every row ``times`` times; copies of a row lie together."""
        cond = None if self.cond is None else self.cond.repeat(times)
        return replace(
            self,
            y=self.y.repeat_interleave(times, 0),
            operator=self.operator.repeat(times),
            cond=cond,
        )


@dataclass(frozen=True)
class Samples:
    """The samples of a solver.

    Parameters
    ----------
    x : Tensor
        Images ``(N, D, C, H, W)`` for ``N`` observations and ``D`` draws, in [-1, 1] units. They
        are neither pasted nor clipped.
    trace : Mapping[str, Tensor], default {}
        How the fit of every image went, for plots, if the solver knows it at no extra cost:
        ``loss`` ``(N, iterations)``, and pictures ``progress`` ``(N, P, C, H, W)`` that show the
        image ``after`` ``(N, P)`` iterations.
    """

    x: Tensor
    trace: Mapping[str, Tensor] = field(default_factory=dict)


class Posterior(Protocol):
    """The fitted posterior of a batch of images, which :meth:`Solver.fit` returns."""

    def sample(self, draws: Sequence[int]) -> Samples:
        """Draw samples.

        Parameters
        ----------
        draws : Sequence[int]
            Indices of the draws. The noise of a draw depends on its index alone.

        Returns
        -------
        Samples
            One sample per image and draw.
        """


@dataclass(frozen=True)
class Card:
    """What a reader must know before quoting a number of a solver.

    ``bench show`` and the documentation print it.

    Parameters
    ----------
    title : str
        Name of the method.
    paper : str
        Authors, title, venue and year.
    equations : str
        The equations, algorithms or sections that the code implements.
    deviations : Sequence[str], default ()
        Where the code differs from the paper or from the released code, one sentence or two each.
    compat : Mapping[str, str], default {}
        The values of the setting ``compat``, and what each brings back of the released code.
    """

    title: str
    paper: str
    equations: str
    deviations: Sequence[str] = ()
    compat: Mapping[str, str] = field(default_factory=dict)


class Solver:
    """Base class of all methods; hyper-parameters are the dataclass fields of the subclass.

    Attributes
    ----------
    card : Card
        Title, source and deviations of the method.
    needs : frozenset[str]
        Capabilities of the operator (``mask``, ``linear``, ``pinv``, ...) and of the prior
        (``grad``, ``pixel``, ``latent``, ...). A cell that lacks one is refused before any work.
    version : int
        Part of a cell's hash. It goes up with every change of the numbers.
    work : tuple[str, ...]
        Integer settings that say how much work is done, and settings counted in the same unit.
        ``budget=`` multiplies all of them by one factor. Names that a class does not have are
        ignored.
    growth : tuple[str, ...]
        Factors per step. :meth:`scaled` changes them so that the growth over a whole run stays the
        same.
    margin : float
        Fraction of a budget that is held back, because the number of calls varies between runs
        with the same settings (line search).
    """

    card: ClassVar[Card]
    needs: ClassVar[frozenset[str]] = frozenset()
    version: ClassVar[int] = 1
    work: ClassVar[tuple[str, ...]] = ("steps",)
    growth: ClassVar[tuple[str, ...]] = ()
    margin: ClassVar[float] = 0.0

    @property
    def workload(self) -> dict[str, int]:
        """Values of the settings that :attr:`work` names, by name, where the class has them."""
        return {
            name: getattr(self, name)
            for name in self.work
            if name in getattr(self, "__dataclass_fields__", ())
        }

    def scaled(self, factor: float) -> Self:
        """Return a copy of this solver with ``factor`` times the work.

        Parameters
        ----------
        factor : float
            Positive; each setting of :attr:`workload` is multiplied by it and rounded to an integer
            of at least 1.

        Returns
        -------
        Self
            The copy.

        Raises
        ------
        ValueError
            If the constructor refuses so little or so much work.
        """
        work = {name: max(1, round(factor * value)) for name, value in self.workload.items()}
        growth = {name: float(f"{getattr(self, name) ** (1 / factor):.6g}") for name in self.growth}
        return replace(self, **work, **growth)  # type: ignore[type-var]

    def lacks(self, has: frozenset[str], sigma: float) -> frozenset[str]:
        """Return the capabilities that these settings need and that are not there.

        Parameters
        ----------
        has : frozenset[str]
            Capabilities of the operator and of the prior.
        sigma : float
            Noise level of the operator, in [-1, 1] units.

        Returns
        -------
        frozenset[str]
            Empty if the solver can run.
        """
        return lacking(self.needs, has)

    def fit(self, obs: Observation, prior: Prior, noise: Noise) -> Posterior:
        """Adapt to the observation, once for all draws of an image.

        Parameters
        ----------
        obs : Observation
            ``N`` images, one row each.
        prior : Prior
            The prior; it must come back unchanged.
        noise : Noise
            The source of randomness, with one row per image.

        Returns
        -------
        Posterior
            The fitted posterior of these images.
        """
        raise NotImplementedError


class Sampler(Solver):
    """Base class of methods that have nothing to fit; they only draw."""

    @override
    def fit(self, obs: Observation, prior: Prior, noise: Noise) -> Posterior:
        return _Draws(self, obs, prior, noise)

    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        """Draw one sample per row.

        Parameters
        ----------
        obs : Observation
            ``N`` rows, already repeated once per draw.
        prior : Prior
            The prior; it must come back unchanged.
        noise : Noise
            The source of randomness, with ``N`` rows.

        Returns
        -------
        Tensor
            Samples ``(N, C, H, W)`` in [-1, 1] units, not pasted.
        """
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
    """Return the capabilities in ``needs`` that are not in ``has``.

    Notes
    -----
    A model that was trained for inpainting (capability ``inpaint``) cannot be called without a mask
    and a measurement. So it is no prior for a method that does not need ``inpaint``: such a method
    also lacks ``unconditional``.
    """
    return (needs - has) | ({"unconditional"} if "inpaint" in has - needs else frozenset())


def norm(r: Tensor) -> Tensor:
    """Return the Euclidean norm of every sample, shape ``(N,)``.

    Losses, norms and clips never mix rows.
    """
    return torch.linalg.vector_norm(r.flatten(1), dim=1)
