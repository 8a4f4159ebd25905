from __future__ import annotations

import sys
import types
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from posterior_bench.metrics import stlpips
from posterior_bench.metrics.base import Batch, MissingWeights
from posterior_bench.metrics.stlpips import STLPIPS

needs_weights = pytest.mark.skipif(
    find_spec("stlpips_pytorch") is None, reason="stlpips-pytorch is not installed"
)


@pytest.fixture
def package(monkeypatch) -> torch.nn.Module:
    """The package's own module; the two libraries it imports without need or declaration are
    replaced by nothing."""
    for name, attribute in (("IPython", "embed"), ("torchsummary", "summary")):
        if find_spec(name) is None:
            module = types.ModuleType(name)
            setattr(module, attribute, None)
            monkeypatch.setitem(sys.modules, name, module)
    library = pytest.importorskip(
        "stlpips_pytorch.stlpips", reason="cannot be imported", exc_type=ImportError
    )
    return library.LPIPS(net="alex", variant="shift_tolerant", verbose=False).eval()


def _scores(package: torch.nn.Module, x: torch.Tensor, truth: torch.Tensor) -> list[float]:
    with torch.no_grad():
        return package(x, truth).flatten().tolist()


@needs_weights
@pytest.mark.parametrize("size", [28, 36, 64])
def test_equal_to_the_package_at_native_size(make_batch, package, size):
    batch = make_batch(size=size)
    values = STLPIPS()(batch).tolist()
    assert values == pytest.approx(_scores(package, batch.raw, batch.truth), abs=1e-5)
    assert min(values) > 0.003


@needs_weights
def test_equal_to_the_package_on_an_oblong_image_of_noise(package):
    x, truth = (
        torch.rand(1, 3, 40, 23, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        for seed in (0, 1)
    )
    value = STLPIPS().compare(x, truth, torch.ones(1, 1, 40, 23, dtype=torch.bool))
    assert value == pytest.approx(_scores(package, x, truth)[0], abs=1e-5)


@needs_weights
def test_the_features_of_a_truth_are_computed_once_for_all_its_draws(
    make_batch, package, monkeypatch
):
    """Every image has two draws: their features and those of its truth are three evaluations, not
    four."""
    batch = make_batch(size=28)
    twice = replace(
        batch,
        **{name: getattr(batch, name).repeat_interleave(2, 0) for name in ("raw", "truth", "mask")},
    )
    seen: list[int] = []
    inner = stlpips._features
    monkeypatch.setattr(
        stlpips, "_features", lambda *arguments: (seen.append(1), inner(*arguments))[1]
    )
    values = STLPIPS()(twice).tolist()
    assert len(seen) == len(twice.raw) + len(batch.raw)
    assert values == pytest.approx(_scores(package, twice.raw, twice.truth), abs=1e-5)
    assert values[::2] == STLPIPS()(batch).tolist()


@needs_weights
def test_grey_images_are_repeated(make_batch, package):
    batch = make_batch(channels=1, size=28)
    expected = _scores(
        package, *(image.repeat(1, 3, 1, 1) for image in (batch.pasted, batch.truth))
    )
    assert STLPIPS(pasted=True)(batch).tolist() == pytest.approx(expected, abs=1e-5)


@needs_weights
def test_only_images_below_the_networks_minimum_are_enlarged(package):
    x, truth = (
        torch.rand(1, 3, 20, 30, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)
    )
    with pytest.raises(RuntimeError):
        package(x, truth)
    larger = [torch.nn.Upsample((21, 32), mode="bilinear")(image) for image in (x, truth)]
    value = STLPIPS().compare(x, truth, torch.ones(1, 1, 20, 30, dtype=torch.bool))
    assert value == pytest.approx(_scores(package, *larger)[0], abs=1e-5)


@needs_weights
def test_identical_images_score_zero_and_values_do_not_depend_on_the_batch(make_batch, rows):
    batch = make_batch(count=4)
    metric = STLPIPS()
    assert metric(replace(batch, raw=batch.truth)).tolist() == [0.0] * 4
    assert metric(batch).tolist() == [metric(row).item() for row in rows(batch)]


@needs_weights
def test_the_installation_check_passes_and_can_fail(monkeypatch):
    STLPIPS().check()
    monkeypatch.setattr(STLPIPS, "reference", {"whole": 0.5})
    with pytest.raises(RuntimeError, match="stlpips"):
        STLPIPS(pasted=True).check()


@needs_weights
def test_the_package_is_not_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "stlpips_pytorch", raising=False)
    STLPIPS().check()
    assert "stlpips_pytorch" not in sys.modules


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(stlpips, "find_spec", lambda name: None)
    with pytest.raises(MissingWeights, match=r"stlpips-pytorch.*not installed.*pip install"):
        STLPIPS().check()


