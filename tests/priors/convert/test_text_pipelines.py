"""Stable Diffusion XL, 3 and FLUX in small: one step of the library's own pipelines is ours."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tests.checkpoints import (
    draw,
    edit,
    prompts_file,
    write_flux,
    write_stable_diffusion,
    write_stable_diffusion_3,
    write_stable_diffusion_xl,
)
from torch import Tensor

from posterior_bench.priors import nets
from posterior_bench.priors.base import Prior
from posterior_bench.priors.convert import hub
from posterior_bench.priors.convert.trial import call_once
from posterior_bench.priors.load import load, save

META = {"name": "tiny", "training": {}, "source": "test", "licence": "MIT"}
ROWS = torch.zeros(2, dtype=torch.long)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def prompts(folder: Path, width: int = 10) -> tuple[Path, Tensor, Tensor]:
    """A file with 'a dog' and the empty prompt, and its tables."""
    context, pooled = draw(2, 5, 6, seed=3), draw(2, width, seed=4)
    file = prompts_file(
        folder / "prompts.safetensors", ["a dog", ""], context=context, pooled=pooled
    )
    return file, context, pooled


def kept(folder: Path, file: Path, **settings: object) -> Prior:
    """The prior of a folder after it went through its files."""
    prior = hub.convert_diffusers(folder, file, size=16).prior
    return load(save(folder / "kept", prior, META, torch.float32), **settings)


def observed() -> tuple[Tensor, Tensor]:
    """Images, and a mask that hides a part of some patches."""
    mask = torch.ones(2, 1, 16, 16, dtype=torch.bool)
    mask[:, :, 3:10, 5:13] = False
    return draw(2, 3, 16, 16, seed=6).clamp(-1, 1), mask


def steps_of(pipeline: object, **arguments: object) -> list[Tensor]:
    """The latents after every step of a pipeline."""
    found: list[Tensor] = []

    def note(_pipeline: object, _i: int, _t: Tensor, values: dict) -> dict:
        found.append(values["latents"].clone())
        return {}

    pipeline.set_progress_bar_config(disable=True)
    pipeline(
        height=16,
        width=16,
        output_type="latent",
        callback_on_step_end=note,
        callback_on_step_end_tensor_inputs=["latents"],
        **arguments,
    )
    return found


# -- Stable Diffusion XL ---------------------------------------------------------------------------


def ddim(prior: Prior, z: Tensor, index: int, after: int, cond, guidance: float) -> Tensor:
    """One step of DDIM without noise, between two training steps."""
    now, then = prior.level_at_index(index), prior.level_at_index(after)
    x0 = prior.denoise(z, now, cond, guidance)
    return then.alpha * x0 + then.sigma * (z - now.alpha * x0) / now.sigma


@pytest.mark.parametrize("inpaints", [False, True])
def test_a_step_of_the_pipelines_of_version_xl_is_ours(tmp_path, inpaints):
    pytest.importorskip("transformers")
    from diffusers import (
        DDIMScheduler,
        StableDiffusionXLInpaintPipeline,
        StableDiffusionXLPipeline,
    )

    unet, kl = write_stable_diffusion_xl(tmp_path, 9 if inpaints else 4)
    file, context, pooled = prompts(tmp_path)
    prior = kept(tmp_path, file)
    cls = StableDiffusionXLInpaintPipeline if inpaints else StableDiffusionXLPipeline
    scheduler = DDIMScheduler.from_pretrained(tmp_path / "scheduler", clip_sample=False)
    pipeline = cls(kl, None, None, None, None, unet, scheduler)
    z, (x, mask) = draw(2, 4, 8, 8), observed()
    cond = prior.condition(ROWS)
    more = {}
    if inpaints:
        more = {"image": x, "mask_image": (~mask).float(), "strength": 1.0}
        cond = prior.inpainting(x * mask, mask, cond)
    found = steps_of(
        pipeline,
        num_inference_steps=2,
        guidance_scale=3.0,
        latents=z,
        prompt_embeds=context[[0, 0]],
        pooled_prompt_embeds=pooled[[0, 0]],
        **more,
    )
    ours = ddim(prior, z, 501, 1, cond, 3.0)
    torch.testing.assert_close(ours, found[0], **CLOSE)
    assert (ours - ddim(prior, z, 501, 1, cond, 1.0)).abs().max() > 1e-3


def expected_xl(unet, z: Tensor, t: float, context: Tensor, pooled: Tensor) -> Tensor:
    sizes = torch.tensor([[16.0, 16, 0, 0, 16, 16]] * len(z))
    with torch.no_grad():
        return unet(
            z,
            torch.full((len(z),), t),
            encoder_hidden_states=context,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
        ).sample


@pytest.mark.parametrize("zeros", [True, False])
def test_the_empty_prompt_of_version_xl_is_zeros_where_the_folder_says_so(tmp_path, zeros):
    unet, _ = write_stable_diffusion_xl(tmp_path)
    edit(tmp_path / "model_index.json", force_zeros_for_empty_prompt=zeros)
    file, context, pooled = prompts(tmp_path)
    converted = hub.convert_diffusers(tmp_path, file)
    assert converted.facts == {"empty_prompt": "zeros" if zeros else "embedded"}
    assert tmp_path / "model_index.json" in converted.files
    prior, z = kept(tmp_path, file), draw(2, 4, 8, 8)
    level = prior.level_at_index(600)
    for cond, row in ((prior.condition(ROWS), 0), (None, 1)):
        scale = 0 if zeros and row else 1
        eps = expected_xl(unet, z, 600, scale * context[[row] * 2], scale * pooled[[row] * 2])
        x0 = (z - level.sigma * eps) / level.alpha
        torch.testing.assert_close(prior.denoise(z, level, cond), x0, **CLOSE)
    assert prior.prompt_rows(-1)["contexts"].abs().max() == 0 or not zeros


def test_version_xl_is_told_the_size_of_its_own_images(tmp_path):
    """Twice as wide: the same numbers as the pipeline gives for such an image."""
    write_stable_diffusion_xl(tmp_path)
    prior = kept(tmp_path, prompts(tmp_path)[0])
    assert isinstance(prior.net, nets.SDXL) and prior.net.factor == 2
    wanted = [[16, 32, 0, 0, 16, 32]] * 3
    assert prior.net.sizes(draw(3, 4, 8, 16)).tolist() == wanted
    assert prior.net.sizes(draw(1, 4, 8, 16).bfloat16()).dtype == torch.bfloat16


def test_a_condition_with_two_embeddings_is_repeated_and_doubled(tmp_path):
    write_stable_diffusion_xl(tmp_path)
    prior = kept(tmp_path, prompts(tmp_path)[0])
    rows = [prior.prompt_rows(0), prior.prompt_rows(-1)]
    cond = prior.prompted(rows)
    assert set(cond.values) == {"contexts", "pooled"}
    z, level = draw(4, 4, 8, 8), prior.level(1.0)
    repeated = cond.repeat(2).map(lambda value: value.double().float())
    assert torch.equal(repeated.values["pooled"][1], cond.values["pooled"][0])
    by_hand = prior.prompted([rows[0], rows[0], rows[1], rows[1]])
    guided = prior.denoise(z, level, repeated, guidance=2.0)
    assert torch.equal(guided, prior.denoise(z, level, by_hand, guidance=2.0))
    plain, null = prior.denoise(z, level, repeated), prior.denoise(z, level)
    torch.testing.assert_close(guided, null + 2 * (plain - null), **CLOSE)
    # a label chooses the same rows of the tables
    label = prior.condition(torch.tensor([0]))
    assert torch.equal(
        prior.denoise(z[:1], level, label), prior.denoise(z[:1], level, prior.prompted(rows[:1]))
    )


def test_what_is_no_base_model_of_version_xl_is_refused(tmp_path):
    write_stable_diffusion_xl(tmp_path)
    file, *_ = prompts(tmp_path, width=9)
    with pytest.raises(ValueError, match="embeddings of width 9, and the network wants 10"):
        hub.convert_diffusers(tmp_path, file)
    file, *_ = prompts(tmp_path)
    edit(tmp_path / "unet" / "config.json", addition_embed_type="text")
    with pytest.raises(ValueError, match=r"addition_embed_type='text' .* valid: None, 'text_time'"):
        hub.convert_diffusers(tmp_path, file)
    edit(tmp_path / "unet" / "config.json", addition_embed_type="text_time")
    edit(tmp_path / "model_index.json", requires_aesthetics_score=True)
    with pytest.raises(ValueError, match="a refiner, which reads an aesthetic score, is not"):
        hub.convert_diffusers(tmp_path, file)


# -- FLUX ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fills", [False, True])
def test_a_step_of_the_pipelines_of_flux_is_ours(tmp_path, fills):
    pytest.importorskip("transformers")
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxFillPipeline, FluxPipeline

    transformer, kl = write_flux(tmp_path, fills)
    file, context, pooled = prompts(tmp_path)
    prior = kept(tmp_path, file, embedded_guidance=3.5)
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path / "scheduler")
    cls = FluxFillPipeline if fills else FluxPipeline
    pipeline = cls(scheduler, kl, None, None, None, None, transformer)
    x, mask = observed()
    cond = prior.condition(ROWS)
    more = {}
    if fills:
        more = {"image": x, "mask_image": (~mask).float(), "strength": 1.0}
        cond = prior.inpainting(x * mask, mask, cond)
    found = steps_of(
        pipeline,
        num_inference_steps=4,
        guidance_scale=3.5,
        latents=nets.packed(draw(2, 4, 8, 8)),
        prompt_embeds=context[[0, 0]],
        pooled_prompt_embeds=pooled[[0, 0]],
        **more,
    )
    z, after = (nets.unpacked(latents, (8, 8)) for latents in found[:2])
    now, then = prior.level_at_index(750), prior.level_at_index(500)
    assert math.isclose(now.t, float(scheduler.timesteps[1]), rel_tol=1e-6)
    x0 = prior.denoise(z, now, cond)
    torch.testing.assert_close(z + (then.sigma - now.sigma) / now.sigma * (z - x0), after, **CLOSE)
    other = load(tmp_path / "kept", embedded_guidance=1.5).denoise(z, now, cond)
    assert (other - x0).abs().max() > 1e-5
    prior.net.embedded_guidance = 1.0
    assert torch.equal(load(tmp_path / "kept").denoise(z, now, cond), prior.denoise(z, now, cond))


@pytest.mark.parametrize("fills", [False, True])
def test_flux_reads_rows_and_columns_of_patches_time_and_guidance(tmp_path, fills):
    """Without the pipeline: a state of 8 x 8 positions has 4 x 4 patches."""
    transformer, kl = write_flux(tmp_path, fills)
    file, context, pooled = prompts(tmp_path)
    prior = kept(tmp_path, file, embedded_guidance=2.5)
    z, (x, mask) = draw(2, 4, 8, 8), observed()
    level = prior.level(1.5)  # sigma / (1 - sigma) = 1.5: sigma = 0.6
    given, cond = z, prior.condition(ROWS)
    if fills:
        with torch.no_grad():
            grey = (kl.encode(x * mask).latent_dist.mean - 0.1159) * 0.3611
        hole = (~mask).float()
        corners = [hole[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        given, cond = torch.cat([z, grey, *corners], 1), prior.inpainting(x * mask, mask, cond)
    cells = given.unflatten(2, (4, 2)).unflatten(4, (4, 2)).permute(0, 2, 4, 1, 3, 5)
    with torch.no_grad():
        flow = transformer(
            cells.flatten(3).flatten(1, 2),
            encoder_hidden_states=context[[0, 0]],
            pooled_projections=pooled[[0, 0]],
            timestep=torch.full((2,), 0.6),
            guidance=torch.full((2,), 2.5),
            img_ids=torch.tensor([[0.0, i, j] for i in range(4) for j in range(4)]),
            txt_ids=torch.zeros(5, 3),
        ).sample
    flow = flow.view(2, 4, 4, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(2, 4, 8, 8)
    torch.testing.assert_close(prior.denoise(z, level, cond), z - 0.6 * flow, **CLOSE)


def test_patches_of_flux_are_those_of_its_pipeline():
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    patches = nets.packed(x)
    assert patches.shape == (2, 6, 12)
    # channel by channel, the two by two positions of the second patch of the first row
    assert patches[0, 1, :4].tolist() == [2, 3, 8, 9] and patches[0, 1, 4] == 2 + 24
    assert torch.equal(nets.unpacked(patches, (4, 6)), x)
    with pytest.raises(ValueError, match="patches of 2 x 2, and a state has 3 x 6 positions"):
        nets.packed(x[:, :, :3])


def test_the_shift_of_a_flow_grows_with_the_image(tmp_path):
    """At 1024 pixels FLUX.1 dev has 4096 patches and the shift exp(1.15); at 256 it is exp(0.5)."""
    dev = {
        "use_dynamic_shifting": True,
        "shift": 3.0,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
        "base_shift": 0.5,
        "max_shift": 1.15,
    }
    for patches, shift in ((4096, math.exp(1.15)), (256, math.exp(0.5)), (2176, math.exp(0.825))):
        assert math.isclose(hub._shift(dev, patches), shift)
    assert math.isclose(hub._shift({**dev, "time_shift_type": "linear"}, 2176), 0.825)
    assert hub._shift({"shift": 3.0}, 4096) == 3.0
    write_flux(tmp_path)
    file, *_ = prompts(tmp_path)
    small, large = (hub.convert_diffusers(tmp_path, file, size=size).prior for size in (16, 32))
    assert (small.image_shape, large.image_shape) == ((3, 16, 16), (3, 32, 32))
    assert math.isclose(small.process.shift, math.exp(0.5 + 0.65 * (16 - 256) / 3840))
    assert math.isclose(large.process.shift, math.exp(0.5 + 0.65 * (64 - 256) / 3840))
    whole = hub.convert_diffusers(tmp_path, file).prior
    assert whole.latent_shape == (4, 128, 128)
    assert math.isclose(whole.process.shift, math.exp(1.15))


def test_what_is_no_flux_for_text_or_filling_is_refused(tmp_path):
    write_flux(tmp_path)
    file, *_ = prompts(tmp_path)
    with pytest.raises(ValueError, match="--size 18 is no multiple of 4 pixels"):
        hub.convert_diffusers(tmp_path, file, size=18)
    prior = kept(tmp_path, file)
    with pytest.raises(ValueError, match="has 32 input and 16 output channels for patches of 16"):
        edit(tmp_path / "transformer" / "config.json", in_channels=32, out_channels=16)
        hub.convert_diffusers(tmp_path, file)
    edit(tmp_path / "transformer" / "config.json", in_channels=16, patch_size=2)
    with pytest.raises(ValueError, match="patch_size=2 is not supported; valid: 1"):
        hub.convert_diffusers(tmp_path, file)
    edit(tmp_path / "scheduler" / "scheduler_config.json", shift_terminal=0.1)
    edit(tmp_path / "transformer" / "config.json", patch_size=1)
    with pytest.raises(ValueError, match=r"shift_terminal=0\.1 is not supported"):
        hub.convert_diffusers(tmp_path, file)
    assert prior.net.is_distilled
    write_stable_diffusion(tmp_path / "one")
    one = prompts_file(tmp_path / "one.safetensors", [""], context=draw(1, 5, 6))
    with pytest.raises(ValueError, match="embedded_guidance is a setting of distilled networks"):
        kept(tmp_path / "one", one, embedded_guidance=3.5)


# -- Stable Diffusion 3 ----------------------------------------------------------------------------


def test_a_step_of_the_pipeline_of_version_3_is_ours(tmp_path):
    pytest.importorskip("transformers")
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    transformer, kl = write_stable_diffusion_3(tmp_path)
    file, context, pooled = prompts(tmp_path)
    prior, z = kept(tmp_path, file), draw(2, 4, 8, 8)
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path / "scheduler")
    pipeline = StableDiffusion3Pipeline(transformer, scheduler, kl, *[None] * 6)
    found = steps_of(
        pipeline,
        num_inference_steps=4,
        guidance_scale=3.0,
        latents=z,
        prompt_embeds=context[[0, 0]],
        pooled_prompt_embeds=pooled[[0, 0]],
        negative_prompt_embeds=context[[1, 1]],
        negative_pooled_prompt_embeds=pooled[[1, 1]],
    )
    # its levels, whose ends are shifted twice, are no setting of the prior
    now, then = (float(sigma) for sigma in scheduler.sigmas[1:3])
    level = prior.level(now / (1 - now))
    x0 = prior.denoise(found[0], level, prior.condition(ROWS), guidance=3.0)
    ours = found[0] + (then - now) / now * (found[0] - x0)
    torch.testing.assert_close(ours, found[1], **CLOSE)


# -- all of them -----------------------------------------------------------------------------------


def test_a_size_is_given_to_models_that_read_several(tmp_path):
    write_stable_diffusion_3(tmp_path)
    file, *_ = prompts(tmp_path)
    assert hub.convert_diffusers(tmp_path, file, size=32).prior.latent_shape == (4, 16, 16)
    with pytest.raises(ValueError, match=f"--size 64: {tmp_path} reads 32 at most"):
        hub.convert_diffusers(tmp_path, file, size=64)
    with pytest.raises(ValueError, match="--size 10 is no multiple of 4 pixels"):
        hub.convert_diffusers(tmp_path, file, size=10)


def test_a_brushnet_is_named_in_one_line(tmp_path):
    write_stable_diffusion(tmp_path / "sd")
    (tmp_path / "brush").mkdir()
    (tmp_path / "brush" / "config.json").write_text(json.dumps({"_class_name": "BrushNetModel"}))
    file = prompts_file(tmp_path / "one.safetensors", [""], context=draw(1, 5, 6))
    for arguments in ((tmp_path / "sd", file, tmp_path / "brush"), (tmp_path / "brush",)):
        with pytest.raises(ValueError, match="is a BrushNetModel, a class that the") as refusal:
            hub.convert_diffusers(*arguments)
        assert "\n" not in str(refusal.value) and "sd15_inpainting" in str(refusal.value)


def test_every_one_of_them_is_called_once_in_small(tmp_path):
    for name, write, more in (
        ("xl", write_stable_diffusion_xl, 4),
        ("xl9", write_stable_diffusion_xl, 9),
        ("flux", write_flux, False),
        ("fill", write_flux, True),
    ):
        write(tmp_path / name, more)
        prior = hub.convert_diffusers(tmp_path / name, prompts(tmp_path)[0], size=16).prior
        call_once(prior, name)
        assert ("inpaint" in prior.caps) == (name in ("xl9", "fill"))
        assert {"latent", "grad", "guidance"} <= prior.caps


XL = {
    "sample_size": 128,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "projection_class_embeddings_input_dim": 2816,
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
}
"""The U-Net of ``stabilityai/stable-diffusion-xl-base-1.0``, where it is not the default."""
MEDIUM = {
    "attention_head_dim": 64,
    "caption_projection_dim": 1536,
    "num_attention_heads": 24,
    "num_layers": 24,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
    "sample_size": 128,
}
"""The transformer of ``stabilityai/stable-diffusion-3-medium-diffusers``."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config", "context", "pooled", "count"),
    [
        ("SDXL", XL, 2048, 1280, 2_567_463_684),
        # five more input channels of the first convolution: 320 kernels of 3 x 3
        ("SDXLInpainting", {**XL, "in_channels": 9}, 2048, 1280, 2_567_463_684 + 5 * 9 * 320),
        ("SD3", MEDIUM, 4096, 2048, 2_084_951_104),
        ("Flux", {"guidance_embeds": True}, 4096, 768, 11_901_408_320),
        # 320 more inputs of the first linear layer, 3072 wide
        (
            "FluxFill",
            {"guidance_embeds": True, "in_channels": 384, "out_channels": 64},
            4096,
            768,
            11_901_408_320 + 320 * 3072,
        ),
    ],
)
def test_the_published_networks_have_the_published_number_of_weights(
    name, config, context, pooled, count
):
    with torch.device("meta"):
        net = nets.NETS[name](config, [1, 2, context], pooled)
    tables = 2 * context + pooled
    # a file holds the table of positions of version 3 too
    assert sum(tensor.numel() for tensor in net.state_dict().values()) - tables == count
