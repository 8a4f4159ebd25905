"""CompVis latent diffusion checkpoints: LSUN-churches, cin256-v2, celeba256 (Rombach et al. 2022).

One ``model.ckpt`` holds the U-Net, its moving average, the autoencoder and the class embedding.
What the tensors do not say is in the ``config.yaml`` upstream ships beside it; that of the
published checkpoints is known here by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from posterior_bench.priors.base import Prior
from posterior_bench.priors.convert.autoencoder import (
    AutoencoderLayout,
    autoencoder_layout,
    convert_autoencoder,
)
from posterior_bench.priors.convert.base import Converted, latent, network
from posterior_bench.priors.convert.readers import read_checkpoint, tensors
from posterior_bench.priors.convert.unet import UNetLayout, convert_unet
from posterior_bench.priors.convert.wrappers import INSIDE, unwrapped
from posterior_bench.priors.process import VP

Node = Mapping[str, object]

LICENCE = "MIT"
UNET, EMA, AUTOENCODER, CLASSES = (
    "model.diffusion_model.",
    "model_ema.",
    "first_stage_model.",
    "cond_stage_model.",
)
WEIGHTS = ("ema", "raw")

_VQ_F4: Node = {
    "target": "ldm.models.autoencoder.VQModelInterface",
    "params": {
        "embed_dim": 3,
        "n_embed": 8192,
        "ddconfig": {
            "z_channels": 3,
            "resolution": 256,
            "in_channels": 3,
            "out_ch": 3,
            "ch": 128,
            "ch_mult": [1, 2, 4],
            "num_res_blocks": 2,
            "attn_resolutions": [],
        },
    },
}
_KL_F8: Node = {
    "target": "ldm.models.autoencoder.AutoencoderKL",
    "params": {
        "embed_dim": 4,
        "ddconfig": {
            "z_channels": 4,
            "resolution": 256,
            "in_channels": 3,
            "out_ch": 3,
            "ch": 128,
            "ch_mult": [1, 2, 4, 4],
            "num_res_blocks": 2,
            "attn_resolutions": [],
        },
    },
}


def _model(
    beta_end: float, unet: Node, first_stage: Node, cond_stage: object, **more: object
) -> Node:
    return {
        "linear_start": 0.0015,
        "linear_end": beta_end,
        "unet_config": {
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": unet,
        },
        "first_stage_config": first_stage,
        "cond_stage_config": cond_stage,
        **more,
    }


LAYOUTS: dict[str, Node] = {
    "lsun_churches": _model(
        0.0155,
        {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": 192,
            "attention_resolutions": [1, 2, 4, 8],
            "num_res_blocks": 2,
            "channel_mult": [1, 2, 2, 4, 4],
            "num_heads": 8,
            "use_scale_shift_norm": True,
            "resblock_updown": True,
        },
        _KL_F8,
        "__is_unconditional__",
        scale_by_std=True,
    ),
    "cin256": _model(
        0.0195,
        {
            "image_size": 64,
            "in_channels": 3,
            "out_channels": 3,
            "model_channels": 192,
            "attention_resolutions": [8, 4, 2],
            "num_res_blocks": 2,
            "channel_mult": [1, 2, 3, 5],
            "num_heads": 1,
            "use_spatial_transformer": True,
            "transformer_depth": 1,
            "context_dim": 512,
        },
        _VQ_F4,
        {
            "target": "ldm.modules.encoders.modules.ClassEmbedder",
            "params": {"n_classes": 1001, "embed_dim": 512},
        },
    ),
    "celeba256": _model(
        0.0195,
        {
            "image_size": 64,
            "in_channels": 3,
            "out_channels": 3,
            "model_channels": 224,
            "attention_resolutions": [8, 4, 2],
            "num_res_blocks": 2,
            "channel_mult": [1, 2, 3, 4],
            "num_head_channels": 32,
        },
        _VQ_F4,
        "__is_unconditional__",
    ),
}
"""``model.params`` of the published checkpoints, as far as it matters here."""


@dataclass(frozen=True)
class Layout:
    """What a configuration says: both networks, ``classes`` (rows, width) of the class embedding,
    process and scale.
    """

    unet: UNetLayout
    autoencoder: AutoencoderLayout
    classes: tuple[int, int] | None
    process: VP
    parameterization: str
    scale: float | None


def convert(
    path: Path,
    layout: str | None = None,
    config: Node | None = None,
    weights: str | None = None,
    autoencoder: Path | None = None,
) -> Converted:
    """The latent prior in a latent diffusion checkpoint.

    ``layout`` names a published one; ``config`` is the content of another's ``config.yaml``.
    ``weights``: ``ema`` or ``raw``; None takes the moving average where the file has one.
    ``autoencoder``: a file to read the autoencoder from instead. Raises what the reader raises, and
    ValueError for anything missing, left over or of another shape.
    """
    known = compvis_layout(layout, config)
    state = _state(path)
    unet, chosen = _unet(state, weights, path)
    context, own = _part(state, CLASSES), _part(state, AUTOENCODER)
    _check_rest(state, known, path)
    net_state = {
        f"unet.{name}": value for name, value in convert_unet(unet, known.unet, path).items()
    }
    if known.classes is None:
        settings: dict[str, object] = {"config": known.unet.config}
        if known.unet.constant_heads is not None:
            settings["heads"] = known.unet.constant_heads
        net = network("UNet2D", settings, {**net_state, **context}, path)
    else:
        rows, width = known.classes
        table = context.pop("embedding.weight", torch.empty(0)).reshape(-1, 1, width)
        settings = {"config": known.unet.config, "contexts": [rows, 1, width]}
        net = network(
            "UNet2DCondition", settings, {**net_state, **context, "contexts": table}, path
        )
    other = _state(autoencoder) if autoencoder is not None else None
    first_stage = own if other is None else _part(other, AUTOENCODER) or other
    prior = Prior(
        known.process,
        net,
        (known.autoencoder.in_channels, *(known.unet.image_size * known.autoencoder.factor,) * 2),
        known.parameterization,
        num_classes=0 if known.classes is None else known.classes[0] - 1,
        null_label=None if known.classes is None else known.classes[0] - 1,
        latent=latent(
            known.autoencoder.kind,
            known.autoencoder.config,
            convert_autoencoder(first_stage, known.autoencoder),
            autoencoder or path,
            _scale(state, known, path),
        ),
    )
    files = [path] if autoencoder is None else [path, autoencoder]
    return Converted(
        prior, files, LICENCE, {"layout": layout or "from its config", "weights": chosen}
    )


def compvis_layout(name: str | None, config: Node | None) -> Layout:
    """The layout called ``name``, or that of a ``config.yaml``; ValueError for what is not
    supported.
    """
    if (name is None) == (config is None):
        raise ValueError(
            "a latent diffusion checkpoint does not say its layout; "
            f"give one of {', '.join(LAYOUTS)}, or its config.yaml"
        )
    if name is not None and name not in LAYOUTS:
        raise ValueError(f"unknown layout '{name}'; valid: {', '.join(LAYOUTS)}")
    try:
        params = (
            LAYOUTS[name] if name is not None else _node(_node(config or {}, "model"), "params")
        )
        return _layout(params)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the configuration is no latent diffusion config.yaml: {error}") from None


def _layout(params: Node) -> Layout:
    first, cond = _node(params, "first_stage_config"), params["cond_stage_config"]
    kind = {"AutoencoderKL": "KL", "VQModelInterface": "VQ", "VQModel": "VQ"}.get(
        str(first["target"]).split(".")[-1]
    )
    if kind is None:
        raise ValueError(
            f"the autoencoder {first['target']} is not supported; valid: AutoencoderKL, "
            f"VQModelInterface"
        )
    classes = None
    if isinstance(cond, Mapping):
        if not str(cond["target"]).endswith(".ClassEmbedder"):
            raise ValueError(
                f"the condition {cond['target']} is not supported; convert a diffusers folder "
                f"instead"
            )
        inner = _node(cond, "params")
        classes = int(str(inner.get("n_classes", 1000))), int(str(inner["embed_dim"]))
    if params.get("beta_schedule", "linear") != "linear":
        raise ValueError(
            f"the beta_schedule {params['beta_schedule']} is not supported; valid: linear"
        )
    # upstream's 'linear' is linear in sqrt(beta)
    start, end = float(str(params["linear_start"])), float(str(params["linear_end"]))
    return Layout(
        _unet_layout(_node(_node(params, "unet_config"), "params")),
        autoencoder_layout(_node(first, "params"), kind),
        classes,
        VP.scheduled("scaled_linear", start, end, int(str(params.get("timesteps", 1000)))),
        str(params.get("parameterization", "eps")),
        None if params.get("scale_by_std") else float(str(params.get("scale_factor", 1.0))),
    )


_UNET_KEYS = {
    "image_size",
    "in_channels",
    "out_channels",
    "model_channels",
    "num_res_blocks",
    "channel_mult",
    "num_heads",
    "num_head_channels",
    "use_scale_shift_norm",
    "resblock_updown",
    "context_dim",
    "transformer_depth",
}
_UNET_OTHER_KEYS = {"attention_resolutions", "use_spatial_transformer", "use_checkpoint", "dropout"}


def _unet_layout(params: Node) -> UNetLayout:
    if unknown := params.keys() - _UNET_KEYS - _UNET_OTHER_KEYS:
        raise ValueError(
            f"the U-Net has settings that are not supported: {', '.join(sorted(unknown))}"
        )
    if bool(params.get("use_spatial_transformer")) != (params.get("context_dim") is not None):
        raise ValueError("use_spatial_transformer and context_dim belong together")
    given = {key: params[key] for key in params.keys() & _UNET_KEYS}
    multipliers, factors = given.pop("channel_mult"), params["attention_resolutions"]
    assert isinstance(multipliers, list) and isinstance(factors, list)
    shape = {"channel_mult": tuple(multipliers), "attention_factors": frozenset(factors)}
    return UNetLayout(**shape, **given)  # type: ignore[arg-type]


def _node(node: Node, key: str) -> Node:
    inner = node[key]
    if not isinstance(inner, Mapping):
        raise TypeError(f"'{key}' must hold settings")
    return inner


# -- the parts of one file -------------------------------------------------------------------------


def _state(path: Path) -> dict[str, Tensor]:
    content = read_checkpoint(path)
    state = content.get("state_dict", content)
    if not isinstance(state, dict):
        raise ValueError(f"{path}: 'state_dict' is no dict of tensors")
    return unwrapped(
        tensors(state, path), path, around=()
    )  # upstream's own prefixes say which network it is


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def _unet(
    state: Mapping[str, Tensor], weights: str | None, path: Path
) -> tuple[dict[str, Tensor], str]:
    """The tensors of the U-Net, raw or averaged, and which they are."""
    if weights is not None and weights not in WEIGHTS:
        raise ValueError(f"unknown weights '{weights}'; valid: {', '.join(WEIGHTS)}")
    raw, averaged = _part(state, UNET), _part(state, EMA)
    chosen = weights or ("ema" if averaged else "raw")
    if chosen == "raw":
        return raw, chosen
    # upstream registers the averages under the names of the parameters without their dots
    names = {f"diffusion_model.{name}".replace(".", ""): name for name in raw}
    averaged = {_bare(short): value for short, value in averaged.items()}
    if missing := names.keys() - averaged.keys():
        raise ValueError(
            f"{path} has no averaged weights for {min(missing)}; convert with weights 'raw'"
        )
    if left := averaged.keys() - names.keys() - {"decay", "num_updates"}:
        raise ValueError(f"{path} has averaged weights left over: {min(left)}")
    return {name: averaged[short] for short, name in names.items()}, chosen


def _bare(short: str) -> str:
    """A name without dots, and without those of the wrappers in it."""
    for word in INSIDE:
        short = short.replace(word, "")
    return short


def _check_rest(state: Mapping[str, Tensor], known: Layout, path: Path) -> None:
    """Nothing else but the tables of the schedule may be in the file, and they must be those of the
    layout.
    """
    parts = (UNET, EMA, AUTOENCODER, CLASSES)
    if left := [name for name in state if "." in name and not name.startswith(parts)]:
        raise ValueError(
            f"{path} has '{left[0]}' left over; it is no latent diffusion checkpoint of this kind"
        )
    table = state.get("alphas_cumprod")
    expected = torch.sigmoid(-2 * known.process.log_ratio)
    if table is not None and (
        table.shape != expected.shape or not torch.allclose(table.double(), expected, atol=1e-5)
    ):
        raise ValueError(
            f"{path} was trained with another noise schedule than this layout's; choose its own "
            f"layout"
        )


def _scale(state: Mapping[str, Tensor], known: Layout, path: Path) -> float:
    """The scale of the latents: a buffer where it was measured in training, else the
    configuration's.
    """
    if "scale_factor" in state:
        return state["scale_factor"].item()
    if known.scale is None:
        raise ValueError(
            f"{path} lacks 'scale_factor', which training measured (scale_by_std) and no config "
            f"holds"
        )
    return known.scale
