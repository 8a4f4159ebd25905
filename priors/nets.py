"""Network adapters: how to call each backbone on a scaled input, a time and a condition.

Every adapter maps ``(x, t, cond)`` to the raw output, with ``x`` of shape ``(N, C, H, W)``, ``t``
of shape ``(N,)`` and ``cond`` a dict of tensors with ``N`` rows. Time is always a tensor, because
diffusers truncates a Python float to an integer. The prior knows what the output means (eps, v,
flow, x0 or EDM's F). ``settings`` holds the constructor's arguments, so that an adapter can be
written to a file and built again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from posterior_bench.priors.levy_net import LevyNet

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


class UNet2D(nn.Module):
    """The ``UNet2DModel`` of diffusers, with an optional pixel-unshuffle in front.

    Parameters
    ----------
    config : Mapping[str, object]
        Arguments of ``UNet2DModel``. With ``num_class_embeds = K + 1`` the last row is the null
        label.
    unshuffle : int, default 1
        Factor of the pixel-unshuffle; 2 makes the network four times cheaper.
    heads : int or None, default None
        One number of attention heads for every width (LSUN-churches), which ``config`` cannot
        express. None keeps the heads of ``config``.

    Raises
    ------
    ValueError
        If ``heads`` does not divide the channels of an attention.
    """

    def __init__(self, config: Mapping[str, object], unshuffle: int = 1, heads: int | None = None):
        super().__init__()
        # here, because diffusers takes seconds to import
        from diffusers import UNet2DModel

        self.settings: dict[str, object] = {"config": dict(config), "unshuffle": unshuffle}
        self.unshuffle = unshuffle
        self.unet = UNet2DModel(**config)
        if heads is not None:
            self.settings["heads"] = heads
            _set_heads(self.unet, heads)

    @override
    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        hidden = F.pixel_unshuffle(x, self.unshuffle) if self.unshuffle > 1 else x
        out = self.unet(hidden, t, class_labels=cond.get("label")).sample
        return F.pixel_shuffle(out, self.unshuffle) if self.unshuffle > 1 else out


class UNet2DToData(UNet2D):
    """A :class:`UNet2D` of a flow that runs towards data, as those of PnP-Flow were trained.

    The network itself is fed a time from 0 (noise) to 1 (data), and puts out the velocity
    ``x0 - eps``. This class is called like every flow here: with 1000 times the noise level, from
    1000 (noise) to 0 (data), and it returns ``eps - x0``. The parameters are those of
    :class:`UNet2D`.
    """

    @override
    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return -super().forward(x, 1 - t / 1000, cond)


def _set_heads(net: nn.Module, heads: int) -> None:
    """Give every attention of ``net`` this many heads; the shapes of its weights stay the same."""
    # here, because diffusers takes seconds to import
    from diffusers.models.attention_processor import Attention

    for module in net.modules():
        if isinstance(module, Attention):
            if module.inner_dim % heads:
                raise ValueError(
                    f"{heads} heads do not divide an attention of {module.inner_dim} channels"
                )
            module.heads = module.sliceable_head_dim = heads
            module.scale = (module.inner_dim // heads) ** -0.5


class Contexts(nn.Module):
    """Base class of networks that attend to a context, with a table of contexts.

    The table holds embeddings of classes, or of prompts that were computed once, so that no text
    encoder is needed. ``cond["label"]`` chooses the row. Without a label it is the last row, the
    null context. ``cond["contexts"]`` and ``cond["pooled"]`` replace the table's rows by embedded
    prompts.

    Parameters
    ----------
    contexts : Sequence[int]
        Shape ``(K, L, D)`` of the table: K contexts of L tokens.
    pooled : int or None, default None
        Width ``P`` of a second table ``(K, P)``; None for no such table.
    """

    def __init__(self, contexts: Sequence[int], pooled: int | None = None):
        super().__init__()
        self.contexts = nn.Parameter(torch.zeros(*contexts))
        self.pooled = None if pooled is None else nn.Parameter(torch.zeros(contexts[0], pooled))

    def rows(self, name: str, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """Return one context for each row of a batch.

        Parameters
        ----------
        name : str
            The table: ``contexts`` or ``pooled``.
        x : Tensor
            The input of the network, ``N`` rows.
        cond : Mapping[str, Tensor]
            The condition.

        Returns
        -------
        Tensor
            ``cond[name]`` where the condition has it, else rows of the table: ``(N, L, D)`` or
            ``(N, P)``.
        """
        if name in cond:
            return cond[name]
        table: Tensor = getattr(self, name)
        return (
            table[cond["label"]] if "label" in cond else table[-1:].expand(len(x), *table.shape[1:])
        )


LCM_GUIDANCE = 8.5
"""Strength that a latent consistency model imitates unless it is told another: diffusers' own."""


