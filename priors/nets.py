"""Network adapters: how to call each backbone on a scaled input, a time and a condition.

Every adapter maps ``(x, t, cond) -> raw output`` with ``x`` of shape ``(N, C, H, W)``, ``t`` of
shape ``(N,)`` and ``cond`` a dict of per-sample tensors. Time is always a tensor: diffusers
truncates a Python float to an integer. What the output means (eps, v, flow, x0 or EDM's F) is the
prior's business. ``settings`` holds the constructor arguments of an adapter, so that it can be
written to a file and built again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UNet2D(nn.Module):
    """diffusers' ``UNet2DModel`` behind a pixel-unshuffle, which buys a four times cheaper network
    at 28 x 28.

    ``config`` is passed to ``UNet2DModel``; with ``num_class_embeds = K + 1`` the last row is the
    null label. ``heads`` is one number of attention heads for every width (LSUN-churches), which
    the configuration cannot say.
    """

    def __init__(self, config: Mapping[str, object], unshuffle: int = 1, heads: int | None = None):
        super().__init__()
        from diffusers import (
            UNet2DModel,  # four seconds of imports, paid only where a network is built
        )

        self.settings: dict[str, object] = {"config": dict(config), "unshuffle": unshuffle}
        self.unshuffle = unshuffle
        self.unet = UNet2DModel(**config)
        if heads is not None:
            self.settings["heads"] = heads
            _set_heads(self.unet, heads)

    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        hidden = F.pixel_unshuffle(x, self.unshuffle) if self.unshuffle > 1 else x
        out = self.unet(hidden, t, class_labels=cond.get("label")).sample
        return F.pixel_shuffle(out, self.unshuffle) if self.unshuffle > 1 else out


def _set_heads(net: nn.Module, heads: int) -> None:
    """Give every attention of ``net`` this many heads; the shapes of its weights do not depend on
    them.
    """
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
    """A network that attends to a context, with a table of the contexts it may be asked for.

    The table holds class embeddings, or embeddings of prompts that were computed once, so that no
    text encoder is needed. ``contexts`` is its shape ``(K, L, D)``: K contexts of L tokens.
    ``cond["label"]`` chooses the row; without one it is the last, which is the null context.
    ``pooled``: width of a second table ``(K, P)``, where there is one. ``cond["contexts"]`` and
    ``cond["pooled"]`` are rows of prompts that are in no table.
    """

    def __init__(self, contexts: Sequence[int], pooled: int | None = None):
        super().__init__()
        self.contexts = nn.Parameter(torch.zeros(*contexts))
        self.pooled = None if pooled is None else nn.Parameter(torch.zeros(contexts[0], pooled))

    def rows(self, name: str, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """One row of the table ``contexts`` or ``pooled`` for each of ``x``, or what the condition
        has in its place.
        """
        if name in cond:
            return cond[name]
        table: Tensor = getattr(self, name)
        return (
            table[cond["label"]] if "label" in cond else table[-1:].expand(len(x), *table.shape[1:])
        )


class UNet2DCondition(Contexts):
    """diffusers' ``UNet2DConditionModel``: latent diffusion with labels (cin256-v2), Stable
    Diffusion 1 and 2.

    ``config`` is passed to ``UNet2DConditionModel``, and ``contexts`` is the shape of the table of
    :class:`Contexts`.
    """

    def __init__(self, config: Mapping[str, object], contexts: Sequence[int]):
        super().__init__(contexts)
        from diffusers import UNet2DConditionModel

        self.settings = {"config": dict(config), "contexts": list(contexts)}
        self.unet = UNet2DConditionModel(**config)

    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return self.unet(x, t, encoder_hidden_states=self.rows("contexts", x, cond)).sample


class DiT(nn.Module):
    """diffusers' ``DiTTransformer2DModel`` (Peebles and Xie 2023): labels as a tensor, and the null
    label without them.

    ``config`` is passed to ``DiTTransformer2DModel``, whose label ``num_embeds_ada_norm`` is the
    null label.
    """

    def __init__(self, config: Mapping[str, object]):
        super().__init__()
        from diffusers import DiTTransformer2DModel

        self.settings = {"config": dict(config)}
        self.transformer = DiTTransformer2DModel(**config)
        self.null = self.transformer.config.num_embeds_ada_norm
        embed = self.transformer.pos_embed
        table = embed.pos_embed
        del embed.pos_embed
        embed.register_buffer(
            "pos_embed", table
        )  # diffusers leaves it out of files, and ours hold every tensor

    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        label = (
            cond["label"] if "label" in cond else torch.full((len(x),), self.null, device=x.device)
        )
        return self.transformer(x, timestep=t, class_labels=label).sample


class SD3(Contexts):
    """diffusers' ``SD3Transformer2DModel`` (Esser et al. 2024), which wants a context and a pooled
    embedding.

    ``config`` is passed to ``SD3Transformer2DModel``; ``contexts`` and ``pooled`` are the tables of
    :class:`Contexts`.
    """

    def __init__(self, config: Mapping[str, object], contexts: Sequence[int], pooled: int):
        super().__init__(contexts, pooled)
        from diffusers import SD3Transformer2DModel

        self.settings = {"config": dict(config), "contexts": list(contexts), "pooled": pooled}
        self.transformer = SD3Transformer2DModel(**config)

    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        assert self.pooled is not None
        context, pooled = self.rows("contexts", x, cond), self.rows("pooled", x, cond)
        return self.transformer(
            x, encoder_hidden_states=context, pooled_projections=pooled, timestep=t
        ).sample


# -- networks trained for inpainting: mask and measurement are part of their input -----------------


class Inpainter(nn.Module):
    """A network that reads ``cond["inpaint"]``, channels at the size of the latents, and knows how
    they are made.
    """

    def inpainting(self, y: Tensor, mask: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """The channels of images ``y`` ``(N, C, H, W)`` seen where the bool ``mask`` ``(N, 1, H,
        W)`` is True.
        """
        raise NotImplementedError


def _at_latent_size(mask: Tensor, latents: Tensor) -> Tensor:
    """A bool mask as 0 and 1: of every patch that becomes one place of the latents, the first
    pixel.
    """
    return F.interpolate(mask.to(latents), size=latents.shape[-2:])


def _inpaint(cond: Mapping[str, Tensor]) -> Tensor:
    if "inpaint" not in cond:
        raise ValueError(
            "this network was trained for inpainting: make its condition with prior.inpainting(y, "
            "mask)"
        )
    return cond["inpaint"]


class UNet2DInpainting(UNet2DCondition, Inpainter):
    """Stable Diffusion 1.5 and 2 for inpainting: a :class:`UNet2DCondition` with nine input
    channels.

    They are the noisy latent (4), the mask (1 = hole) and the latent of the image whose hole is
    mid-grey (4).
    """

    def inpainting(self, y: Tensor, mask: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        seen = encode(torch.where(mask, y, 0.0))
        return torch.cat([_at_latent_size(~mask, seen), seen], 1)

    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return super().forward(torch.cat([x, _inpaint(cond)], 1), t, cond)


class SD3Inpainting(SD3, Inpainter):
    """Stable Diffusion 3 with a ControlNet for inpainting (Zhang et al. 2023; diffusers'
    ``SD3ControlNetModel``).

    The ControlNet reads the latent of the image whose hole is black (16) and the mask (1 = keep):
    fill, polarity and order are the opposite of :class:`UNet2DInpainting`. ``control`` is passed to
    ``SD3ControlNetModel``; ``control_scale`` is the factor of what it adds to the transformer.
    """

    def __init__(
        self,
        config: Mapping[str, object],
        contexts: Sequence[int],
        pooled: int,
        control: Mapping[str, object],
    ):
        super().__init__(config, contexts, pooled)
        from diffusers import SD3ControlNetModel

        self.settings["control"] = dict(control)
        self.controlnet = SD3ControlNetModel(**control)
        self.control_scale = 1.0

    def inpainting(self, y: Tensor, mask: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        seen = encode(torch.where(mask, y, -1.0))
        return torch.cat([seen, _at_latent_size(mask, seen)], 1)

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
    "UNet2DCondition": UNet2DCondition,
    "UNet2DInpainting": UNet2DInpainting,
    "DiT": DiT,
    "SD3": SD3,
    "SD3Inpainting": SD3Inpainting,
}
"""Backbones a ``prior.json`` may name; a class is never imported by a string from a file."""
