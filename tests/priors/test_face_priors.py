"""The embedded priors of the cartoon faces, on the embedded test images, which they never saw."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.datasets.faces import Faces
from posterior_bench.priors.base import Prior
from posterior_bench.priors.fingerprint import ROOT
from posterior_bench.priors.load import load
from posterior_bench.priors.sample import sample

NAMES = ("faces", "faces_latent")


@cache
def prior(name: str) -> Prior:
    return load(f"priors/assets/{name}")


def folder(name: str) -> Path:
    return ROOT / "priors" / "assets" / name


def faces(count: int) -> tuple[Tensor, Tensor]:
    data = Faces()
    return data.images(data.ids[:count]), data.labels(data.ids[:count])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def error(name: str, ratio: float, labels: Tensor | None, count: int = 16) -> float:
    """The root mean square error of the denoiser at a noise level, in the space of the prior."""
    net, images = prior(name), faces(count)[0]
    level = net.level(ratio)
    z0 = net.encode(images)
    z = net.process.add_noise(z0, level, normal(*z0.shape))
    cond = None if labels is None else net.condition(labels)
    return (net.denoise(z, level, cond) - z0).square().mean().sqrt().item()


@pytest.mark.parametrize("name", NAMES)
def test_facts(name: str) -> None:
    spec = json.loads((folder(name) / "prior.json").read_text())
    block = yaml.safe_load((ROOT / "conf" / "prior" / f"{name}.yaml").read_text())["train"]
    recipe = {**block, "net": {"unshuffle": 1, **block["net"]}}
    for key in ("net", "process", "parameterization", "sigma_data", "licence"):
        assert spec[key] == recipe[key]
    assert (spec["shape"], spec["num_classes"], spec["null_label"]) == ([3, 64, 64], 8, 8)
    assert tuple(spec["class_names"]) == Faces().class_names
    assert "H100" in spec["source"] and "LICENSE-faces" in spec["licence"]
    assert spec["training"]["images"] == 40_000 - 6
    stored = prior(name)
    assert stored.net is not None
    assert spec["training"]["parameters"] == sum(p.numel() for p in stored.net.parameters())
    assert (folder("faces") / "net.safetensors").stat().st_size <= 12_000_000


@pytest.mark.parametrize("name", NAMES)
def test_both_ends_of_the_noise(name: str) -> None:
    low = prior(name).process.ratio_min
    assert error(name, low, None, 4) < 2 * low
    net, images = prior(name), faces(8)[0]
    high = net.level(min(net.process.ratio_max, 80.0))
    with torch.no_grad():
        z0 = net.encode(images)
        means = net.denoise(high.sigma * normal(*z0.shape), high)
    # pure noise says little: every row is nearly the mean of all images
    assert (means - means.mean(0)).square().mean().sqrt() < 0.3 * z0.std()


@pytest.mark.parametrize("name", NAMES)
def test_the_style_helps(name: str) -> None:
    """Where noise hides the face, its style tells more than another style or none."""
    labels = faces(16)[1]
    right, wrong, none = (error(name, 5.0, k) for k in (labels, (labels + 3) % 8, None))
    assert right < 0.97 * none and right < 0.9 * wrong


@pytest.mark.parametrize("name", NAMES)
def test_weak_noise_is_removed(name: str) -> None:
    """Lines and flat colours: most of the noise of a tenth of the range goes."""
    assert error(name, 0.2, faces(16)[1]) < 0.5 * 0.2


@pytest.mark.parametrize("name", NAMES)
def test_samples(name: str) -> None:
    net = prior(name)
    noise = Noise([Key(0, "test", str(i)) for i in range(2)], "solver")
    x = sample(net, net.grid(6, "karras"), noise, net.condition(torch.tensor([3, 6])))
    assert x.shape == (2, 3, 64, 64) and torch.isfinite(x).all()
    # the corner is background: flat, and one of six light colours
    corner = x[:, :, 2:8, 2:8]
    assert corner.std((2, 3)).max() < 0.1 and corner.mean() > 0.4


def test_reconstructions() -> None:
    """About 32 dB, as ``prior.json`` says of all test images."""
    net = prior("faces_latent")
    images = faces(32)[0]
    with torch.no_grad():
        back = net.decode(net.encode(images)).clamp(-1, 1)
        spread = net.encode(images)
    psnr = (10 * torch.log10(4 / (back - images).square().flatten(1).mean(1))).mean().item()
    spec = json.loads((folder("faces_latent") / "prior.json").read_text())
    recorded = spec["training"]["autoencoder"]["reconstruction_psnr_test"]
    assert psnr == pytest.approx(recorded, abs=1.0) and recorded > 30
    assert (
        spread.mean((0, 2, 3)).abs().max() < 0.3 and (spread.std((0, 2, 3)) - 1).abs().max() < 0.2
    )
