"""Metrics with published weights, on small random weights, against the libraries that define them.

Where the library is too large to be installed for a test, the metric's own check compares with a
number that the library gave for weights from a formula, and the formula is the same here.
"""

from __future__ import annotations

import copy
import json
import socket
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import piq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from piq.feature_extractors import clip
from safetensors.torch import save_file
from scipy.spatial.distance import cdist
from torchvision import models

from posterior_bench.metrics import (
    clip_iqa,
    dreamsim_metric,
    feature_networks,
    lpips_metric,
    lpips_piq,
    musiq,
)
from posterior_bench.metrics.base import (
    Batch,
    DrawSet,
    Measure,
    MissingWeights,
    reference_images,
    to_uint8,
)
from posterior_bench.metrics.clip_iqa import CLIPIQA
from posterior_bench.metrics.cmmd import CMMD
from posterior_bench.metrics.dreamsim_metric import DreamSim
from posterior_bench.metrics.feature_networks import CLIPImages, DINOv2, TorchvisionInception
from posterior_bench.metrics.features import PATCH, InceptionPatches, patches
from posterior_bench.metrics.fid import FID, PatchFID
from posterior_bench.metrics.lpips_metric import BACKBONES, LPIPS, UnclampedLPIPS
from posterior_bench.metrics.lpips_piq import LPIPSPiq
from posterior_bench.metrics.musiq import MUSIQ
from posterior_bench.metrics.psnr import PSNR
from posterior_bench.metrics.ssim import SSIM, SSIMPiq
from posterior_bench.metrics.weights import WeightFile, digest, tensors, torchscript_tensors

MakeBatch = Callable[..., Batch]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty torch hub cache, and no network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(
        socket.socket, "connect", lambda *_: pytest.fail("a metric tried to use the network")
    )
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def random_weights(shapes: dict[str, torch.Size], seed: int = 3) -> dict[str, torch.Tensor]:
    """Weights whose sums keep their size, and biases of some size, so that none can be lost."""
    draw = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=draw) / max(1, shape[1:].numel()) ** 0.5
        weights[name] = value.abs() + 0.5 if name.endswith("running_var") else value
    return weights


def shapes_of(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {k: v.shape for k, v in module.state_dict().items() if v.is_floating_point()}


def unit(x: torch.Tensor) -> torch.Tensor:
    return (x + 1) / 2


# -- piq -------------------------------------------------------------------------------------------


def test_psnr_is_that_of_piq_and_ssim_has_a_variant_for_it(make_batch: MakeBatch) -> None:
    batch = make_batch(count=3, size=256)
    x, truth = unit(batch.raw.double()), unit(batch.truth.double())
    assert PSNR()(batch).tolist() == pytest.approx(
        piq.psnr(x, truth, data_range=1.0, reduction="none").tolist(), abs=0.001
    )
    as_piq = piq.ssim(x, truth, data_range=1.0, reduction="none")
    assert SSIMPiq()(batch).tolist() == pytest.approx(as_piq.tolist(), abs=1e-6)
    difference = (SSIM()(batch) - as_piq).abs()
    assert 5e-4 < difference.max() < 0.004  # the pixels near the border


def test_ssim_of_piq_averages_large_images_first(make_batch: MakeBatch) -> None:
    batch = make_batch(count=1, size=512)
    expected = piq.ssim(unit(batch.raw.double()), unit(batch.truth.double()), data_range=1.0)
    assert SSIMPiq()(batch).item() == pytest.approx(expected.item(), abs=1e-6)
    with pytest.raises(ValueError, match="'ssim_piq' needs images of 11 pixels"):
        SSIMPiq().admit((3, 8, 64))


@pytest.fixture
def vgg(hub: Path, monkeypatch: pytest.MonkeyPatch) -> piq.LPIPS:
    """piq's own LPIPS on random weights, which are in the cache too."""
    with torch.device("meta"):
        shapes = shapes_of(models.vgg16().features)
    trunk = {name: value * 1.4 for name, value in random_weights(shapes).items()}
    draw = torch.Generator().manual_seed(4)
    linear = [torch.rand(1, n, 1, 1, generator=draw) for n in lpips_piq.CHANNELS]
    torch.save({f"features.{name}": value for name, value in trunk.items()}, hub / "vgg")
    name = f"vgg-{digest(hub / 'vgg')[:8]}.pth"
    (hub / "vgg").rename(hub / name)
    monkeypatch.setitem(BACKBONES, "vgg", replace(BACKBONES["vgg"], file=name))
    torch.save(linear, hub / lpips_piq.LINEAR.name)
    whole = models.vgg16(init_weights=False)
    whole.features.load_state_dict(trunk)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: linear)
    monkeypatch.setattr("piq.perceptual.vgg16", lambda **_: whole)
    return piq.LPIPS(replace_pooling=True, reduction="none")


