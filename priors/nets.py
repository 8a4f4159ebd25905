"""Network adapters: how to call each backbone on a scaled input, a time and a condition.

Every adapter maps ``(x, t, cond)`` to the raw output, with ``x`` of shape ``(N, C, H, W)``, ``t``
of shape ``(N,)`` and ``cond`` a dict of tensors with ``N`` rows. Time is always a tensor, because
diffusers truncates a Python float to an integer. The prior knows what the output means (eps, v,
flow, x0 or EDM's F). ``settings`` holds the constructor's arguments, so that an adapter can be
written to a file and built again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override


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


class UNet2DCondition(Contexts):
    """The ``UNet2DConditionModel`` of diffusers, in latent diffusion and Stable Diffusion 1, 2.

    Parameters
    ----------
    config : Mapping[str, object]
        Arguments of ``UNet2DConditionModel``.
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
        return self.unet(x, t, encoder_hidden_states=self.rows("contexts", x, cond)).sample


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


class UNet2DInpainting(UNet2DCondition, Inpainter):
    """Stable Diffusion 1.5 or 2 for inpainting: a :class:`UNet2DCondition` with nine channels.

    The input channels are the noisy latent (4), the mask (1, where 1 means hole) and the latent of
    the image whose hole is filled with mid-grey (4). The parameters are those of
    :class:`UNet2DCondition`.
    """

    @override
    def inpainting(self, y: Tensor, mask: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        seen = encode(torch.where(mask, y, 0.0))
        return torch.cat([_at_latent_size(~mask, seen), seen], 1)

    @override
    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return super().forward(torch.cat([x, _inpaint(cond)], 1), t, cond)


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
    "UNet2DCondition": UNet2DCondition,
    "UNet2DInpainting": UNet2DInpainting,
    "DiT": DiT,
    "SD3": SD3,
    "SD3Inpainting": SD3Inpainting,
}
"""Networks that a ``prior.json`` may name; no file can name another class to import."""
