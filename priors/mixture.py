"""The exact prior: a Gaussian mixture, whose denoiser, score and posterior are closed forms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Condition, Prior, Shape
from posterior_bench.priors.process import Level, Process, Scalar, sent
from posterior_bench.priors.running_sum import running_sum

LOW_DIMENSION = 128
"""Most values of an image for which Markov chains are trusted to sample any posterior."""


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues and eigenvectors of covariances, without vectors for the smallest eigenvalue.

    ``S_k = B_k^T diag(values_k) B_k + floor_k (I - B_k^T B_k)``

    Parameters
    ----------
    basis : Tensor
        Eigenvectors ``B`` as orthonormal rows, ``(K, r, d)``.
    values : Tensor
        Their eigenvalues ``(K, r)``.
    floor : Tensor
        The smallest eigenvalue ``(K,)``, shared by all directions outside ``basis``.
    """

    basis: Tensor
    values: Tensor
    floor: Tensor

    @classmethod
    def of(cls, covariances: Tensor) -> Spectrum:
        """Decompose covariances ``(K, d, d)``."""
        values, vectors = torch.linalg.eigh(covariances)
        floor = values[:, 0].clamp_min(0)
        above = values > floor[:, None] + 1e-13 * values[:, -1:]
        first = values.shape[1] - int(above.sum(1).max())
        return cls(vectors[..., first:].mT.contiguous(), values[:, first:].clamp_min(0), floor)

    def covariances(self) -> Tensor:
        """Return the covariances ``(K, d, d)``."""
        raised = (self.basis.mT * (self.values - self.floor[:, None])[:, None]) @ self.basis
        return raised + torch.diag_embed(self.floor[:, None].expand(-1, self.basis.shape[2]))

    def to(self, device: torch.device) -> Spectrum:
        """Return the spectrum on ``device``."""
        return Spectrum(self.basis.to(device), self.values.to(device), self.floor.to(device))


class _Joint(NamedTuple):
    """Quantities of every component at a noise level and a state.

    ``rest`` stands for all directions outside the basis of a component.
    """

    log_density: Tensor  # (N, K), joint log density of state and component
    residual: Tensor  # (N, K, d), state minus scaled mean
    rotated: Tensor  # (N, K, r), the residual in the basis
    gain: Tensor  # (N or 1, K, r), factor from the residual to the denoised state
    gain_rest: Tensor  # (N or 1, K)


