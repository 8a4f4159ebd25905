"""What a prior means, checked on real architectures: one suite for every family of networks and
autoencoders.

The exact denoisers of test_prior.py show the mathematics; these show that adapters, guidance,
conditions, autoencoders and meters do not break it. Weights are random unless the property is about
trained ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from posterior_bench.datasets.fashion import Fashion
from posterior_bench.priors.base import Condition, Prior
from posterior_bench.priors.execution import Execution
from posterior_bench.priors.latents import KL, VQ, Latent
from posterior_bench.priors.load import load
from posterior_bench.priors.nets import SD3, SDXL, DiT, Flux, UNet2D, UNet2DCondition
from posterior_bench.priors.process import VE, VP, Flow, Level
from posterior_bench.priors.replaced import replaced

BLOCKS = {"block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4}
AUTOENCODER = {
    "latent_channels": 4,
    "block_out_channels": [8, 8],
    "norm_num_groups": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}


def _unet(channels: int, out: int, classes: int = 0) -> UNet2D:
    return UNet2D(
        {
            "sample_size": 8,
            "in_channels": channels,
            "out_channels": out,
            "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
            "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
            "attention_head_dim": 8,
            "num_class_embeds": classes + 1 if classes else None,
            **BLOCKS,
        }
    )


def _conditional_unet(tokens: int) -> UNet2DCondition:
    config = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "cross_attention_dim": 6,
        "attention_head_dim": 2,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        **BLOCKS,
    }
    return UNet2DCondition(config, [4, tokens, 6])


def _dit() -> DiT:
    config = {
        "sample_size": 8,
        "num_layers": 2,
        "num_attention_heads": 2,
        "attention_head_dim": 4,
        "in_channels": 4,
    }
    return DiT({**config, "out_channels": 8, "num_embeds_ada_norm": 3})


def _sd3() -> SD3:
    config = {
        "sample_size": 8,
        "num_layers": 2,
        "in_channels": 4,
        "out_channels": 4,
        "attention_head_dim": 4,
        "num_attention_heads": 2,
        "joint_attention_dim": 6,
        "caption_projection_dim": 8,
        "pooled_projection_dim": 10,
        "pos_embed_max_size": 8,
    }
    return SD3(config, [4, 5, 6], 10)


def _sdxl() -> SDXL:
    config = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "attention_head_dim": 4,
        "cross_attention_dim": 6,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 58,
        **BLOCKS,
    }
    return SDXL(config, [4, 5, 6], 10, 2)


def _flux() -> Flux:
    config = {
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 6,
        "pooled_projection_dim": 10,
        "guidance_embeds": True,
        "axes_dims_rope": [2, 2, 4],
    }
    return Flux(config, [4, 5, 6], 10)


def _latent(kind: type[Latent], **more: object) -> Latent:
    extra = {"num_vq_embeddings": 16} if kind is VQ else {}
    return kind({**AUTOENCODER, **extra}, **more)  # type: ignore[arg-type]


ADM = {"process": VP.scheduled("linear", 1e-4, 0.02), "parameterization": "eps"}
LDM = {"process": VP.scheduled("scaled_linear", 0.0015, 0.0195), "parameterization": "eps"}
LABELS = {"num_classes": 3, "null_label": 3}
FAMILIES: dict[str, Callable[[], Prior]] = {
    "edm": lambda: Prior(VE(), _unet(3, 3, 3), (3, 8, 8), "edm", num_classes=3),
    "ddpm": lambda: Prior(ADM["process"], _unet(3, 3), (3, 8, 8), "eps"),
    "adm": lambda: Prior(**ADM, net=_unet(3, 6, 3), shape=(3, 8, 8), learned_var=True, **LABELS),
    "ldm-kl": lambda: Prior(
        **LDM, net=_unet(4, 4), shape=(3, 16, 16), latent=_latent(KL, scale=0.2)
    ),
    "ldm-vq": lambda: Prior(
        **LDM, net=_conditional_unet(1), shape=(3, 16, 16), latent=_latent(VQ), **LABELS
    ),
    "dit": lambda: Prior(
        **ADM,
        net=_dit(),
        shape=(3, 16, 16),
        latent=_latent(KL, scale=0.18215),
        learned_var=True,
        **LABELS,
    ),
    "sd2-v": lambda: Prior(
        LDM["process"],
        _conditional_unet(5),
        (3, 16, 16),
        "v",
        latent=_latent(KL, scale=0.18215),
        **LABELS,
    ),
    "sdxl": lambda: Prior(
        **LDM, net=_sdxl(), shape=(3, 16, 16), latent=_latent(KL, scale=0.13025), **LABELS
    ),
    "flux": lambda: Prior(
        Flow(3.158),
        _flux(),
        (3, 16, 16),
        "flow",
        latent=_latent(KL, shift=0.1159, scale=0.3611),
        **LABELS,
    ),
    "sd3": lambda: Prior(
        Flow(3.0),
        _sd3(),
        (3, 16, 16),
        "flow",
        latent=_latent(KL, shift=0.0609, scale=1.5305),
        **LABELS,
    ),
}
"""Process, parameterisation, network, conditioning and latent of the papers' priors."""


