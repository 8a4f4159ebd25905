"""Checkpoints in small, in every format that ``bench convert`` reads, as upstream writes them."""

from __future__ import annotations

import json
import pickle
import sys
import types
import zlib
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

GOLDEN = Path(__file__).resolve().parent / "golden" / "priors_golden.npz"


class Golden:
    """Configurations, inputs and outputs of upstream networks, and weights made from parameter
    names alone."""

    def __init__(self) -> None:
        self.arrays = np.load(GOLDEN)
        self._made: dict[str, dict[str, Tensor]] = {}

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def config(self, network: str) -> dict:
        return self._meta(network)["config"]

    def weights(self, network: str) -> dict[str, Tensor]:
        """Fresh copies, to be damaged at will."""
        if network not in self._made:
            shapes = self._meta(network)["shapes"]
            self._made[network] = {
                name: self._weight(name, shape) for name, shape in shapes.items()
            }
        return {name: value.clone() for name, value in self._made[network].items()}

    def _meta(self, network: str) -> dict:
        return json.loads(bytes(self.arrays[f"{network}/meta"]))

    @staticmethod
    def _weight(name: str, shape: list[int]) -> Tensor:
        key = [0, zlib.crc32(name.encode())]
        z = np.random.Generator(np.random.Philox(key=key)).standard_normal(shape).astype(np.float32)
        if len(shape) > 1:
            return torch.from_numpy(1.1 * z / np.sqrt(int(np.prod(shape[1:])), dtype=np.float32))
        return torch.from_numpy(1 + 0.2 * z if name.endswith("weight") else 0.1 * z)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# -- EDM -------------------------------------------------------------------------------------------


class _Upstream(nn.Module):
    """A module that pickles itself as NVlabs' persistent classes do: its source, its class name and
    its state."""

    source = ""

    def __init__(self, cls: str, kwargs: Mapping[str, object]):
        super().__init__()
        self.cls, self._init_args, self._init_kwargs = cls, (), dict(kwargs)

    def __reduce__(self):
        meta = {"type": "class", "version": 6, "module_src": self.source, "class_name": self.cls}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (
            {**meta, "state": self.__dict__},
        )


def write_edm(
    path: Path,
    kwargs: Mapping[str, object],
    weights: Mapping[str, Tensor],
    protocol: int = 2,
    **more,
) -> Path:
    """An EDM pickle of given tensors. Executing the source it embeds would leave a file
    ``executed`` beside it."""
    persistence = types.ModuleType("torch_utils.persistence")
    exec("def _reconstruct_persistent_obj(meta): raise AssertionError", persistence.__dict__)
    names = {"torch_utils": types.ModuleType("torch_utils"), "torch_utils.persistence": persistence}
    source = f"open({str(path.parent / 'executed')!r}, 'w')"
    with mock.patch.dict(sys.modules, names), mock.patch.object(_Upstream, "source", source):
        net = _Upstream("EDMPrecond", kwargs)
        for name, value in weights.items():
            _register(net, name.split("."), value)
        path.write_bytes(
            pickle.dumps({"ema": net, "dataset_kwargs": {"path": "x"}, **more}, protocol)
        )
    return path


def _register(module: nn.Module, path: list[str], value: Tensor) -> None:
    """Hang a tensor below ``module``, with containers of torch in between where upstream has
    them."""
    if len(path) == 1:
        if path[0] == "resample_filter":
            module.register_buffer(path[0], value)
        else:
            module.register_parameter(path[0], nn.Parameter(value))
        return
    if path[0] not in module._modules:
        module.add_module(
            path[0], nn.ModuleDict() if path[0] in ("enc", "dec") else _Upstream("Layer", {})
        )
    _register(module._modules[path[0]], path[1:], value)


# -- ADM -------------------------------------------------------------------------------------------

FLAGS = {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2",
    "attention_resolutions": "8",
    "num_head_channels": 16,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
    "learn_sigma": True,
    "use_fp16": True,
}


# -- PnP-Flow --------------------------------------------------------------------------------------

PNPFLOW = {
    "input_height": 16,
    "ch": 32,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [8],
}


