"""Convert NVlabs EDM pickles with the ``DhariwalUNet`` (ImageNet-64, Karras et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from posterior_bench.priors.base import Prior
from posterior_bench.priors.convert.base import Converted, network
from posterior_bench.priors.convert.readers import read_nvlabs
from posterior_bench.priors.convert.renaming import Renaming, split_qkv, to_linear
from posterior_bench.priors.convert.wrappers import unwrapped
from posterior_bench.priors.process import VE

LICENCE = "CC BY-NC-SA 4.0"
HEAD = 64
"""Channels of an attention head, a constant of the network."""

_DEFAULTS: dict[str, object] = {
    "model_channels": 192,
    "channel_mult": [1, 2, 3, 4],
    "channel_mult_emb": 4,
    "num_blocks": 3,
    "attn_resolutions": [32, 16, 8],
    "dropout": 0.1,
    "label_dropout": 0,
    "label_dim": 0,
    "augment_dim": 0,
    "use_fp16": False,
    "sigma_min": 0,
    "sigma_max": float("inf"),
    "sigma_data": 0.5,
    "model_type": "DhariwalUNet",
}


def convert_edm(path: Path) -> Converted:
    """Convert an EDM pickle to a prior.

    Parameters
    ----------
    path : Path
        The pickle.

    Returns
    -------
    Converted
        The prior in pixels, with a ``UNet2DModel``. It has a null label, and so guidance, only if
        the network was trained with ``label_dropout``.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file cannot be read, or holds a network that is not supported.
    """
    pickled = read_nvlabs(path)
    if pickled.cls != "EDMPrecond":
        raise ValueError(f"{path} holds a {pickled.cls}; only EDMPrecond networks are supported")
    settings = _settings(path, pickled.kwargs)
    tensors = unwrapped(pickled.tensors, path, around=())  # upstream's own names begin with 'model'
    state = {f"unet.{name}": value for name, value in rename_edm(tensors, settings, path).items()}
    net = network("UNet2D", {"config": edm_config(settings)}, state, path)
    classes, size, channels = (
        int(str(settings[key])) for key in ("label_dim", "img_resolution", "img_channels")
    )
    null = classes if classes and settings["label_dropout"] else None
    prior = Prior(
        VE(), net, (channels, size, size), "edm", float(str(settings["sigma_data"])), classes, null
    )
    return Converted(prior, [path], LICENCE, {"weights": "ema"})


def _settings(path: Path, kwargs: Mapping[str, object]) -> dict[str, object]:
    """Return every argument of the network; check that a ``UNet2DModel`` can express it."""
    known = {*_DEFAULTS, "img_resolution", "img_channels"}
    if unknown := kwargs.keys() - known:
        raise ValueError(
            f"{path}: the network has unknown settings: {', '.join(sorted(unknown))}; "
            f"valid: {', '.join(sorted(known))}"
        )
    if missing := known - _DEFAULTS.keys() - kwargs.keys():
        raise ValueError(f"{path}: the network does not say its {', '.join(sorted(missing))}")
    settings = {**_DEFAULTS, **kwargs}
    if settings["model_type"] != "DhariwalUNet":
        raise ValueError(
            f"{path} holds a {settings['model_type']}; "
            "only the DhariwalUNet (ImageNet-64) is supported"
        )
    if any(width < 128 for width in _widths(settings)):
        raise ValueError(
            f"{path}: levels of fewer than 128 channels have another group norm, "
            "which is not supported"
        )
    return settings


def _list(settings: Mapping[str, object], key: str) -> list[int]:
    value = settings[key]
    assert isinstance(value, Sequence)
    return [int(item) for item in value]


def _widths(settings: Mapping[str, object]) -> list[int]:
    return [int(str(settings["model_channels"])) * mult for mult in _list(settings, "channel_mult")]


def _resolutions(settings: Mapping[str, object]) -> list[int]:
    """Return the sides of the levels, finest first."""
    return [
        int(str(settings["img_resolution"])) >> level for level in range(len(_widths(settings)))
    ]


def edm_config(settings: Mapping[str, object]) -> dict[str, object]:
    """Return the arguments of ``UNet2DModel`` for an EDM network.

    Parameters
    ----------
    settings : Mapping[str, object]
        Arguments of the ``DhariwalUNet``.

    Returns
    -------
    dict[str, object]
        Arguments of ``UNet2DModel``. The last row of the label table is EDM's 'no label', the zero
        vector.
    """
    attention = [side in _list(settings, "attn_resolutions") for side in _resolutions(settings)]
    classes = int(str(settings["label_dim"]))
    return {
        "sample_size": settings["img_resolution"],
        "in_channels": settings["img_channels"],
        "out_channels": settings["img_channels"],
        "block_out_channels": _widths(settings),
        "layers_per_block": settings["num_blocks"],
        "down_block_types": [
            "AttnDownBlock2D" if has else "ResnetDownsampleBlock2D" for has in attention
        ],
        "up_block_types": [
            "AttnUpBlock2D" if has else "ResnetUpsampleBlock2D" for has in reversed(attention)
        ],
        "attention_head_dim": HEAD,
        "norm_num_groups": 32,
        "attn_norm_num_groups": 32,  # else there is no norm before the middle attention
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "scale_shift",
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "num_class_embeds": classes + 1 if classes else None,
    }


def rename_edm(
    source: Mapping[str, Tensor], settings: Mapping[str, object], where: object
) -> dict[str, Tensor]:
    """Rename the tensors of an ``EDMPrecond`` as in diffusers.

    Parameters
    ----------
    source : Mapping[str, Tensor]
        Tensors under upstream names.
    settings : Mapping[str, object]
        Arguments of the ``DhariwalUNet``.
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

    Notes
    -----
    EDM resamples at the start of a level and diffusers at the end of the level before: the sequence
    is the same.
    """
    moving = _Moving({name.removeprefix("model."): value for name, value in source.items()}, where)
    sides, blocks = _resolutions(settings), int(str(settings["num_blocks"]))
    moving.ends(sides[0])
    for level, side in enumerate(sides):
        for j in range(blocks):
            moving.block(f"down_blocks.{level}", j, f"enc.{side}x{side}_block{j}")
        if level < len(sides) - 1:
            moving.residual(
                f"down_blocks.{level}.downsamplers.0", f"enc.{side // 2}x{side // 2}_down"
            )
    coarse = f"dec.{sides[-1]}x{sides[-1]}"
    moving.block("mid_block", 0, f"{coarse}_in0")
    moving.residual("mid_block.resnets.1", f"{coarse}_in1")
    for block, side in enumerate(reversed(sides)):
        for j in range(blocks + 1):
            moving.block(f"up_blocks.{block}", j, f"dec.{side}x{side}_block{j}")
        if block < len(sides) - 1:
            moving.residual(f"up_blocks.{block}.upsamplers.0", f"dec.{side * 2}x{side * 2}_up")
    # constants of the resampling; and the embedding of augmentations, which sampling leaves out
    moving.drop(lambda name: name.endswith(".resample_filter") or name == "map_augment.weight")
    return moving.finish()


class _Moving(Renaming):
    def ends(self, side: int) -> None:
        self.move("time_embedding.linear_1", "map_layer0")
        self.move("time_embedding.linear_2", "map_layer1")
        if self.has("map_label.weight"):
            rows = self.take("map_label.weight").t()
            self.state["class_embedding.weight"] = torch.cat([rows, torch.zeros_like(rows[:1])])
        self.move("conv_in", f"enc.{side}x{side}_conv")
        self.move("conv_norm_out", "out_norm")
        self.move("conv_out", "out_conv")

    def block(self, new: str, j: int, old: str) -> None:
        self.residual(f"{new}.resnets.{j}", old)
        if self.has(f"{old}.qkv.weight"):
            attention = f"{new}.attentions.{j}"
            self.move(f"{attention}.group_norm", f"{old}.norm2")
            split_qkv(
                self,
                attention,
                f"{old}.qkv",
                len(self.take(f"{old}.norm2.weight")) // HEAD,
                "head dim qkv",
            )
            self.move(f"{attention}.to_out.0", f"{old}.proj", to_linear)

    def residual(self, new: str, old: str) -> None:
        for ours, theirs in (
            ("norm1", "norm0"),
            ("conv1", "conv0"),
            ("time_emb_proj", "affine"),
            ("norm2", "norm1"),
            ("conv2", "conv1"),
        ):
            self.move(f"{new}.{ours}", f"{old}.{theirs}")
        if self.has(f"{old}.skip.weight"):
            self.move(f"{new}.conv_shortcut", f"{old}.skip")