def test_lpips_of_piq_is_that_of_piq(
    make_batch: MakeBatch, rows: Callable[[Batch], list[Batch]], vgg: piq.LPIPS
) -> None:
    batch, metric = make_batch(count=2, size=32), LPIPSPiq()
    expected = vgg(unit(batch.raw), unit(batch.truth))
    values = metric(batch)
    assert values.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert values.min() > 1e-3 and values.tolist() == [metric(row).item() for row in rows(batch)]
    # maximum pooling is another number
    vgg.model = vgg.model[:4] + torch.nn.Sequential(torch.nn.MaxPool2d(2)) + vgg.model[5:]
    assert (vgg(unit(batch.raw), unit(batch.truth)) - values).abs().max() > 1e-4


def test_the_hash_of_files_without_a_published_one_is_recorded(hub: Path, vgg: piq.LPIPS) -> None:
    pinned = LPIPSPiq().pinned
    LPIPSPiq(**pinned).check()
    torch.save([], hub / lpips_piq.LINEAR.name)
    with pytest.raises(MissingWeights, match=r"set up with other weights: vgg.*lpips_weights\.pt"):
        LPIPSPiq(**pinned).check()


def small_clip(patch: int | None = None) -> clip.CLIP:
    with torch.random.fork_rng(devices=[]):
        vision = (64, 16, (1, 1, 2, 1), 8) if patch is None else (64, 4 * patch, 2, 64)
        network = clip.CLIP(*vision, patch, 77, 49408, 64, 1, 1)
        weights = random_weights(shapes_of(network)) | {"logit_scale": torch.tensor(4.6)}
        for name, value in weights.items():
            if name.startswith("visual.") and name.endswith(("bias", "running_mean")):
                value *= 0  # otherwise constants would hide what the image adds
        weights["token_embedding.weight"] *= 20  # and positions the words
        network.load_state_dict(weights, strict=False)
    return network.eval()


