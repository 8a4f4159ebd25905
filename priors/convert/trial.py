"""One call of a converted prior, to find an unusable network before anything is written."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from posterior_bench.priors.base import Prior
from posterior_bench.priors.nets import Inpainter

SMALL = 8
"""Side of the states of the trial, where the network takes one so small."""


def call_once(prior: Prior, where: object) -> None:
    """Denoise and decode one small state, to check that the network can be called.

    A network that fails at the small size is called at its own size, and the error of that call is
    reported.

    Parameters
    ----------
    prior : Prior
        The prior.
    where : object
        Name of the source in error messages.

    Raises
    ------
    ValueError
        If the call fails, or returns a wrong shape or values that are not finite. The message is
        one line.
    """
    full = prior.latent_shape[-2:]
    small = tuple(min(side, _side(prior)) for side in full)
    try:
        _call(prior, small)
    except Exception:  # networks of a fixed size may raise anything
        try:
            _call(prior, full)
        except Exception as error:
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise ValueError(
                f"{where}: the network cannot be called, "
                f"so nothing is written: {reason} ({type(error).__name__})"
            ) from None


def _side(prior: Prior) -> int:
    """Return the smallest side, at least :data:`SMALL`, that all levels of a U-Net halve evenly."""
    settings = getattr(prior.net, "settings", {})
    config = settings.get("config", {}) if isinstance(settings, Mapping) else {}
    levels = len(config.get("block_out_channels") or [0])
    return max(SMALL, 2 ** (levels - 1)) * int(settings.get("unshuffle", 1))


@torch.no_grad()
def _call(prior: Prior, sides: tuple[int, ...]) -> None:
    factor = 1 if prior.latent is None else prior.latent.factor
    z = torch.randn(1, prior.latent_shape[0], *sides, generator=torch.Generator().manual_seed(0))
    image = (1, prior.image_shape[0], *(side * factor for side in sides))
    cond = prior.condition(torch.zeros(1, dtype=torch.long))
    if isinstance(prior.net, Inpainter):
        seen = torch.ones(1, 1, *image[-2:], dtype=torch.bool)
        cond = prior.inpainting(torch.zeros(image), seen, cond)
    _check("the network", prior.denoise(z, prior.level(1.0), cond), tuple(z.shape))
    _check("the decoder", prior.decode(z), image)


def _check(what: str, found: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(found.shape) != shape:
        raise ValueError(f"{what} returns the shape {tuple(found.shape)}, not {shape}")
    if not found.isfinite().all():
        raise ValueError(f"{what} returns values that are not finite")
