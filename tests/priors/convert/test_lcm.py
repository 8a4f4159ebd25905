"""Latent consistency models, against the scheduler of diffusers."""

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
    write_lcm,
    write_sdxl_lcm,
    write_stable_diffusion,
)
from torch import Tensor

from posterior_bench.priors.base import Prior
from posterior_bench.priors.convert import hub
from posterior_bench.priors.convert.trial import call_once
from posterior_bench.priors.load import describe, load, save
from posterior_bench.priors.nets import NETS, guidance_embedding
from posterior_bench.priors.process import Level

META = {"name": "tiny", "training": {}, "source": "test", "licence": "MIT"}
DEFAULT = 8.5
"""``guidance_scale`` of ``LatentConsistencyModelPipeline`` unless it is told another."""


def kept(folder: Path) -> Prior:
    """The prior of a folder, converted, written and loaded again."""
    file = prompts_file(folder / "p.safetensors", ["a dog", ""], context=draw(2, 5, 6))
    prior = hub.convert_diffusers(folder, file).prior
    call_once(prior, folder)
    return load(save(folder / "kept", prior, META, torch.float32))


def strength(guidance: float, width: int) -> Tensor:
    """Sines, then cosines, of ``1000 (guidance - 1)`` at frequencies from 1 down to 1e-4."""
    half = width // 2
    angles = [1000 * (guidance - 1) * 10000 ** (-k / (half - 1)) for k in range(half)]
    return torch.tensor([*map(math.sin, angles), *map(math.cos, angles)], dtype=torch.float64)


def librarys(
    unet, scheduler, z: Tensor, index: int, context: Tensor, told: Tensor | None, **more: object
):
    """The clean latent that the library's own step finds, in float64."""
    start, end = scheduler.config.beta_start**0.5, scheduler.config.beta_end**0.5
    betas = torch.linspace(start, end, 1000, dtype=torch.float64) ** 2
    # the library has this table in float32, which would show behind the factor 1 / alpha
    scheduler.alphas_cumprod = (1 - betas).cumprod(0)
    scheduler.set_timesteps(timesteps=[index])
    told = None if told is None else told.expand(len(z), -1)
    with torch.no_grad():
        out = unet(
            z,
            torch.full((len(z),), index),
            encoder_hidden_states=context,
            timestep_cond=told,
            **more,
        ).sample
    return scheduler.step(out, index, z).denoised


