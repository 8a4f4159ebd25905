"""Convert the pixel flows of PnP-Flow and FLOWER to a ``UNet2DModel``.

The network is the U-Net of DDPM (Ho et al. 2020) in the form of Huang et al. (2021). It was trained
by flow matching with an optimal-transport coupling (Martin et al. 2025, PnP-Flow, appendix; Tong et
al. 2024). Its time runs from 0 at noise to 1 at data, and its output points towards data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from posterior_bench.priors.base import Prior
from posterior_bench.priors.convert.base import Converted, network
from posterior_bench.priors.convert.flags import chosen_flags
from posterior_bench.priors.convert.readers import read_checkpoint
from posterior_bench.priors.convert.renaming import Renaming, to_linear
from posterior_bench.priors.convert.unet import UNetLayout
from posterior_bench.priors.convert.wrappers import weights_of
from posterior_bench.priors.process import Flow

_DEFAULTS: dict[str, object] = {
    "input_channels": 3,
    "input_height": 128,
    "ch": 32,
    "ch_mult": (1, 2, 4, 8),
    "num_res_blocks": 6,
    "attn_resolutions": (16, 8),
}
"""The arguments of the network, with the values of both published checkpoints but for the side."""

LAYOUTS: dict[str, Mapping[str, object]] = {
    "celeba128": {"input_height": 128},
    "afhq256": {"input_height": 256},
}
"""The published checkpoints, both called model_final.pt. At 256 pixels no level has 16 or 8
positions a side, so only the middle has attention."""


def convert_pnpflow(
    path: Path, layout: str | None = None, flags: Mapping[str, object] | None = None
) -> Converted:
    """Convert a checkpoint of PnP-Flow to a prior.

    Parameters
    ----------
    path : Path
        The checkpoint.
    layout : str or None, default None
        Name of a published checkpoint in :data:`LAYOUTS`.
    flags : Mapping[str, object] or None, default None
        Arguments of the network, for another checkpoint. Give either ``layout`` or ``flags``.

    Returns
    -------
    Converted
        The prior in pixels, a flow.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file cannot be read, the layout or a flag is unknown, or the tensors do not fit.
    """
    unet = pnpflow_layout(layout, flags)
    state = _Moving(weights_of(read_checkpoint(path), path), unet, path).everything()
    named = {f"unet.{name}": value for name, value in state.items()}
    net = network("UNet2DToData", {"config": pnpflow_config(unet)}, named, path)
    side = unet.image_size
    prior = Prior(Flow(), net, (unet.in_channels, side, side), "flow")
    # the repository states no licence of the weights
    return Converted(prior, [path], "", {"layout": layout or "from its flags"})


def pnpflow_layout(
    layout: str | None = None, flags: Mapping[str, object] | None = None
) -> UNetLayout:
    """Return the sizes of a network.

    Parameters
    ----------
    layout, flags
        As for :func:`convert_pnpflow`.

    Returns
    -------
    UNetLayout
        The sizes.

    Raises
    ------
    ValueError
        If the layout or a flag is unknown or not valid.
    """
    known = chosen_flags(layout, flags, LAYOUTS, _DEFAULTS)
    side, channels = known.number("input_height"), known.number("input_channels")
    mult = known.numbers("ch_mult", known.values["ch_mult"])
    if side % 2 ** (len(mult) - 1):
        raise ValueError(f"input_height {side} cannot be halved {len(mult) - 1} times")
    with_attention = known.numbers("attn_resolutions", known.values["attn_resolutions"])
    return UNetLayout(
        image_size=side,
        in_channels=channels,
        out_channels=channels,
        model_channels=known.number("ch"),
        num_res_blocks=known.number("num_res_blocks"),
        channel_mult=mult,
        attention_factors=frozenset(
            2**level for level in range(len(mult)) if side // 2**level in with_attention
        ),
    )


def pnpflow_config(unet: UNetLayout) -> dict[str, object]:
    """Return the arguments of ``UNet2DModel`` for a network of these sizes."""
    return {
        **unet.config,
        "norm_eps": 1e-6,
        "flip_sin_to_cos": False,
        "freq_shift": 1,  # the frequencies of Ho et al.: 10000^(-k / (n - 1)) for k < n
        "attention_head_dim": None,  # one head
    }


class _Moving(Renaming):
    def __init__(self, source: Mapping[str, Tensor], unet: UNetLayout, where: object):
        super().__init__(source, where)
        self.unet, self.last = unet, len(unet.widths) - 1

    def everything(self) -> dict[str, Tensor]:
        self.move("time_embedding.linear_1", "temb_net.main.0")
        self.move("time_embedding.linear_2", "temb_net.main.2")
        self.move("conv_in", "begin_conv")
        for level in range(self.last + 1):
            self.down(level)
        self.residual("mid_block.resnets.0", "mid_modules.0")
        self.attend("mid_block.attentions.0", "mid_modules.1")
        self.residual("mid_block.resnets.1", "mid_modules.2")
        for block, level in enumerate(reversed(range(self.last + 1))):
            self.up(block, level)
        self.move("conv_norm_out", "end_conv.0")
        self.move("conv_out", "end_conv.2")
        return self.finish()

    def down(self, level: int) -> None:
        new, old = f"down_blocks.{level}", f"down_modules.{level}.{level}"
        self.blocks(new, old, level, self.unet.num_res_blocks)
        if level < self.last:
            self.move(f"{new}.downsamplers.0.conv", f"{old}b_downsample")

    def up(self, block: int, level: int) -> None:
        new, old = f"up_blocks.{block}", f"up_modules.{block}.{level}"
        self.blocks(new, old, level, self.unet.num_res_blocks + 1)
        if level > 0:
            self.move(f"{new}.upsamplers.0.conv", f"{old}b_upsample.up_conv")

    def blocks(self, new: str, old: str, level: int, count: int) -> None:
        for i in range(count):
            self.residual(f"{new}.resnets.{i}", f"{old}a_{i}a_block")
            if self.unet.attention[level]:
                self.attend(f"{new}.attentions.{i}", f"{old}a_{i}b_attn")

    def residual(self, new: str, old: str) -> None:
        for name in ("norm1", "conv1", "norm2", "conv2"):
            self.move(f"{new}.{name}", f"{old}.{name}")
        self.move(f"{new}.time_emb_proj", f"{old}.temb_proj")
        if self.has(f"{old}.shortcut.weight"):
            self.move(f"{new}.conv_shortcut", f"{old}.shortcut")

    def attend(self, new: str, old: str) -> None:
        self.move(f"{new}.group_norm", f"{old}.norm")
        for letter in "qkv":
            self.move(f"{new}.to_{letter}", f"{old}.attn_{letter}", to_linear)
        self.move(f"{new}.to_out.0", f"{old}.proj_out", to_linear)