class MixturePrior(Prior):
    """A Gaussian mixture as a prior: ``x0 ~ sum_k w_k N(mu_k, S_k)``, exact at any noise level.

    Parameters
    ----------
    process : Process
        Any noise process.
    weights : Tensor
        Weights ``(K,)`` above 0; they are normalised to sum 1.
    means : Tensor
        Means ``(K, d)`` with ``d = C H W``.
    covariances : Tensor
        Full covariances ``(K, d, d)``, symmetric and positive semi-definite.
    shape : tuple[int, int, int]
        Shape ``(C, H, W)`` of an image.

    Raises
    ------
    ValueError
        If the means do not have ``C H W`` entries.

    Notes
    -----
    Arithmetic is float64, whatever the dtype of ``z``. Components are decomposed once, on first
    use. A noise level then costs two products with the eigenvectors whose eigenvalues differ from
    the smallest one.

    Examples
    --------
    Observe the first of two pixels with correlation 0.9:

    >>> from posterior_bench.priors.process import VE
    >>> covariance = torch.tensor([[[1.0, 0.9], [0.9, 1.0]]])
    >>> prior = MixturePrior(VE(), torch.ones(1), torch.zeros(1, 2), covariance, (1, 1, 2))
    >>> posterior = prior.posterior(torch.tensor([[1.0, 0.0]]), torch.tensor([2.0]), sigma=0.0)
    >>> [round(value, 4) for value in posterior.mean.tolist()]
    [2.0, 1.8]
    """

    def __init__(
        self, process: Process, weights: Tensor, means: Tensor, covariances: Tensor, shape: Shape
    ):
        super().__init__(process, None, shape, parameterization="x0")
        if math.prod(shape) != means.shape[1]:
            raise ValueError(
                f"means of {means.shape[1]} dimensions do not fill images of shape {shape}"
            )
        self.weights = weights.double() / weights.double().sum()
        self.means, self.covariances = means.double(), covariances.double()
        self._spectrum: Spectrum | None = None
        self._roots: dict[int, Tensor] = {}

    @classmethod
    def low_rank(
        cls,
        process: Process,
        weights: Tensor,
        means: Tensor,
        factors: Tensor,
        floor: Tensor,
        shape: Shape,
    ) -> MixturePrior:
        """Build a mixture with covariances ``S_k = F_k F_k^T + floor_k I``.

        Mixtures of probabilistic principal component analysers (Tipping and Bishop 1999) have this
        form.

        Parameters
        ----------
        process : Process
            Any noise process.
        weights : Tensor
            Weights ``(K,)`` above 0.
        means : Tensor
            Means ``(K, d)``.
        factors : Tensor
            Factors ``F`` ``(K, d, r)``.
        floor : Tensor
            Variances ``(K,)`` of all directions, above 0.
        shape : tuple[int, int, int]
            Shape ``(C, H, W)`` of an image.

        Returns
        -------
        MixturePrior
            The mixture, already decomposed.
        """
        vectors, scales, _ = torch.linalg.svd(factors.double(), full_matrices=False)
        floor = floor.double()
        spectrum = Spectrum(vectors.mT.contiguous(), scales**2 + floor[:, None], floor)
        return cls.decomposed(process, weights, means, spectrum, shape)

    @classmethod
    def decomposed(
        cls, process: Process, weights: Tensor, means: Tensor, spectrum: Spectrum, shape: Shape
    ) -> MixturePrior:
        """Build a mixture from the eigenvalues and eigenvectors of its covariances.

        Parameters
        ----------
        process : Process
            Any noise process.
        weights : Tensor
            Weights ``(K,)`` above 0.
        means : Tensor
            Means ``(K, d)``.
        spectrum : Spectrum
            The decomposed covariances, float64.
        shape : tuple[int, int, int]
            Shape ``(C, H, W)`` of an image.

        Returns
        -------
        MixturePrior
            The mixture.
        """
        prior = cls(process, weights, means, spectrum.covariances(), shape)
        prior._spectrum = spectrum
        return prior

    @property
    @override
    def caps(self) -> frozenset[str]:
        few = {"low_dimension"} if math.prod(self.image_shape) <= LOW_DIMENSION else set()
        return super().caps | {"exact", "double_backward"} | few

    @property
    def spectrum(self) -> Spectrum:
        """The components' covariances, decomposed on first use."""
        if self._spectrum is None:
            self._spectrum = Spectrum.of(self.covariances)
        return self._spectrum

    @override
    def to(self, device: torch.device | str) -> MixturePrior:
        super().to(device)
        for name in ("weights", "means", "covariances"):
            setattr(self, name, getattr(self, name).to(self.device))
        self._spectrum = None if self._spectrum is None else self._spectrum.to(self.device)
        self._roots = {k: root.to(self.device) for k, root in self._roots.items()}
        return self

    # -- closed forms ------------------------------------------------------------------------------

    @override
    def denoise(
        self, z: Tensor, level: Level, cond: Condition | None = None, guidance: float = 1.0
    ) -> Tensor:
        """Return ``E[x0 | z]``, exactly: component means weighted by their probabilities."""
        if guidance != 1.0:
            raise ValueError(
                f"guidance {guidance} needs a class-conditional prior; a mixture has no classes"
            )
        self.meter.add("nfe", len(z))
        z = self._entered(z, "nge", len(z))
        joint = self._joint(z.flatten(1).double(), level)
        share = joint.log_density.softmax(1)
        raised = share[..., None] * (joint.gain - joint.gain_rest[..., None]) * joint.rotated
        rest = torch.einsum("nk,nki->ni", share * joint.gain_rest, joint.residual)
        x0 = share @ self.means + rest + raised.flatten(1) @ self.spectrum.basis.flatten(0, 1)
        return self._counted(x0.view_as(z).to(z.dtype), "nge", len(z))

    def log_prob(self, z: Tensor, level: Level) -> Tensor:
        """Return the log density ``log p(z)`` at a noise level.

        Parameters
        ----------
        z : Tensor
            States ``(N, C, H, W)``.
        level : Level
            The noise level; ``CLEAN`` gives the density of the data itself.

        Returns
        -------
        Tensor
            ``(N,)`` nats, float64; differentiable in ``z``.
        """
        return self._joint(z.flatten(1).double(), level).log_density.logsumexp(1)

    def score(self, z: Tensor, level: Level) -> Tensor:
        """Return the score ``grad log p(z) = (alpha E[x0 | z] - z) / sigma^2``.

        Parameters
        ----------
        z : Tensor
            States ``(N, C, H, W)``.
        level : Level
            The noise level, with ``sigma`` above 0.

        Returns
        -------
        Tensor
            The score, shaped like ``z``, float64.
        """
        x0 = self.denoise(z.double(), level)
        return (self._like(level.alpha, z) * x0 - z.double()) / self._like(level.sigma, z) ** 2

    @staticmethod
    def _like(value: Scalar, z: Tensor) -> Tensor:
        """Return ``value`` in float64 on the device of ``z``."""
        if isinstance(value, Tensor):
            return sent(value.double(), z.device)
        return torch.full((), value, dtype=torch.float64, device=z.device)

    def _joint(self, flat: Tensor, level: Level) -> _Joint:
        basis, values, floor = self.spectrum.basis, self.spectrum.values, self.spectrum.floor
        alpha, sigma = (self._like(v, flat).reshape(-1, 1) for v in (level.alpha, level.sigma))
        variance = alpha[..., None] ** 2 * values + sigma[..., None] ** 2  # (N or 1, K, r)
        variance_rest = alpha**2 * floor + sigma**2  # (N or 1, K)
        residual = flat[:, None] - alpha[..., None] * self.means
        rotated = torch.einsum("nki,kji->nkj", residual, basis)
        outside = residual.square().sum(-1) - rotated.square().sum(-1)
        distance = (rotated**2 / variance).sum(-1) + outside / variance_rest
        log_volume = (
            variance.log().sum(-1) + (flat.shape[1] - values.shape[1]) * variance_rest.log()
        )
        log_density = -0.5 * (distance + log_volume + flat.shape[1] * math.log(2 * math.pi))
        gain, gain_rest = alpha[..., None] * values / variance, alpha * floor / variance_rest
        return _Joint(self.weights.log() + log_density, residual, rotated, gain, gain_rest)

    # -- the data and its posterior ----------------------------------------------------------------

    def sample(self, uniform: Tensor, normal: Tensor) -> Tensor:
        """Draw images.

        Parameters
        ----------
        uniform : Tensor
            Uniform numbers ``(N,)`` in [0, 1), which choose the components.
        normal : Tensor
            Standard-normal numbers ``(N, C, H, W)``.

        Returns
        -------
        Tensor
            Images ``(N, C, H, W)`` in the dtype of ``normal``.
        """
        k = torch.searchsorted(running_sum(self.weights), uniform.double().contiguous())
        k = k.clamp_max(len(self.weights) - 1)
        x0, flat = self.means[k], normal.flatten(1).double()
        for component in k.unique().tolist():
            # all rows, so that the shape of the product is the same for every choice of components
            spread = flat @ self._root(component).T
            x0 = x0 + torch.where((k == component)[:, None], spread, 0.0)
        return x0.view_as(normal).to(normal.dtype)

    def _root(self, component: int) -> Tensor:
        """Return ``F`` with ``F F^T = S_k``, from Cholesky or, if inaccurate, eigenvectors."""
        if component not in self._roots:
            covariance = self.covariances[component]
            root = _cholesky(covariance)
            if root is None:
                values, vectors = torch.linalg.eigh(covariance)
                root = vectors * values.clamp_min(0).sqrt()
            self._roots[component] = root
        return self._roots[component]

    def posterior(self, A: Tensor, y: Tensor, sigma: float) -> MixturePrior:
        """Return the posterior ``p(x0 | y)`` for ``y = A x0 + sigma n``, exactly.

        Each component is conditioned by itself, and the weights are multiplied by each component's
        evidence.

        Parameters
        ----------
        A : Tensor
            Matrix ``(M, d)`` of any linear operator.
        y : Tensor
            One measurement ``(M,)``.
        sigma : float
            Standard deviation of the noise, in [-1, 1] units; 0 conditions on the values
            themselves.

        Returns
        -------
        MixturePrior
            The posterior, with the process of this prior.

        Raises
        ------
        ValueError
            If ``sigma`` is 0 and no component can produce ``y``.
        """
        A, y = A.double(), y.double()
        cross = _measured(self.covariances, A)  # (K, M, d)
        gram = _measured(cross, A).mT + sigma**2 * torch.eye(
            len(y), dtype=torch.float64, device=y.device
        )
        gain, residual, log_volume, possible = _whitened(gram, cross, y - self.means @ A.T)
        if not possible.any():
            raise ValueError(
                "no component of this mixture can produce y without noise; use sigma > 0"
            )
        means = self.means + torch.einsum("kmd,km->kd", gain, residual)
        covariances = self.covariances - gain.mT @ gain
        log_evidence = -0.5 * (residual.square().sum(-1) + log_volume)
        weights = (self.weights.log() + log_evidence.masked_fill(~possible, -math.inf)).softmax(0)
        return MixturePrior(
            self.process, weights, means, _symmetric(covariances), self.latent_shape
        )

    def responsibilities(self, x0: Tensor) -> Tensor:
        """Return the probability that each image came from each component.

        Parameters
        ----------
        x0 : Tensor
            Images ``(N, C, H, W)``.

        Returns
        -------
        Tensor
            Probabilities ``(N, K)``, float64. Their mean over draws of a posterior estimates the
            weights of the posterior, whatever the measurement.

        Notes
        -----
        A component is taken to spread by at least ``1e-3``, so that a degenerate one has a density.
        """
        return self._joint(x0.flatten(1).double(), Level(1.0, 1e-3)).log_density.softmax(1)

    @property
    def mean(self) -> Tensor:
        """The mean ``E[x0]``, ``(d,)``."""
        return torch.einsum("k,kd->d", self.weights, self.means)

    @property
    def covariance(self) -> Tensor:
        """The covariance ``Cov[x0]``, ``(d, d)``."""
        centred = self.means - self.mean
        return torch.einsum(
            "k,kij->ij", self.weights, self.covariances + centred[:, :, None] * centred[:, None]
        )