def test_other_weights_are_refused(monkeypatch, tmp_path):
    file = tmp_path / stlpips.FILE
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(stlpips, "find_spec", lambda name: spec)
    with pytest.raises(MissingWeights, match=r"alex_shift_tolerant\.pth, looked for in"):
        STLPIPS().check()
    file.parent.mkdir(parents=True)
    file.write_bytes(b"something else")
    with pytest.raises(MissingWeights, match=r"damaged or another file.*pip install"):
        STLPIPS().check()


def test_other_channel_counts_are_refused():
    image = torch.zeros(1, 4, 32, 32)
    batch = Batch(image, image, image, torch.ones(1, 1, 32, 32, dtype=torch.bool), image, image)
    with pytest.raises(ValueError, match="grey or RGB images, got 4 channels"):
        STLPIPS()(batch)


@needs_weights
def test_the_distance_between_batches_is_the_metrics_own_value(make_batch):
    for settings in ({"size": 32}, {"channels": 1, "size": 20}):
        batch = make_batch(count=4, **settings)
        assert STLPIPS().between(batch.raw, batch.truth).tolist() == pytest.approx(
            STLPIPS()(batch).tolist(), abs=1e-6
        )


@needs_weights
def test_the_distance_has_a_gradient_row_by_row(make_batch):
    """Against a difference quotient along a direction; the other row's gradient is zero."""
    batch = make_batch(count=2, channels=1, size=28)
    x = batch.raw.clone().requires_grad_()
    (slope,) = torch.autograd.grad(STLPIPS().between(x, batch.truth)[0], x)
    assert slope[1].abs().max() == 0
    step = 1e-2 * slope[:1] / slope[:1].norm()
    with torch.no_grad():
        up, down = (
            STLPIPS().between(batch.raw[:1] + s * step, batch.truth[:1]).item() for s in (1, -1)
        )
    assert up - down == pytest.approx(2e-2 * slope.norm().item(), rel=0.05)


@needs_weights
def test_the_distance_is_float32_below_half_precision(make_batch):
    batch = make_batch(count=2)
    with torch.autocast("cpu", torch.bfloat16):
        below = STLPIPS().between(batch.raw, batch.truth)
    assert torch.equal(below, STLPIPS().between(batch.raw, batch.truth))


@needs_weights
def test_features_that_are_all_zero_have_a_gradient(make_batch, monkeypatch):
    """The root of a sum of squares has none at zero, where a ReLU puts many a feature vector; the
    ReLU hides that."""
    weights = dict(stlpips._weights(stlpips._weight_file(), torch.device("cpu")))
    weights["net.slice5.13.bias"] = torch.full_like(weights["net.slice5.13.bias"], -1e4)
    monkeypatch.setattr(stlpips, "_weights", lambda path, device: weights)
    batch = make_batch(count=1, size=28)
    x = batch.raw.clone().requires_grad_()
    (slope,) = torch.autograd.grad(STLPIPS().between(x, batch.truth).sum(), x)
    assert slope.isfinite().all() and slope.abs().max() > 0
