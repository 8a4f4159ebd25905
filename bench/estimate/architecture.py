"""The networks of a prior whose weights are not here, without values, to count their memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from posterior_bench.priors.base import Prior
from posterior_bench.priors.convert import adm, compvis, pnpflow
from posterior_bench.priors.fingerprint import read_spec, resolve
from posterior_bench.priors.latents import LATENTS
from posterior_bench.priors.load import untrained, untrained_latent
from posterior_bench.priors.nets import UNet2D, UNet2DCondition, UNet2DToData
from posterior_bench.priors.process import VP, Flow


def without_weights(node: Mapping[str, Any], summary: str) -> Prior | None:
    """Return the prior that its ``prior.json`` or the layout of its ``convert`` command describes.

    Parameters
    ----------
    node : Mapping
        The node of the prior.
    summary : str
        The first line of the prior's YAML file, which names the ``convert`` command.

    Returns
    -------
    Prior or None
        A prior on the meta device; None if nothing describes its networks.
    """
    try:
        spec = read_spec(resolve(node["path"]))
    except (OSError, ValueError):
        return _of_layout(summary)
    latent = untrained_latent(spec["latent"], device="meta") if "latent" in spec else None
    return untrained(spec, device="meta", latent=latent)


def _of_layout(summary: str) -> Prior | None:
    """Return the prior to which ``convert`` turns a checkpoint of a named layout."""
    found = re.search(r"--as (adm|compvis|pnpflow) --layout (\w+)", summary)
    made = {"adm": _adm, "compvis": _compvis, "pnpflow": _pnpflow}
    return None if found is None else made[found[1]](found[2])


def _adm(layout: str) -> Prior:
    unet = adm.adm_layout(adm.LAYOUTS[layout])
    shape = (unet.in_channels, unet.image_size, unet.image_size)
    with torch.device("meta"):
        net = UNet2D(unet.config, heads=unet.constant_heads)
    learned = unet.out_channels > unet.in_channels
    # any noise schedule will do: its memory is the same
    process = VP.scheduled("linear", 1e-4, 0.02)
    return Prior(process, net, shape, "eps", num_classes=unet.num_classes or 0, learned_var=learned)


def _compvis(layout: str) -> Prior:
    known = compvis.compvis_layout(layout, None)
    with torch.device("meta"):
        latent = LATENTS[known.autoencoder.kind](known.autoencoder.config)
        net = (
            UNet2D(known.unet.config, heads=known.unet.constant_heads)
            if known.classes is None
            else UNet2DCondition(known.unet.config, [known.classes[0], 1, known.classes[1]])
        )
    shape = (known.autoencoder.in_channels, *(known.unet.image_size * latent.factor,) * 2)
    null = None if known.classes is None else known.classes[0] - 1
    return Prior(known.process, net, shape, known.parameterization, 0.5, null or 0, null, latent)


def _pnpflow(layout: str) -> Prior:
    unet = pnpflow.pnpflow_layout(layout)
    with torch.device("meta"):
        net = UNet2DToData(pnpflow.pnpflow_config(unet))
    return Prior(Flow(), net, (unet.in_channels, unet.image_size, unet.image_size), "flow")
