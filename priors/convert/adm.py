"""Convert guided-diffusion checkpoints (ADM, Dhariwal and Nichol 2021) to a ``UNet2DModel``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from posterior_bench.priors.base import Prior
from posterior_bench.priors.convert.base import Converted, network
from posterior_bench.priors.convert.flags import Flags, chosen_flags
from posterior_bench.priors.convert.readers import read_checkpoint
from posterior_bench.priors.convert.unet import UNetLayout, rename_unet
from posterior_bench.priors.convert.wrappers import weights_of
from posterior_bench.priors.process import VP

LICENCE = "MIT"
CLASSES = 1000

_LARGE: dict[str, object] = {
    "image_size": 256,
    "num_channels": 256,
    "num_res_blocks": 2,
    "attention_resolutions": "32,16,8",
    "num_head_channels": 64,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
    "learn_sigma": True,
}

LAYOUTS: dict[str, Mapping[str, object]] = {
    "imagenet256_uncond": _LARGE,
    "celeba256": _LARGE,
    "ffhq": {**_LARGE, "num_channels": 128, "num_res_blocks": 1, "attention_resolutions": "16"},
    "imagenet64": {
        **_LARGE,
        "image_size": 64,
        "num_channels": 192,
        "num_res_blocks": 3,
        "class_cond": True,
        "use_new_attention_order": True,
        "noise_schedule": "cosine",
    },
}
"""The flags of the published checkpoints: 256x256_diffusion_uncond.pt, celeba256_250000.pt,
ffhq_10m.pt and 64x64_diffusion.pt."""

_DEFAULTS: dict[str, object] = {
    "image_size": 64,
    "num_channels": 128,
    "num_res_blocks": 2,
    "num_heads": 4,
    "num_head_channels": -1,
    "attention_resolutions": "16,8",
    "channel_mult": "",
    "class_cond": False,
    "use_scale_shift_norm": True,
    "resblock_updown": False,
    "use_new_attention_order": False,
    "learn_sigma": False,
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "predict_xstart": False,
}
"""The defaults of guided-diffusion, of the flags that matter here."""

_WITHOUT_EFFECT = frozenset(
    {
        "dropout",
        "model_path",
        "num_heads_upsample",
        "rescale_learned_sigmas",
        "timestep_respacing",
        "use_checkpoint",
        "use_fp16",
        "use_kl",
    }
)
_MULTIPLIERS = {256: "1,1,2,2,4,4", 128: "1,1,2,3,4", 64: "1,2,3,4"}


def convert_adm(
    path: Path, layout: str | None = None, flags: Mapping[str, object] | None = None
) -> Converted:
    """Convert a guided-diffusion checkpoint to a prior.

    Parameters
    ----------
    path : Path
        The checkpoint.
    layout : str or None, default None
        Name of a published checkpoint in :data:`LAYOUTS`.
    flags : Mapping[str, object] or None, default None
        Flags of guided-diffusion, for another checkpoint. Give either ``layout`` or ``flags``.

    Returns
    -------
    Converted
        The prior in pixels.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file cannot be read, the layout or a flag is unknown, or the tensors do not fit.
    """
    chosen = chosen_flags(layout, flags, LAYOUTS, _DEFAULTS, _WITHOUT_EFFECT)
    unet = adm_layout(chosen.values)
    state = rename_unet(weights_of(read_checkpoint(path), path), unet, path)
    settings: dict[str, object] = {"config": unet.config}
    if unet.constant_heads is not None:
        settings["heads"] = unet.constant_heads
    net = network(
        "UNet2D", settings, {f"unet.{name}": value for name, value in state.items()}, path
    )
    prior = Prior(
        _process(chosen),
        net,
        (unet.in_channels, unet.image_size, unet.image_size),
        "x0" if chosen.on("predict_xstart") else "eps",
        num_classes=unet.num_classes or 0,
        learned_var=chosen.on("learn_sigma"),
    )
    return Converted(prior, [path], LICENCE, {"layout": layout or "from its flags"})


def adm_layout(flags: Mapping[str, object]) -> UNetLayout:
    """Return the U-Net that flags of guided-diffusion describe.

    Parameters
    ----------
    flags : Mapping[str, object]
        Flags by name; missing ones take the defaults of guided-diffusion.

    Returns
    -------
    UNetLayout
        The layout.

    Raises
    ------
    ValueError
        If a value is not valid.
    """
    known = Flags({**_DEFAULTS, **flags})
    size = known.number("image_size")
    multipliers = known.values["channel_mult"] or _MULTIPLIERS.get(size)
    if multipliers is None:
        raise ValueError(f"channel_mult has no default at image_size {size}; give it")
    sides = known.numbers("attention_resolutions", known.values["attention_resolutions"])
    return UNetLayout(
        image_size=size,
        in_channels=3,
        out_channels=6 if known.on("learn_sigma") else 3,
        model_channels=known.number("num_channels"),
        num_res_blocks=known.number("num_res_blocks"),
        channel_mult=known.numbers("channel_mult", multipliers),
        attention_factors=frozenset(size // side for side in sides),
        num_heads=known.number("num_heads"),
        num_head_channels=known.number("num_head_channels"),
        use_scale_shift_norm=known.on("use_scale_shift_norm"),
        resblock_updown=known.on("resblock_updown"),
        use_new_attention_order=known.on("use_new_attention_order"),
        num_classes=CLASSES if known.on("class_cond") else None,
    )


def _process(flags: Flags) -> VP:
    steps, schedule = flags.number("diffusion_steps"), str(flags.values["noise_schedule"])
    if schedule == "cosine":
        return VP.scheduled("cosine", steps=steps)
    if schedule != "linear":
        raise ValueError(f"unknown noise_schedule '{schedule}'; valid: linear, cosine")
    return VP.scheduled("linear", 0.1 / steps, 20 / steps, steps)