def pnpflow_shapes(
    side: int, ch: int, mult: list[int], blocks: int, attention: list[int], channels: int = 3
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a checkpoint of PnP-Flow."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    def residual(name: str, old: int, new: int) -> None:
        layer(f"{name}.temb_proj", new, 4 * ch)
        layer(f"{name}.norm1", old)
        layer(f"{name}.conv1", new, old, 3, 3)
        layer(f"{name}.norm2", new)
        layer(f"{name}.conv2", new, new, 3, 3)
        if old != new:
            layer(f"{name}.shortcut", new, old, 1, 1)

    def attend(name: str, width: int) -> None:
        for part in ("attn_q", "attn_k", "attn_v", "proj_out"):
            layer(f"{name}.{part}", width, width, 1, 1)
        layer(f"{name}.norm", width)

    layer("temb_net.main.0", 4 * ch, ch)
    layer("temb_net.main.2", 4 * ch, 4 * ch)
    layer("begin_conv", ch, channels, 3, 3)
    width, kept, last = ch, [ch], len(mult) - 1
    for level, factor in enumerate(mult):
        name = f"down_modules.{level}.{level}"
        for i in range(blocks):
            residual(f"{name}a_{i}a_block", width, ch * factor)
            width = ch * factor
            if side // 2**level in attention:
                attend(f"{name}a_{i}b_attn", width)
            kept.append(width)
        if level < last:
            layer(f"{name}b_downsample", width, width, 3, 3)
            kept.append(width)
    residual("mid_modules.0", width, width)
    attend("mid_modules.1", width)
    residual("mid_modules.2", width, width)
    for block, level in enumerate(range(last, -1, -1)):
        name = f"up_modules.{block}.{level}"
        for i in range(blocks + 1):
            residual(f"{name}a_{i}a_block", width + kept.pop(), ch * mult[level])
            width = ch * mult[level]
            if side // 2**level in attention:
                attend(f"{name}a_{i}b_attn", width)
        if level:
            layer(f"{name}b_upsample.up_conv", width, width, 3, 3)
    layer("end_conv.0", width)
    layer("end_conv.2", channels, width, 3, 3)
    return shapes


def pnpflow_weights() -> dict[str, Tensor]:
    """Random tensors of the small network :data:`PNPFLOW`."""
    sizes = [PNPFLOW[name] for name in ("input_height", "ch", "ch_mult", "num_res_blocks")]
    shapes = pnpflow_shapes(*sizes, PNPFLOW["attn_resolutions"])  # type: ignore[arg-type]
    return {name: Golden._weight(name, list(shape)) for name, shape in shapes.items()}


def pnpflow_velocity(state: Mapping[str, Tensor], x: Tensor, time: Tensor) -> Tensor:
    """What a network of PnP-Flow puts out for the small sizes of :data:`PNPFLOW`.

    Written from the description of the network with functions of torch alone; the names of the
    tensors say which blocks there are. ``time`` is 0 at noise and 1 at data.
    """

    def layer(name: str) -> tuple[Tensor, Tensor]:
        return state[f"{name}.weight"], state[f"{name}.bias"]

    def norm(name: str, h: Tensor) -> Tensor:
        return F.group_norm(h, 32, *layer(name), eps=1e-6)

    def residual(name: str, h: Tensor) -> Tensor:
        out = F.conv2d(F.silu(norm(f"{name}.norm1", h)), *layer(f"{name}.conv1"), padding=1)
        out = out + F.linear(F.silu(embedded), *layer(f"{name}.temb_proj"))[:, :, None, None]
        out = F.conv2d(F.silu(norm(f"{name}.norm2", out)), *layer(f"{name}.conv2"), padding=1)
        own = f"{name}.shortcut"
        return out + (F.conv2d(h, *layer(own)) if f"{own}.weight" in state else h)

    def attend(name: str, h: Tensor) -> Tensor:
        if f"{name}.norm.weight" not in state:
            return h
        normed = norm(f"{name}.norm", h)
        q, k, v = (F.conv2d(normed, *layer(f"{name}.attn_{one}")).flatten(2) for one in "qkv")
        weights = torch.einsum("bcq,bck->bqk", q, k).div(q.shape[1] ** 0.5).softmax(-1)
        out = torch.einsum("bqk,bck->bcq", weights, v).view_as(h)
        return h + F.conv2d(out, *layer(f"{name}.proj_out"))

    ch, levels = int(str(PNPFLOW["ch"])), len(PNPFLOW["ch_mult"])  # type: ignore[arg-type]
    half = ch // 2
    powers = -torch.arange(half, dtype=torch.float64) * np.log(10_000) / (half - 1)
    angles = time[:, None] * torch.exp(powers)
    waves = torch.cat([angles.sin(), angles.cos()], 1).to(x.dtype)
    hidden = F.silu(F.linear(waves, *layer("temb_net.main.0")))
    embedded = F.linear(hidden, *layer("temb_net.main.2"))
    kept = [F.conv2d(x, *layer("begin_conv"), padding=1)]
    for level in range(levels):
        name = f"down_modules.{level}.{level}"
        kept.append(attend(f"{name}a_0b_attn", residual(f"{name}a_0a_block", kept[-1])))
        if level < levels - 1:
            kept.append(F.conv2d(kept[-1], *layer(f"{name}b_downsample"), stride=2, padding=1))
    h = attend("mid_modules.1", residual("mid_modules.0", kept[-1]))
    h = residual("mid_modules.2", h)
    for block, level in enumerate(range(levels - 1, -1, -1)):
        name = f"up_modules.{block}.{level}"
        for i in range(2):
            h = residual(f"{name}a_{i}a_block", torch.cat([h, kept.pop()], 1))
            h = attend(f"{name}a_{i}b_attn", h)
        if level:
            h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
            h = F.conv2d(h, *layer(f"{name}b_upsample.up_conv"), padding=1)
    assert not kept
    return F.conv2d(F.silu(norm("end_conv.0", h)), *layer("end_conv.2"), padding=1)


# -- CompVis ---------------------------------------------------------------------------------------


def ckpt(
    golden, unet: str, autoencoder: str, *, ema: bool = True, classes: Tensor | None = None, **more
) -> dict:
    """A Lightning checkpoint of a latent diffusion model; the raw weights are off by one in one
    bias."""
    weights = golden.weights(unet)
    state = {f"model.diffusion_model.{name}": value.clone() for name, value in weights.items()}
    if ema:
        state["model.diffusion_model.out.2.bias"] += 1.0
        state |= {
            f"model_ema.{f'diffusion_model.{name}'.replace('.', '')}": value
            for name, value in weights.items()
        }
        state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(3)}
    state |= {
        f"first_stage_model.{name}": value for name, value in golden.weights(autoencoder).items()
    }
    if classes is not None:
        state["cond_stage_model.embedding.weight"] = classes
    return {"state_dict": {**state, **more}, "global_step": 5}


