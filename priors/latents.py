"""Latent spaces: autoencoders between images and the states a latent prior denoises.

A latent maps images ``(N, C, H, W)`` in [-1, 1] to ``z = (encoder(x) - shift) * scale`` and back;
``shift`` and ``scale`` are one number, or one per channel. Autoencoders run in float32 whatever
precision surrounds them, because their decoders overflow in half precision (Rombach et al. 2022,
and every port of that code since). ``settings`` holds the constructor arguments, so that a latent
can be written to a file and built again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

GRADIENTS = ("straight_through", "unquantised", "hard")


class Latent(nn.Module):
    """An autoencoder with explicit shift and scale. Subclasses fill :meth:`encoded` and
    :meth:`decoded`.
    """

    factor: int
    channels: int

    @property
    def differentiable(self) -> bool:
        """Whether an image has a gradient in the latent it was decoded from."""
        return True

    def __init__(
        self,
        config: Mapping[str, object],
        shift: float | Sequence[float],
        scale: float | Sequence[float],
    ):
        super().__init__()
        self.settings: dict[str, object] = {"config": dict(config), "shift": shift, "scale": scale}

    def encoded(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """What the encoder puts out, before shift and scale."""
        raise NotImplementedError

    def decoded(self, h: Tensor) -> Tensor:
        """The image of what an encoder put out."""
        raise NotImplementedError

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """The latent of an image: its posterior mean, or a draw of the posterior with
        standard-normal ``noise``.
        """
        with torch.autocast(x.device.type, enabled=False):
            shift, scale = self._affine(x)
            return (self.encoded(x.float(), noise) - shift) * scale

    def decode(self, z: Tensor) -> Tensor:
        """The image of a latent; differentiable in ``z``."""
        with torch.autocast(z.device.type, enabled=False):
            shift, scale = self._affine(z)
            return self.decoded(z.float() / scale + shift)

    def _affine(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale = (
            torch.tensor(self.settings[key], dtype=torch.float32) for key in ("shift", "scale")
        )
        return shift.view(-1, 1, 1).to(like.device), scale.view(-1, 1, 1).to(like.device)

    def shape(self, image: Sequence[int]) -> tuple[int, int, int]:
        """``(c, h, w)`` of the latent of an image ``(C, H, W)``; ValueError where the factor does
        not divide it.
        """
        height, width = image[-2:]
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"images of {height} x {width} pixels are no multiple of the latent's factor "
                f"{self.factor}"
            )
        return self.channels, height // self.factor, width // self.factor


class KL(Latent):
    """diffusers' ``AutoencoderKL`` (Kingma and Welling 2014; Rombach et al. 2022): the encoder
    gives a Gaussian.
    """

    def __init__(
        self,
        config: Mapping[str, object],
        shift: float | Sequence[float] = 0.0,
        scale: float | Sequence[float] = 1.0,
    ):
        super().__init__(config, shift, scale)
        from diffusers import (
            AutoencoderKL,  # seconds of imports, paid only where an autoencoder is built
        )

        self.autoencoder = AutoencoderKL(**config)
        self.channels = self.autoencoder.config.latent_channels
        self.factor = 2 ** (len(self.autoencoder.config.block_out_channels) - 1)

    def encoded(self, x: Tensor, noise: Tensor | None) -> Tensor:
        mean, deviation = self.moments(x)
        return mean if noise is None else mean + deviation * noise

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the encoder's Gaussian, before shift and scale."""
        law = self.autoencoder.encode(x).latent_dist
        return law.mean, law.std

    def decoded(self, h: Tensor) -> Tensor:
        return self.autoencoder.decode(h).sample


class VQ(Latent):
    """diffusers' ``VQModel`` (van den Oord et al. 2017; Esser et al. 2021). The latent is the
    *unquantised* encoding.

    ``gradient`` says what a decoder call is: ``straight_through`` decodes the nearest codes and
    passes the gradient through unchanged, as all released latent solvers do; ``unquantised``
    decodes ``z`` itself, which is smooth; ``hard`` decodes the codes and has no gradient. The first
    two differ a great deal, so it is a setting of the prior.
    """

    def __init__(
        self,
        config: Mapping[str, object],
        shift: float | Sequence[float] = 0.0,
        scale: float | Sequence[float] = 1.0,
    ):
        super().__init__(config, shift, scale)
        from diffusers import VQModel

        self.autoencoder = VQModel(**config)
        self.channels = self.autoencoder.config.latent_channels
        self.factor = 2 ** (len(self.autoencoder.config.block_out_channels) - 1)
        self.gradient = "straight_through"

    @property
    def differentiable(self) -> bool:
        return self.gradient != "hard"

    def encoded(self, x: Tensor, noise: Tensor | None) -> Tensor:
        if noise is not None:
            raise ValueError("a VQ autoencoder has no posterior to draw from; encode without noise")
        return self.autoencoder.encode(x).latents

    def decoded(self, h: Tensor) -> Tensor:
        h = h.detach() if self.gradient == "hard" else h
        return self.autoencoder.decode(h, force_not_quantize=self.gradient == "unquantised").sample


LATENTS = {"KL": KL, "VQ": VQ}
"""Autoencoders a ``prior.json`` may name."""