def guidance_embedding(weight: float, width: int, x: Tensor) -> Tensor:
    """Return sines and cosines of a strength of guidance, which distilled U-Nets read.

    Parameters
    ----------
    weight : float
        Weight of classifier-free guidance; 1 means none.
    width : int
        Number of sines and cosines, 4 or more.
    x : Tensor
        The input of the network, ``N`` rows.

    Returns
    -------
    Tensor
        ``(N, width)``, in the dtype of ``x``.
    """
    half = width // 2
    # in float32 and in the library's order: the sines of large numbers are sensitive to both
    frequencies = torch.exp(
        torch.arange(half, device=x.device, dtype=torch.float32) * -(math.log(10000) / (half - 1))
    )
    angles = 1000 * (weight - 1) * frequencies
    embedded = F.pad(torch.cat([angles.sin(), angles.cos()]), (0, width % 2))
    return embedded.to(x.dtype).expand(len(x), width)


class TextUNet(Contexts):
    """Base class of networks with a ``UNet2DConditionModel``, perhaps a distilled one.

    Attributes
    ----------
    embedded_guidance : float
        Strength of the guidance that a distilled network imitates in one evaluation. It is an input
        of the network. The guidance of :meth:`Prior.denoise` comes on top.
    """

    unet: UNet2DConditionModel
    embedded_guidance: float = LCM_GUIDANCE

    @property
    def is_distilled(self) -> bool:
        """Whether the network reads :attr:`embedded_guidance`."""
        return self.unet.config.time_cond_proj_dim is not None

    def strength(self, x: Tensor) -> Tensor | None:
        """Return what the network reads of :attr:`embedded_guidance`; None where it reads none."""
        if not self.is_distilled:
            return None
        return guidance_embedding(self.embedded_guidance, self.unet.config.time_cond_proj_dim, x)


class UNet2DCondition(TextUNet):
    """The ``UNet2DConditionModel`` of diffusers, in latent diffusion and Stable Diffusion 1, 2.

    Parameters
    ----------
    config : Mapping[str, object]
        Arguments of ``UNet2DConditionModel``. With ``time_cond_proj_dim`` the network reads a
        strength of guidance, as latent consistency models do.
    contexts : Sequence[int]
        Shape ``(K, L, D)`` of the table of :class:`Contexts`.
    """

    def __init__(self, config: Mapping[str, object], contexts: Sequence[int]):
        super().__init__(contexts)
        # here, because diffusers takes seconds to import
        from diffusers import UNet2DConditionModel

        self.settings = {"config": dict(config), "contexts": list(contexts)}
        self.unet = UNet2DConditionModel(**config)

    @override
    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        context = self.rows("contexts", x, cond)
        return self.unet(x, t, encoder_hidden_states=context, timestep_cond=self.strength(x)).sample


