"""Latent spaces: autoencoders between images and the states that a latent prior denoises.

A latent maps images ``(N, C, H, W)`` in [-1, 1] to ``z = (encoder(x) - shift) * scale`` and back;
``shift`` and ``scale`` are one number each, or one number per channel. Autoencoders run in float32
inside any autocast, because their decoders overflow in half precision (Rombach et al. 2022, and
every port of that code since). ``settings`` holds the constructor's arguments, so that a latent can
be written to a file and built again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from posterior_bench.priors.low_precision import tf32
from posterior_bench.priors.process import as_factor
from posterior_bench.priors.tiling import tiled

GRADIENTS = ("straight_through", "unquantised", "hard")
"""Values of :attr:`VQ.gradient`."""


class Latent(nn.Module):
    """Base class of autoencoders with a shift and a scale.

    A subclass implements :meth:`encoded` and :meth:`decoded`, and sets ``factor`` and ``channels``.

    Parameters
    ----------
    config : Mapping[str, object]
        Arguments of the autoencoder's class.
    shift, scale : float or Sequence[float]
        ``z = (encoder(x) - shift) * scale``; one number, or one per channel of the latent.

    Attributes
    ----------
    factor : int
        Factor by which height and width shrink.
    channels : int
        Number of channels of the latent.
    tile : int
        Height and width, in latent positions, of the tiles that encoder and decoder run on; 0 at
        first, for the whole image at once.
    """

    factor: int
    channels: int

    @property
    def differentiable(self) -> bool:
        """Whether a decoded image has a gradient in its latent."""
        return True

    def __init__(
        self,
        config: Mapping[str, object],
        shift: float | Sequence[float],
        scale: float | Sequence[float],
    ):
        super().__init__()
        self.settings: dict[str, object] = {"config": dict(config), "shift": shift, "scale": scale}
        self.tile = 0

    def encoded(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """Return the encoder's output, before shift and scale.

        Parameters
        ----------
        x : Tensor
            Images ``(N, C, H, W)`` in [-1, 1], float32.
        noise : Tensor or None
            Standard-normal numbers for a draw, shaped like the latents; None asks for the mean.

        Returns
        -------
        Tensor
            ``(N, c, h, w)``.

        Raises
        ------
        ValueError
            If ``noise`` is not None and the encoder has no posterior to draw from.
        """
        raise NotImplementedError

    def decoded(self, h: Tensor) -> Tensor:
        """Return the images that the decoder makes of encoder outputs.

        Parameters
        ----------
        h : Tensor
            Outputs of the encoder ``(N, c, h, w)``, before shift and scale, float32.

        Returns
        -------
        Tensor
            Images ``(N, C, H, W)``, not clipped.
        """
        raise NotImplementedError

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Encode images.

        Parameters
        ----------
        x : Tensor
            Images ``(N, C, H, W)`` in [-1, 1].
        noise : Tensor or None, default None
            Standard-normal numbers, shaped like the latents, for a draw of the encoder's posterior;
            None returns its mean.

        Returns
        -------
        Tensor
            Latents ``(N, c, h, w)``, float32.
        """
        with torch.autocast(x.device.type, enabled=False):
            shift, scale = self._affine(x)
            encoded = self.encoded_in_tiles if self.tile else self.encoded
            return (encoded(x.float(), noise) - shift) * scale

    def decode(self, z: Tensor) -> Tensor:
        """Decode latents.

        Parameters
        ----------
        z : Tensor
            Latents ``(N, c, h, w)``.

        Returns
        -------
        Tensor
            Images ``(N, C, H, W)``, float32, not clipped; differentiable in ``z`` where
            :attr:`differentiable` is True.
        """
        with torch.autocast(z.device.type, enabled=False):
            shift, scale = self._affine(z)
            h = z.float() / scale + shift
            if self.tile:
                return tiled(self.decoded, h, self.tile, factor=self.factor)
            return self.decoded(h)

    def encoded_in_tiles(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """Return what :meth:`encoded` returns, from tiles."""
        return tiled(lambda part: self.encoded(part, noise), x, self.tile, step=self.factor)

    def _affine(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale = (
            torch.tensor(self.settings[key], dtype=torch.float32) for key in ("shift", "scale")
        )
        return self._per_channel(shift, like), self._per_channel(scale, like)

    @staticmethod
    def _per_channel(numbers: Tensor, like: Tensor) -> Tensor:
        """Return one number for all channels, on the host, or one per channel of ``like``."""
        return as_factor(numbers.view(-1, 1, 1) if numbers.numel() > 1 else numbers.squeeze(), like)

    def shape(self, image: Sequence[int]) -> tuple[int, int, int]:
        """Return the shape of the latent of an image.

        Parameters
        ----------
        image : Sequence[int]
            Shape ``(C, H, W)``.

        Returns
        -------
        tuple[int, int, int]
            Shape ``(c, h, w)``.

        Raises
        ------
        ValueError
            If ``factor`` does not divide height and width.
        """
        height, width = image[-2:]
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"images of {height} x "
                f"{width} pixels are no multiple of the latent's factor {self.factor}"
            )
        return self.channels, height // self.factor, width // self.factor


class KL(Latent):
    """The ``AutoencoderKL`` of diffusers, whose encoder returns a Gaussian.

    Parameters
    ----------
    config : Mapping[str, object]
        Arguments of ``AutoencoderKL``.
    shift : float or Sequence[float], default 0.0
        Subtracted from the encoder's output.
    scale : float or Sequence[float], default 1.0
        Factor behind the shift.

    References
    ----------
    Kingma and Welling 2014; Rombach et al. 2022.
    """

    def __init__(
        self,
        config: Mapping[str, object],
        shift: float | Sequence[float] = 0.0,
        scale: float | Sequence[float] = 1.0,
    ):
        super().__init__(config, shift, scale)
        # here, because diffusers takes seconds to import
        from diffusers import AutoencoderKL

        self.autoencoder = AutoencoderKL(**config)
        self.channels = self.autoencoder.config.latent_channels
        self.factor = 2 ** (len(self.autoencoder.config.block_out_channels) - 1)

    @override
    def encoded(self, x: Tensor, noise: Tensor | None) -> Tensor:
        mean, deviation = self.moments(x)
        return mean if noise is None else mean + deviation * noise

    @override
    def encoded_in_tiles(self, x: Tensor, noise: Tensor | None) -> Tensor:
        if noise is None:
            return super().encoded_in_tiles(x, None)
        both = tiled(lambda part: torch.cat(self.moments(part), 1), x, self.tile, step=self.factor)
        mean, deviation = both.chunk(2, 1)
        return mean + deviation * noise

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the encoder's Gaussian, before shift and scale."""
        law = self.autoencoder.encode(x).latent_dist
        return law.mean, law.std

    @override
    def decoded(self, h: Tensor) -> Tensor:
        return self.autoencoder.decode(h).sample


class VQ(Latent):
    """The ``VQModel`` of diffusers; the latent is the *unquantised* encoding.

    Parameters
    ----------
    config : Mapping[str, object]
        Arguments of ``VQModel``.
    shift : float or Sequence[float], default 0.0
        Subtracted from the encoder's output.
    scale : float or Sequence[float], default 1.0
        Factor behind the shift.

    Attributes
    ----------
    gradient : str
        How the decoder reads a latent. The first two differ a great deal, so the choice is a
        setting of the prior.

        - ``straight_through``: decode the nearest codes and pass the gradient through unchanged, as
          all released latent solvers do. This is the default.
        - ``unquantised``: decode ``z`` itself, which is smooth.
        - ``hard``: decode the codes, without a gradient.

    References
    ----------
    van den Oord et al. 2017; Esser et al. 2021.
    """

    def __init__(
        self,
        config: Mapping[str, object],
        shift: float | Sequence[float] = 0.0,
        scale: float | Sequence[float] = 1.0,
    ):
        super().__init__(config, shift, scale)
        # here, because diffusers takes seconds to import
        from diffusers import VQModel

        self.autoencoder = VQModel(**config)
        self.channels = self.autoencoder.config.latent_channels
        self.factor = 2 ** (len(self.autoencoder.config.block_out_channels) - 1)
        self.gradient = "straight_through"

    @property
    @override
    def differentiable(self) -> bool:
        return self.gradient != "hard"

    @override
    def encoded(self, x: Tensor, noise: Tensor | None) -> Tensor:
        if noise is not None:
            raise ValueError("a VQ autoencoder has no posterior to draw from; encode without noise")
        return self.autoencoder.encode(x).latents

    @override
    def decoded(self, h: Tensor) -> Tensor:
        if self.gradient != "unquantised":
            h = self.quantised(h.detach() if self.gradient == "hard" else h)
        # what VQModel.decode does behind its own search
        spatial = self.autoencoder.config.norm_type == "spatial"
        return self.autoencoder.decoder(self.autoencoder.post_quant_conv(h), h if spatial else None)

    def quantised(self, h: Tensor) -> Tensor:
        """Return the nearest codes of ``h`` ``(N, c, h, w)``; the gradient passes unchanged.

        Distances are in float32 whatever the precision of products is: in TensorFloat-32 one code
        of 25 is another one, and another code is another image.
        """
        with tf32(False):
            codes: Tensor = self.autoencoder.quantize(h)[0]
        return codes


LATENTS = {"KL": KL, "VQ": VQ}
"""Autoencoders a ``prior.json`` may name."""
