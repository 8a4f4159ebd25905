"""Ways to run a network: what may change in a result, what may not, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from posterior_bench.priors.base import Prior
from posterior_bench.priors.execution import Execution
from posterior_bench.priors.latents import KL
from posterior_bench.priors.load import load
from posterior_bench.priors.mixtures import g2
from posterior_bench.priors.nets import UNet2D
from posterior_bench.priors.process import VP

BLOCKS = {"block_out_channels": [16, 32], "norm_num_groups": 8, "layers_per_block": 1}
FASHION = Path(__file__).resolve().parents[2] / "priors" / "assets" / "fashion"


def latent_prior() -> Prior:
    unet = {**BLOCKS, "sample_size": 8, "in_channels": 2, "out_channels": 2}
    unet |= {
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    }
    coder = {**BLOCKS, "in_channels": 1, "out_channels": 1, "latent_channels": 2}
    coder |= {
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, latent = UNet2D(unet, 1), KL(coder)
    return Prior(VP.scheduled("linear", 1e-4, 0.02), net, (1, 16, 16), "eps", latent=latent)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def chain(prior: Prior) -> tuple[Tensor, Tensor, dict[str, int]]:
    """Image and gradient of two network calls and a decoder, and what they cost."""
    z = noise(2, *prior.latent_shape).requires_grad_()
    with prior.metered() as meter:
        first = prior.denoise(z, prior.level(2.0))
        x = prior.decode(prior.denoise(first + 0.5 * z, prior.level(0.5)))
        (gradient,) = torch.autograd.grad(x.square().sum(), z)
        return x.detach(), gradient, meter.counts()


@pytest.mark.parametrize("kind", ["call", "block"])
def test_checkpointing_changes_no_bit_of_a_gradient_and_no_count(kind: str) -> None:
    prior = latent_prior()
    x, gradient, counts = chain(prior)
    again, same, counted = chain(prior.run_as(Execution(checkpointing=kind)))
    assert torch.equal(x, again) and torch.equal(gradient, same)
    assert counts == counted == dict(nfe=4, nge=4, decode=2, decode_grad=2, encode=0, encode_grad=0)


def test_checkpointing_keeps_less() -> None:
    prior, kept = latent_prior(), []
    executions = (
        Execution(),
        Execution(checkpointing="call"),
        Execution(checkpointing="block"),
        Execution(frozen_convolutions=True),
    )
    for execution in executions:
        prior.run_as(execution)
        sizes: dict[int, int] = {}
        z = noise(2, *prior.latent_shape).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=sizes: (s.update({t.untyped_storage().data_ptr(): t.numel()}), t)[1],
            lambda t: t,
        ):
            out = prior.decode(prior.denoise(z, prior.level(1.0)))
        kept.append(sum(sizes.values()))
        del out
    plain, call, block, frozen = kept
    assert call < plain / 20 and block < plain / 4 and frozen < plain * 0.8


def test_frozen_convolutions_keep_outputs_and_give_gradients_to_rounding() -> None:
    prior = latent_prior()
    x, gradient, counts = chain(prior)
    again, near, counted = chain(prior.run_as(Execution(frozen_convolutions=True)))
    assert torch.equal(x, again) and counts == counted
    assert (gradient - near).abs().max() <= 1e-6 * gradient.abs().max()
    assert torch.equal(gradient, chain(prior.run_as(Execution()))[1])  # nothing is left behind


def test_settings_that_save_memory_go_together_with_bf16_and_channels_last() -> None:
    prior = latent_prior()
    low = Execution("bf16", channels_last=True)
    x, gradient, _ = chain(prior.run_as(low))
    saving = replace(low, frozen_convolutions=True, checkpointing="block")
    again, near, _ = chain(prior.run_as(saving))
    assert torch.equal(x, again)
    assert (gradient - near).norm() < 2e-2 * gradient.norm()  # a few roundings to eight bits


def test_bf16_differs_as_much_as_its_eight_bits_say_and_hands_on_float32() -> None:
    """The relative error of a small U-Net in bf16 is about 1 per cent, that of float32 arithmetic
    about 1e-6."""
    prior = load(FASHION)
    z, level = noise(4, 1, 28, 28), prior.level(1.0)
    plain = prior.denoise(z, level)
    low = prior.run_as(Execution(precision="bf16")).denoise(z, level)
    assert low.dtype == torch.float32
    assert 1e-4 < (low - plain).norm() / plain.norm() < 3e-2
    torch.testing.assert_close(prior.run_as(Execution()).denoise(z, level), plain, atol=0, rtol=0)


def test_bf16_leaves_losses_decoders_and_gradients_in_float32() -> None:
    prior = latent_prior()
    plain = prior.decode(noise(2, 2, 8, 8))
    prior.run_as(Execution(precision="bf16"))
    z = noise(2, 2, 8, 8).requires_grad_()
    loss = prior.decode(prior.denoise(z, prior.level(1.0))).square().sum()
    (gradient,) = torch.autograd.grad(loss, z)
    assert loss.dtype == gradient.dtype == torch.float32
    assert torch.equal(prior.decode(noise(2, 2, 8, 8)), plain)


def test_channels_last_agrees_to_rounding_and_hands_on_the_usual_layout() -> None:
    prior = latent_prior()
    z = noise(2, 2, 8, 8)
    plain = prior.denoise(z, prior.level(1.0))
    prior.run_as(Execution(channels_last=True))
    assert prior.net.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    out = prior.denoise(z, prior.level(1.0))
    assert out.is_contiguous()
    torch.testing.assert_close(out, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_torch_compiles_a_network() -> None:
    prior = latent_prior()
    x, gradient, counts = chain(prior)
    compiled = chain(prior.run_as(Execution(compile=True)))
    torch.testing.assert_close(compiled[0], x)
    torch.testing.assert_close(compiled[1], gradient)
    assert compiled[2] == counts


def test_features_are_not_offered_where_hooks_would_run_twice_or_never() -> None:
    prior = latent_prior()
    assert "features" in prior.caps
    for execution in (Execution(compile=True), Execution(checkpointing="call")):
        assert "features" not in prior.run_as(execution).caps


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"precision=fp16: valid are fp32, tf32, bf16, bf16\+tf32"):
        Execution(precision="fp16")
    with pytest.raises(ValueError, match="checkpointing=all: valid are none, call, block"):
        Execution(checkpointing="all")
    with pytest.raises(
        ValueError, match="precision=bf16: this prior is in closed form and runs no network"
    ):
        g2().run_as(Execution(precision="bf16"))
    assert g2().run_as(Execution()).net is None
    with pytest.raises(ValueError, match="tile=4: give 0"):
        Execution(tile=4)
    with pytest.raises(ValueError, match="blocks are compiled whole"):
        Execution(compile=True, checkpointing="block")
    prior = load(FASHION)
    with pytest.raises(ValueError, match="tile=64: this prior has no autoencoder"):
        prior.run_as(Execution(tile=64))
    assert prior.execution == Execution()
    plain = Prior(prior.process, torch.nn.Linear(2, 2), (1, 1, 2))
    for execution in (Execution(checkpointing="block"), Execution(frozen_convolutions=True)):
        with pytest.raises(ValueError, match="Linear"):
            plain.run_as(execution)


def test_labels_name_what_is_not_the_default() -> None:
    assert Execution().label == "float32" and Execution().changed == {}
    both = Execution("bf16", channels_last=True, compile=True, checkpointing="call")
    assert both.label == "bf16 channels_last compile=blocks checkpointing=call"
    # the whole network was compiled under compile=True once: other digits, so another cell
    assert both.changed["compile"] == "blocks"
    mixed = Execution("bf16+tf32")
    assert mixed.label == "bf16+tf32" and mixed.bf16 and mixed.tf32
    assert [Execution(name).tf32 for name in ("fp32", "tf32", "bf16")] == [False, True, False]
    saving = Execution(frozen_convolutions=True, tile=64)
    assert saving.label == "float32 frozen_convolutions tile=64"
    assert Execution.of({"precision": "tf32", "seed": 3}).changed == {"precision": "tf32"}