def _made(name: str) -> Prior:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prior = FAMILIES[name]()
        assert prior.net is not None
        for (
            parameter
        ) in prior.net.parameters():  # layers and tables that start at zero would hide mistakes
            if not parameter.any():
                nn.init.normal_(parameter, std=0.2)
    return prior


_PRIORS: dict[str, Prior] = {}


@pytest.fixture(params=FAMILIES)
def prior(request: pytest.FixtureRequest) -> Prior:
    return _PRIORS.setdefault(request.param, _made(request.param))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def state(prior: Prior, rows: int, level: Level) -> Tensor:
    """A state of about the size it has at this level."""
    z0, noise = normal(rows, *prior.latent_shape), normal(rows, *prior.latent_shape, seed=1)
    return 0.5 * float(level.alpha) * z0 + float(level.sigma) * noise


def garments(pad: int) -> Tensor:
    images = Fashion(pad=pad)
    return images.images(images.ids[:8])


def labels(prior: Prior, rows: int) -> Condition | None:
    return prior.condition(torch.arange(rows) % 3)


# -- the nine properties ---------------------------------------------------------------------------


def test_1_the_cleanest_level_is_the_identity(prior):
    """A bounded network cannot move a state that has no noise; the other end needs trained
    weights."""
    level = prior.level(prior.process.ratio_min)
    z = state(prior, 2, level)
    moved = prior.denoise(z, level, labels(prior, 2)) - z / level.alpha
    assert moved.abs().max() < 30 * level.ratio


@pytest.mark.parametrize(
    ("path", "pad"), [("priors/assets/fashion", 0), ("priors/assets/fashion_latent", 2)]
)
def test_1_trained_priors_know_both_ends(path, pad):
    trained, images = load(path), garments(pad)
    with torch.no_grad():
        z0 = trained.encode(images)
        low = trained.level(trained.process.ratio_min)
        z = trained.process.add_noise(z0, low, normal(*z0.shape))
        assert (trained.denoise(z, low) - z0).abs().max() < 6 * low.ratio
        high = trained.level(min(trained.process.ratio_max, 80.0))
        means = trained.denoise(high.sigma * normal(*z0.shape), high)
    # pure noise says nothing: every row is nearly the mean of all images
    assert (means - means.mean(0)).square().mean().sqrt() < 0.25 * z0.std()


@pytest.mark.parametrize("ratio", [0.1, 1.0, 10.0])
def test_2_a_state_is_its_image_and_its_noise(prior, ratio):
    level = prior.level(ratio)
    z = state(prior, 2, level)
    x0 = prior.denoise(z, level, labels(prior, 2))
    again = level.alpha * x0 + level.sigma * prior.process.eps(z, x0, level)
    torch.testing.assert_close(again, z, atol=1e-5 * (1 + level.sigma), rtol=1e-5)


def test_3_a_batch_is_its_rows(prior):
    level = prior.level(0.8)
    z, cond = state(prior, 4, level), labels(prior, 4)
    one = [None if cond is None else cond.map(lambda v, i=i: v[i : i + 1]) for i in range(4)]
    singles = torch.cat([prior.denoise(z[i : i + 1], level, one[i]) for i in range(4)])
    torch.testing.assert_close(prior.denoise(z, level, cond), singles, atol=1e-4, rtol=1e-4)


