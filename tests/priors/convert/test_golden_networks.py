"""The converted networks are the upstream networks: outputs computed with the original code."""

from __future__ import annotations

import pytest
import torch

from posterior_bench.priors.base import Prior
from posterior_bench.priors.convert import adm, compvis
from posterior_bench.priors.convert.autoencoder import autoencoder_layout, rename_autoencoder
from posterior_bench.priors.convert.base import latent, network
from posterior_bench.priors.convert.edm import convert_edm, edm_config
from posterior_bench.priors.convert.unet import UNetLayout, rename_unet
from posterior_bench.priors.latents import LATENTS
from posterior_bench.priors.nets import NETS, UNet2D, UNet2DCondition
from posterior_bench.priors.process import VP, Level

TOLERANCE = {"atol": 5e-5, "rtol": 0.0}


def _layout(config: dict) -> UNetLayout:
    config = {**config, "attention_factors": frozenset(config["attention_ds"])}
    del config["attention_ds"]
    return UNetLayout(**{**config, "channel_mult": tuple(config["channel_mult"])})


def _unet(golden, name: str):
    layout = _layout(golden.config(name))
    state = {
        f"unet.{key}": value
        for key, value in rename_unet(golden.weights(name), layout, name).items()
    }
    if layout.context_dim is None:
        heads = {} if layout.constant_heads is None else {"heads": layout.constant_heads}
        return network("UNet2D", {"config": layout.config, **heads}, state, name)
    contexts = golden[f"{name}/context"]
    settings = {"config": layout.config, "contexts": list(contexts.shape)}
    return network("UNet2DCondition", settings, {**state, "contexts": contexts}, name)


@pytest.mark.parametrize(
    "name", ["adm", "adm_new_order", "ldm_churches_like", "ldm_celeba_like", "ldm_cin_like"]
)
def test_unets_put_out_what_upstream_does(golden, name):
    cond = {
        "adm_new_order": {"label": torch.tensor([1, 4])},
        "ldm_cin_like": {"label": torch.tensor([0, 1])},
    }
    with torch.no_grad():
        out = _unet(golden, name)(golden[f"{name}/x"], golden[f"{name}/t"], cond.get(name, {}))
    torch.testing.assert_close(out, golden[f"{name}/out"], **TOLERANCE)


def test_edm_denoises_as_upstream_does(golden, write_edm):
    prior = convert_edm(write_edm(golden.config("edm"), golden.weights("edm"))).prior
    levels = Level.stack([prior.level(sigma) for sigma in golden["edm/sigma"].tolist()])
    for label, out in ((golden["edm/label"], "edm/out"), (torch.tensor([5, 5]), "edm/out_null")):
        with torch.no_grad():
            x0 = prior.denoise(golden["edm/x"], levels, prior.condition(label))
        torch.testing.assert_close(x0, golden[out], **TOLERANCE)


def test_only_the_first_channels_of_a_learned_variance_are_the_noise(golden):
    net = _unet(golden, "adm")
    process = VP.scheduled("linear", 1e-4, 0.02)
    prior = Prior(process, net, (3, 16, 16), "eps", learned_var=True)
    x = golden["adm/x"]
    levels = Level.stack([process.level_at_index(t) for t in golden["adm/t"].tolist()])
    x0 = prior.denoise(x, levels)
    eps = (x - levels.alpha.float() * x0) / levels.sigma.float()
    # x0 divides by an alpha of 0.03: the round-off of float32 is that much larger
    torch.testing.assert_close(eps, golden["adm/out"][:, :3], **TOLERANCE)
    assert prior.view("ve").learned_var


def test_the_kl_autoencoder_is_upstreams(golden):
    layout = autoencoder_layout(golden.config("kl"), "KL")
    made = latent(
        "KL", layout.config, rename_autoencoder(golden.weights("kl"), layout), "kl", scale=1.0
    )
    with torch.no_grad():
        mean, deviation = made.moments(golden["kl/x"])
        torch.testing.assert_close(mean, golden["kl/mean"], **TOLERANCE)
        torch.testing.assert_close(deviation, golden["kl/std"], **TOLERANCE)
        torch.testing.assert_close(made.decode(golden["kl/mean"]), golden["kl/dec"], **TOLERANCE)