def _measured(matrices: Tensor, A: Tensor) -> Tensor:
    """Return ``A S`` for symmetric ``S`` ``(K, d, d)``, or ``A C^T`` for ``C`` ``(K, M, d)``."""
    picked = A.argmax(1)
    if ((A != 0).sum(1) == 1).all() and (A.gather(1, picked[:, None]) == 1).all():
        return matrices[..., picked].mT  # a mask only picks rows
    return A @ matrices.mT


def _whitened(
    gram: Tensor, cross: Tensor, residual: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Express ``cross`` and ``residual`` in standard deviations of the predicted measurement.

    Return both, the log volume, and which components ``(K,)`` can produce the measurement.
    """
    root = _cholesky(gram)
    if root is not None:
        both = torch.cat([cross, residual[..., None]], dim=-1)
        white = torch.linalg.solve_triangular(root, both, upper=False)
        log_volume = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return (
            white[..., :-1],
            white[..., -1],
            log_volume,
            torch.ones_like(log_volume, dtype=torch.bool),
        )
    # without noise a degenerate component makes the Gram matrix singular: directions without
    # variance carry no information, and rule the component out where y disagrees
    values, vectors = torch.linalg.eigh(gram)
    free = values > 1e-12 * values.amax(-1, keepdim=True).clamp_min(1e-300)
    scale = torch.where(free, values.clamp_min(1e-300).rsqrt(), 0.0)
    projected = torch.einsum("kmj,km->kj", vectors, residual)
    log_volume = torch.where(free, values, 1e-300).log().sum(-1)
    possible = ((projected.abs() < 1e-6) | free).all(-1)
    return scale[..., None] * (vectors.mT @ cross), scale * projected, log_volume, possible


def _cholesky(matrices: Tensor) -> Tensor | None:
    """Return the Cholesky factors of ``(..., d, d)``; None where one of them is not accurate."""
    roots, failed = torch.linalg.cholesky_ex(matrices)
    smallest = roots.diagonal(dim1=-2, dim2=-1).amin(-1) ** 2
    largest = matrices.diagonal(dim1=-2, dim2=-1).amax(-1)
    return None if failed.any() or (smallest < 1e-12 * largest).any() else roots


def _symmetric(matrices: Tensor) -> Tensor:
    return (matrices + matrices.transpose(-1, -2)) / 2
