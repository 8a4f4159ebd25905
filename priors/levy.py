"""Priors of Lévy signals: running sums of independent increments, as images ``(1, 1, 64)``.

The signals are those of the benchmark of Zach et al. (2025, arXiv 2509.12821): 64 samples
``s_n = u_1 + ... + u_n`` with increments of one law (:mod:`priors.increments`). The signals of
Gaussian increments are a prior in closed form. The others have a small denoising network, which
``python -m scripts.train_levy`` trains.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import override

from posterior_bench.priors.base import Prior, Shape
from posterior_bench.priors.increments import BernoulliLaplace, Gauss, Laplace, Law, Student
from posterior_bench.priors.levy_net import LevyNet
from posterior_bench.priors.load import load
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.process import VE, Level, Process
from posterior_bench.priors.running_sum import running_sum

LENGTH = 64
LAWS: dict[str, Law] = {
    "laplace": Laplace(),
    "bernoulli_laplace": BernoulliLaplace(),
    "student": Student(),
}
"""The laws that have a network, by name, in the units in which it was trained."""


class LevyPrior(Prior):
    """Signals with independent increments of a known law, and a network that denoises them.

    Parameters
    ----------
    law : Law
        The law of the increments.
    net : nn.Module or None, default None
        A :class:`LevyNet` that was trained for this law at scale 1; None for a prior that only
        draws, and that the Gibbs sampler reads.
    shape : tuple[int, int, int], default (1, 1, 64)
        Shape ``(C, H, W)`` of an image, which is one signal in reading order.
    """

    def __init__(self, law: Law, net: nn.Module | None = None, shape: Shape = (1, 1, LENGTH)):
        length, deviation = math.prod(shape), law.variance**0.5
        # a law without a variance has no network, and no units of its own but its scale
        deviation = deviation if deviation < math.inf else law.scale
        super().__init__(
            levy_process(deviation, length), net, shape, "edm", sigma_data(deviation, length)
        )
        self.law = law
        if isinstance(net, LevyNet):
            net.unit = deviation / net.deviation

    @property
    @override
    def caps(self) -> frozenset[str]:
        return super().caps | {"increments"}

    def log_prob(self, z: Tensor, level: Level) -> Tensor:
        """Return the log density of signals, by the law itself.

        Parameters
        ----------
        z : Tensor
            Signals ``(N, C, H, W)``.
        level : Level
            Noise level, which must be that of clean signals.

        Returns
        -------
        Tensor
            ``(N,)``, the sum over the increments.

        Raises
        ------
        ValueError
            For a level with noise: only a network knows that density.
        """
        if level.sigma:
            raise ValueError(f"the law of clean signals says nothing of noise {level.sigma}")
        signals = z.flatten(1)
        increments = signals.diff(dim=1, prepend=torch.zeros_like(signals[:, :1]))
        return self.law.log_prob(increments).sum(1)

    def sample(self, uniform: Tensor, normal: Tensor) -> Tensor:
        """Draw signals from the law itself, without the network.

        Parameters
        ----------
        uniform : Tensor
            Uniform numbers ``(N,)``; they are not used.
        normal : Tensor
            Standard-normal numbers ``(N, C, H, W)``. Each gives the increment with its own rank.

        Returns
        -------
        Tensor
            Images ``(N, C, H, W)`` in the dtype of ``normal``.
        """
        ranks = torch.special.ndtr(normal.flatten(1).double())
        return draw(self.law, ranks).view_as(normal).to(normal.dtype)


def draw(law: Law, uniform: Tensor) -> Tensor:
    """Return the signals whose increments have given ranks.

    Parameters
    ----------
    law : Law
        The law of the increments.
    uniform : Tensor
        Numbers ``(..., L)`` between 0 and 1; uniform ones give draws of the signal.

    Returns
    -------
    Tensor
        Signals ``(..., L)``, float64.
    """
    return running_sum(law.quantile(uniform))


def sigma_data(deviation: float, length: int = LENGTH) -> float:
    """Return the root mean square of a signal whose increments have this standard deviation."""
    return deviation * ((length + 1) / 2) ** 0.5


def levy_process(deviation: float, length: int = LENGTH) -> Process:
    """Return the noise process of signals whose increments have this standard deviation.

    It ends at ten times the standard deviation of the last sample, and starts at a hundredth of
    that of an increment.
    """
    return VE(0.01 * deviation, 10 * length**0.5 * deviation)


def untrained(name: str, width: int = 32) -> LevyPrior:
    """Return a prior of a law of :data:`LAWS` with a fresh network; its denoiser is linear."""
    law, deviation = LAWS[name], LAWS[name].variance ** 0.5
    return LevyPrior(law, LevyNet(name, LENGTH, deviation, sigma_data(deviation), width))


def levy_gauss(scale: float = 0.5, length: int = LENGTH) -> MixturePrior:
    """Build signals with increments ``N(0, scale^2)``, in closed form.

    Parameters
    ----------
    scale : float, default 0.5
        Standard deviation of an increment, above 0.
    length : int, default 64
        Samples of a signal.

    Returns
    -------
    MixturePrior
        One component, for images ``(1, 1, length)``.

    Raises
    ------
    ValueError
        If the scale is not positive.
    """
    variance = Gauss(scale).variance
    places = torch.arange(1, length + 1, dtype=torch.float64)
    covariance = variance * torch.minimum(places[:, None], places)
    mean = torch.zeros(1, length, dtype=torch.float64)
    return MixturePrior(
        levy_process(scale, length), torch.ones(1), mean, covariance[None], (1, 1, length)
    )


def levy_laplace(path: str | Path, scale: float = 1.0) -> LevyPrior:
    """Load signals with Laplace increments and their denoiser.

    Parameters
    ----------
    path : str or Path
        The folder that ``scripts.train_levy`` wrote.
    scale : float, default 1.0
        Scale of the increments, above 0. The network follows it exactly.

    Returns
    -------
    LevyPrior
        The prior.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is missing or damaged, the network is that of another law, or a parameter is out
        of range.
    """
    return _loaded(path, "laplace", scale)


def levy_bernoulli_laplace(path: str | Path, scale: float = 1.0) -> LevyPrior:
    """Load signals that jump with probability 0.1 by a Laplace variable, and their denoiser.

    Parameters, returned value and errors are those of :func:`levy_laplace`.
    """
    return _loaded(path, "bernoulli_laplace", scale)


def levy_student(path: str | Path, scale: float = 1.0, freedom: int = 3) -> LevyPrior:
    """Load signals with Student increments and their denoiser.

    Parameters, returned value and errors are those of :func:`levy_laplace`. ``freedom`` must be 3:
    laws with less have no variance, which EDM's scalings need.
    """
    if freedom != 3:
        raise ValueError(
            f"freedom={freedom}: increments with fewer than 3 degrees of freedom have no variance, "
            "so no denoiser is trained for them; give freedom=3"
        )
    return _loaded(path, "student", scale)


def _loaded(path: str | Path, name: str, scale: float) -> LevyPrior:
    law = LAWS[name].scaled(scale)
    prior = load(path)
    if not isinstance(net := prior.net, LevyNet) or net.law != name:
        raise ValueError(
            f"{path} holds no denoiser of the law {name}; train one: "
            f"python -m scripts.train_levy {name}"
        )
    return LevyPrior(law, net)