def test_the_vq_autoencoder_is_upstreams(golden):
    layout = autoencoder_layout(golden.config("vq"), "VQ")
    made = latent(
        "VQ", layout.config, rename_autoencoder(golden.weights("vq"), layout), "vq", scale=1.0
    )
    with torch.no_grad():
        torch.testing.assert_close(made.encode(golden["vq/x"]), golden["vq/z"], **TOLERANCE)
        torch.testing.assert_close(made.decode(golden["vq/z"]), golden["vq/dec"], **TOLERANCE)
        made.gradient = "unquantised"
        torch.testing.assert_close(
            made.decode(golden["vq/z"]), golden["vq/dec_no_quant"], **TOLERANCE
        )


# -- published sizes -------------------------------------------------------------------------------


def _millions(net: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in net.parameters()) / 1e6


@pytest.mark.parametrize(
    ("layout", "millions"),
    [("imagenet256_uncond", 552.8), ("celeba256", 552.8), ("ffhq", 93.6), ("imagenet64", 295.9)],
)
def test_adm_layouts_have_the_published_size(layout, millions):
    with torch.device("meta"):
        net = UNet2D(adm.adm_layout(adm.LAYOUTS[layout]).config)
    assert _millions(net) == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize(
    ("layout", "millions", "autoencoder"),
    [
        ("lsun_churches", 295.0, 83.7),
        ("cin256", 400.9, 55.3),
        ("celeba256", 274.1, 55.3),
        ("ffhq256", 274.1, 55.3),
    ],
)
def test_latent_diffusion_layouts_have_the_published_size(layout, millions, autoencoder):
    known = compvis.compvis_layout(layout, None)
    with torch.device("meta"):
        net = (
            UNet2DCondition(known.unet.config, [1, 1, 1])
            if known.classes
            else UNet2D(known.unet.config)
        )
        made = LATENTS[known.autoencoder.kind](known.autoencoder.config)
    assert _millions(net) == pytest.approx(millions, abs=0.06)
    assert _millions(made) == pytest.approx(autoencoder, abs=0.06)


def test_the_edm_network_has_the_published_size():
    settings = {
        "img_resolution": 64,
        "img_channels": 3,
        "label_dim": 1000,
        "model_channels": 192,
        "num_blocks": 3,
    }
    more = {"channel_mult": [1, 2, 3, 4], "attn_resolutions": [32, 16, 8]}
    with torch.device("meta"):
        net = UNet2D(edm_config({**settings, **more}))
    assert _millions(net) == pytest.approx(295.9, abs=0.06)


_DDPM = ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"]
PUBLISHED: dict[str, tuple[str, dict[str, object], float]] = {
    "DiT-XL-2-256": (
        "DiT",
        {
            "config": {
                "num_attention_heads": 16,
                "attention_head_dim": 72,
                "in_channels": 4,
                "out_channels": 8,
                "num_layers": 28,
                "sample_size": 32,
                "patch_size": 2,
                "num_embeds_ada_norm": 1000,
            }
        },
        750,
    ),
    "stable-diffusion-v1-5": (
        "UNet2DCondition",
        {
            "config": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
            "contexts": [1, 1, 1],
        },
        860,
    ),
    "stable-diffusion-3.5-medium": (
        "SD3",
        {
            "config": {
                "sample_size": 128,
                "num_layers": 24,
                "attention_head_dim": 64,
                "num_attention_heads": 24,
                "joint_attention_dim": 4096,
                "caption_projection_dim": 1536,
                "pooled_projection_dim": 2048,
                "pos_embed_max_size": 384,
                "dual_attention_layers": list(range(13)),
                "qk_norm": "rms_norm",
            },
            "contexts": [1, 1, 1],
            "pooled": 1,
        },
        2243,
    ),
    "ddpm-celebahq-256": (
        "UNet2D",
        {
            "config": {
                "sample_size": 256,
                "block_out_channels": [128, 128, 256, 256, 512, 512],
                "layers_per_block": 2,
                "down_block_types": _DDPM,
                "up_block_types": [name.replace("Down", "Up") for name in reversed(_DDPM)],
                "attention_head_dim": None,
                "downsample_padding": 0,
                "flip_sin_to_cos": False,
                "freq_shift": 1,
                "norm_eps": 1e-6,
            }
        },
        114,
    ),
}
"""Adapter, settings and millions of parameters of networks whose configuration lies beside their
weights on the hub."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_of_the_hub_have_the_published_size(name):
    adapter, settings, millions = PUBLISHED[name]
    with torch.device("meta"):
        net = NETS[adapter](**settings)
    assert _millions(net) == pytest.approx(millions, abs=0.6)
    assert all(parameter.is_meta for parameter in net.parameters())