class SDXL(TextUNet):
    """The ``UNet2DConditionModel`` of diffusers in Stable Diffusion XL (Podell et al. 2024).

    Beside the context it reads a pooled embedding and six numbers of pixels: height and width of
    the original image, the corner of its crop, and height and width of the result. Here they say
    what the library's pipeline says unless it is told otherwise: an image of the size of the
    result, not cropped.

    Parameters
    ----------
    config : Mapping[str, object]
        Arguments of ``UNet2DConditionModel``, with ``addition_embed_type="text_time"``.
    contexts : Sequence[int]
        Shape ``(K, L, D)`` of the table of contexts.
    pooled : int
        Width ``P`` of the table of pooled embeddings.
    factor : int, default 8
        Pixels per latent position, along each axis.
    """

    def __init__(
        self,
        config: Mapping[str, object],
        contexts: Sequence[int],
        pooled: int,
        factor: int = 8,
    ):
        super().__init__(contexts, pooled)
        # here, because diffusers takes seconds to import
        from diffusers import UNet2DConditionModel

        self.settings = {
            "config": dict(config),
            "contexts": list(contexts),
            "pooled": pooled,
            "factor": factor,
        }
        self.factor = factor
        self.unet = UNet2DConditionModel(**config)

    def sizes(self, x: Tensor) -> Tensor:
        """Return the six numbers that the network is told about states ``x``: ``(N, 6)``."""
        height, width = (self.factor * side for side in x.shape[-2:])
        # filled on the device: a table of the host could not be copied inside a CUDA graph
        numbers = (height, width, 0, 0, height, width)
        return torch.cat([x.new_full((len(x), 1), number) for number in numbers], 1)

    @override
    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        added = {"text_embeds": self.rows("pooled", x, cond), "time_ids": self.sizes(x)}
        context = self.rows("contexts", x, cond)
        return self.unet(
            x,
            t,
            encoder_hidden_states=context,
            timestep_cond=self.strength(x),
            added_cond_kwargs=added,
        ).sample


class DiT(nn.Module):
    """The ``DiTTransformer2DModel`` of diffusers (Peebles and Xie 2023).

    Without a label it is called with the null label, ``num_embeds_ada_norm``.

    Parameters
    ----------
    config : Mapping[str, object]
        Arguments of ``DiTTransformer2DModel``.
    """

    def __init__(self, config: Mapping[str, object]):
        super().__init__()
        # here, because diffusers takes seconds to import
        from diffusers import DiTTransformer2DModel

        self.settings = {"config": dict(config)}
        self.transformer = DiTTransformer2DModel(**config)
        self.null = self.transformer.config.num_embeds_ada_norm
        embed = self.transformer.pos_embed
        table = embed.pos_embed
        del embed.pos_embed
        # diffusers leaves the table out of files, but our files hold every tensor
        embed.register_buffer("pos_embed", table)

    @override
    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        label = (
            cond["label"] if "label" in cond else torch.full((len(x),), self.null, device=x.device)
        )
        return self.transformer(x, timestep=t, class_labels=label).sample


class SD3(Contexts):
    """The ``SD3Transformer2DModel`` of diffusers (Esser et al. 2024).

    Parameters
    ----------
    config : Mapping[str, object]
        Arguments of ``SD3Transformer2DModel``.
    contexts : Sequence[int]
        Shape ``(K, L, D)`` of the table of contexts.
    pooled : int
        Width ``P`` of the table of pooled embeddings.
    """

    def __init__(self, config: Mapping[str, object], contexts: Sequence[int], pooled: int):
        super().__init__(contexts, pooled)
        # here, because diffusers takes seconds to import
        from diffusers import SD3Transformer2DModel

        self.settings = {"config": dict(config), "contexts": list(contexts), "pooled": pooled}
        self.transformer = SD3Transformer2DModel(**config)

    @override
    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        assert self.pooled is not None
        context, pooled = self.rows("contexts", x, cond), self.rows("pooled", x, cond)
        return self.transformer(
            x, encoder_hidden_states=context, pooled_projections=pooled, timestep=t
        ).sample


