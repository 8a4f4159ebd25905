from __future__ import annotations

import hashlib
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from posterior_bench.metrics import lpips_metric
from posterior_bench.metrics.base import MissingWeights
from posterior_bench.metrics.lpips_metric import BACKBONES, LPIPS

lpips = pytest.importorskip("lpips")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torchvision")


def _random_trunk(net: str) -> dict[str, torch.Tensor]:
    """Random weights under torchvision's names; the real file also holds the classifier's last
    layers."""
    generator = torch.Generator().manual_seed(3)
    trunk = {"classifier.6.bias": torch.zeros(2)}
    for name, value in lpips_metric.empty(net).state_dict().items():
        if name.startswith("net."):
            scale = (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.1
            layer = ".".join(name.split(".")[2:])
            trunk[f"features.{layer}"] = scale * torch.randn(value.shape, generator=generator)
    return trunk


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Path:
    """An empty torch hub cache, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(
        socket.socket, "connect", lambda *_: pytest.fail("a metric tried to use the network")
    )
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def trunk(hub, monkeypatch, request) -> tuple[str, dict[str, torch.Tensor]]:
    """Random backbone weights in the cache, under a name with their own hash."""
    net = request.param
    weights = _random_trunk(net)
    torch.save(weights, hub / "weights")
    digest = hashlib.sha256((hub / "weights").read_bytes()).hexdigest()[:8]
    (hub / "weights").rename(hub / f"{net}-{digest}.pth")
    monkeypatch.setitem(BACKBONES, net, replace(BACKBONES[net], file=f"{net}-{digest}.pth"))
    return net, weights


def _library(net: str, trunk: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The library built its own way, then filled slice by slice."""
    with torch.random.fork_rng(devices=[]):
        module = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    with torch.no_grad():
        for layers in (getattr(module.net, f"slice{i + 1}") for i in range(module.net.N_slices)):
            for name, value in layers.named_parameters():
                value.copy_(trunk[f"features.{name}"])
    return module.eval()


every = pytest.mark.parametrize("trunk", ["alex", "vgg", "squeeze"], indirect=True)


@every
def test_equal_to_the_library_with_the_same_weights(make_batch, trunk):
    net, weights = trunk
    batch = make_batch(count=2, size=32)
    with torch.no_grad():
        expected = _library(net, weights)(batch.raw, batch.truth).flatten().tolist()
    values = LPIPS(net)(batch).tolist()
    assert values == pytest.approx(expected, abs=1e-6)
    assert min(values) > 1e-4


@pytest.mark.parametrize("trunk", ["alex"], indirect=True)
def test_small_grey_images_are_enlarged_as_the_card_says(make_batch, trunk):
    net, weights = trunk
    batch = make_batch(count=2, channels=1, size=28)
    library = _library(net, weights)
    images = [image.repeat(1, 3, 1, 1) for image in (batch.pasted, batch.truth)]
    with pytest.raises(RuntimeError):
        library(*images)
    with torch.no_grad():
        larger = [torch.nn.Upsample((31, 31), mode="bilinear")(image) for image in images]
        expected = library(*larger).flatten().tolist()
    metric = LPIPS(net, pasted=True)
    assert metric(batch).tolist() == pytest.approx(expected, abs=1e-6)
    assert "bilinear up to 31 px" in metric.card.preprocessing


@pytest.mark.parametrize("trunk", ["alex"], indirect=True)
def test_values_do_not_depend_on_the_batch_or_touch_the_random_state(
    make_batch, rows, trunk, capsys
):
    batch = make_batch(count=4)
    before = torch.get_rng_state()
    metric = LPIPS(trunk[0])
    assert metric(batch).tolist() == [metric(row).item() for row in rows(batch)]
    assert torch.equal(torch.get_rng_state(), before)
    assert capsys.readouterr() == ("", "")


@every
def test_the_distance_between_batches_is_the_metrics_own_value_and_differentiable(
    make_batch, trunk
):
    batch, metric = make_batch(count=3, channels=1, size=28), LPIPS(trunk[0])
    x = batch.raw.clone().requires_grad_()
    values = metric.between(x, batch.truth)
    assert values.tolist() == pytest.approx(metric(batch).tolist(), abs=1e-6)
    (slope,) = torch.autograd.grad(values[1], x)
    assert slope[1].abs().max() > 0
    assert slope[0].abs().max() == slope[2].abs().max() == 0


@every
def test_the_installation_check_passes_and_can_fail(trunk, monkeypatch):
    net, _ = trunk
    LPIPS(net).check()
    monkeypatch.setitem(lpips_metric.CHECK_VALUES, net, 0.03)
    with pytest.raises(RuntimeError, match=f"metric 'lpips_{net}'"):
        LPIPS(net).check()


@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_missing_weights_name_file_folder_and_address(hub, net):
    models = pytest.importorskip("torchvision.models")
    enum = {
        "alex": models.AlexNet_Weights,
        "vgg": models.VGG16_Weights,
        "squeeze": models.SqueezeNet1_1_Weights,
    }
    known = enum[net].IMAGENET1K_V1.url
    with pytest.raises(MissingWeights) as error:
        LPIPS(net).check()
    message = str(error.value)
    assert (
        known in message
        and str(hub) in message
        and f"lpips_{net}" in message
        and "\n" not in message
    )


def test_a_file_with_another_hash_is_refused(hub):
    torch.save({}, hub / BACKBONES["alex"].file)
    with pytest.raises(
        MissingWeights,
        match=r"is damaged or another file: sha256 \w+, not 7be5be79; download https",
    ):
        LPIPS("alex").check()


def test_unknown_network():
    with pytest.raises(ValueError, match="valid: alex, vgg, squeeze"):
        LPIPS("resnet")  # type: ignore[arg-type]