@pytest.mark.parametrize("distilled", [True, False], ids=["reads guidance", "LoRA fused in"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_clean_latent_is_that_of_the_librarys_step(tmp_path, distilled, kind):
    unet, scheduler = write_lcm(tmp_path, kind, distilled)
    prior = kept(tmp_path)
    prior.net.double(), unet.double()
    assert prior.net.is_distilled == distilled and "prompt_grad" in prior.caps
    z, context = draw(2, 4, 8, 8).double(), prior.net.contexts[[0, 0]]
    cond = prior.condition(torch.zeros(2, dtype=torch.long))
    # in float32, whose sines of large angles are off in the fourth digit; checked below
    told = guidance_embedding(DEFAULT, 10, z[:1]) if distilled else None
    found = {}
    for index in (999, 759, 499, 259, 19, 0):
        found[index] = prior.denoise(z, prior.level_at_index(index), cond)
        expected = librarys(unet, scheduler, z, index, context, told)
        torch.testing.assert_close(found[index], expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(found[0], z), "the boundary condition: nothing changes at time 0"
    rows = prior.denoise(z, Level.stack([prior.level_at_index(k) for k in (999, 19)]), cond)
    for row, index in enumerate((999, 19)):
        torch.testing.assert_close(rows[row], found[index][row], atol=1e-9, rtol=1e-9)


def test_stable_diffusion_xl(tmp_path):
    """Its network reads a pooled embedding and sizes beside the strength of guidance."""
    unet, scheduler = write_sdxl_lcm(tmp_path)
    context, pooled = draw(2, 5, 6), draw(2, 10, seed=1)
    file = prompts_file(tmp_path / "p.safetensors", ["a dog", ""], context=context, pooled=pooled)
    prior = hub.convert_diffusers(tmp_path, file).prior
    call_once(prior, tmp_path)
    prior = load(
        save(tmp_path / "kept", prior, META, torch.float32).absolute(), embedded_guidance=4.0
    )
    prior.net.double(), unet.double()
    z, told = draw(2, 4, 8, 8).double(), guidance_embedding(4.0, 10, draw(1).double())
    added = {
        "text_embeds": pooled[[0, 0]].double(),
        "time_ids": torch.tensor([[16.0, 16, 0, 0, 16, 16]] * 2).double(),
    }
    for index in (999, 259, 0):
        expected = librarys(
            unet, scheduler, z, index, context[[0, 0]].double(), told, added_cond_kwargs=added
        )
        x0 = prior.denoise(
            z, prior.level_at_index(index), prior.condition(torch.zeros(2, dtype=torch.long))
        )
        torch.testing.assert_close(x0, expected, atol=1e-6, rtol=1e-6)


SD15 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
XL = {
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config", "tables", "teacher"),
    [("UNet2DCondition", SD15, [], 859_520_964), ("SDXL", XL, [1280], 2_567_463_684)],
)
def test_the_published_networks_have_the_weights_of_their_teacher_and_one_layer_more(
    name, config, tables, teacher
):
    """256 sines and cosines of the strength of guidance enter the first layer of the time."""
    with torch.device("meta"):
        net = NETS[name]({**config, "time_cond_proj_dim": 256}, [2, 77, 8], *tables)
    assert sum(p.numel() for p in net.unet.parameters()) == teacher + 256 * 320


def test_a_network_that_reads_no_strength_takes_none(tmp_path):
    write_lcm(tmp_path, distilled=False)
    kept(tmp_path)
    with pytest.raises(ValueError, match="embedded_guidance is a setting of distilled networks"):
        load(tmp_path / "kept", embedded_guidance=4.0)


@pytest.mark.parametrize("width", [10, 11, 256])
def test_the_strength_of_guidance_is_read_as_the_library_writes_it(width):
    """Angles up to 7500 in float32 are off by up to 5e-4."""
    found = guidance_embedding(DEFAULT, width, torch.zeros(3, 1))
    expected = torch.nn.functional.pad(strength(DEFAULT, width), (0, width % 2))
    torch.testing.assert_close(found.double(), expected.expand(3, -1), atol=1e-3, rtol=0)


def test_the_librarys_own_strength(tmp_path):
    pytest.importorskip("transformers")
    from diffusers import LatentConsistencyModelPipeline as Pipeline

    theirs = Pipeline.get_guidance_scale_embedding(None, torch.tensor([DEFAULT - 1]), 256)
    torch.testing.assert_close(guidance_embedding(DEFAULT, 256, torch.zeros(1)), theirs)


def test_another_strength_is_another_answer(tmp_path):
    write_lcm(tmp_path)
    prior = kept(tmp_path)
    z, t = draw(1, 4, 8, 8), prior.level_at_index(500)
    usual = prior.denoise(z, t)
    prior.net.embedded_guidance = 2.0
    assert (prior.denoise(z, t) - usual).abs().max() > 1e-4
    prior.net.embedded_guidance = DEFAULT
    assert torch.equal(prior.denoise(z, t), usual)


def test_views_are_the_same_model(tmp_path):
    write_lcm(tmp_path)
    prior = kept(tmp_path)
    z, t = draw(1, 4, 8, 8), prior.level_at_index(500)
    view = prior.view("ve")
    torch.testing.assert_close(
        view.denoise(z / t.alpha, view.level(float(t.ratio))), prior.denoise(z, t)
    )


def test_the_scaling_is_kept_and_refused_where_it_is_none(tmp_path):
    write_lcm(tmp_path)
    scheduler = tmp_path / "scheduler" / "scheduler_config.json"
    edit(scheduler, timestep_scaling=7.0)
    assert kept(tmp_path).timestep_scaling == 7.0
    assert json.loads((tmp_path / "kept" / "prior.json").read_text())["timestep_scaling"] == 7.0
    assert describe(tmp_path / "kept").timestep_scaling == 7.0
    edit(scheduler, timestep_scaling=None)
    assert kept(tmp_path).timestep_scaling == 10.0
    edit(scheduler, timestep_scaling=0)
    with pytest.raises(ValueError, match="timestep_scaling must be a positive number, got 0"):
        kept(tmp_path)


def test_a_diffusion_model_has_no_boundary_condition(tmp_path):
    write_stable_diffusion(tmp_path)
    prior = kept(tmp_path)
    assert prior.timestep_scaling is None and not prior.net.is_distilled
    assert "timestep_scaling" not in (tmp_path / "kept" / "prior.json").read_text()