class Flux(Contexts):
    """The ``FluxTransformer2DModel`` of diffusers (Black Forest Labs 2024).

    States are latents ``(N, C, h, w)`` with even sides. The transformer reads patches of 2 x 2
    positions, with their row and column.

    Parameters
    ----------
    config : Mapping[str, object]
        Arguments of ``FluxTransformer2DModel``.
    contexts : Sequence[int]
        Shape ``(K, L, D)`` of the table of contexts, those of T5.
    pooled : int
        Width ``P`` of the table of pooled embeddings, those of CLIP.

    Attributes
    ----------
    embedded_guidance : float
        Strength of the guidance that a distilled network imitates in one evaluation; 1 at first. It
        is an input of the network. The guidance of :meth:`Prior.denoise` comes on top.
    """

    def __init__(self, config: Mapping[str, object], contexts: Sequence[int], pooled: int):
        super().__init__(contexts, pooled)
        # here, because diffusers takes seconds to import
        from diffusers import FluxTransformer2DModel

        self.settings = {"config": dict(config), "contexts": list(contexts), "pooled": pooled}
        self.transformer = FluxTransformer2DModel(**config)
        self.embedded_guidance = 1.0

    def entered(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """Return what the transformer reads: the states ``x``, here without more channels."""
        return x

    @property
    def is_distilled(self) -> bool:
        """Whether the network reads :attr:`embedded_guidance`."""
        return bool(self.transformer.config.guidance_embeds)

    @override
    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        context = self.rows("contexts", x, cond)
        guidance = torch.full_like(t, self.embedded_guidance) if self.is_distilled else None
        out = self.transformer(
            packed(self.entered(x, cond)),
            encoder_hidden_states=context,
            pooled_projections=self.rows("pooled", x, cond),
            timestep=t / 1000,
            guidance=guidance,
            img_ids=_patch_positions(x),
            txt_ids=x.new_zeros(context.shape[1], 3),
        ).sample
        return unpacked(out, x.shape[-2:])


def packed(x: Tensor) -> Tensor:
    """Return the patches of 2 x 2 positions of ``(N, C, h, w)`` in rows: ``(N, hw / 4, 4 C)``.

    Raises
    ------
    ValueError
        If a side is odd.
    """
    if x.shape[-2] % 2 or x.shape[-1] % 2:
        raise ValueError(
            f"FLUX reads patches of 2 x 2, and a state has {x.shape[-2]} x {x.shape[-1]} positions"
        )
    return F.pixel_unshuffle(x, 2).flatten(2).mT


def unpacked(patches: Tensor, sides: Sequence[int]) -> Tensor:
    """Return ``(N, C, h, w)`` from patches; the inverse of :func:`packed`."""
    height, width = sides
    return F.pixel_shuffle(patches.mT.unflatten(2, (height // 2, width // 2)), 2)


def _patch_positions(x: Tensor) -> Tensor:
    """Return zero, row and column of every patch: ``(hw / 4, 3)``."""
    rows, columns = (
        torch.arange(side // 2, device=x.device, dtype=x.dtype) for side in x.shape[-2:]
    )
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
    return F.pad(grid, (1, 0))


# -- networks trained for inpainting: mask and measurement are part of their input -----------------


class Inpainter(nn.Module):
    """Base class of networks that read mask and measurement as ``cond["inpaint"]``.

    ``cond["inpaint"]`` holds extra channels of the size of the latents; :meth:`inpainting` makes
    them.
    """

    def inpainting(self, y: Tensor, mask: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the extra channels for masked images.

        Parameters
        ----------
        y : Tensor
            Images ``(N, C, H, W)`` in [-1, 1].
        mask : Tensor
            Bool ``(N, 1, H, W)``, True = observed.
        encode : Callable[[Tensor], Tensor]
            The encoder, from images to latents.

        Returns
        -------
        Tensor
            ``(N, k, h, w)``, at the size of the latents.
        """
        raise NotImplementedError


def _at_latent_size(mask: Tensor, latents: Tensor) -> Tensor:
    """Reduce a bool mask to 0 and 1 per latent position, from the first pixel of each patch."""
    return F.interpolate(mask.to(latents), size=latents.shape[-2:])


def _inpaint(cond: Mapping[str, Tensor]) -> Tensor:
    if "inpaint" not in cond:
        raise ValueError(
            "this network was trained for inpainting: "
            "make its condition with prior.inpainting(y, mask)"
        )
    return cond["inpaint"]


class NineChannels(Inpainter):
    """An inpainter whose U-Net reads the noisy latent, the mask and an image, in this order.

    The mask is 1 in the hole; the image is a latent, whose hole was filled with mid-grey.
    """

    @override
    def inpainting(self, y: Tensor, mask: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        seen = encode(torch.where(mask, y, 0.0))
        return torch.cat([_at_latent_size(~mask, seen), seen], 1)

    @override
    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        out: Tensor = super().forward(torch.cat([x, _inpaint(cond)], 1), t, cond)
        return out


class UNet2DInpainting(NineChannels, UNet2DCondition):
    """Stable Diffusion 1.5 or 2 for inpainting: a :class:`UNet2DCondition` with nine channels.

    The input channels are the noisy latent (4), the mask (1) and the latent of the image (4). The
    parameters are those of :class:`UNet2DCondition`.
    """


class SDXLInpainting(NineChannels, SDXL):
    """Stable Diffusion XL for inpainting: a :class:`SDXL` with nine channels.

    The input channels are those of :class:`UNet2DInpainting`, and the parameters those of
    :class:`SDXL`.
    """


class FluxFill(Inpainter, Flux):
    """FLUX for inpainting: a :class:`Flux` that reads image and mask beside the state.

    The image is a latent whose hole was filled with mid-grey (C channels). The mask keeps every
    pixel, as ``factor^2`` channels of the size of the latent, where 1 means hole. The parameters
    are those of :class:`Flux`.
    """

    @override
    def inpainting(self, y: Tensor, mask: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        seen = encode(torch.where(mask, y, 0.0))
        factor = mask.shape[-1] // seen.shape[-1]
        return torch.cat([seen, F.pixel_unshuffle((~mask).to(seen), factor)], 1)

    @override
    def entered(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([x, _inpaint(cond)], 1)


class SD3Inpainting(SD3, Inpainter):
    """Stable Diffusion 3 with a ControlNet for inpainting (Zhang et al. 2023).

    The ControlNet reads the latent of the image whose hole is filled with black (16 channels) and
    the mask (1 channel, where 1 means keep). Fill, polarity and order are the opposite of
    :class:`UNet2DInpainting`.

    Parameters
    ----------
    config : Mapping[str, object]
        Arguments of ``SD3Transformer2DModel``.
    contexts : Sequence[int]
        Shape ``(K, L, D)`` of the table of contexts.
    pooled : int
        Width ``P`` of the table of pooled embeddings.
    control : Mapping[str, object]
        Arguments of ``SD3ControlNetModel``.

    Attributes
    ----------
    control_scale : float
        Factor of the ControlNet's output; 1 at first.
    """

    def __init__(
        self,
        config: Mapping[str, object],
        contexts: Sequence[int],
        pooled: int,
        control: Mapping[str, object],
    ):
        super().__init__(config, contexts, pooled)
        # here, because diffusers takes seconds to import
        from diffusers import SD3ControlNetModel

        self.settings["control"] = dict(control)
        self.controlnet = SD3ControlNetModel(**control)
        self.control_scale = 1.0

    @override
    def inpainting(self, y: Tensor, mask: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        seen = encode(torch.where(mask, y, -1.0))
        return torch.cat([seen, _at_latent_size(mask, seen)], 1)

    @override
    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        assert self.pooled is not None
        context, pooled = self.rows("contexts", x, cond), self.rows("pooled", x, cond)
        unpooled = self.controlnet.config.force_zeros_for_pooled_projection
        added = self.controlnet(
            x,
            controlnet_cond=_inpaint(cond),
            conditioning_scale=self.control_scale,
            encoder_hidden_states=context,
            pooled_projections=torch.zeros_like(pooled) if unpooled else pooled,
            timestep=t,
        ).controlnet_block_samples
        return self.transformer(
            x,
            encoder_hidden_states=context,
            pooled_projections=pooled,
            timestep=t,
            block_controlnet_hidden_states=added,
        ).sample


NETS: dict[str, type[nn.Module]] = {
    "UNet2D": UNet2D,
    "UNet2DToData": UNet2DToData,
    "UNet2DCondition": UNet2DCondition,
    "UNet2DInpainting": UNet2DInpainting,
    "SDXL": SDXL,
    "SDXLInpainting": SDXLInpainting,
    "DiT": DiT,
    "SD3": SD3,
    "SD3Inpainting": SD3Inpainting,
    "Flux": Flux,
    "FluxFill": FluxFill,
    "LevyNet": LevyNet,
}
"""Networks that a ``prior.json`` may name; no file can name another class to import."""
