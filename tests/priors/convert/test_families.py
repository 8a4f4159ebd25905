"""Whole checkpoints of every family, in small: converted, saved, loaded, and compared with the
network itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoints import (
    AUTOENCODER,
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
from torch import Tensor

from posterior_bench.priors.base import Prior
from posterior_bench.priors.convert import adm, compvis, edm, hub
from posterior_bench.priors.convert.base import Converted
from posterior_bench.priors.load import load, save
from posterior_bench.priors.process import VP, Flow, Level


def kept(converted: Converted, folder: Path) -> Prior:
    """The prior after it went through its files."""
    meta = {"name": "tiny", "training": dict(converted.facts), "source": "test", "licence": "MIT"}
    return load(save(folder / "kept", converted.prior, meta, torch.float32))


def one_line(text: str) -> bool:
    return "\n" not in text


# -- EDM -------------------------------------------------------------------------------------------


class TestEDM:
    def test_the_prior_of_a_pickle(self, golden, write_edm, tmp_path):
        prior = kept(
            edm.convert_edm(write_edm(golden.config("edm"), golden.weights("edm"))), tmp_path
        )
        assert (prior.image_shape, prior.parameterization, prior.num_classes) == (
            (3, 16, 16),
            "edm",
            5,
        )
        assert prior.process.spec == {"kind": "ve", "ratio_min": 0.002, "ratio_max": 80.0}
        levels = Level.stack([prior.level(sigma) for sigma in golden["edm/sigma"].tolist()])
        x0 = prior.denoise(golden["edm/x"], levels, prior.condition(golden["edm/label"]))
        torch.testing.assert_close(x0, golden["edm/out"], atol=5e-5, rtol=0)

    def test_labels_that_were_never_dropped_have_no_guidance(self, golden, write_edm):
        prior = edm.convert_edm(write_edm(golden.config("edm"), golden.weights("edm"))).prior
        assert "guidance" not in prior.caps
        with pytest.raises(ValueError, match="guidance 2 needs a condition and a trained null"):
            prior.denoise(
                golden["edm/x"], prior.level(1.0), prior.condition(golden["edm/label"]), guidance=2
            )
        dropped = {**golden.config("edm"), "label_dropout": 0.1}
        assert edm.convert_edm(write_edm(dropped, golden.weights("edm"))).prior.null_label == 5

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"model_type": "SongUNet"}, "holds a SongUNet; only the DhariwalUNet"),
            ({"model_channels": 64}, "fewer than 128 channels"),
            ({"encoder_type": "residual"}, "the network has unknown settings: encoder_type"),
            ({"num_blocks": 2}, "lacks 'enc.16x16_block1.norm0.weight'"),
            ({"channel_mult": [1]}, "lacks 'dec.16x16_in0"),
            ({"attn_resolutions": []}, "has unknown tensors 'unet.*attentions"),
            (
                {"label_dim": 6},
                r"'unet.class_embedding.weight' has shape \(6, 512\), the network wants \(7, 512\)",
            ),
        ],
    )
    def test_another_network_is_refused(self, golden, write_edm, settings, message):
        path = write_edm({**golden.config("edm"), **settings}, golden.weights("edm"))
        with pytest.raises(ValueError, match=message) as refusal:
            edm.convert_edm(path)
        assert one_line(str(refusal.value)) and str(path) in str(refusal.value)

    def test_weights_left_over_or_not_finite_are_refused(self, golden, write_edm):
        config, weights = golden.config("edm"), golden.weights("edm")
        with pytest.raises(ValueError, match=r"has 'other\.weight' left over"):
            edm.convert_edm(write_edm(config, {**weights, "model.other.weight": torch.ones(1)}))
        weights["model.out_conv.bias"][0] = float("nan")
        with pytest.raises(ValueError, match=r"not finite in 'unet\.conv_out\.bias'"):
            edm.convert_edm(write_edm(config, weights))


# -- ADM -------------------------------------------------------------------------------------------


class TestADM:
    @pytest.fixture
    def path(self, golden, tmp_path) -> Path:
        torch.save(golden.weights("adm"), tmp_path / "model.pt")
        return tmp_path / "model.pt"

    def test_the_prior_of_a_checkpoint(self, golden, path, tmp_path):
        prior = kept(adm.convert_adm(path, flags=FLAGS), tmp_path)
        assert (prior.image_shape, prior.parameterization, prior.learned_var) == (
            (3, 16, 16),
            "eps",
            True,
        )
        assert prior.process.ratio_max == pytest.approx(
            157, abs=0.5
        )  # published range of the linear schedule
        z, level = golden["adm/x"], prior.level_at_index(7)
        x0 = prior.denoise(z, level)
        eps = (z[0] - level.alpha * x0[0]) / level.sigma
        torch.testing.assert_close(eps, golden["adm/out"][0, :3], atol=5e-5, rtol=0)
        same, fraction = prior.denoise_with_variance(z, level)
        assert torch.equal(same, x0)
        torch.testing.assert_close(
            fraction[0], (golden["adm/out"][0, 3:] + 1) / 2, atol=5e-5, rtol=0
        )

    def test_half_precision_weights_become_float32(self, golden, path):
        torch.save({name: value.half() for name, value in golden.weights("adm").items()}, path)
        weight = adm.convert_adm(path, flags=FLAGS).prior.net.unet.conv_in.weight
        assert weight.dtype == torch.float32
        assert torch.equal(weight, golden.weights("adm")["input_blocks.0.0.weight"].half().float())

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            ({"num_channels": 64}, r"'unet\..*' has shape \("),
            ({"learn_sigma": False}, r"'unet\.conv_out\..*' has shape \(6"),
            ({"num_res_blocks": 2}, "lacks .input_blocks"),
            ({"attention_resolutions": "16,8"}, r"lacks 'input_blocks\.1\.1\.norm\.weight'"),
            ({"resblock_updown": False}, r"lacks 'input_blocks\.2\.0\.op\.weight'"),
            (
                {"num_head_channels": 48},
                r"to_q\.weight' has shape \(64, 64\), the network wants \(48, 64\)",
            ),
            ({"channel_mult": "1,2,2"}, "lacks"),
            ({"class_cond": True}, "lacks 'label_emb.weight'"),
            (
                {"noise_schedule": "warped"},
                "unknown noise_schedule 'warped'; valid: linear, cosine",
            ),
            ({"colour": 1}, "unknown flag colour; valid: image_size"),
            ({"num_channels": "wide"}, "num_channels must be a whole number"),
        ],
    )
    def test_another_layout_is_refused(self, path, flags, message):
        with pytest.raises(ValueError, match=message) as refusal:
            adm.convert_adm(path, flags={**FLAGS, **flags})
        assert one_line(str(refusal.value))

    def test_layouts_have_names(self, path):
        with pytest.raises(
            ValueError,
            match="give one of imagenet256_uncond, celeba256, ffhq, imagenet64, or its flags",
        ):
            adm.convert_adm(path)
        with pytest.raises(ValueError, match="unknown layout 'lsun'; valid: imagenet256_uncond"):
            adm.convert_adm(path, "lsun")

    def test_the_order_of_the_attention_rows_is_the_layouts(self, golden, path, tmp_path):
        right = adm.convert_adm(path, flags=FLAGS).prior
        wrong = adm.convert_adm(path, flags={**FLAGS, "use_new_attention_order": True}).prior
        z, level = golden["adm/x"], right.level(1.0)
        assert (right.denoise(z, level) - wrong.denoise(z, level)).abs().max() > 0.01


# -- CompVis ---------------------------------------------------------------------------------------


class TestCompVis:
    @pytest.fixture
    def churches(self, golden, tmp_path) -> Path:
        torch.save(
            ckpt(golden, "ldm_churches_like", "kl", scale_factor=torch.tensor(0.25)),
            tmp_path / "model.ckpt",
        )
        return tmp_path / "model.ckpt"

    @pytest.fixture
    def config(self, golden) -> dict:
        return upstream_config(golden, "ldm_churches_like", "kl", scale_by_std=True)

    def eps(self, prior: Prior, z: Tensor, index: float) -> Tensor:
        level = prior.level_at_index(index)
        return (z - level.alpha * prior.denoise(z, level)) / level.sigma

    def test_churches_have_eight_heads_averaged_weights_and_a_measured_scale(
        self, golden, churches, config, tmp_path
    ):
        converted = compvis.convert_compvis(churches, config=config)
        prior = kept(converted, tmp_path)
        assert (prior.image_shape, prior.latent_shape, prior.is_latent) == (
            (3, 16, 16),
            (4, 8, 8),
            True,
        )
        assert prior.latent.settings["scale"] == 0.25 and converted.facts["weights"] == "ema"
        assert prior.process.spec["schedule"] == "scaled_linear"
        out = self.eps(prior, golden["ldm_churches_like/x"], 7)
        torch.testing.assert_close(out[0], golden["ldm_churches_like/out"][0], atol=5e-5, rtol=0)
        torch.testing.assert_close(
            prior.encode(golden["kl/x"]), 0.25 * golden["kl/mean"], atol=5e-5, rtol=0
        )
        torch.testing.assert_close(
            prior.decode(0.25 * golden["kl/mean"]), golden["kl/dec"], atol=5e-5, rtol=0
        )

    def test_raw_weights_on_request(self, golden, churches, config):
        prior = compvis.convert_compvis(churches, config=config, weights="raw").prior
        out = self.eps(prior, golden["ldm_churches_like/x"], 7)
        torch.testing.assert_close(
            out[0], golden["ldm_churches_like/out"][0] + 1.0, atol=5e-5, rtol=0
        )

    def test_classes_are_contexts_and_the_last_is_null(self, golden, tmp_path):
        table = torch.cat([golden["ldm_cin_like/context"][:, 0], draw(1, 24)])
        state = ckpt(golden, "ldm_cin_like", "vq", ema=False, classes=table)
        torch.save(state, tmp_path / "model.ckpt")
        condition = {
            "target": "ldm.modules.ClassEmbedder",
            "params": {"n_classes": 3, "embed_dim": 24},
        }
        config = upstream_config(golden, "ldm_cin_like", "vq", cond_stage_config=condition)
        converted = compvis.convert_compvis(tmp_path / "model.ckpt", config=config)
        prior = kept(converted, tmp_path)
        assert converted.facts["weights"] == "raw"
        assert (prior.num_classes, prior.null_label, prior.latent.settings["scale"]) == (2, 2, 1.0)
        z, level = golden["ldm_cin_like/x"], prior.level_at_index(7)
        cond = prior.condition(torch.tensor([0, 1]))
        x0 = prior.denoise(z, level, cond)
        eps = (z[0] - level.alpha * x0[0]) / level.sigma
        torch.testing.assert_close(eps, golden["ldm_cin_like/out"][0], atol=5e-5, rtol=0)
        null = prior.denoise(z, level)
        guided = prior.denoise(z, level, cond, guidance=3.0)
        torch.testing.assert_close(guided, null + 3 * (x0 - null), atol=1e-4, rtol=1e-4)
        assert (null - x0).abs().max() > 1e-3

    def test_faces_have_heads_of_a_width_a_vq_autoencoder_and_no_labels(self, golden, tmp_path):
        """The form of the published files of CelebA-HQ and FFHQ."""
        torch.save(ckpt(golden, "ldm_celeba_like", "vq"), tmp_path / "model.ckpt")
        config = upstream_config(golden, "ldm_celeba_like", "vq", linear_end=0.0195)
        assert "num_head_channels" in config["model"]["params"]["unet_config"]["params"]
        converted = compvis.convert_compvis(tmp_path / "model.ckpt", config=config)
        prior = kept(converted, tmp_path)
        assert (prior.num_classes, prior.null_label, prior.latent.settings["scale"]) == (
            0,
            None,
            1.0,
        )
        out = self.eps(prior, golden["ldm_celeba_like/x"], 7)
        torch.testing.assert_close(out[0], golden["ldm_celeba_like/out"][0], atol=5e-5, rtol=0)

    def test_the_autoencoder_may_lie_in_another_file(self, golden, churches, config, tmp_path):
        content = torch.load(churches)
        first = {
            k: v for k, v in content["state_dict"].items() if k.startswith("first_stage_model.")
        }
        content["state_dict"] = {k: v for k, v in content["state_dict"].items() if k not in first}
        torch.save(content, churches)
        with pytest.raises(ValueError, match=r"lacks 'autoencoder\.decoder"):
            compvis.convert_compvis(churches, config=config)
        other = tmp_path / "kl.ckpt"
        own = {k.removeprefix("first_stage_model."): v for k, v in first.items()}
        torch.save({"state_dict": {**own, "loss.logvar": torch.zeros(())}}, other)
        converted = compvis.convert_compvis(churches, config=config, autoencoder=other)
        assert converted.files == [churches, other]
        torch.testing.assert_close(
            converted.prior.encode(golden["kl/x"]), 0.25 * golden["kl/mean"], atol=5e-5, rtol=0
        )

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda s: s.pop("scale_factor"), "lacks 'scale_factor', which training measured"),
            (
                lambda s: s.pop("model_ema.diffusion_modelout2bias"),
                "has no averaged weights for diffusion_modelout2bias",
            ),
            (
                lambda s: s.update({"model_ema.other": torch.ones(1)}),
                "averaged weights left over: other",
            ),
            (lambda s: s.update({"optimizer.x": torch.ones(1)}), "has 'optimizer.x' left over"),
            (lambda s: s.update({"cond_stage_model.w": torch.ones(1)}), "has unknown tensors 'w'"),
            (
                lambda s: s.update({"alphas_cumprod": torch.linspace(0.9, 0.1, 1000)}),
                "another noise schedule",
            ),
            (
                lambda s: s.update({"first_stage_model.extra.weight": torch.ones(1)}),
                "has unknown tensors 'autoencoder.extra",
            ),
            (
                lambda s: s["first_stage_model.quant_conv.bias"].fill_(float("inf")),
                "not finite in 'autoencoder.quant",
            ),
            (
                lambda s: s["model_ema.diffusion_modelout2bias"].fill_(float("nan")),
                r"not finite in 'unet\.conv_out",
            ),
        ],
    )
    def test_what_does_not_fit_exactly_is_refused(self, churches, config, change, message):
        content = torch.load(churches)
        change(content["state_dict"])
        torch.save(content, churches)
        with pytest.raises(ValueError, match=message) as refusal:
            compvis.convert_compvis(churches, config=config)
        assert one_line(str(refusal.value)) and str(churches) in str(refusal.value)

    def test_published_schedules_pass_their_own_check(self, golden, churches, config):
        betas = torch.linspace(0.0015**0.5, 0.0155**0.5, 1000, dtype=torch.float64) ** 2
        content = torch.load(churches)
        content["state_dict"]["alphas_cumprod"] = (1 - betas).cumprod(0).float()
        torch.save(content, churches)
        assert compvis.convert_compvis(
            churches, config=config
        ).prior.process.ratio_max == pytest.approx(38.66, abs=0.01)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"beta_schedule": "cosine"}, "beta_schedule cosine is not supported"),
            (
                {"first_stage_config": {"target": "ldm.Identity", "params": {}}},
                "autoencoder ldm.Identity is not",
            ),
            (
                {"cond_stage_config": {"target": "ldm.BERTEmbedder", "params": {}}},
                "condition ldm.BERTEmbedder is not",
            ),
            (
                {"unet_config": {"target": "ldm.UNetModel", "params": {"disable": 1}}},
                "not supported: disable",
            ),
            ({"unet_config": 3}, "'unet_config' must hold settings"),
        ],
    )
    def test_other_configurations_are_refused(self, golden, churches, settings, message):
        config = upstream_config(golden, "ldm_churches_like", "kl", **settings)
        with pytest.raises(ValueError, match=message) as refusal:
            compvis.convert_compvis(churches, config=config)
        assert one_line(str(refusal.value))

    def test_layouts_have_names(self, churches):
        with pytest.raises(
            ValueError,
            match=r"give one of lsun_churches, cin256, celeba256, ffhq256, or its config\.yaml",
        ):
            compvis.convert_compvis(churches)
        with pytest.raises(ValueError, match="unknown layout 'bedrooms'; valid: lsun_churches"):
            compvis.convert_compvis(churches, "bedrooms")
        with pytest.raises(ValueError, match="lacks 'input_blocks"):
            compvis.convert_compvis(churches, "celeba256")


# -- diffusers folders -----------------------------------------------------------------------------


def observed() -> tuple[Tensor, Tensor]:
    """Two images ``(2, 3, 16, 16)`` and a mask of which every patch of 2 x 2 pixels is kept,
    hidden, or mixed."""
    mask = torch.ones(2, 1, 16, 16, dtype=torch.bool)
    mask[0, :, 3:9, 5:12] = False
    mask[1, :, :, 9:] = False
    return draw(2, 3, 16, 16, seed=8).clamp(-1, 1), mask


class TestHub:
    def check_eps(self, prior: Prior, eps, index: float = 417.25) -> None:
        """At a level between two training steps the network is given exactly that time, as a
        tensor."""
        z, level = draw(2, *prior.latent_shape), prior.level_at_index(index)
        with torch.no_grad():
            expected = (z - level.sigma * eps(z, torch.full((2,), index))) / level.alpha
        torch.testing.assert_close(prior.denoise(z, level), expected, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("place", ["unet", "."])
    @pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
    def test_pixel_ddpm(self, tmp_path, place, safe):
        unet = write_ddpm(tmp_path)
        unet.save_pretrained(tmp_path / place, safe_serialization=safe)
        (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\nlicense: none\n")
        converted = hub.convert_diffusers(tmp_path)
        prior = kept(converted, tmp_path)
        assert (prior.image_shape, prior.is_latent, converted.licence) == (
            (3, 8, 8),
            False,
            "apache-2.0",
        )
        assert prior.process.spec == VP.scheduled("linear", 1e-4, 0.02).spec
        self.check_eps(prior, lambda z, t: unet(z, t).sample)

    def test_attention_names_of_old_files(self, tmp_path):
        unet = write_ddpm(tmp_path)
        unet.save_pretrained(tmp_path / "unet", safe_serialization=False)
        file = tmp_path / "unet" / "diffusion_pytorch_model.bin"
        old = {}
        for name, value in torch.load(file).items():
            for ours, theirs in (
                ("to_q", "query"),
                ("to_k", "key"),
                ("to_v", "value"),
                ("to_out.0", "proj_attn"),
            ):
                name = name.replace(f".{ours}.", f".{theirs}.")
            old[name] = value
        assert any("proj_attn" in name for name in old)
        torch.save(old, file)
        self.check_eps(hub.convert_diffusers(tmp_path).prior, lambda z, t: unet(z, t).sample)

    def test_a_vq_latent_has_scale_1_whatever_the_library_filled_in(self, tmp_path):
        from diffusers import VQModel

        unet = write_ddpm(tmp_path)
        unet.save_pretrained(tmp_path / "unet")
        vq = made(VQModel, **AUTOENCODER, num_vq_embeddings=16)
        vq.save_pretrained(tmp_path / "vqvae")
        x = draw(1, 3, 16, 16)
        for scale in (None, 0.18215):
            edit(tmp_path / "vqvae" / "config.json", scaling_factor=scale)
            prior = kept(hub.convert_diffusers(tmp_path), tmp_path)
            assert (prior.image_shape, prior.latent_shape) == ((3, 16, 16), (3, 8, 8))
            torch.testing.assert_close(prior.encode(x), vq.encode(x).latents)
            torch.testing.assert_close(
                prior.decode(prior.encode(x)), vq.decode(vq.encode(x).latents).sample
            )

    def test_dit_has_labels_a_null_label_and_a_learned_variance(self, tmp_path):
        transformer = write_dit(tmp_path)
        prior = kept(hub.convert_diffusers(tmp_path), tmp_path)
        assert (prior.num_classes, prior.null_label, prior.learned_var) == (5, 5, True)
        assert (prior.image_shape, prior.latent.settings["scale"]) == ((3, 16, 16), 0.18215)

        def eps(label: int):
            return lambda z, t: transformer(
                z, timestep=t, class_labels=torch.tensor([label] * 2)
            ).sample[:, :4]

        self.check_eps(prior, eps(5))
        z, level = draw(2, 4, 8, 8), prior.level_at_index(300)
        out = prior.denoise(z, level, prior.condition(torch.tensor([2, 2])))
        with torch.no_grad():
            expected = (z - level.sigma * eps(2)(z, torch.tensor([300.0, 300.0]))) / level.alpha
        torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize(("kind", "ours"), [("epsilon", "eps"), ("v_prediction", "v")])
    def test_stable_diffusion_reads_a_label_as_the_number_of_a_prompt(self, tmp_path, kind, ours):
        unet = write_stable_diffusion(tmp_path, kind)
        context = draw(3, 5, 6, seed=2)
        file = prompts_file(
            tmp_path / "prompts.safetensors", ["a dog", "", "a cat"], context=context
        )
        converted = hub.convert_diffusers(tmp_path, file)
        prior = kept(converted, tmp_path)
        assert converted.class_names == ["a dog", "a cat"] and file in converted.files
        assert (prior.parameterization, prior.num_classes, prior.null_label) == (ours, 2, 2)
        assert prior.latent.settings["scale"] == 0.18215
        z, level = draw(2, 4, 8, 8), prior.level_at_index(600.5)
        t = torch.full((2,), 600.5)
        for cond, rows in ((prior.condition(torch.tensor([1, 0])), [2, 0]), (None, [1, 1])):
            with torch.no_grad():
                out = unet(z, t, encoder_hidden_states=context[rows]).sample
                x0 = (
                    level.alpha * z - level.sigma * out
                    if ours == "v"
                    else (z - level.sigma * out) / level.alpha
                )
            torch.testing.assert_close(prior.denoise(z, level, cond), x0, atol=1e-4, rtol=1e-4)

    def test_the_empty_prompt_alone_is_no_label(self, tmp_path):
        write_stable_diffusion(tmp_path)
        file = prompts_file(tmp_path / "prompts.safetensors", [""], context=draw(1, 5, 6))
        prior = hub.convert_diffusers(tmp_path, file).prior
        assert (prior.num_classes, prior.null_label) == (0, None)
        assert prior.denoise(draw(2, 4, 8, 8), prior.level(1.0)).isfinite().all()

    def test_inputs_that_are_neither_latents_nor_those_of_inpainting_are_refused(self, tmp_path):
        write_stable_diffusion(tmp_path, channels=8)
        file = prompts_file(tmp_path / "prompts.safetensors", [""], context=draw(1, 5, 6))
        with pytest.raises(
            ValueError,
            match=r"has 8 input channels for latents of 4; .* has 4, one for inpainting 9",
        ):
            hub.convert_diffusers(tmp_path, file)

    def test_the_unet_for_inpainting_reads_latent_then_mask_then_image_with_a_grey_hole(
        self, tmp_path
    ):
        from diffusers import AutoencoderKL

        unet = write_stable_diffusion(tmp_path, channels=9)
        context = draw(2, 5, 6, seed=2)
        file = prompts_file(tmp_path / "prompts.safetensors", ["a dog", ""], context=context)
        prior = kept(hub.convert_diffusers(tmp_path, file), tmp_path)
        assert "inpaint" in prior.caps and prior.latent_shape == (4, 8, 8)
        x, mask = observed()
        kl = AutoencoderKL.from_pretrained(tmp_path / "vae").eval()
        hole = (~mask).float()
        with torch.no_grad():
            grey = 0.18215 * kl.encode(x * (hole < 0.5)).latent_dist.mean
        z, level, t = draw(2, 4, 8, 8), prior.level_at_index(600.5), torch.full((2,), 600.5)
        # every second pixel: the first of every patch of the autoencoder
        given = torch.cat([z, hole[:, :, ::2, ::2], grey], 1)
        cond = prior.inpainting(x * mask, mask, prior.condition(torch.tensor([0, 0])))
        outs = {}
        for row, ours in ((0, cond), (1, prior.inpainting(x * mask, mask))):
            with torch.no_grad():
                out = unet(given, t, encoder_hidden_states=context[[row] * 2]).sample
            outs[row] = (z - level.sigma * out) / level.alpha
            torch.testing.assert_close(
                prior.denoise(z, level, ours), outs[row], atol=1e-4, rtol=1e-4
            )
        guided = prior.denoise(z, level, cond, guidance=3.0)
        torch.testing.assert_close(guided, outs[1] + 3 * (outs[0] - outs[1]), atol=1e-3, rtol=1e-3)
        assert (
            prior.denoise(z, level, prior.inpainting(x * ~mask, ~mask)) - outs[1]
        ).abs().max() > 1e-3

    def test_an_inpainting_model_is_not_asked_without_its_condition(self, tmp_path):
        write_stable_diffusion(tmp_path, channels=9)
        file = prompts_file(tmp_path / "prompts.safetensors", [""], context=draw(1, 5, 6))
        prior = hub.convert_diffusers(tmp_path, file).prior
        with pytest.raises(ValueError, match=r"make its condition with prior\.inpainting"):
            prior.denoise(draw(1, 4, 8, 8), prior.level(1.0))
        write_stable_diffusion(tmp_path, channels=4)
        with pytest.raises(ValueError, match="takes no inpainting condition"):
            hub.convert_diffusers(tmp_path, file).prior.inpainting(*observed())

    def test_the_condition_for_inpainting_is_that_of_the_pipelines(self, tmp_path):
        pytest.importorskip("transformers")
        from types import SimpleNamespace

        from diffusers import AutoencoderKL
        from diffusers.pipelines.controlnet_sd3 import (
            StableDiffusion3ControlNetInpaintingPipeline as Pipeline3,
        )
        from diffusers.pipelines.stable_diffusion import StableDiffusionInpaintPipeline as Pipeline1

        x, mask = observed()
        hole, width = (~mask).float(), x.shape[-1]

        def one_draw():
            return torch.Generator().manual_seed(5)

        noise = torch.randn(2, 4, 8, 8, generator=one_draw())

        write_stable_diffusion(tmp_path / "one", channels=9)
        file = prompts_file(tmp_path / "prompts.safetensors", [""], context=draw(1, 5, 6))
        prior = hub.convert_diffusers(tmp_path / "one", file).prior
        vae = AutoencoderKL.from_pretrained(tmp_path / "one" / "vae").eval()
        pipeline = SimpleNamespace(vae=vae, vae_scale_factor=2)
        pipeline._encode_vae_image = lambda image, generator: Pipeline1._encode_vae_image(
            pipeline, image, generator
        )
        fixed = (2, width, width, torch.float32, "cpu", one_draw(), False)
        with torch.no_grad():
            theirs = torch.cat(
                Pipeline1.prepare_mask_latents(pipeline, hole, x * (hole < 0.5), *fixed), 1
            )
        ours = prior.inpainting(x * mask, mask, noise=noise).values["inpaint"]
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)

        write_stable_diffusion_3(tmp_path / "three")
        self.controlnet(tmp_path / "control")
        file = prompts_file(
            tmp_path / "prompts3.safetensors", [""], context=draw(1, 5, 6), pooled=draw(1, 10)
        )
        prior = hub.convert_diffusers(tmp_path / "three", file, tmp_path / "control").prior
        vae = AutoencoderKL.from_pretrained(tmp_path / "three" / "vae").eval()
        pipeline = SimpleNamespace(vae=vae, vae_scale_factor=2)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(5)
            theirs = Pipeline3.prepare_image_with_mask(
                pipeline, x, hole, width, width, 2, 1, "cpu", torch.float32
            )
        ours = prior.inpainting(x * mask, mask, noise=noise).values["inpaint"]
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)

    def controlnet(self, folder: Path, extra: int = 1, heads: int = 2, unpooled: bool = False):
        from diffusers import SD3ControlNetModel

        net = made(
            SD3ControlNetModel,
            sample_size=8,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=4,
            num_attention_heads=heads,
            joint_attention_dim=6,
            caption_projection_dim=4 * heads,
            pooled_projection_dim=10,
            pos_embed_max_size=8,
            extra_conditioning_channels=extra,
            force_zeros_for_pooled_projection=unpooled,
        )
        # fresh ControlNets add nothing
        generator = torch.Generator().manual_seed(7)
        for module in (net.controlnet_blocks, net.pos_embed_input):
            for parameter in module.parameters():
                torch.nn.init.normal_(parameter, std=0.3, generator=generator)
        net.save_pretrained(folder)
        return net

    @pytest.mark.parametrize("unpooled", [False, True])
    def test_the_controlnet_for_inpainting_reads_the_image_with_a_black_hole_then_the_mask(
        self, tmp_path, unpooled
    ):
        transformer, kl = write_stable_diffusion_3(tmp_path)
        controlnet = self.controlnet(tmp_path / "control", unpooled=unpooled)
        edit(
            tmp_path / "control" / "config.json", extra_conditioning_channels=None
        )  # as it is published
        context, pooled = draw(2, 5, 6, seed=3), draw(2, 10, seed=4)
        file = prompts_file(
            tmp_path / "prompts.safetensors", ["a dog", ""], context=context, pooled=pooled
        )
        converted = hub.convert_diffusers(tmp_path, file, tmp_path / "control")
        assert converted.files[-3:-1] == sorted((tmp_path / "control").iterdir())
        prior = kept(converted, tmp_path)
        assert "inpaint" in prior.caps
        x, mask = observed()
        hole = (~mask).float()
        black = x.clone()
        black[(hole > 0.5).repeat(1, 3, 1, 1)] = -1
        with torch.no_grad():
            latents = (kl.encode(black).latent_dist.mean - 0.0609) * 1.5305
        control = torch.cat([latents, 1 - hole[:, :, ::2, ::2]], 1)
        z, level = draw(2, 4, 8, 8), prior.level(1.5)  # sigma / (1 - sigma) = 1.5: sigma = 0.6
        told = {"encoder_hidden_states": context[[0, 0]], "timestep": torch.full((2,), 600.0)}
        rows = pooled[[0, 0]]

        def expected(scale: float) -> Tensor:
            with torch.no_grad():
                (added,) = controlnet(
                    z,
                    controlnet_cond=control,
                    pooled_projections=torch.zeros_like(rows) if unpooled else rows,
                    conditioning_scale=scale,
                    return_dict=False,
                    **told,
                )
                flow = transformer(
                    z, pooled_projections=rows, block_controlnet_hidden_states=added, **told
                ).sample
            return z - 0.6 * flow

        cond = prior.inpainting(x * mask, mask, prior.condition(torch.zeros(2, dtype=torch.long)))
        torch.testing.assert_close(
            prior.denoise(z, level, cond), expected(1.0), atol=1e-4, rtol=1e-4
        )
        weaker = load(tmp_path / "kept", control_scale=0.5)
        torch.testing.assert_close(
            weaker.denoise(z, level, cond), expected(0.5), atol=1e-4, rtol=1e-4
        )
        assert (expected(1.0) - expected(0.0)).abs().max() > 1e-2

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"extra": 0}, r"reads 4 channels and not 4 \+ 1: it was not trained for inpainting"),
            (
                {"heads": 4},
                "has num_attention_heads 4, and the transformer 2: it belongs to another model",
            ),
        ],
    )
    def test_another_controlnet_is_refused(self, tmp_path, change, message):
        write_stable_diffusion_3(tmp_path)
        self.controlnet(tmp_path / "control", **change)
        file = prompts_file(
            tmp_path / "prompts.safetensors", [""], context=draw(1, 5, 6), pooled=draw(1, 10)
        )
        with pytest.raises(ValueError, match=message):
            hub.convert_diffusers(tmp_path, file, tmp_path / "control")

    def test_a_controlnet_goes_with_version_3_alone(self, tmp_path):
        write_stable_diffusion(tmp_path, channels=9)
        file = prompts_file(tmp_path / "prompts.safetensors", [""], context=draw(1, 5, 6))
        with pytest.raises(ValueError, match="takes no ControlNet; leave --controlnet out"):
            hub.convert_diffusers(tmp_path, file, tmp_path)
        prior = kept(hub.convert_diffusers(tmp_path, file), tmp_path)
        assert prior.class_names == ()
        with pytest.raises(ValueError, match="control_scale is a setting of ControlNets"):
            load(tmp_path / "kept", control_scale=0.5)

    def test_stable_diffusion_3(self, tmp_path):
        transformer, kl = write_stable_diffusion_3(tmp_path)
        context, pooled = draw(2, 5, 6, seed=3), draw(2, 10, seed=4)
        file = prompts_file(
            tmp_path / "prompts.safetensors", ["a dog", ""], context=context, pooled=pooled
        )
        prior = kept(hub.convert_diffusers(tmp_path, file), tmp_path)
        assert isinstance(prior.process, Flow) and prior.process.shift == 3.0
        x = draw(1, 3, 16, 16)
        torch.testing.assert_close(
            prior.encode(x), (kl.encode(x).latent_dist.mean - 0.0609) * 1.5305
        )
        z, level = draw(2, 4, 8, 8), prior.level(1.5)  # sigma / (1 - sigma) = 1.5: sigma = 0.6
        for cond, row in ((prior.condition(torch.zeros(2, dtype=torch.long)), 0), (None, 1)):
            with torch.no_grad():
                flow = transformer(
                    z,
                    encoder_hidden_states=context[[row] * 2],
                    pooled_projections=pooled[[row] * 2],
                    timestep=torch.full((2,), 600.0),
                ).sample
            torch.testing.assert_close(
                prior.denoise(z, level, cond), z - 0.6 * flow, atol=1e-4, rtol=1e-4
            )

    def test_shards_are_put_together(self, tmp_path):
        unet = write_ddpm(tmp_path)
        unet.save_pretrained(tmp_path / "unet", max_shard_size="20KB")
        assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 1
        self.check_eps(hub.convert_diffusers(tmp_path).prior, lambda z, t: unet(z, t).sample)
        index = tmp_path / "unet" / "diffusion_pytorch_model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"conv_in.bias": "../x.safetensors"}}))
        with pytest.raises(ValueError, match="a shard lies outside the folder"):
            hub.convert_diffusers(tmp_path)

    def damage(self, folder: Path, change) -> None:
        file = folder / "unet" / "diffusion_pytorch_model.safetensors"
        state = load_file(file)
        change(state)
        save_file(state, file)

    @pytest.mark.parametrize(
        ("harm", "message"),
        [
            (lambda f, d: d(f, lambda s: s.pop("conv_in.bias")), "lacks 'unet.conv_in.bias'"),
            (
                lambda f, d: d(f, lambda s: s.update(extra=torch.ones(1))),
                "has unknown tensors 'unet.extra'",
            ),
            (
                lambda f, d: d(f, lambda s: s["conv_in.bias"].fill_(float("nan"))),
                "not finite in 'unet.conv_in.bias'",
            ),
            (
                lambda f, d: (f / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"x"),
                "not a safetensors",
            ),
            (
                lambda f, d: edit(f / "unet" / "config.json", sparse=True),
                "UNet2DModel has no setting sparse",
            ),
            (
                lambda f, d: edit(f / "unet" / "config.json", _class_name="UNet1DModel"),
                "is a UNet1DModel, which is",
            ),
            (lambda f, d: (f / "unet" / "config.json").write_text("{"), "is not valid JSON"),
            (
                lambda f, d: edit(
                    f / "scheduler" / "scheduler_config.json", prediction_type="score"
                ),
                "'score'; valid",
            ),
            (
                lambda f, d: edit(
                    f / "scheduler" / "scheduler_config.json", beta_schedule="sigmoid"
                ),
                "'sigmoid'; valid",
            ),
            (
                lambda f, d: edit(
                    f / "scheduler" / "scheduler_config.json", rescale_betas_zero_snr=True
                ),
                "not supported",
            ),
            (lambda f, d: shutil.rmtree(f / "scheduler"), "has no scheduler/scheduler_config.json"),
            (lambda f, d: shutil.rmtree(f / "unet"), "has no config.json in unet or transformer"),
        ],
    )
    def test_folders_that_do_not_fit_are_refused(self, tmp_path, harm, message):
        write_ddpm(tmp_path).save_pretrained(tmp_path / "unet")
        harm(tmp_path, self.damage)
        with pytest.raises((ValueError, FileNotFoundError), match=message) as refusal:
            hub.convert_diffusers(tmp_path)
        assert one_line(str(refusal.value)) and str(tmp_path) in str(refusal.value)

    @pytest.mark.parametrize(
        ("prompts", "context", "message"),
        [
            (["a dog"], (1, 5, 6), "with the empty prompt once in it"),
            (["", "a dog"], (1, 5, 6), "with one row for each of 2 prompts"),
            ([""], (1, 5, 7), "embeddings of width 7, and the network wants 6"),
        ],
    )
    def test_wrong_prompts_are_refused(self, tmp_path, prompts, context, message):
        write_stable_diffusion(tmp_path)
        with pytest.raises(ValueError, match=message):
            hub.convert_diffusers(
                tmp_path,
                prompts_file(tmp_path / "prompts.safetensors", prompts, context=draw(*context)),
            )
        with pytest.raises(ValueError, match="needs its prompts embedded beforehand"):
            hub.convert_diffusers(tmp_path)