def save_clip(network: clip.CLIP, path: Path) -> str:
    """Save as OpenAI did: half precision, traced, a program with its weights."""
    side = (
        64 if network.visual.__class__ is clip.ModifiedResNet else network.visual.input_resolution
    )
    network.half().float()
    inputs = torch.rand(1, 3, side, side), torch.ones(1, 77, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        torch.jit.trace(copy.deepcopy(network), inputs, check_trace=False).half().save(str(path))
    return digest(path)


def test_clip_iqa_is_that_of_piq(
    hub: Path, monkeypatch: pytest.MonkeyPatch, make_batch: MakeBatch
) -> None:
    network = small_clip()
    sha256 = save_clip(network, hub / "RN50.pt")
    monkeypatch.setattr(clip_iqa, "RESNET", replace(clip_iqa.RESNET, sha256=sha256))
    prompts = torch.zeros(2, 77, dtype=torch.long)
    prompts[:, :5] = torch.tensor(list(clip_iqa.PROMPTS.values()))
    monkeypatch.setattr("piq.clip_iqa.clip.load", lambda: network)
    monkeypatch.setattr("piq.clip_iqa.download_tensor", lambda *_: prompts)
    library, batch = piq.CLIPIQA(), make_batch(count=2, size=48)
    CLIPIQA().check()
    values, pasted = CLIPIQA()(batch), CLIPIQA(pasted=True)(batch)
    assert values.tolist() == pytest.approx(library(unit(batch.raw))[:, 0].tolist(), abs=1e-6)
    assert pasted.tolist() == pytest.approx(library(unit(batch.pasted))[:, 0].tolist(), abs=1e-6)
    assert (values[0] - values[1]).abs() > 1e-3


# -- features of sets ------------------------------------------------------------------------------


def draws_of(batch: Batch) -> DrawSet:
    return DrawSet(batch.raw[:, None], batch.truth, batch.mask, batch.y)


def test_fid_torchvision_is_the_protocol_of_daps(
    hub: Path, monkeypatch: pytest.MonkeyPatch, make_batch: MakeBatch
) -> None:
    with torch.random.fork_rng(devices=[]):
        network = models.inception_v3(init_weights=False)
    weights = random_weights(shapes_of(network)) | {
        name: value for name, value in network.state_dict().items() if not value.ndim
    }
    torch.save(weights, hub / feature_networks.TORCHVISION_INCEPTION.name)
    monkeypatch.setattr(
        feature_networks,
        "TORCHVISION_INCEPTION",
        replace(feature_networks.TORCHVISION_INCEPTION, sha256=""),
    )
    # as torchvision builds it with pretrained weights, and DAPS then uses it
    network.load_state_dict(weights)
    network.transform_input, network.fc = True, torch.nn.Identity()
    network.eval()
    batch = make_batch(count=3, size=48)
    vectors = FID("torchvision").features(draws_of(batch))
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = F.interpolate(batch.raw, size=(299, 299), mode="bilinear") * 0.5 + 0.5
    images = (images - mean.view(1, 3, 1, 1)) / deviation.view(1, 3, 1, 1)
    with torch.no_grad():
        expected = torch.cat([network(image) for image in images.split(1)])
    assert vectors.shape == (3, 2, 2048) and expected.std(0).mean() > 0
    assert (vectors[:, 1] - expected).abs().max() < 5e-7 * expected.abs().max()
    FID("torchvision").check()


def test_frechet_distance_of_piq_is_ours_but_for_its_early_stop() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(60, 24)) * np.linspace(1, 2, 24)
    draws = 0.8 * truth + 0.5 * rng.normal(size=(60, 24)) + 0.3
    ours = FID().reduce(np.stack([truth, draws], axis=1), np.ones((1, 60)))[0]
    theirs = piq.FID().compute_metric(torch.tensor(truth), torch.tensor(draws)).item()
    assert theirs == pytest.approx(ours, rel=1e-4)


def test_clip_vectors_are_those_of_the_network_and_cmmd_a_plain_mean(
    hub: Path, monkeypatch: pytest.MonkeyPatch, make_batch: MakeBatch
) -> None:
    network = small_clip(patch=14)
    sha256 = save_clip(network, hub / "ViT-L-14-336px.pt")
    file = replace(feature_networks.CLIP_LARGE_336, sha256=sha256)
    monkeypatch.setattr(feature_networks, "CLIP_LARGE_336", file)
    batch, metric = make_batch(count=4, size=40), CMMD()
    metric.check()
    vectors = metric.features(draws_of(batch))
    # Pillow's bicubic filter on single precision has the kernel of JAX, a = -0.5
    image = unit(batch.raw[0]).numpy()
    channels = [Image.fromarray(c).resize((56, 56), Image.Resampling.BICUBIC) for c in image]
    small = torch.from_numpy(np.stack([np.asarray(c) for c in channels]))[None]
    mean = torch.tensor(piq.clip_iqa.OPENAI_CLIP_MEAN).view(1, 3, 1, 1)
    deviation = torch.tensor(piq.clip_iqa.OPENAI_CLIP_STD).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = F.normalize(network.encode_image((small - mean) / deviation, True))
    assert (vectors[0, 1] - expected[0]).abs().max() < 5e-7
    assert (vectors[0, 1] - vectors[1, 1]).abs().max() > 1e-2
    features = vectors.double().numpy()
    x, y = features[:, 1], features[:, 0]
    kernels = [np.exp(-(cdist(a, b) ** 2) / 200).mean() for a, b in ((x, x), (y, y), (x, y))]
    value = metric.reduce(features, np.ones((1, 4)))[0]
    assert value == pytest.approx(1000 * (kernels[0] + kernels[1] - 2 * kernels[2]), rel=1e-6)


