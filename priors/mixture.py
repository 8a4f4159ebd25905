"""The exact prior: a Gaussian mixture, where denoiser, score, log density and posterior are closed forms."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from priors.base import Condition, Prior, Shape
from priors.process import Level, Process


class MixturePrior(Prior):
    """``x0 ~ sum_k w_k N(mu_k, S_k)`` with full covariances, at any noise level of any process.

    Each ``S_k = U_k diag(lam_k) U_k^T`` is decomposed once; a noise level then costs two matrix-vector products per
    component. Arithmetic is float64 whatever the dtype of ``z``.

    Parameters
    ----------
    weights ``(K,)``, means ``(K, d)``, covariances ``(K, d, d)`` with ``d = C H W``.
    """

    def __init__(self, process: Process, weights: Tensor, means: Tensor, covariances: Tensor, shape: Shape):
        super().__init__(process, None, shape, parameterization="x0")
        if math.prod(shape) != means.shape[1]:
            raise ValueError(f"means of {means.shape[1]} dimensions do not fill images of shape {shape}")
        self.weights = weights.double() / weights.double().sum()
        self.means, self.covariances = means.double(), covariances.double()
        eigenvalues, self.vectors = torch.linalg.eigh(self.covariances)
        self.eigenvalues = eigenvalues.clamp_min(0)

    @property
    def caps(self) -> frozenset[str]:
        return super().caps | {"exact", "double_backward"}

    def to(self, device: torch.device | str) -> MixturePrior:
        super().to(device)
        for name in ("weights", "means", "covariances", "eigenvalues", "vectors"):
            setattr(self, name, getattr(self, name).to(self.device))
        return self

    # -- closed forms -------------------------------------------------------------------------------------------------

    def denoise(self, z: Tensor, level: Level, cond: Condition | None = None, guidance: float = 1.0) -> Tensor:
        """``E[x0 | z]``, exactly: responsibilities times each component's Gaussian regression."""
        if guidance != 1.0:
            raise ValueError(f"guidance {guidance} needs a class-conditional prior; a mixture has no classes")
        self.meter.add("nfe", len(z))
        flat = z.flatten(1).double()
        alpha, variance, rotated, log_joint = self._components(flat, level)
        shrunk = torch.einsum(
            "nk,kij,nkj->ni", log_joint.softmax(1), self.vectors, alpha * self.eigenvalues / variance * rotated
        )
        x0 = log_joint.softmax(1) @ self.means + shrunk
        return self._counted(x0.view_as(z).to(z.dtype), "nge", len(z))

    def log_prob(self, z: Tensor, level: Level) -> Tensor:
        """``log p(z)`` at a noise level, ``(N,)`` nats; the density of the data itself at ``CLEAN``."""
        return self._components(z.flatten(1).double(), level)[3].logsumexp(1)

    def score(self, z: Tensor, level: Level) -> Tensor:
        """``grad log p(z) = (alpha E[x0 | z] - z) / sigma^2``, float64."""
        x0 = self.denoise(z.double(), level)
        return (self._like(level.alpha, z) * x0 - z.double()) / self._like(level.sigma, z) ** 2

    def _components(self, flat: Tensor, level: Level) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Per component: alpha, marginal variances in its eigenbasis, rotated residuals, log joint density."""
        alpha, sigma = (self._like(v, flat).reshape(-1, 1, 1) for v in (level.alpha, level.sigma))
        variance = alpha**2 * self.eigenvalues + sigma**2  # (N or 1, K, d)
        rotated = torch.einsum("kij,nki->nkj", self.vectors, flat[:, None] - alpha * self.means)
        log_density = -0.5 * (rotated**2 / variance + variance.log() + math.log(2 * math.pi)).sum(-1)
        return alpha, variance, rotated, self.weights.log() + log_density

    # -- the data and its posterior ------------------------------------------------------------------------------------

    def sample(self, uniform: Tensor, normal: Tensor) -> Tensor:
        """Draws of ``x0``: ``uniform`` ``(N,)`` picks the component, ``normal`` ``(N, C, H, W)`` fills it."""
        k = torch.searchsorted(self.weights.cumsum(0), uniform.double().contiguous()).clamp_max(len(self.weights) - 1)
        scaled = self.eigenvalues[k].sqrt() * normal.flatten(1).double()
        x0 = self.means[k] + torch.einsum("nij,nj->ni", self.vectors[k], scaled)
        return x0.view_as(normal).to(normal.dtype)

    def posterior(self, A: Tensor, y: Tensor, sigma: float) -> MixturePrior:
        """``p(x0 | y)`` for ``y = A x0 + sigma n`` with a matrix ``A`` ``(M, d)`` and one observation ``y`` ``(M,)``.

        Exact for any linear operator (conjugacy, per component); the weights are reweighted by each component's
        evidence. ``sigma = 0`` conditions on the observed values themselves; raises ValueError where no component
        can produce them.
        """
        A, y = A.double(), y.double()
        cross = self.covariances @ A.T  # (K, d, M)
        gram = A @ cross + sigma**2 * torch.eye(len(y), dtype=torch.float64, device=y.device)
        residual = y - self.means @ A.T
        # without noise a degenerate component makes the Gram matrix singular: what it fixes beforehand carries no
        # information, and rules the component out where y disagrees
        spectrum, vectors = torch.linalg.eigh(gram)
        free = spectrum > 1e-12 * spectrum.amax(-1, keepdim=True).clamp_min(1e-300)
        precision = torch.where(free, 1 / spectrum, 0.0)
        projected = torch.einsum("kmj,km->kj", vectors, residual)
        means = self.means + torch.einsum("kdm,kmj,kj,kj->kd", cross, vectors, precision, projected)
        gain = cross @ vectors
        covariances = self.covariances - (gain * precision[:, None]) @ gain.transpose(1, 2)
        log_evidence = -0.5 * (precision * projected**2 + torch.where(free, spectrum, 1e-300).log()).sum(-1)
        possible = ((projected.abs() < 1e-6) | free).all(-1)
        if not possible.any():
            raise ValueError("no component of this mixture can produce y without noise; use sigma > 0")
        weights = (self.weights.log() + log_evidence.masked_fill(~possible, -math.inf)).softmax(0)
        return MixturePrior(self.process, weights, means, _symmetric(covariances), self.latent_shape)

    @property
    def mean(self) -> Tensor:
        """``E[x0]``, ``(d,)``."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        """``Cov[x0]``, ``(d, d)``."""
        centred = self.means - self.mean
        return torch.einsum("k,kij->ij", self.weights, self.covariances + centred[:, :, None] * centred[:, None])


def _symmetric(matrices: Tensor) -> Tensor:
    return (matrices + matrices.transpose(-1, -2)) / 2
