"""The exact prior: a Gaussian mixture, where denoiser, score, log density and posterior are closed
forms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from posterior_bench.priors.base import Condition, Prior, Shape
from posterior_bench.priors.process import Level, Process


@dataclass(frozen=True)
class Spectrum:
    """``S_k = B_k^T diag(values_k) B_k + floor_k (I - B_k^T B_k)``: eigenvalues equal to the
    smallest need no vectors.

    ``basis`` ``(K, r, d)`` with orthonormal rows, ``values`` ``(K, r)``, ``floor`` ``(K,)``.
    """

    basis: Tensor
    values: Tensor
    floor: Tensor

    @classmethod
    def of(cls, covariances: Tensor) -> Spectrum:
        """The spectrum of covariances ``(K, d, d)``."""
        values, vectors = torch.linalg.eigh(covariances)
        floor = values[:, 0].clamp_min(0)
        above = values > floor[:, None] + 1e-13 * values[:, -1:]
        first = values.shape[1] - int(above.sum(1).max())
        return cls(vectors[..., first:].mT.contiguous(), values[:, first:].clamp_min(0), floor)

    def covariances(self) -> Tensor:
        """``(K, d, d)``."""
        raised = (self.basis.mT * (self.values - self.floor[:, None])[:, None]) @ self.basis
        return raised + torch.diag_embed(self.floor[:, None].expand(-1, self.basis.shape[2]))

    def to(self, device: torch.device) -> Spectrum:
        return Spectrum(self.basis.to(device), self.values.to(device), self.floor.to(device))


class _Joint(NamedTuple):
    """What a noise level and a state say of every component; ``rest`` is everything outside its
    basis.
    """

    log_density: Tensor  # (N, K), joint log density of state and component
    residual: Tensor  # (N, K, d), state minus scaled mean
    rotated: Tensor  # (N, K, r), the residual in the basis
    gain: Tensor  # (N or 1, K, r), factor from the residual to the denoised state
    gain_rest: Tensor  # (N or 1, K)


class MixturePrior(Prior):
    """``x0 ~ sum_k w_k N(mu_k, S_k)`` with full covariances, at any noise level of any process.

    A component is decomposed once, when the first denoiser call needs it; a noise level then costs
    two products with the eigenvectors whose eigenvalues differ from the smallest. Arithmetic is
    float64 whatever the dtype of ``z``.

    Parameters
    ----------
    weights ``(K,)``, means ``(K, d)``, covariances ``(K, d, d)`` with ``d = C H W``.
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
        """Components ``S_k = F_k F_k^T + floor_k I`` with ``factors`` ``(K, d, r)`` and ``floor``
        ``(K,)`` above 0.

        Mixtures of probabilistic principal component analysers (Tipping and Bishop 1999) have this
        form.
        """
        vectors, scales, _ = torch.linalg.svd(factors.double(), full_matrices=False)
        floor = floor.double()
        spectrum = Spectrum(vectors.mT.contiguous(), scales**2 + floor[:, None], floor)
        prior = cls(process, weights, means, spectrum.covariances(), shape)
        prior._spectrum = spectrum
        return prior

    @property
    def caps(self) -> frozenset[str]:
        return super().caps | {"exact", "double_backward"}

    @property
    def spectrum(self) -> Spectrum:
        """The components' covariances, decomposed on first use."""
        if self._spectrum is None:
            self._spectrum = Spectrum.of(self.covariances)
        return self._spectrum

    def to(self, device: torch.device | str) -> MixturePrior:
        super().to(device)
        for name in ("weights", "means", "covariances"):
            setattr(self, name, getattr(self, name).to(self.device))
        self._spectrum = None if self._spectrum is None else self._spectrum.to(self.device)
        self._roots = {k: root.to(self.device) for k, root in self._roots.items()}
        return self

    # -- closed forms ------------------------------------------------------------------------------

    def denoise(
        self, z: Tensor, level: Level, cond: Condition | None = None, guidance: float = 1.0
    ) -> Tensor:
        """``E[x0 | z]``, exactly: responsibilities times each component's Gaussian regression."""
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
        """``log p(z)`` at a noise level, ``(N,)`` nats; the density of the data itself at
        ``CLEAN``.
        """
        return self._joint(z.flatten(1).double(), level).log_density.logsumexp(1)

    def score(self, z: Tensor, level: Level) -> Tensor:
        """``grad log p(z) = (alpha E[x0 | z] - z) / sigma^2``, float64."""
        x0 = self.denoise(z.double(), level)
        return (self._like(level.alpha, z) * x0 - z.double()) / self._like(level.sigma, z) ** 2

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
        """Draws of ``x0``: ``uniform`` ``(N,)`` picks the component, ``normal`` ``(N, C, H, W)``
        fills it.
        """
        k = torch.searchsorted(self.weights.cumsum(0), uniform.double().contiguous()).clamp_max(
            len(self.weights) - 1
        )
        x0, flat = self.means[k], normal.flatten(1).double()
        for component in k.unique().tolist():
            # all rows, so that the shape of the product is the same for every choice of components
            spread = flat @ self._root(component).T
            x0 = x0 + torch.where((k == component)[:, None], spread, 0.0)
        return x0.view_as(normal).to(normal.dtype)

    def _root(self, component: int) -> Tensor:
        """A matrix ``F`` with ``F F^T = S_k``: Cholesky's where that is accurate, else from the
        eigenvectors.
        """
        if component not in self._roots:
            covariance = self.covariances[component]
            root = _cholesky(covariance)
            if root is None:
                values, vectors = torch.linalg.eigh(covariance)
                root = vectors * values.clamp_min(0).sqrt()
            self._roots[component] = root
        return self._roots[component]

    def posterior(self, A: Tensor, y: Tensor, sigma: float) -> MixturePrior:
        """``p(x0 | y)`` for ``y = A x0 + sigma n`` with a matrix ``A`` ``(M, d)`` and one
        observation ``y`` ``(M,)``.

        Exact for any linear operator (conjugacy, per component); the weights are reweighted by each
        component's evidence. ``sigma = 0`` conditions on the observed values themselves; raises
        ValueError where no component can produce them.
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
        """Probability ``(N, K)`` that each of the images ``(N, C, H, W)`` came from each component,
        float64.

        Whatever was measured of ``x0``, their expectation over the posterior is the posterior's
        weights. A component is taken to spread by at least ``1e-3``, so that a degenerate one has a
        density.
        """
        return self._joint(x0.flatten(1).double(), Level(1.0, 1e-3)).log_density.softmax(1)

    @property
    def mean(self) -> Tensor:
        """``E[x0]``, ``(d,)``."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        """``Cov[x0]``, ``(d, d)``."""
        centred = self.means - self.mean
        return torch.einsum(
            "k,kij->ij", self.weights, self.covariances + centred[:, :, None] * centred[:, None]
        )


def _measured(matrices: Tensor, A: Tensor) -> Tensor:
    """``A S`` of symmetric ``S`` ``(K, d, d)``, or ``A C^T`` of ``C`` ``(K, M, d)``: ``(K, M,
    ...)``.
    """
    picked = A.argmax(1)
    if ((A != 0).sum(1) == 1).all() and (A.gather(1, picked[:, None]) == 1).all():
        return matrices[..., picked].mT  # a mask only picks rows
    return A @ matrices.mT


def _whitened(
    gram: Tensor, cross: Tensor, residual: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``cross`` and ``residual`` in units of the predicted measurement, its log volume, and which
    ``(K,)`` can be.
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
    """The Cholesky factors of ``(..., d, d)``; None where one of them is not accurate."""
    roots, failed = torch.linalg.cholesky_ex(matrices)
    smallest = roots.diagonal(dim1=-2, dim2=-1).amin(-1) ** 2
    largest = matrices.diagonal(dim1=-2, dim2=-1).amax(-1)
    return None if failed.any() or (smallest < 1e-12 * largest).any() else roots


def _symmetric(matrices: Tensor) -> Tensor:
    return (matrices + matrices.transpose(-1, -2)) / 2
