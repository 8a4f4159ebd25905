"""How well Markov chains have mixed: split R-hat and the effective sample size."""

from __future__ import annotations

import torch
from torch import Tensor


def split_rhat(chains: Tensor) -> Tensor:
    """Return the potential scale reduction of chains that are cut in two.

    Parameters
    ----------
    chains : Tensor
        Draws ``(..., M, T, d)`` of ``M`` chains with ``T`` states, at least 4, of ``d`` numbers.

    Returns
    -------
    Tensor
        ``(..., d)``, float64. Near 1 if the halves of all chains agree; 1.01 is the usual limit. It
        is 1 where nothing ever moves, and infinite where chains stand still in different places.

    Notes
    -----
    Vehtari, Gelman, Simpson, Carpenter and Bürkner, "Rank-normalization, folding, and localization:
    An improved R-hat", Bayesian Analysis 2021, Eq. 1 to 4, without ranks.

    Examples
    --------
    >>> apart = torch.tensor([[0.0, 1.0, 0.0, 1.0], [9.0, 8.0, 9.0, 8.0]])[..., None]
    >>> bool(split_rhat(apart) > 5)
    True
    """
    halves = _halves(chains)
    within, total = _variances(halves)
    return torch.where(total > 0, (total / within).sqrt(), 1.0)


def effective_size(chains: Tensor) -> Tensor:
    """Return the number of independent draws whose mean has the error of the mean of the chains.

    Parameters
    ----------
    chains : Tensor
        Draws ``(..., M, T, d)`` of ``M`` chains with ``T`` states, at least 4, of ``d`` numbers.

    Returns
    -------
    Tensor
        ``(..., d)``, float64, above 0; ``M T`` where nothing ever moves. Chains that swing around
        their mean reach more than ``M T``; the limit is ``M T log10(M T)``.

    Notes
    -----
    Vehtari et al. (2021), Eq. 10 to 13: the correlations of all halves of chains are combined with
    the variance between them, and summed in pairs as long as the sums are positive and fall (Geyer,
    "Practical Markov chain Monte Carlo", Statistical Science 1992).
    """
    halves = _halves(chains)
    count, length = halves.shape[-3], halves.shape[-2]
    within, total = _variances(halves)
    spread = (within[..., None, :] - _autocovariance(halves).mean(-3)) / total[..., None, :]
    correlation = 1 - torch.where(total[..., None, :] > 0, spread, 1.0)
    correlation[..., 0, :] = 1.0
    even = length - length % 2
    pairs = correlation[..., :even, :].unflatten(-2, (-1, 2)).sum(-2)
    positive = (pairs > 0).cumprod(-2)
    falling = pairs.clamp_min(0).cummin(-2).values * positive
    steps = (2 * falling.sum(-2) - 1).clamp_min(1 / _log10(count * length))
    return count * length / steps


def _log10(number: int) -> float:
    return max(1.0, torch.tensor(float(number)).log10().item())


def _halves(chains: Tensor) -> Tensor:
    """Return both halves of every chain as chains, ``(..., 2 M, T // 2, d)``, float64."""
    half = chains.shape[-2] // 2
    if half < 2:
        raise ValueError(f"chains of {chains.shape[-2]} states are too short; give 4 or more")
    return torch.cat([chains[..., :half, :], chains[..., -half:, :]], -3).double()


def _variances(chains: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variance within chains, and the one that overestimates it, ``(..., d)``."""
    length = chains.shape[-2]
    within = chains.var(-2).mean(-2)
    between = chains.mean(-2).var(-2)
    return within, (length - 1) / length * within + between


def _autocovariance(chains: Tensor) -> Tensor:
    """Return the autocovariances ``(..., M, T, d)`` of every chain, over ``T - 1``."""
    length = chains.shape[-2]
    centred = chains - chains.mean(-2, keepdim=True)
    power = torch.fft.rfft(centred, 2 * length, dim=-2).abs().square()
    return torch.fft.irfft(power, 2 * length, dim=-2)[..., :length, :] / (length - 1)
