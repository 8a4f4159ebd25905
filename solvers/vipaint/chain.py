"""VIPaint's variational posterior: a Gaussian Markov chain over the states at a few noise levels.

These levels are the keypoints, noisiest first::

    top keypoint T_e:  q(z_1)         = N(mu_1, tau_1^2)                                  (Eq. 7)
    lower keypoints:   q(z_i | z_i-1) = N(gamma_i zbar_i + (1 - gamma_i) mu_i, tau_i^2)   (Eq. 8)

``zbar_i`` is the mean of the prior's own step from keypoint i-1 down to keypoint i.

Every term of the loss is a sum over elements, in nats, one number per row. A row is one draw for
one image; the rows of an image lie together. Equations are those of VIPaint (arXiv:2411.18929).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level, Process, Scalar, as_factor
from posterior_bench.solvers.shared.levels import seen_from
from posterior_bench.solvers.vipaint.intervals import Intervals

Denoiser = Callable[[Tensor, Level], Tensor]
"""The prior's denoiser: states ``(rows, C, h, w)`` and their level to predicted clean states."""


class Chain:
    """The variational posteriors of ``N`` images.

    Parameters
    ----------
    process : Process
        Noise process of the prior.
    levels : Sequence[Level]
        The ``K`` keypoints, noisiest first.
    eta : float
        Share of the reverse variance that the prior's step keeps between keypoints, in (0, 1]
        (Eq. 23).
    intervals : Intervals
        The levels above the top keypoint.

    Attributes
    ----------
    mu : Tensor
        Means ``(N, K, C, h, w)``.
    log_var : Tensor
        Logarithms of the variances tau^2, ``(N, K, C, h, w)``.
    logit : Tensor
        Logits of the weights gamma, ``(N, K, C, h, w)``; those of the top keypoint are not used.
    """

    # The released code differs in these while sampling; see solvers.vipaint.released.
    refine_noise: float = 1.0
    refine_share: float = 1.0
    sampling_guidance_from_top: bool = False

    def __init__(self, process: Process, levels: Sequence[Level], eta: float, intervals: Intervals):
        self.process, self.levels, self.eta, self.intervals = process, levels, eta, intervals

    def start(
        self, clean: Tensor, xi: Tensor, noise: Sequence[float], spread: float, gamma: float
    ) -> None:
        """Set the parameters around the encoded observation (VIPaint, Table 4).

        Parameters
        ----------
        clean : Tensor
            The encoded observation, its hole at zero, ``(N, C, h, w)``.
        xi : Tensor
            Standard normals ``(N, 2, K, C, h, w)``; only the released code uses the second half.
        noise : Sequence[float]
            Standard deviations of the noise on the means, at the top keypoint and at lower ones, in
            units of the keypoint's sigma.
        spread : float
            tau at the lower keypoints, in standard deviations of the reverse transition.
        gamma : float
            Weight of the prior's step at the lower keypoints, in (0, 1).
        """
        scales = [noise[0], *[noise[1]] * (len(self.levels) - 1)]
        mu = torch.stack(
            [self.start_mean(i, clean, xi[:, :, i], scale) for i, scale in enumerate(scales)], 1
        )
        steps = [self.process.transition(s, t).var for t, s in pairwise(self.levels)]
        variances = torch.tensor(
            [self.levels[0].sigma ** 2, *(spread**2 * var for var in steps)], dtype=torch.float64
        )
        log_var = variances.log().to(mu).view(1, -1, 1, 1, 1).expand_as(mu)
        logit = torch.full_like(mu, math.log(gamma / (1 - gamma)))
        self.mu, self.log_var, self.logit = (
            p.clone().requires_grad_() for p in (mu, log_var, logit)
        )

    def start_mean(self, i: int, clean: Tensor, xi: Tensor, scale: float) -> Tensor:
        """Return the initial ``mu_i`` ``(N, C, h, w)``.

        Parameters
        ----------
        i : int
            Number of the keypoint, from 0.
        clean : Tensor
            The encoded observation ``(N, C, h, w)``.
        xi : Tensor
            Standard normals ``(N, 2, C, h, w)``.
        scale : float
            Standard deviation of the noise on the mean, in units of the keypoint's sigma.
        """
        return self.levels[i].alpha * clean + scale * self.levels[i].sigma * xi[:, 0]

    # -- draws of q and their KL to the prior ------------------------------------------------------

    def top(self, xi: Tensor) -> Tensor:
        """Draw from ``q`` at the top keypoint.

        Parameters
        ----------
        xi : Tensor
            Standard normals ``(rows, C, h, w)``.

        Returns
        -------
        Tensor
            States ``(rows, C, h, w)``.
        """
        return rows(self.mu[:, 0], xi) + rows(self.log_var[:, 0], xi).mul(0.5).exp() * xi

    def down(self, i: int, z: Tensor, denoise: Denoiser, xi: Tensor) -> tuple[Tensor, Tensor]:
        """Step from keypoint ``i - 1`` down to keypoint ``i``.

        Parameters
        ----------
        i : int
            Number of the lower keypoint, from 1.
        z : Tensor
            Draws at keypoint ``i - 1``, ``(rows, C, h, w)``.
        denoise : Denoiser
            The prior's denoiser; it is called once.
        xi : Tensor
            Standard normals ``(rows, C, h, w)``.

        Returns
        -------
        z : Tensor
            Draws at keypoint ``i``, ``(rows, C, h, w)``.
        kl : Tensor
            KL from the prior's step to that of ``q``, in nats, ``(rows,)``.
        """
        t, s = self.levels[i - 1], self.levels[i]
        zbar, var_p = self.process.bridge_moments(z, denoise(z, t), t, s, math.sqrt(self.eta))
        log_var = rows(self.log_var[:, i], xi)
        # The mean of q is zbar + shift.
        shift = (1 - rows(self.logit[:, i], xi).sigmoid()) * (self.lower_mean(i, xi) - zbar)
        return zbar + shift + log_var.mul(0.5).exp() * xi, self.kl(shift, log_var.exp(), var_p)

    def lower_mean(self, i: int, xi: Tensor) -> Tensor:
        """Return ``mu_i`` once per row of ``xi``, ``(rows, C, h, w)``."""
        return rows(self.mu[:, i], xi)

    def prior_term(self, z: Tensor, denoise: Denoiser, u: Tensor, xi: Tensor) -> Tensor:
        """Draw an unbiased estimate of a bound on the KL of ``q`` to the prior at the top keypoint.

        Parameters
        ----------
        z : Tensor
            Draws of ``q`` at the top keypoint, ``(rows, C, h, w)``.
        denoise : Denoiser
            The prior's denoiser; it is called once.
        u : Tensor
            Uniform numbers ``(N, 1)`` of the host, which choose an interval ``(t, s)`` above the
            top keypoint for every row.
        xi : Tensor
            Standard normals ``(rows, C, h, w)``.

        Returns
        -------
        Tensor
            Estimates ``(rows,)``, in nats.

        Notes
        -----
        VIPaint, Eq. 33 to 37: the KL of ``q(z_s | z_t, z_top)`` to the prior's ``p(z_s | z_t)``,
        divided by the probability of the interval. The entropy of ``q`` is subtracted. The paper
        drops it, and then nothing keeps tau from collapsing.
        """
        t, s, weight = self.intervals.draw(u, len(z))
        top_t, top_s = seen_from(self.levels[0], t), seen_from(self.levels[0], s)
        z_t = self.process.add_noise(z, top_t, xi)
        mean_q, _ = self.process.posterior(z_t, z, top_s, top_t)
        mean_p, var_p = self.process.posterior(z_t, denoise(z_t, t), s, t)
        squares = (mean_q - mean_p).square().flatten(1).sum(1)
        distance = 0.5 * as_factor(weight / torch.as_tensor(var_p).flatten(), z) * squares
        total = distance + z[0].numel() * self.intervals.constant - self.entropy(z)
        if self.intervals.whole:
            # The KL at the noisiest level, where the prior is pure noise.
            noisiest = self.intervals.levels[0]
            end = seen_from(self.levels[0], noisiest)
            total = total + self.kl(end.alpha * z, end.sigma**2, noisiest.sigma**2)
        return total

    def before_step(self) -> None:
        """Change the parameters between the gradient and the step of Adam.

        Nothing changes here; the released code shifts the lower means.
        """

    def refinement_levels(self, prior: Prior, steps: int) -> list[Level]:
        """Return the levels of the network calls of the refinement, noisiest first.

        Parameters
        ----------
        prior : Prior
            The prior.
        steps : int
            Number of levels.

        Returns
        -------
        list[Level]
            Levels from the last keypoint to the cleanest level of the network.
        """
        return prior.grid(steps, start=self.levels[-1])[:-1]

    def kl(self, shift: Tensor, var_q: Scalar, var_p: Scalar) -> Tensor:
        """Return ``KL(N(m + shift, var_q) || N(m, var_p))``, summed over elements.

        Parameters
        ----------
        shift : Tensor
            Differences of the means, ``(rows, C, h, w)``.
        var_q : Scalar
            Variances of ``q``: a number, or a tensor that broadcasts to ``shift``.
        var_p : Scalar
            Variances of ``p``, likewise.

        Returns
        -------
        Tensor
            KL in nats, ``(rows,)``.
        """
        # In float64: variances of neighbouring levels are nearly equal, and a plain number would
        # become float32.
        ratio, weight = (
            torch.as_tensor(v, dtype=torch.float64) for v in (var_q / var_p, 1 / var_p)
        )
        spread = as_factor(ratio - ratio.log() - 1, shift)
        return 0.5 * (spread + as_factor(weight, shift) * shift.square()).flatten(1).sum(1)

    def entropy(self, z: Tensor) -> Tensor:
        """Return the entropy of ``q`` at the top keypoint, in nats, once per row of ``z``."""
        return 0.5 * (1 + math.log(2 * math.pi) + rows(self.log_var[:, 0], z)).flatten(1).sum(1)

    def data_term(self, nll: Tensor, y: Tensor) -> Tensor:
        """Return the likelihood in the units of the KL terms.

        Parameters
        ----------
        nll : Tensor
            Negative log likelihoods in nats, ``(rows,)``.
        y : Tensor
            Measurements ``(rows, ...)``.

        Returns
        -------
        Tensor
            ``nll`` itself; the released code has other units.
        """
        return nll


def rows(parameter: Tensor, like: Tensor) -> Tensor:
    """Repeat every image's parameter ``(N, ...)`` once for each of its rows in ``like``."""
    return parameter.repeat_interleave(len(like) // len(parameter), 0)
