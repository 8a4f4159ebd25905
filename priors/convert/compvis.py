"""Convert CompVis latent diffusion checkpoints: LSUN-churches, cin256-v2, celeba256, ffhq256.

One ``model.ckpt`` holds the U-Net, its moving average, the autoencoder and the class embedding
(Rombach et al. 2022). The sizes of the networks are in the ``config.yaml`` that upstream ships
beside it; :data:`LAYOUTS` holds those of the published checkpoints by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from posterior_bench.priors.base import Prior
from posterior_bench.priors.convert.autoencoder import (
    AutoencoderLayout,
    autoencoder_layout,
    rename_autoencoder,
)
from posterior_bench.priors.convert.base import Converted, latent, network
from posterior_bench.priors.convert.readers import read_checkpoint, tensors
from posterior_bench.priors.convert.unet import UNetLayout, rename_unet
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


_FACES = _model(
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
)
"""CelebA-HQ and FFHQ have one architecture; upstream ships a file of settings for each."""

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
    "celeba256": _FACES,
    "ffhq256": _FACES,
}
"""The parts of ``model.params`` of the published checkpoints that matter here."""


@dataclass(frozen=True)
class Layout:
    """Everything that the configuration of a latent diffusion model says.

    Parameters
    ----------
    unet : UNetLayout
        The denoising network.
    autoencoder : AutoencoderLayout
        The autoencoder.
    classes : tuple[int, int] or None
        Rows and width of the class embedding; None for an unconditional model.
    process : VP
        The noise process.
    parameterization : str
        Output of the network.
    scale : float or None
        Scale of the latents; None if the checkpoint holds it.
    """

    unet: UNetLayout
    autoencoder: AutoencoderLayout
    classes: tuple[int, int] | None
    process: VP
    parameterization: str
    scale: float | None


def convert_compvis(
    path: Path,
    layout: str | None = None,
    config: Node | None = None,
    weights: str | None = None,
    autoencoder: Path | None = None,
) -> Converted:
    """Convert a latent diffusion checkpoint to a latent prior.

    Parameters
    ----------
    path : Path
        The checkpoint.
    layout : str or None, default None
        Name of a published checkpoint in :data:`LAYOUTS`.
    config : Mapping[str, object] or None, default None
        Content of a ``config.yaml``, for another checkpoint. Give either ``layout`` or ``config``.
    weights : str or None, default None
        ``ema`` or ``raw``; None takes the moving average where the file has one.
    autoencoder : Path or None, default None
        Another file to read the autoencoder from.

    Returns
    -------
    Converted
        The latent prior.

    Raises
    ------
    FileNotFoundError
        If a file does not exist.
    ValueError
        If a file cannot be read, or a tensor is missing, extra or of another shape.
    """
    known, state = compvis_layout(layout, config), _state(path)
    unet, chosen = _unet(state, weights, path)
    _check_rest(state, known, path)
    net = _network(unet, _part(state, CLASSES), known, path)
    other = _state(autoencoder) if autoencoder is not None else None
    own = _part(state, AUTOENCODER)
    first_stage = own if other is None else _part(other, AUTOENCODER) or other
    classes = None if known.classes is None else known.classes[0] - 1
    prior = Prior(
        known.process,
        net,
        (known.autoencoder.in_channels, *(known.unet.image_size * known.autoencoder.factor,) * 2),
        known.parameterization,
        num_classes=classes or 0,
        null_label=classes,
        latent=latent(
            known.autoencoder.kind,
            known.autoencoder.config,
            rename_autoencoder(first_stage, known.autoencoder),
            autoencoder or path,
            _scale(state, known, path),
        ),
    )
    files = [path, *([] if autoencoder is None else [autoencoder])]
    facts = {"layout": layout or "from its config", "weights": chosen}
    return Converted(prior, files, LICENCE, facts)


def _network(
    unet: Mapping[str, Tensor], context: dict[str, Tensor], known: Layout, path: Path
) -> nn.Module:
    """Return the denoising network with its tensors and the table of the class embedding."""
    net_state = {
        f"unet.{name}": value for name, value in rename_unet(unet, known.unet, path).items()
    }
    if known.classes is None:
        settings: dict[str, object] = {"config": known.unet.config}
        if known.unet.constant_heads is not None:
            settings["heads"] = known.unet.constant_heads
        return network("UNet2D", settings, {**net_state, **context}, path)
    rows, width = known.classes
    table = context.pop("embedding.weight", torch.empty(0)).reshape(-1, 1, width)
    settings = {"config": known.unet.config, "contexts": [rows, 1, width]}
    return network("UNet2DCondition", settings, {**net_state, **context, "contexts": table}, path)


def compvis_layout(name: str | None, config: Node | None) -> Layout:
    """Return the layout with a name, or the layout in a ``config.yaml``.

    Parameters
    ----------
    name : str or None
        A name in :data:`LAYOUTS`.
    config : Mapping[str, object] or None
        Content of a ``config.yaml``.

    Returns
    -------
    Layout
        The layout.

    Raises
    ------
    ValueError
        If not exactly one is given, or the model is not supported.
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
            f"the autoencoder {first['target']} is not supported; "
            "valid: AutoencoderKL, VQModelInterface"
        )
    classes = None
    if isinstance(cond, Mapping):
        if not str(cond["target"]).endswith(".ClassEmbedder"):
            raise ValueError(
                f"the condition {cond['target']} is not supported; "
                "convert a diffusers folder instead"
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
    settings = {key: params[key] for key in params.keys() & _UNET_KEYS}
    multipliers, factors = settings.pop("channel_mult"), params["attention_resolutions"]
    assert isinstance(multipliers, list) and isinstance(factors, list)
    shape = {"channel_mult": tuple(multipliers), "attention_factors": frozenset(factors)}
    return UNetLayout(**shape, **settings)  # type: ignore[arg-type]


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
    # the prefixes stay, because they say to which network a tensor belongs
    return unwrapped(tensors(state, path), path, around=())


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def _unet(
    state: Mapping[str, Tensor], weights: str | None, path: Path
) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of the U-Net, raw or averaged, and which of both they are."""
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
    """Return a name without dots and without the words of wrappers."""
    for word in INSIDE:
        short = short.replace(word, "")
    return short


def _check_rest(state: Mapping[str, Tensor], known: Layout, path: Path) -> None:
    """Check that the file holds nothing else but the tables of the layout's noise schedule."""
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
            f"{path} was trained with another noise schedule than this layout's; "
            "choose its own layout"
        )


def _scale(state: Mapping[str, Tensor], known: Layout, path: Path) -> float:
    """Return the scale of the latents: as training measured it, else as configured."""
    if "scale_factor" in state:
        return state["scale_factor"].item()
    if known.scale is None:
        raise ValueError(
            f"{path} lacks 'scale_factor', which training measured (scale_by_std) "
            "and no config holds; give the whole checkpoint"
        )
    return known.scale
