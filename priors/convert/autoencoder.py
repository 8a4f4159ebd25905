"""Convert the ``AutoencoderKL`` and ``VQModel`` of CompVis to the classes of diffusers.

Sources: Rombach et al. 2022 and Esser et al. 2021.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from posterior_bench.priors.convert.renaming import to_linear

_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


@dataclass(frozen=True)
class AutoencoderLayout:
    """Sizes of an autoencoder, under the names of CompVis.

    Parameters
    ----------
    kind : str
        ``KL`` or ``VQ``.
    in_channels, out_channels : int
        Channels of the image.
    resolution : int
        Side of the training images in pixels.
    channels : int
        Channels of the finest level (``ch``).
    channel_mult : Sequence[int]
        Factors of the channels per level, finest first (``ch_mult``).
    num_res_blocks : int
        Residual blocks per level.
    z_channels, embed_dim : int
        Channels of the latent and of the codes.
    codes : int, default 0
        Number of codes of a VQ (``n_embed``).
    """

    kind: str
    in_channels: int
    out_channels: int
    resolution: int
    channels: int
    channel_mult: Sequence[int]
    num_res_blocks: int
    z_channels: int
    embed_dim: int
    codes: int = 0

    @property
    def factor(self) -> int:
        """Factor by which a side shrinks."""
        return int(2 ** (len(self.channel_mult) - 1))

    @property
    def config(self) -> dict[str, object]:
        """Arguments of the class of diffusers."""
        levels = len(self.channel_mult)
        config: dict[str, object] = {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
            "block_out_channels": [self.channels * mult for mult in self.channel_mult],
            "layers_per_block": self.num_res_blocks,
            "latent_channels": self.z_channels,
            "sample_size": self.resolution,
            "norm_num_groups": 32,
        }
        if self.kind == "VQ":
            config |= {"num_vq_embeddings": self.codes, "vq_embed_dim": self.embed_dim}
        return config


def autoencoder_layout(params: Mapping[str, object], kind: str) -> AutoencoderLayout:
    """Read the layout from the ``params`` of an upstream configuration.

    Parameters
    ----------
    params : Mapping[str, object]
        ``first_stage_config.params`` of a ``config.yaml``.
    kind : str
        ``KL`` or ``VQ``.

    Returns
    -------
    AutoencoderLayout
        The layout.

    Raises
    ------
    ValueError
        If diffusers has no class for the autoencoder.
    """
    inner = params["ddconfig"]
    assert isinstance(inner, Mapping)
    if inner.get("attn_resolutions"):
        raise ValueError(
            "an autoencoder with attention inside its levels is not supported; kl-f8 and vq-f4 are"
        )
    if kind == "KL" and params["embed_dim"] != inner["z_channels"]:
        raise ValueError(
            "a KL autoencoder whose embed_dim differs from its z_channels is not supported"
        )
    number = lambda node, key: int(str(node[key]))  # noqa: E731
    return AutoencoderLayout(
        kind,
        number(inner, "in_channels"),
        number(inner, "out_ch"),
        number(inner, "resolution"),
        number(inner, "ch"),
        tuple(inner["ch_mult"]),
        number(inner, "num_res_blocks"),
        number(inner, "z_channels"),
        number(params, "embed_dim"),
        number(params, "n_embed") if kind == "VQ" else 0,
    )


def rename_autoencoder(
    source: Mapping[str, Tensor], layout: AutoencoderLayout
) -> dict[str, Tensor]:
    """Rename the tensors of an autoencoder as in diffusers, without those of its training loss.

    Parameters
    ----------
    source : Mapping[str, Tensor]
        Tensors under upstream names.
    layout : AutoencoderLayout
        The layout.

    Returns
    -------
    dict[str, Tensor]
        Tensors under diffusers' names. Unknown names stay as they are, so that the strict check of
        the network reports them.
    """
    last = len(layout.channel_mult) - 1
    state: dict[str, Tensor] = {}
    for old, value in source.items():
        if not old.startswith("loss."):
            new = _renamed(old, last)
            state[new] = to_linear(value) if ".attentions." in new and value.ndim == 4 else value
    return state


def _renamed(name: str, last: int) -> str:
    level = lambda found: f"{found[1]}.up_blocks.{last - int(found[2])}"  # noqa: E731
    name = re.sub(r"^(encoder)\.down\.(\d+)", r"\1.down_blocks.\2", name)
    # upstream counts decoder levels from the finest
    name = re.sub(r"^(decoder)\.up\.(\d+)", level, name)
    name = re.sub(r"(_blocks\.\d+)\.block\.", r"\1.resnets.", name)
    name = re.sub(r"\.(down|up)sample\.conv\.", r".\1samplers.0.conv.", name)
    name = re.sub(
        r"\.mid\.block_([12])\.", lambda found: f".mid_block.resnets.{int(found[1]) - 1}.", name
    )
    inner = lambda found: f".mid_block.attentions.0.{_ATTENTION[found[1]]}."  # noqa: E731
    name = re.sub(r"\.mid\.attn_1\.(norm|q|k|v|proj_out)\.", inner, name)
    return name.replace(".nin_shortcut.", ".conv_shortcut.").replace(
        ".norm_out.", ".conv_norm_out."
    )