def test_resamples_of_cmmd_are_not_biased_more_than_the_value() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(12, 3, 6))
    metric, counts = CMMD(), rng.multinomial(12, np.full(12, 1 / 12), size=4000)
    values = metric.reduce(features, counts.astype(float))
    whole = metric.reduce(features, np.ones((1, 12)))[0]
    error = values.std() / len(values) ** 0.5
    assert abs(values.mean() - whole) < 4 * error
    assert metric.reduce(features[:1], np.ones((1, 1))).tolist() != [0.0]


def dinov2_shapes(width: int = 64, blocks: int = 2) -> dict[str, torch.Size]:
    sizes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + 37 * 37, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for i in range(blocks):
        for name, shape in {
            "norm1": (width,),
            "norm2": (width,),
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "mlp.fc1": (4 * width, width),
            "mlp.fc2": (width, 4 * width),
        }.items():
            sizes[f"blocks.{i}.{name}.weight"] = shape
            sizes[f"blocks.{i}.{name}.bias"] = shape[:1]
        sizes |= {f"blocks.{i}.ls{j}.gamma": (width,) for j in (1, 2)}
    return {name: torch.Size(size) for name, size in sizes.items()}


@pytest.fixture
def dinov2(hub: Path) -> dict[str, torch.Tensor]:
    weights = random_weights(dinov2_shapes())
    weights["pos_embed"] = weights["pos_embed"] * 100
    torch.save(weights, hub / feature_networks.DINOV2_LARGE.name)
    return weights


