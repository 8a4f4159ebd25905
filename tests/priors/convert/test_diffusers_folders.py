"""Folders saved by the diffusers library: supported settings, and files that may hold weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoints import (
    AUTOENCODER,
    BLOCKS,
    FLAGS,
    ckpt,
    draw,
    edit,
    made,
    prompts_file,
    upstream_config,
    write_ddpm,
    write_dit,
    write_stable_diffusion,
    write_stable_diffusion_3,
)

from posterior_bench.priors.convert import adm, compvis, diffusers_settings, edm, hub
from posterior_bench.priors.convert.trial import call_once
from posterior_bench.priors.convert.wrappers import unwrapped
from posterior_bench.priors.load import load, save

POINTER = (
    "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 454741108\n"
)
META = {"name": "tiny", "training": {}, "source": "test", "licence": "MIT"}


@pytest.fixture
def ddpm(tmp_path: Path) -> Path:
    write_ddpm(tmp_path / "ddpm").save_pretrained(tmp_path / "ddpm" / "unet")
    return tmp_path / "ddpm"


def eps_of(folder: Path) -> torch.Tensor:
    prior = hub.convert_diffusers(folder).prior
    return prior.denoise(draw(1, 3, 8, 8), prior.level(1.0))


# -- settings --------------------------------------------------------------------------------------


def text_folder(**settings: object) -> Callable[[Path], Path]:
    """Stable Diffusion in small with further settings of its U-Net."""

    def write(folder: Path) -> Path:
        from diffusers import UNet2DConditionModel

        write_stable_diffusion(folder)
        made(
            UNet2DConditionModel,
            sample_size=8,
            cross_attention_dim=6,
            down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
            up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
            **BLOCKS,
            **settings,
        ).save_pretrained(folder / "unet")
        return folder

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (text_folder(addition_embed_type="text"), "addition_embed_type='text'"),
        (text_folder(class_embed_type="timestep"), "class_embed_type='timestep'"),
        (text_folder(num_class_embeds=10), "num_class_embeds=10"),
        (text_folder(encoder_hid_dim=5), "encoder_hid_dim=5"),
        (text_folder(dual_cross_attention=True), "dual_cross_attention=True"),
    ],
)
def test_a_network_that_needs_more_is_refused_by_setting_and_value(tmp_path, write, message):
    file = prompts_file(tmp_path / "p.safetensors", [""], context=draw(1, 5, 6))
    with pytest.raises(
        ValueError, match=r"unet/config.json: UNet2DConditionModel with .* is not supported"
    ) as refusal:
        hub.convert_diffusers(write(tmp_path / "model"), file)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("place", "changes", "message"),
    [
        (
            "unet",
            {"time_embedding_type": "fourier"},
            "UNet2DModel with time_embedding_type='fourier' is not supported",
        ),
        (
            "unet",
            {"class_embed_type": "identity"},
            "class_embed_type='identity' is not supported; valid: None",
        ),
        (
            "scheduler",
            {"_class_name": "LCMScheduler"},
            "the scheduler LCMScheduler is not supported; valid: DDPM",
        ),
        (
            "scheduler",
            {"use_flow_sigmas": True},
            "use_flow_sigmas=True is not supported; valid: a folder without it",
        ),
    ],
)
def test_settings_of_a_pixel_model_and_its_scheduler(ddpm, place, changes, message):
    file = ddpm / place / ("config.json" if place == "unet" else "scheduler_config.json")
    edit(file, **changes)
    with pytest.raises(ValueError, match=message) as refusal:
        hub.convert_diffusers(ddpm)
    assert str(file) in str(refusal.value)


def test_what_changes_nothing_is_let_through(ddpm):
    expected = eps_of(ddpm)
    edit(
        ddpm / "unet" / "config.json", dropout=0.1, num_train_timesteps=1000, class_embed_type=None
    )
    edit(
        ddpm / "scheduler" / "scheduler_config.json",
        clip_sample=False,
        timestep_spacing="trailing",
        thresholding=True,
    )
    torch.testing.assert_close(eps_of(ddpm), expected)


def test_defaults_of_the_class_that_a_folder_names_are_no_settings(tmp_path):
    """DiT is saved as a Transformer2DModel, whose own defaults are not all off."""
    write_dit(tmp_path)
    edit(tmp_path / "transformer" / "config.json", attention_type="default")
    assert hub.convert_diffusers(tmp_path).prior.num_classes == 5
    edit(tmp_path / "transformer" / "config.json", attention_type="gated")
    with pytest.raises(ValueError, match="DiTTransformer2DModel has no setting attention_type"):
        hub.convert_diffusers(tmp_path)


def test_every_setting_of_the_library_is_listed_or_refused():
    """The lists hold only names of the library; a setting in no list has its default value."""
    for cls, names in diffusers_settings.ANY.items():
        known = diffusers_settings.defaults(cls)
        let = {*names, *diffusers_settings.HARMLESS.get(cls, ())}
        assert let <= set(known), cls
        for name in set(known) - let:
            with pytest.raises(ValueError, match=f"{cls} with {name}='other' is not supported"):
                diffusers_settings.check_network(cls, {name: "other"}, "here")
        diffusers_settings.check_network(cls, known, "here")
    for kind, classes in diffusers_settings.SCHEDULERS.items():
        for cls in classes:
            diffusers_settings.check_scheduler(
                kind, {"_class_name": cls, **diffusers_settings.defaults(cls)}, "here"
            )


def test_classes_of_a_pixel_model_are_labels(tmp_path):
    from diffusers import DDPMScheduler, UNet2DModel

    unet = made(
        UNet2DModel,
        sample_size=8,
        down_block_types=["DownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "UpBlock2D"],
        num_class_embeds=4,
        **BLOCKS,
    )
    unet.save_pretrained(tmp_path / "unet")
    DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    prior = hub.convert_diffusers(tmp_path).prior
    assert (prior.num_classes, prior.null_label) == (4, None) and "guidance" not in prior.caps
    call_once(prior, tmp_path)
    z, level, labels = draw(2, 3, 8, 8), prior.level_at_index(300), torch.tensor([3, 1])
    with torch.no_grad():
        eps = unet(z, torch.tensor([300, 300]), class_labels=labels).sample
    x0 = prior.denoise(z, level, prior.condition(labels))
    torch.testing.assert_close(x0, (z - level.sigma * eps) / level.alpha, atol=1e-4, rtol=1e-4)


def test_a_learned_variance_is_named_by_the_scheduler(tmp_path):
    from diffusers import DDPMScheduler, UNet2DModel

    unet = made(
        UNet2DModel,
        sample_size=8,
        out_channels=6,
        down_block_types=["DownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "UpBlock2D"],
        **BLOCKS,
    )
    unet.save_pretrained(tmp_path / "unet")
    DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    with pytest.raises(
        ValueError,
        match="UNet2DModel with out_channels=6 is not supported; valid: 3, or 6 with variance",
    ):
        hub.convert_diffusers(tmp_path)
    DDPMScheduler(variance_type="learned_range").save_pretrained(tmp_path / "scheduler")
    prior = hub.convert_diffusers(tmp_path).prior
    z, level = draw(1, 3, 8, 8), prior.level_at_index(300)
    with torch.no_grad():
        eps = unet(z, torch.tensor([300])).sample[:, :3]
    assert prior.learned_var
    torch.testing.assert_close(
        prior.denoise(z, level), (z - level.sigma * eps) / level.alpha, atol=1e-4, rtol=1e-4
    )


def test_mean_and_deviation_of_latents_are_per_channel(tmp_path):
    """``(h - mean) / std * scaling_factor`` and back, as the pipelines of the library do."""
    from diffusers import AutoencoderKL

    write_stable_diffusion(tmp_path)
    mean, std = [0.5, -1.0, 0.0, 2.0], [1.0, 2.0, 0.5, 4.0]
    kl = made(
        AutoencoderKL,
        **AUTOENCODER,
        latent_channels=4,
        latents_mean=mean,
        latents_std=std,
        scaling_factor=0.7,
    )
    kl.save_pretrained(tmp_path / "vae")
    file = prompts_file(tmp_path / "p.safetensors", [""], context=draw(1, 5, 6))
    prior = load(
        save(tmp_path / "kept", hub.convert_diffusers(tmp_path, file).prior, META, torch.float32)
    )
    x = draw(1, 3, 16, 16)
    with torch.no_grad():
        hidden = kl.encode(x).latent_dist.mean
        expected = torch.stack([(hidden[:, c] - mean[c]) / std[c] * 0.7 for c in range(4)], 1)
        torch.testing.assert_close(prior.encode(x), expected)
        torch.testing.assert_close(
            prior.decode(expected), kl.decode(hidden).sample, atol=1e-4, rtol=1e-4
        )
    for changes in ({"latents_std": None}, {"latents_std": [1.0]}, {"shift_factor": 0.1}):
        kl.save_pretrained(tmp_path / "vae")
        edit(tmp_path / "vae" / "config.json", **changes)
        with pytest.raises(
            ValueError,
            match=r"vae/config.json: latents_mean=\[0.5, .* is not supported; valid: both with 4",
        ):
            hub.convert_diffusers(tmp_path, file)


# -- one call --------------------------------------------------------------------------------------


def test_every_family_is_called_once_in_small(ddpm, tmp_path):
    context, pooled = draw(1, 5, 6), draw(1, 10)
    write_dit(tmp_path / "dit")
    for channels in (4, 9):
        write_stable_diffusion(tmp_path / str(channels), channels=channels)
    write_stable_diffusion_3(tmp_path / "3")
    one = prompts_file(tmp_path / "1.safetensors", [""], context=context)
    three = prompts_file(tmp_path / "3.safetensors", [""], context=context, pooled=pooled)
    for folder, prompts in (
        (ddpm, None),
        (tmp_path / "dit", None),
        (tmp_path / "4", one),
        (tmp_path / "9", one),
    ):
        call_once(hub.convert_diffusers(folder, prompts).prior, folder)
    call_once(hub.convert_diffusers(tmp_path / "3", three).prior, "here")


def test_checkpoints_of_other_projects_are_called_once_in_small(golden, write_edm, tmp_path):
    call_once(edm.convert_edm(write_edm(golden.config("edm"), golden.weights("edm"))).prior, "edm")
    torch.save(golden.weights("adm"), tmp_path / "adm.pt")
    call_once(adm.convert_adm(tmp_path / "adm.pt", flags=FLAGS).prior, "adm")
    torch.save(ckpt(golden, "ldm_churches_like", "kl"), tmp_path / "ldm.ckpt")
    config = upstream_config(golden, "ldm_churches_like", "kl")
    call_once(compvis.convert_compvis(tmp_path / "ldm.ckpt", config=config).prior, "ldm")


def test_a_network_that_cannot_be_called_is_refused(ddpm):
    prior = hub.convert_diffusers(ddpm).prior
    calls = []
    prior.net.register_forward_pre_hook(lambda _, given: calls.append(given[0].shape))
    call_once(prior, ddpm)
    assert calls == [(1, 3, 8, 8)]

    class Needs(torch.nn.Module):
        def forward(self, x, t, cond):
            raise TypeError("argument of type 'NoneType' is not iterable\nsecond line")

    class Infinite(torch.nn.Module):
        def forward(self, x, t, cond):
            return x * float("inf")

    for net, message in (
        (Needs(), "not iterable"),
        (Infinite(), "the network returns values that are not finite"),
    ):
        prior.net = net
        with pytest.raises(ValueError, match=message) as refusal:
            call_once(prior, ddpm)
        assert str(refusal.value).startswith(
            f"{ddpm}: the network cannot be called"
        ) and "\n" not in str(refusal.value)


def test_a_large_model_is_called_in_small_and_a_fixed_one_at_its_own_size(ddpm):
    edit(ddpm / "unet" / "config.json", sample_size=512)
    prior, sides = hub.convert_diffusers(ddpm).prior, []
    prior.net.register_forward_pre_hook(lambda _, given: sides.append(given[0].shape[-1]))
    call_once(prior, ddpm)
    assert sides == [8]

    class Fixed(torch.nn.Module):
        def forward(self, x, t, cond):
            sides.append(x.shape[-1])
            return x + torch.zeros(1, 3, 512, 512)

    prior.net = Fixed()
    call_once(prior, ddpm)
    assert sides == [8, 8, 512]


# -- files of weights ------------------------------------------------------------------------------


def only(folder: Path) -> set[str]:
    return {path.name for path in (folder / "unet").iterdir()} - {"config.json"}


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("shards", [False, True], ids=["whole", "shards"])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_every_way_in_which_the_library_saves(tmp_path, safe, shards, variant):
    unet = write_ddpm(tmp_path)
    unet = unet.half() if variant else unet
    size = "20KB" if shards else "5GB"
    unet.save_pretrained(
        tmp_path / "unet", safe_serialization=safe, variant=variant, max_shard_size=size
    )
    assert (len(only(tmp_path)) > 2) == shards and all(
        (variant or "") in name for name in only(tmp_path)
    )
    converted = hub.convert_diffusers(tmp_path)
    state = converted.prior.net.unet.state_dict()
    assert {name: value.dtype for name, value in state.items()} == dict.fromkeys(
        unet.state_dict(), torch.float32
    )
    assert all(torch.equal(state[name], value.float()) for name, value in unet.state_dict().items())
    used = {path.name for path in converted.files} - {"config.json", "scheduler_config.json"}
    assert used == {name for name in only(tmp_path) if not name.endswith(".json")}


def test_the_most_precise_of_several_files_is_taken(ddpm):
    unet = ddpm / "unet"
    whole = unet / "diffusion_pytorch_model.safetensors"
    state = load_file(whole)
    other = {name: torch.zeros_like(value) for name, value in state.items()}
    save_file(other, unet / "diffusion_pytorch_model.fp16.safetensors")
    torch.save(other, unet / "diffusion_pytorch_model.bin")
    kernel = "unet.conv_in.weight"
    assert torch.equal(
        hub.convert_diffusers(ddpm).prior.net.state_dict()[kernel], state["conv_in.weight"]
    )
    whole.unlink()
    assert not hub.convert_diffusers(ddpm).prior.net.state_dict()[kernel].any()
    (unet / "diffusion_pytorch_model.bin").unlink()
    (unet / "diffusion_pytorch_model.fp16.safetensors").rename(
        unet / "diffusion_pytorch_model.a.safetensors"
    )
    save_file(state, unet / "diffusion_pytorch_model.b.safetensors")
    with pytest.raises(ValueError, match="has the variants a, b; leave the files of one of them"):
        hub.convert_diffusers(ddpm)


def test_an_index_that_does_not_fit_its_shards(tmp_path):
    unet = write_ddpm(tmp_path)
    unet.save_pretrained(tmp_path / "unet", safe_serialization=False, max_shard_size="20KB")
    index = tmp_path / "unet" / "diffusion_pytorch_model.bin.index.json"
    shards = sorted({*json.loads(index.read_text())["weight_map"].values()})
    (tmp_path / "unet" / shards[0]).unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"lists {shards[0]}, which is not there \(1 of {len(shards)}\)"
    ):
        hub.convert_diffusers(tmp_path)
    for listed, message in (
        ({}, "lists no files"),
        ({"conv_in.bias": "../x.bin"}, "a shard lies outside the folder"),
        ({"conv_in.bias": "config.json"}, "is neither a .safetensors nor a .bin file"),
    ):
        index.write_text(json.dumps({"weight_map": listed}))
        with pytest.raises(ValueError, match=message):
            hub.convert_diffusers(tmp_path)


@pytest.mark.parametrize(
    "place",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "unet/config.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_git_lfs_pointer_is_called_one(ddpm, place):
    (ddpm / place).write_text(POINTER)
    with pytest.raises(
        ValueError, match="is a git-lfs pointer, not the file itself; run `git lfs pull` in"
    ) as refusal:
        hub.convert_diffusers(ddpm)
    assert str(refusal.value).startswith(str(ddpm / place)) and "\n" not in str(refusal.value)


def test_git_lfs_pointers_of_other_files(ddpm, tmp_path):
    (tmp_path / "model.pt").write_text(POINTER)
    with pytest.raises(ValueError, match=r"model\.pt is a git-lfs pointer"):
        adm.convert_adm(tmp_path / "model.pt", flags=FLAGS)
    kept = save(tmp_path / "kept", hub.convert_diffusers(ddpm).prior, META)
    (kept / "net.safetensors").write_text(POINTER)
    with pytest.raises(ValueError, match=r"net\.safetensors is a git-lfs pointer"):
        load(kept)


# -- wrappers --------------------------------------------------------------------------------------


def averaged(net: torch.nn.Module) -> torch.nn.Module:
    return torch.optim.swa_utils.AveragedModel(net)


class Holder(torch.nn.Module):
    def __init__(self, **networks: torch.nn.Module):
        super().__init__()
        for name, net in networks.items():
            setattr(self, name, net)


WRAPPERS: dict[str, Callable[[torch.nn.Module], torch.nn.Module]] = {
    "DataParallel": torch.nn.DataParallel,
    "averaged": averaged,
    "compiled and parallel": lambda net: torch.nn.DataParallel(torch.compile(net)),
    "held": lambda net: Holder(model=torch.nn.DataParallel(net)),
    "ema": lambda net: Holder(ema_model=Holder(unet=net)),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_what_a_wrapper_writes_before_names_is_taken_away(ddpm, name):
    """The real wrappers of torch, in the file that their ``state_dict`` makes."""
    unet = hub.convert_diffusers(ddpm).prior.net.unet
    (ddpm / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    state = WRAPPERS[name](unet).state_dict()
    assert not {*state} & {*unet.state_dict()}
    for content in (state, {"epoch": 3, "state_dict": state}):
        torch.save(content, ddpm / "unet" / "diffusion_pytorch_model.bin")
        found = hub.convert_diffusers(ddpm).prior.net.unet.state_dict()
        assert all(torch.equal(found[key], value) for key, value in unet.state_dict().items())


def test_a_wrapper_inside_a_name_and_around_a_checkpoint_of_adm(golden, tmp_path):
    weights = golden.weights("adm")
    expected = {name: value for name, value in _adm(tmp_path / "a.pt", weights).items()}
    for wrap in ("module.{}", "_orig_mod.module.{}", "model.{}"):
        found = _adm(
            tmp_path / "b.pt", {wrap.format(name): value for name, value in weights.items()}
        )
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def _adm(path: Path, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    torch.save(weights, path)
    return adm.convert_adm(path, flags=FLAGS).prior.net.state_dict()


def test_weights_that_are_not_of_one_network_are_named(ddpm):
    file = ddpm / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    file.unlink()
    file = file.with_suffix(".bin")
    for content, message in (
        (
            {f"{head}.{n}": v for head in ("ema", "model") for n, v in state.items()},
            r"below 'ema\.' and 'model\.'; keep",
        ),
        (
            {"model": state, "ema": state, "step": 3},
            "holds weights under 'model' and 'ema'; save one of them alone",
        ),
        (
            {**state, **{f"module.{name}": value for name, value in state.items()}},
            "twice, once below a wrapper",
        ),
    ):
        torch.save(content, file)
        with pytest.raises(ValueError, match=message) as refusal:
            hub.convert_diffusers(ddpm)
        assert str(file) in str(refusal.value) and "\n" not in str(refusal.value)


def test_names_of_a_network_stay():
    one = torch.zeros(1)
    for names in (
        ["model.diffusion_model.a", "cond.b"],
        ["unet"],
        ["a.b", "a.c"],
        ["transformer_blocks.0.a"],
    ):
        assert [*unwrapped(dict.fromkeys(names, one), "here")] == names


@pytest.mark.parametrize("wrap", ["module.{}", "_orig_mod.module.{}", "_forward_module.{}"])
def test_wrappers_in_the_pickles_of_edm(golden, write_edm, wrap):
    expected = edm.convert_edm(
        write_edm(golden.config("edm"), golden.weights("edm"))
    ).prior.net.state_dict()
    around = {wrap.format(name): value for name, value in golden.weights("edm").items()}
    inside = {
        name.replace("model.", f"model.{wrap.format('')}", 1): v
        for name, v in golden.weights("edm").items()
    }
    assert not {*around} & {*inside}
    for weights in (around, inside):
        found = edm.convert_edm(write_edm(golden.config("edm"), weights)).prior.net.state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("wrap", ["module.{}", "_orig_mod.module.{}"])
@pytest.mark.parametrize("place", ["", "model.", "model.diffusion_model.", "first_stage_model."])
def test_wrappers_in_checkpoints_of_latent_diffusion(golden, tmp_path, wrap, place):
    """The averages were registered under the wrapped names without their dots."""
    content = ckpt(golden, "ldm_churches_like", "kl", scale_factor=torch.tensor(0.25))
    config = upstream_config(golden, "ldm_churches_like", "kl", scale_by_std=True)
    expected = _latent(tmp_path / "a.ckpt", content, config)
    state = content["state_dict"]
    wrapped = {
        f"{place}{wrap.format(name.removeprefix(place))}" if name.startswith(place) else name: value
        for name, value in state.items()
    }
    if place.startswith("model."):
        before = f"model_ema.{place.removeprefix('model.').replace('.', '')}"
        after = f"{before}{wrap.format('').replace('.', '')}"
        counters = ("model_ema.decay", "model_ema.num_updates")
        wrapped = {
            n if n in counters else n.replace(before, after, 1): value
            for n, value in wrapped.items()
        }
    assert {*wrapped} != {*state}
    found = _latent(tmp_path / "b.ckpt", {**content, "state_dict": wrapped}, config)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def _latent(path: Path, content: dict, config: dict) -> dict[str, torch.Tensor]:
    torch.save(content, path)
    prior = compvis.convert_compvis(path, None, config).prior
    assert prior.latent is not None
    return {
        **prior.net.state_dict(),
        **{f"latent.{n}": v for n, v in prior.latent.state_dict().items()},
    }
