from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torchmetrics.image import StructuralSimilarityIndexMeasure

from posterior_bench.metrics.base import Batch, from_uint8, reference_images
from posterior_bench.metrics.msssim import MSSSIM
from posterior_bench.metrics.ssim import SSIM


def _blur(image: np.ndarray) -> np.ndarray:
    return np.stack(
        [gaussian_filter(channel, sigma=1.5, radius=5, mode="mirror") for channel in image]
    )


def _ssim_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Wang et al. 2004, equation 13, on [0, 1], with biased variances under a Gaussian window;
    float64."""
    x, y = (x.astype(np.float64) + 1) / 2, (y.astype(np.float64) + 1) / 2
    c1, c2 = 0.01**2, 0.03**2
    mu_x, mu_y = _blur(x), _blur(y)
    var_x, var_y, cov = _blur(x * x) - mu_x**2, _blur(y * y) - mu_y**2, _blur(x * y) - mu_x * mu_y
    return (
        (2 * mu_x * mu_y + c1) * (2 * cov + c2) / ((mu_x**2 + mu_y**2 + c1) * (var_x + var_y + c2))
    )


def test_whole_image_against_torchmetrics_one_image_at_a_time(make_batch):
    batch = make_batch()
    outside = StructuralSimilarityIndexMeasure(data_range=1.0)
    unit = [
        ((x[None] + 1) / 2, (t[None] + 1) / 2) for x, t in zip(batch.raw, batch.truth, strict=True)
    ]
    expected = [outside(x, t).item() for x, t in unit]
    assert SSIM()(batch).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("region", ["whole", "hole", "known"])
@pytest.mark.parametrize("pasted", [False, True])
def test_regions_average_the_map_of_a_scipy_implementation(make_batch, channels, region, pasted):
    batch = make_batch(channels=channels)
    chosen = batch.pasted if pasted else batch.raw
    expected = []
    for x, truth, mask in zip(chosen.numpy(), batch.truth.numpy(), batch.mask.numpy(), strict=True):
        inside = {"whole": np.ones_like(mask[0]), "hole": ~mask[0], "known": mask[0]}[region]
        expected.append(_ssim_map(x, truth)[:, inside].mean())
    assert SSIM(region, pasted)(batch).tolist() == pytest.approx(expected, abs=1e-5)


def test_flat_background_keeps_its_precision(make_batch):
    batch = make_batch(channels=1, size=28)
    corner = torch.zeros_like(batch.truth, dtype=torch.bool)
    corner[..., 10:20, 8:16] = True
    raw, truth = (
        torch.where(corner, image, torch.tensor(-1.0)) for image in (batch.raw, batch.truth)
    )
    expected = [_ssim_map(x, t).mean() for x, t in zip(raw.numpy(), truth.numpy(), strict=True)]
    assert SSIM()(replace(batch, raw=raw, truth=truth)).tolist() == pytest.approx(
        expected, abs=2e-5
    )


def test_identical_images_score_one_and_an_empty_region_nothing(make_batch):
    batch = make_batch()
    same = replace(batch, raw=batch.truth, mask=torch.ones_like(batch.mask))
    assert SSIM()(same).tolist() == pytest.approx([1.0] * 3, abs=1e-6)
    assert SSIM("hole")(same).isnan().all()


@pytest.mark.parametrize("region", ["whole", "hole"])
def test_a_value_does_not_depend_on_the_batch(make_batch, rows, region):
    batch = make_batch(count=5)
    metric = SSIM(region)
    assert metric(batch).tolist() == [metric(row).item() for row in rows(batch)]


def test_images_too_small_for_the_window_are_refused(make_batch):
    with pytest.raises(ValueError, match="need 6 pixels a side"):
        SSIM()(make_batch(size=4))


@pytest.mark.parametrize("region", ["whole", "hole", "known"])
def test_the_installation_check_passes_and_can_fail(region, monkeypatch):
    metric = SSIM(region)
    metric.check()
    monkeypatch.setattr(SSIM, "reference", {region: SSIM.reference[region] + 0.001})
    with pytest.raises(RuntimeError, match="ssim"):
        metric.check()


def test_greys_have_the_luminance_of_the_paper():
    """Flat images: only the means count, (2 a b + C1) / (a^2 + b^2 + C1) on 0..255 with C1 = (0.01
    * 255)^2."""
    a, b = 120, 135
    raw, truth = (
        from_uint8(torch.full((1, 1, 16, 16), grey, dtype=torch.uint8)) for grey in (a, b)
    )
    batch = Batch(raw, raw, truth, torch.ones(1, 1, 16, 16, dtype=torch.bool), raw, raw)
    expected = (2 * a * b + 2.55**2) / (a**2 + b**2 + 2.55**2)
    assert SSIM()(batch).item() == pytest.approx(expected, abs=1e-5) and round(expected, 3) == 0.993


@pytest.mark.parametrize("region", ["whole", "hole", "known"])
def test_reference_values_are_those_of_scipy(region):
    x, truth, mask = reference_images()
    inside = {"whole": torch.ones_like(mask), "hole": ~mask, "known": mask}[region][0, 0].numpy()
    expected = _ssim_map(x[0].numpy(), truth[0].numpy())[:, inside].mean()
    assert SSIM.reference[region] == pytest.approx(expected, abs=1e-6)
    assert SSIM(region).card.version == 2


def _halved(image: np.ndarray) -> np.ndarray:
    c, h, w = image.shape
    return image.reshape(c, h // 2, 2, w // 2, 2).mean((2, 4))


def test_the_reference_value_of_msssim_is_that_of_scipy():
    """Wang, Simoncelli, Bovik 2003: contrast and structure at five scales, luminance at the last,
    means per scale."""
    x, truth = (
        np.kron((i[0].double().numpy() + 1) / 2, np.ones((1, 3, 3))) for i in reference_images()[:2]
    )
    found = 1.0
    for scale, power in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        mu_x, mu_y = _blur(x), _blur(truth)
        var = _blur(x * x) - mu_x**2 + _blur(truth * truth) - mu_y**2
        contrast = (2 * (_blur(x * truth) - mu_x * mu_y) + 0.03**2) / (var + 0.03**2)
        luminance = (2 * mu_x * mu_y + 0.01**2) / (mu_x**2 + mu_y**2 + 0.01**2)
        # the library averages contrast over positions whose window lies inside the image, the last
        # scale over all
        inside = (slice(None), slice(5, -5), slice(5, -5))
        found *= ((contrast * luminance).mean() if scale == 4 else contrast[inside].mean()) ** power
        x, truth = _halved(x), _halved(truth)
    assert MSSSIM.reference["whole"] == pytest.approx(found, abs=1e-6)
