from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from posterior_bench.metrics.base import (
    Batch,
    FullReference,
    MetricCard,
    column_id,
    expect,
    from_uint8,
    pixels_of,
    to_uint8,
)


def test_all_grey_levels_are_fixed_points():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(from_uint8(levels)), levels)


def test_grey_levels_span_the_range_as_numpy_computes_it():
    levels = np.arange(256, dtype=np.uint8)
    expected = (levels.astype(np.float64) * 2 / 255 - 1).astype(np.float32)
    np.testing.assert_allclose(from_uint8(torch.from_numpy(levels)).numpy(), expected, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_rounding_is_rint_after_clamping(dtype):
    x = torch.linspace(-1.5, 1.5, 4001, dtype=dtype)
    expected = np.rint((np.clip(x.numpy().astype(np.float64), -1, 1) + 1) * 127.5)
    away_from_ties = (
        np.abs((np.clip(x.numpy().astype(np.float64), -1, 1) + 1) * 127.5 % 1 - 0.5) > 1e-4
    )
    assert away_from_ties.mean() > 0.99
    np.testing.assert_array_equal(to_uint8(x).numpy()[away_from_ties], expected[away_from_ties])


def test_the_exact_tie_goes_to_the_even_level():
    # 127.5, the only grey tie that a float can hold
    assert to_uint8(torch.zeros(2, 3)).eq(128).all()


def test_values_outside_and_not_finite_have_a_defined_level():
    x = torch.tensor([-7.0, 7.0, float("inf"), float("-inf"), float("nan")])
    assert to_uint8(x).tolist() == [0, 255, 255, 0, 0]


def test_png_keeps_the_levels(tmp_path):
    levels = to_uint8(torch.linspace(-1, 1, 64).view(8, 8))
    Image.fromarray(levels.numpy()).save(tmp_path / "image.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "image.png")), levels.numpy())


def test_from_uint8_refuses_floats():
    with pytest.raises(ValueError, match="takes uint8"):
        from_uint8(torch.zeros(3))


def test_column_ids():
    assert column_id("psnr") == "psnr"
    assert column_id("psnr", "hole") == "psnr_hole"
    assert column_id("psnr", pasted=True) == "psnr_pasted"
    assert column_id("psnr", "hole", pasted=True) == "psnr_hole_pasted"


def test_unknown_region_is_named_with_the_valid_ones():
    with pytest.raises(ValueError, match=r"unknown region 'outside' .*valid: whole, hole, known"):
        column_id("psnr", "outside")  # type: ignore[arg-type]


def test_regions_share_out_the_image():
    mask = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(0)) > 0.5
    assert torch.equal(pixels_of("hole", mask) ^ pixels_of("known", mask), pixels_of("whole", mask))
    assert torch.equal(pixels_of("known", mask), mask)


@pytest.mark.parametrize("value", [1.001, float("nan")])
def test_a_missed_reference_value_is_one_clear_line(value):
    expect("psnr", 1.00005, 1.0)
    with pytest.raises(RuntimeError, match=r"^metric 'psnr' gives .* 1\.000000 is right") as error:
        expect("psnr", value, 1.0)
    assert "\n" not in str(error.value)


class _Mean(FullReference):
    """The mean of the image in the region, whatever the truth."""

    def __init__(self, region, pasted):
        self.card = MetricCard("mean", "Mean", "none", "", "", region=region, pasted=pasted)

    def compare(self, x, truth, region):
        return x[region.expand(x.shape)].mean().item()


@pytest.mark.parametrize(
    ("region", "pasted", "expected"),
    [("hole", False, 2.0), ("known", False, 1.0), ("known", True, 5.0)],
)
def test_the_card_chooses_image_and_region(region, pasted, expected):
    mask = torch.tensor([True, False]).view(1, 1, 1, 2)
    raw = torch.where(mask, 1.0, 2.0).expand(2, 3, 1, 2)
    pasted_image = torch.where(mask, 5.0, 2.0).expand(2, 3, 1, 2)
    batch = Batch(raw, pasted_image, raw, mask.expand(2, 1, 1, 2), raw, raw)
    assert _Mean(region, pasted)(batch).tolist() == [expected, expected]


def test_a_metric_without_a_reference_value_says_what_to_add():
    with pytest.raises(RuntimeError, match="no reference value for region=whole; add"):
        _Mean("whole", False).check()