def upstream_config(golden, unet: str, autoencoder: str, **more: object) -> dict:
    network = golden.config(unet)
    params = {
        key: value
        for key, value in network.items()
        if key not in ("attention_ds", "context_dim") and value != -1
    }
    params["attention_resolutions"] = network["attention_ds"]
    if "context_dim" in network:
        params |= {"use_spatial_transformer": True, "context_dim": network["context_dim"]}
    target = {"kl": "AutoencoderKL", "vq": "VQModelInterface"}[autoencoder]
    return {
        "model": {
            "params": {
                "linear_start": 0.0015,
                "linear_end": 0.0155,
                "unet_config": {"target": "ldm.UNetModel", "params": params},
                "first_stage_config": {
                    "target": f"ldm.{target}",
                    "params": golden.config(autoencoder),
                },
                "cond_stage_config": "__is_unconditional__",
                **more,
            }
        }
    }


# -- folders of the hub ----------------------------------------------------------------------------

BLOCKS = {"block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4}
AUTOENCODER = {
    "block_out_channels": [8, 8],
    "norm_num_groups": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}


def made(cls: type, **config: object):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return cls(**config).eval()


def edit(path: Path, **changes: object) -> None:
    """Set keys of a JSON file; None removes one."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(
        json.dumps({k: v for k, v in content.items() if k not in changes or v is not None})
    )


def prompts_file(path: Path, prompts: list[str], **tables: Tensor) -> Path:
    save_file(tables, path, {"prompts": json.dumps(prompts)})
    return path


def write_ddpm(folder: Path, channels: int = 3):
    from diffusers import DDPMScheduler, UNet2DModel

    unet = made(
        UNet2DModel,
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        down_block_types=["DownBlock2D", "AttnDownBlock2D"],
        up_block_types=["AttnUpBlock2D", "UpBlock2D"],
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        **BLOCKS,
    )
    DDPMScheduler(beta_start=1e-4, beta_end=0.02).save_pretrained(folder / "scheduler")
    return unet


def write_dit(folder: Path):
    from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel

    transformer = made(
        DiTTransformer2DModel,
        sample_size=8,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_embeds_ada_norm=5,
    )
    torch.nn.init.normal_(transformer.proj_out_2.weight, generator=torch.Generator().manual_seed(1))
    transformer.save_pretrained(folder / "transformer")
    edit(
        folder / "transformer" / "config.json",
        _class_name="Transformer2DModel",
        only_cross_attention=False,
        num_vector_embeds=None,
    )
    made(AutoencoderKL, **AUTOENCODER, latent_channels=4).save_pretrained(folder / "vae")
    DDIMScheduler(beta_start=1e-4, beta_end=0.02).save_pretrained(folder / "scheduler")
    return transformer


def write_stable_diffusion(folder: Path, kind: str = "epsilon", channels: int = 4):
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel

    unet = made(
        UNet2DConditionModel,
        sample_size=8,
        in_channels=channels,
        out_channels=4,
        cross_attention_dim=6,
        attention_head_dim=[2, 4],
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
        use_linear_projection=True,
        **BLOCKS,
    )
    unet.save_pretrained(folder / "unet")
    made(AutoencoderKL, **AUTOENCODER, latent_channels=4).save_pretrained(folder / "vae")
    edit(folder / "vae" / "config.json", scaling_factor=None)
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=kind
    )
    scheduler.save_pretrained(folder / "scheduler")
    return unet


def write_lcm(folder: Path, kind: str = "epsilon", distilled: bool = True):
    """A latent consistency model; ``distilled``: its network reads a strength of guidance."""
    from diffusers import LCMScheduler, UNet2DConditionModel

    write_stable_diffusion(folder)
    unet = made(
        UNet2DConditionModel,
        sample_size=8,
        cross_attention_dim=6,
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
        time_cond_proj_dim=10 if distilled else None,
        **BLOCKS,
    )
    unet.save_pretrained(folder / "unet")
    scheduler = LCMScheduler(prediction_type=kind)
    scheduler.save_pretrained(folder / "scheduler")
    return unet, scheduler


def write_sdxl_lcm(folder: Path):
    """The same of Stable Diffusion XL, as :func:`write_lcm`."""
    from diffusers import LCMScheduler

    unet, _ = write_stable_diffusion_xl(folder, time_cond_proj_dim=10)
    scheduler = LCMScheduler()
    scheduler.save_pretrained(folder / "scheduler")
    return unet, scheduler


def write_stable_diffusion_3(folder: Path):
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    transformer = made(
        SD3Transformer2DModel,
        sample_size=8,
        num_layers=2,
        in_channels=4,
        out_channels=4,
        attention_head_dim=4,
        num_attention_heads=2,
        joint_attention_dim=6,
        caption_projection_dim=8,
        pooled_projection_dim=10,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    transformer.save_pretrained(folder / "transformer")
    kl = made(
        AutoencoderKL,
        **AUTOENCODER,
        latent_channels=4,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    kl.save_pretrained(folder / "vae")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    return transformer, kl


def write_stable_diffusion_xl(folder: Path, channels: int = 4, **settings: object):
    """The pipeline without its text encoders, saved by the library; U-Net and autoencoder.

    ``settings`` are further ones of the U-Net.
    """
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel

    unet = made(
        UNet2DConditionModel,
        sample_size=8,
        in_channels=channels,
        out_channels=4,
        cross_attention_dim=6,
        attention_head_dim=[2, 4],
        transformer_layers_per_block=[1, 2],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 10,
        **BLOCKS,
        **settings,
    )
    unet.save_pretrained(folder / "unet")
    kl = made(AutoencoderKL, **AUTOENCODER, latent_channels=4, scaling_factor=0.13025)
    without_spread(kl).save_pretrained(folder / "vae")
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
    )
    scheduler.save_pretrained(folder / "scheduler")
    index = {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True}
    (folder / "model_index.json").write_text(json.dumps(index))
    return unet, kl


def write_flux(folder: Path, fill: bool = False):
    """The pipeline without its text encoders, saved by the library; transformer and autoencoder."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    transformer = made(
        FluxTransformer2DModel,
        in_channels=4 * (4 + 4 + 2 * 2) if fill else 4 * 4,
        out_channels=4 * 4 if fill else None,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=6,
        pooled_projection_dim=10,
        guidance_embeds=True,
        axes_dims_rope=[2, 2, 4],
    )
    transformer.save_pretrained(folder / "transformer")
    kl = made(
        AutoencoderKL,
        **AUTOENCODER,
        latent_channels=4,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    without_spread(kl).save_pretrained(folder / "vae")
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    scheduler.save_pretrained(folder / "scheduler")
    return transformer, kl


def without_spread(kl):
    """Give an autoencoder a Gaussian without spread: a draw of a pipeline is then its mean."""
    last = kl.quant_conv or kl.encoder.conv_out
    with torch.no_grad():
        last.weight[kl.config.latent_channels :] = 0
        last.bias[kl.config.latent_channels :] = -60
    return kl