def test_3_rows_may_have_levels_of_their_own(prior):
    levels = [prior.level(ratio) for ratio in (0.3, 0.9, 4.0)]
    z, cond = normal(3, *prior.latent_shape), labels(prior, 3)
    one = [None if cond is None else cond.map(lambda v, i=i: v[i : i + 1]) for i in range(3)]
    singles = torch.cat([prior.denoise(z[i : i + 1], levels[i], one[i]) for i in range(3)])
    torch.testing.assert_close(
        prior.denoise(z, Level.stack(levels), cond), singles, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_4_gradients_equal_finite_differences(prior, guidance):
    if guidance != 1.0 and prior.null_label is None:
        pytest.skip("without a null condition there is no guidance")
    prior = _double(prior)
    level, cond = prior.level(0.8), labels(prior, 2)
    z, direction = state(prior, 2, level).double(), normal(2, *prior.latent_shape, seed=2).double()
    weight = normal(2, *prior.latent_shape, seed=3).double()

    def value(at: Tensor) -> Tensor:
        return (weight * prior.denoise(at, level, cond, guidance)).sum()

    at = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(value(at), at)
    with torch.no_grad():
        numeric = (value(z + 1e-5 * direction) - value(z - 1e-5 * direction)) / 2e-5
    # FLUX rotates queries and keys in float32, whatever they are
    close = 1e-3 if isinstance(prior.net, Flux) else 1e-5
    assert (slope * direction).sum().item() == pytest.approx(numeric.item(), rel=close)


def test_4_no_gradient_reaches_a_weight(prior):
    level = prior.level(0.8)
    z = state(prior, 1, level).requires_grad_()
    prior.decode(prior.denoise(z, level, labels(prior, 1))).square().sum().backward()
    assert z.grad is not None and z.grad.any()
    for module in (prior.net, prior.latent):
        assert module is None or all(
            p.grad is None and not p.requires_grad for p in module.parameters()
        )


def test_5_meters_equal_a_count_by_hand(prior):
    level, cond = prior.level(0.8), labels(prior, 3)
    z = state(prior, 3, level).requires_grad_()
    seen = _Rows(prior)
    with seen, prior.metered() as meter:
        prior.denoise(z.detach(), level, cond)  # 3 forwards
        prior.denoise(z, level, cond).sum().backward()  # 3 and 3 backwards
        if prior.null_label is not None:
            prior.denoise(z, level, cond, 2.0).sum().backward()  # 6 and 6
    forwards, backwards = (12, 9) if prior.null_label is not None else (6, 3)
    assert (meter.nfe, meter.nge, seen.rows) == (forwards, backwards, forwards)


def test_6_other_coordinates_are_the_same_denoiser(prior):
    level = prior.level(0.8)
    z, cond = state(prior, 2, level), labels(prior, 2)
    expected = prior.denoise(z, level, cond)
    for kind in ("vp", "ve", "flow"):
        view = prior.view(kind)
        seen = view.level(0.8)
        scaled = z * (seen.sigma / level.sigma)
        torch.testing.assert_close(view.denoise(scaled, seen, cond), expected, atol=2e-4, rtol=2e-4)


def test_7_images_and_latents(prior):
    x = normal(2, *prior.image_shape).clamp(-1, 1)
    z = prior.encode(x)
    assert z.shape == (2, *prior.latent_shape) and prior.decode(z).shape == x.shape
    if prior.latent is None:
        assert prior.decode(z) is x
    else:
        raw = prior.latent.autoencoder.encode(x)
        mean = raw.latent_dist.mean if isinstance(prior.latent, KL) else raw.latents
        settings = prior.latent.settings
        torch.testing.assert_close(z, (mean - settings["shift"]) * settings["scale"])


def test_7_a_trained_autoencoder_reconstructs():
    """Its page says 35.6 dB on all test images; these eight are harder."""
    latent, images = load("priors/assets/fashion_latent"), garments(2)
    error = (latent.decode(latent.encode(images)) - images).square().mean()
    assert 10 * torch.log10(4 / error) > 32


def test_8_guidance_of_one_is_none(prior):
    level = prior.level(0.8)
    z, cond = state(prior, 2, level), labels(prior, 2)
    plain = prior.denoise(z, level, cond)
    assert torch.equal(prior.denoise(z, level, cond, 1.0), plain)
    if cond is not None and cond.null is not None:
        null = prior.denoise(z, level, Condition(cond.null))
        assert not torch.allclose(null, plain, atol=1e-3)
        torch.testing.assert_close(prior.denoise(z, level, cond, 0.0), null, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            prior.denoise(z, level, cond, 2.5), null + 2.5 * (plain - null), atol=5e-4, rtol=5e-4
        )
    else:
        with pytest.raises(ValueError, match="needs a condition and a trained null condition"):
            prior.denoise(z, level, cond, 2.0)


def test_9_no_global_random_number_is_read_or_written(prior):
    level, results = prior.level(0.8), []
    z, cond = state(prior, 2, level), labels(prior, 2)
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
            results.append(prior.decode(prior.denoise(z, level, cond)))
            after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
            assert (
                torch.equal(before[0], after[0])
                and before[1] == after[1]
                and (before[2] == after[2]).all()
            )
    assert torch.equal(*results)


# -- what a network is given -----------------------------------------------------------------------


def test_time_is_a_tensor_and_keeps_its_fraction(prior):
    """diffusers truncates a Python number to an integer, and then every level between two steps is
    another one."""
    seen: list[object] = []
    inner = next(module for module in prior.net.children() if isinstance(module, nn.Module))
    hook = inner.register_forward_pre_hook(
        lambda _m, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    try:
        level = prior.level(0.777)
        prior.denoise(state(prior, 2, level), level, labels(prior, 2))
    finally:
        hook.remove()
    (args, kwargs), *_ = seen
    time = kwargs["timestep"] if "timestep" in kwargs else args[1]
    assert isinstance(time, Tensor) and time.shape == (2,) and time.is_floating_point()
    unit = 1000 if isinstance(prior.net, Flux) else 1  # FLUX multiplies by 1000 itself
    assert unit * time[0].item() == pytest.approx(float(level.t), rel=1e-6)
    assert float(level.t) % 1 != 0


def test_levels_between_training_steps_change_the_answer(prior):
    z = normal(1, *prior.latent_shape)
    near = [prior.level(ratio) for ratio in (0.8, 0.8004)]
    outs = [prior.denoise(z, replace(near[0], t=level.t), labels(prior, 1)) for level in near]
    assert 0 < (outs[0] - outs[1]).abs().max() < 0.1


class _Rows:
    """Counts the rows that reach a network, by a hook on it."""

    def __init__(self, prior: Prior):
        self.net, self.rows = prior.net, 0

    def __enter__(self) -> _Rows:
        self.hook = self.net.register_forward_pre_hook(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()

    def _count(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.rows += len(args[0])


def _double(prior: Prior) -> Prior:
    """A copy in float64, where finite differences mean something."""
    name = next(name for name, made in _PRIORS.items() if made is prior)
    copy = _made(name)
    copy.net.double()
    return copy


# -- weights in bf16 -------------------------------------------------------------------------------


class Casts(TorchDispatchMode):
    """Counts the casts of a network's weights within a block."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.weights, self.count = {p.data_ptr() for p in net.parameters()}, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "_to_copy" in str(func):
            self.count += args[0].data_ptr() in self.weights
        return func(*args, **kwargs or {})


def test_weights_in_bf16_give_the_bits_of_autocast_and_are_cast_in_no_call(prior):
    """Against autocast of the same network in float32. Diffusers reads the dtype of a model from
    its first weight, so that one alone is cast in a call."""
    net, level, cond = prior.net, prior.level(1.0), labels(prior, 3)
    assert net is not None
    z = state(prior, 3, level)

    def outcome(execution: Execution) -> list[Tensor]:
        prior.run_as(execution)
        x = z.clone().requires_grad_()
        out = prior.denoise(x, level, cond)
        return [out.detach(), *torch.autograd.grad(out.square().sum(), x)]

    def autocast(*inputs: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return net(*inputs).float()

    plain = outcome(Execution())
    with replaced(prior, run_network=autocast):
        wanted = outcome(Execution())
    assert all(map(torch.equal, outcome(Execution("bf16")), wanted))
    with Casts(net) as casts:
        prior.denoise(z, level, cond)
    norms = [p for name, p in net.named_parameters() if "norm" in name and "linear" not in name]
    assert {p.dtype for p in norms} <= {torch.float32} and len(prior.bf16_weights) > 10
    assert all(map(torch.equal, outcome(Execution()), plain))
    assert casts.count <= 1 and not prior.bf16_weights
