"""The U-Net of guided-diffusion and of CompVis latent diffusion, as diffusers modules.

Both projects number their blocks (``input_blocks.4.1``); diffusers nests them by level. The
networks are the same functions, so the conversion is exact (Dhariwal and Nichol 2021; Rombach et
al. 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from posterior_bench.priors.convert.renaming import Renaming, split_qkv, to_linear


@dataclass(frozen=True)
class UNetLayout:
    """Sizes and options of a ``UNetModel``, under upstream names.

    Parameters
    ----------
    image_size : int
        Side of the input.
    in_channels, out_channels : int
        Channels of input and output.
    model_channels : int
        Channels of the finest level.
    num_res_blocks : int
        Residual blocks per level.
    channel_mult : tuple[int, ...]
        Factors of the channels per level, finest first.
    attention_factors : frozenset[int]
        Downsampling factors of the levels with attention.
    num_heads : int, default 1
        Number of heads, used if ``num_head_channels`` is not positive.
    num_head_channels : int, default -1
        Channels of a head.
    use_scale_shift_norm, resblock_updown, use_new_attention_order : bool, default False
        Options of the blocks.
    num_classes : int or None, default None
        Number of labels; None for an unconditional network.
    context_dim : int or None, default None
        Width of the cross attention; None for self-attention alone.
    transformer_depth : int, default 1
        Transformer layers per block.
    """

    image_size: int
    in_channels: int
    out_channels: int
    model_channels: int
    num_res_blocks: int
    channel_mult: tuple[int, ...]
    attention_factors: frozenset[int]
    num_heads: int = 1
    num_head_channels: int = -1
    use_scale_shift_norm: bool = False
    resblock_updown: bool = False
    use_new_attention_order: bool = False
    num_classes: int | None = None
    context_dim: int | None = None
    transformer_depth: int = 1

    @property
    def attention(self) -> list[bool]:
        """Whether each level has attention, finest first."""
        return [2**i in self.attention_factors for i in range(len(self.channel_mult))]

    @property
    def widths(self) -> list[int]:
        """Channels of each level, finest first."""
        return [self.model_channels * mult for mult in self.channel_mult]

    def heads(self, channels: int) -> int:
        """Return the number of heads of an attention with this many channels."""
        return channels // self.num_head_channels if self.num_head_channels > 0 else self.num_heads

    @property
    def constant_heads(self) -> int | None:
        """The number of heads if it is the same at every width, else None."""
        return None if self.num_head_channels > 0 else self.num_heads

    @property
    def config(self) -> dict[str, object]:
        """Arguments of ``UNet2DModel``, or of ``UNet2DConditionModel`` with cross attention."""
        shared: dict[str, object] = {
            "sample_size": self.image_size,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "block_out_channels": self.widths,
            "layers_per_block": self.num_res_blocks,
            "down_block_types": self._blocks("Down"),
            "up_block_types": self._blocks("Up")[::-1],
            "norm_num_groups": 32,
            "norm_eps": 1e-5,
            "flip_sin_to_cos": True,
            "freq_shift": 0,
            "downsample_padding": 1,
        }
        if self.context_dim is not None:
            return {
                **shared,
                "cross_attention_dim": self.context_dim,
                # diffusers means the NUMBER of heads by this name, in this class alone
                "attention_head_dim": [self.heads(width) for width in self.widths],
                "transformer_layers_per_block": self.transformer_depth,
            }
        return {
            **shared,
            "attention_head_dim": self.num_head_channels if self.num_head_channels > 0 else 8,
            "attn_norm_num_groups": 32,  # else there is no norm before the middle attention
            "resnet_time_scale_shift": "scale_shift" if self.use_scale_shift_norm else "default",
            "downsample_type": "resnet" if self.resblock_updown else "conv",
            "upsample_type": "resnet" if self.resblock_updown else "conv",
            "num_class_embeds": self.num_classes,
        }

    def _blocks(self, side: str) -> list[str]:
        if self.context_dim is not None:
            return [
                f"CrossAttn{side}Block2D" if has else f"{side}Block2D" for has in self.attention
            ]
        plain = {"Down": "ResnetDownsampleBlock2D", "Up": "ResnetUpsampleBlock2D"}[side]
        return [
            f"Attn{side}Block2D" if has else plain if self.resblock_updown else f"{side}Block2D"
            for has in self.attention
        ]


def rename_unet(
    source: Mapping[str, Tensor], layout: UNetLayout, where: object
) -> dict[str, Tensor]:
    """Rename the tensors of a ``UNetModel`` as in diffusers.

    Parameters
    ----------
    source : Mapping[str, Tensor]
        Tensors under upstream names.
    layout : UNetLayout
        The layout.
    where : object
        Name of the file in error messages.

    Returns
    -------
    dict[str, Tensor]
        Tensors under diffusers' names.

    Raises
    ------
    ValueError
        If a tensor is missing or left over.
    """
    moving = _Moving(source, layout, where)
    moving.ends()
    moving.down()
    moving.middle()
    moving.up()
    return moving.finish()


class _Moving(Renaming):
    def __init__(self, source: Mapping[str, Tensor], layout: UNetLayout, where: object):
        super().__init__(source, where)
        self.layout = layout

    def ends(self) -> None:
        self.move("time_embedding.linear_1", "time_embed.0")
        self.move("time_embedding.linear_2", "time_embed.2")
        if self.layout.num_classes is not None:
            self.move("class_embedding", "label_emb")
        self.move("conv_in", "input_blocks.0.0")
        self.move("conv_norm_out", "out.0")
        self.move("conv_out", "out.2")

    def down(self) -> None:
        number, last = 1, len(self.layout.widths) - 1
        for level, has_attention in enumerate(self.layout.attention):
            for j in range(self.layout.num_res_blocks):
                self.block(f"down_blocks.{level}", j, f"input_blocks.{number}", has_attention)
                number += 1
            if level < last:
                self.resample(
                    f"down_blocks.{level}.downsamplers.0", f"input_blocks.{number}.0", "op"
                )
                number += 1

    def middle(self) -> None:
        self.residual("mid_block.resnets.0", "middle_block.0")
        self.attend("mid_block.attentions.0", "middle_block.1")
        self.residual("mid_block.resnets.1", "middle_block.2")

    def up(self) -> None:
        number = 0
        for block, level in enumerate(reversed(range(len(self.layout.widths)))):
            has_attention = self.layout.attention[level]
            for j in range(self.layout.num_res_blocks + 1):
                self.block(f"up_blocks.{block}", j, f"output_blocks.{number}", has_attention)
                if level > 0 and j == self.layout.num_res_blocks:
                    old = f"output_blocks.{number}.{2 if has_attention else 1}"
                    self.resample(f"up_blocks.{block}.upsamplers.0", old, "conv")
                number += 1

    def block(self, new: str, j: int, old: str, has_attention: bool) -> None:
        self.residual(f"{new}.resnets.{j}", f"{old}.0")
        if has_attention:
            self.attend(f"{new}.attentions.{j}", f"{old}.1")

    def residual(self, new: str, old: str) -> None:
        self.move(f"{new}.norm1", f"{old}.in_layers.0")
        self.move(f"{new}.conv1", f"{old}.in_layers.2")
        self.move(f"{new}.time_emb_proj", f"{old}.emb_layers.1")
        self.move(f"{new}.norm2", f"{old}.out_layers.0")
        self.move(f"{new}.conv2", f"{old}.out_layers.3")
        if self.has(f"{old}.skip_connection.weight"):
            self.move(f"{new}.conv_shortcut", f"{old}.skip_connection")

    def resample(self, new: str, old: str, convolution: str) -> None:
        if self.layout.resblock_updown:
            self.residual(new, old)
        else:
            self.move(f"{new}.conv", f"{old}.{convolution}")

    def attend(self, new: str, old: str) -> None:
        if self.layout.context_dim is not None:  # below the transformer the names agree
            for name in [name for name in self.source if name.startswith(f"{old}.")]:
                self.state[new + name.removeprefix(old)] = self.take(name)
            return
        self.move(f"{new}.group_norm", f"{old}.norm")
        heads = self.layout.heads(len(self.take(f"{old}.norm.weight")))
        order = "qkv head dim" if self.layout.use_new_attention_order else "head qkv dim"
        split_qkv(self, new, f"{old}.qkv", heads, order)
        self.move(f"{new}.to_out.0", f"{old}.proj_out", to_linear)