def test_dinov2_is_that_of_transformers(dinov2: dict[str, torch.Tensor], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=1, image_size=224, patch_size=14
    )
    # the published code: the ratio of sides, with a tenth of a patch on top
    grid = dinov2["pos_embed"][:, 1:].view(1, 37, 37, 64).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic")
    positions = grid.permute(0, 2, 3, 1).reshape(1, 256, 64)
    named = {
        "embeddings.cls_token": dinov2["cls_token"],
        "embeddings.mask_token": dinov2["mask_token"],
        "embeddings.position_embeddings": torch.cat([dinov2["pos_embed"][:, :1], positions], 1),
        "embeddings.patch_embeddings.projection.weight": dinov2["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": dinov2["patch_embed.proj.bias"],
        "layernorm.weight": dinov2["norm.weight"],
        "layernorm.bias": dinov2["norm.bias"],
    }
    for i in range(2):
        ours, theirs = f"blocks.{i}.", f"encoder.layer.{i}."
        for part in ("weight", "bias"):
            thirds = dinov2[f"{ours}attn.qkv.{part}"].chunk(3)
            for name, third in zip(("query", "key", "value"), thirds, strict=True):
                named[f"{theirs}attention.attention.{name}.{part}"] = third
            for a, b in {
                "attn.proj": "attention.output.dense",
                "mlp.fc1": "mlp.fc1",
                "mlp.fc2": "mlp.fc2",
                "norm1": "norm1",
                "norm2": "norm2",
            }.items():
                named[f"{theirs}{b}.{part}"] = dinov2[f"{ours}{a}.{part}"]
        named |= {f"{theirs}layer_scale{j}.lambda1": dinov2[f"{ours}ls{j}.gamma"] for j in (1, 2)}
    # the names are those of the published folder, which the library knows in every version
    config.save_pretrained(tmp_path)
    save_file({k: v.contiguous() for k, v in named.items()}, tmp_path / "model.safetensors")
    library = transformers.Dinov2Model.from_pretrained(tmp_path, local_files_only=True).eval()
    image = reference_images()[0]
    picture = Image.fromarray(to_uint8(image)[0].permute(1, 2, 0).numpy())
    small = np.asarray(picture.resize((224, 224), Image.Resampling.BICUBIC)) / 255
    small = (small - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.no_grad():
        expected = library(torch.from_numpy(small).float().permute(2, 0, 1)[None]).pooler_output
    assert (DINOv2()(image) - expected).abs().max() < 1.5e-6
    assert expected[0, :4].tolist() == pytest.approx(BY_TRANSFORMERS, abs=1e-5)


BY_TRANSFORMERS = [0.184521, 0.124156, -3.318113, 0.427406]
"""First numbers of the vector of ``reference_images()`` by transformers 5.24, with the weights of
``dinov2``; for installations without that library."""


def test_dinov2_gives_the_numbers_of_transformers(dinov2: dict[str, torch.Tensor]) -> None:
    vector = DINOv2()(reference_images()[0])
    assert vector.shape == (1, 64)
    assert vector[0, :4].tolist() == pytest.approx(BY_TRANSFORMERS, abs=1e-5)


def test_fd_dinov2_is_recorded_with_the_hash_of_its_file(
    hub: Path, dinov2: dict[str, torch.Tensor], make_batch: MakeBatch
) -> None:
    metric = FID("dinov2")
    metric.check()
    assert metric.card.id == "fd_dinov2" and metric.card.title == "FD (DINOv2 ViT-L/14)"
    vectors = metric.features(draws_of(make_batch(count=2, size=40)))
    assert vectors.shape == (2, 2, 64) and (vectors[0] - vectors[1]).abs().max() > 1e-3
    pinned = FID("dinov2", **metric.pinned)
    pinned.check()
    torch.save(dinov2 | {"mask_token": torch.ones(1, 64)}, hub / feature_networks.DINOV2_LARGE.name)
    with pytest.raises(MissingWeights, match="'fd_dinov2' was set up with other weights"):
        pinned.check()


def test_patches_lie_side_by_side_and_are_one_set(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.arange(3 * 520 * 770, dtype=torch.float32).view(1, 3, 520, 770)
    cut = patches(image)
    wanted = F.unfold(image, PATCH, stride=PATCH).view(3, PATCH, PATCH, 6).permute(3, 0, 1, 2)
    assert torch.equal(torch.cat(cut), wanted)
    monkeypatch.setattr(
        "posterior_bench.metrics.features._inception",
        lambda device: lambda levels: [levels.float().mean((2, 3))],
    )
    vectors = InceptionPatches()(image / image.max() * 2 - 1).view(6, 3)
    assert vectors.argsort(0)[:, 0].tolist() == list(range(6))
    with pytest.raises(ValueError, match="patches of 256 x 256 pixels, and these have 64 x 300"):
        PatchFID().admit((3, 64, 300))


def test_patch_fid_pools_all_patches() -> None:
    rng = np.random.default_rng(2)
    metric = PatchFID()
    metric.length = 5
    pooled = rng.normal(size=(4 * 6, 3, 5)) + np.arange(3)[:, None]
    per_image = pooled.reshape(4, 6, 3, 5).swapaxes(1, 2).reshape(4, 3, 30)
    weights = np.array([[1.0, 1, 1, 1], [2.0, 0, 1, 1]])
    values = metric.reduce(per_image, weights)
    assert values == pytest.approx(FID().reduce(pooled, weights.repeat(6, axis=1)), rel=1e-9)
    assert values[0] != pytest.approx(values[1], rel=1e-3)


# -- the output itself -----------------------------------------------------------------------------


@pytest.mark.parametrize("net", ["alex", "squeeze"])
def test_unclamped_lpips_sees_what_lies_outside(
    make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch, net: Any
) -> None:
    network = lpips_metric._assemble(net, lpips_metric.closed_form(net))
    monkeypatch.setattr(lpips_metric, "_network", lambda *_: network)
    monkeypatch.setattr(lpips_metric, "_weight_file", lambda *_: Path())
    batch = make_batch(count=2, size=40)
    output = 1.4 * batch.raw + 0.003
    batch = replace(batch, output=output)
    values = UnclampedLPIPS(net)(batch).tolist()
    with torch.no_grad():
        assert values == pytest.approx(network(output, batch.truth).flatten().tolist(), rel=1e-5)
    clipped = LPIPS(net)(replace(batch, raw=output.clamp(-1, 1))).tolist()
    assert values != pytest.approx(clipped, rel=0.01)
    assert UnclampedLPIPS(net).unrounded
    own = torch.where(batch.mask, batch.pasted, output)
    with torch.no_grad():
        expected = network(own, batch.truth).flatten().tolist()
    pasted = UnclampedLPIPS(net, pasted=True)
    assert pasted(batch).tolist() == pytest.approx(expected, rel=1e-5) != pytest.approx(values)
    assert pasted.card.id == f"lpips_{net}_unclamped_pasted"
    with pytest.raises(ValueError, match="needs the output before it is rounded"):
        UnclampedLPIPS(net)(replace(batch, output=None))


# -- DreamSim and MUSIQ: numbers of their libraries for weights from a formula ---------------------


@pytest.fixture
def dreamsim_files(hub: Path) -> Path:
    networks, changes, config = dreamsim_metric.closed_form()
    (hub / "dreamsim" / "ensemble_lora").mkdir(parents=True)
    torch.save(networks[0], hub / "dino_vitbase16_pretrain.pth")
    for name, network in zip(("clip", "open_clip"), networks[1:], strict=True):
        torch.save({"state_dict": network}, hub / "dreamsim" / f"{name}_vitb16_pretrain.pth.tar")
    folder = hub / "dreamsim" / "ensemble_lora"
    save_file(changes, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def reference_batch() -> Batch:
    x, truth, mask = reference_images()
    return Batch(x, x, truth, mask, truth, x)


def test_dreamsim_from_its_files_gives_the_number_of_its_library(dreamsim_files: Path) -> None:
    metric = DreamSim()
    metric.check()
    assert metric(reference_batch()).item() == pytest.approx(dreamsim_metric.CHECK_VALUE, abs=2e-6)
    # without the changes of low rank the library gives 0.002820
    config = json.loads((dreamsim_files / "adapter_config.json").read_text()) | {"lora_alpha": 0}
    (dreamsim_files / "adapter_config.json").write_text(json.dumps(config))
    dreamsim_metric._networks.cache_clear()
    assert metric(reference_batch()).item() == pytest.approx(0.002820, abs=2e-6)


def test_dreamsim_refuses_changes_of_an_unknown_matrix(dreamsim_files: Path) -> None:
    name = "base_model.model.extractor_list.0.model.blocks.7.attn.qkv.lora_{}.weight"
    changes = {name.format("A"): torch.zeros(1, 4), name.format("B"): torch.zeros(4, 1)}
    save_file(changes, dreamsim_files / "adapter_model.safetensors")
    with pytest.raises(MissingWeights, match="unknown matrix"):
        DreamSim()(reference_batch())


def test_musiq_gives_the_numbers_of_pyiqa(hub: Path) -> None:
    torch.save(musiq.closed_form(), hub / musiq.KONIQ.name)
    MUSIQ().check()
    assert MUSIQ()(reference_batch()).item() == pytest.approx(musiq.CHECK_VALUE, abs=2e-6)
    draw = torch.Generator().manual_seed(0)
    wide = torch.rand(1, 3, 100, 77, generator=draw)
    # by pyiqa 0.1.16
    assert musiq.quality(musiq.closed_form(), wide).item() == pytest.approx(5.056699, abs=3e-6)


# -- what all of them share ------------------------------------------------------------------------

PUBLISHED: dict[str, tuple[Measure, WeightFile]] = {
    "lpips_squeeze": (LPIPS("squeeze"), BACKBONES["squeeze"].weights),
    "lpips_piq_vgg": (LPIPSPiq(), BACKBONES["vgg"].weights),
    "lpips_alex_unclamped": (UnclampedLPIPS(), BACKBONES["alex"].weights),
    "fid_torchvision": (FID("torchvision"), feature_networks.TORCHVISION_INCEPTION),
    "fd_dinov2": (FID("dinov2"), feature_networks.DINOV2_LARGE),
    "cmmd": (CMMD(), feature_networks.CLIP_LARGE_336),
    "dreamsim": (DreamSim(), dreamsim_metric.FILES[0]),
    "musiq": (MUSIQ(), musiq.KONIQ),
    "clip_iqa": (CLIPIQA(), clip_iqa.RESNET),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_missing_file_is_named_with_folder_address_and_size(hub: Path, name: str) -> None:
    metric, file = PUBLISHED[name]
    assert metric.card.id == name
    with pytest.raises(MissingWeights) as error:
        metric.check()
    message = str(error.value)
    assert message.startswith(f"metric '{name}' needs {file.path.name}, looked for in {hub}")
    assert f"download {file.url} ({file.size}) into that folder" in message and file.size
    assert "\n" not in message


def test_the_parts_of_dreamsim_say_what_to_unzip(hub: Path) -> None:
    torch.save({}, hub / "dino_vitbase16_pretrain.pth")
    with pytest.raises(
        MissingWeights,
        match=r"needs clip_vitb16_pretrain\.pth\.tar, .*dreamsim .*_checkpoint\.zip and unzip",
    ):
        DreamSim().check()


@pytest.mark.parametrize("name", ["cmmd", "clip_iqa", "fid_torchvision", "lpips_piq_vgg"])
def test_a_file_with_another_hash_than_the_published_one_is_refused(hub: Path, name: str) -> None:
    metric, file = PUBLISHED[name]
    torch.save({}, hub / file.name)
    with pytest.raises(MissingWeights, match="is damaged or another file"):
        metric.check()


@pytest.mark.parametrize("metric", [LPIPSPiq(), CLIPIQA(), PatchFID()], ids=lambda m: m.card.id)
def test_a_missing_library_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, metric: Measure
) -> None:
    monkeypatch.setattr("posterior_bench.metrics.weights.find_spec", lambda name: None)
    with pytest.raises(MissingWeights, match=r"library .*pip install 'posterior-bench\[metrics\]'"):
        metric.check()


def test_a_torchscript_archive_is_read_without_its_program(tmp_path: Path) -> None:
    class Nested(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
            self.register_buffer("steps", torch.arange(5))
            self.word = "text"

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)

    module = torch.jit.script(Nested().half())
    module.save(str(tmp_path / "a.pt"))
    read = torchscript_tensors(tmp_path / "a.pt")
    expected = module.state_dict()
    assert set(read) == set(expected)
    assert all(torch.equal(read[name], value) for name, value in expected.items())


def test_files_that_hold_more_than_tensors_are_refused(tmp_path: Path) -> None:
    torch.save({"a": Path("x")}, tmp_path / "b.pt")
    for read in (tensors, torchscript_tensors):
        with pytest.raises(MissingWeights, match=r"b\.pt is not a"):
            read(tmp_path / "b.pt")
    (tmp_path / "c.pt").write_bytes(b"no archive")
    for read in (tensors, torchscript_tensors):
        with pytest.raises(MissingWeights, match=r"c\.pt is not a"):
            read(tmp_path / "c.pt")


def test_vectors_of_networks_have_the_length_that_disk_space_is_reckoned_with() -> None:
    assert (TorchvisionInception.length, DINOv2.length, CLIPImages.length) == (2048, 1024, 768)
