"""The embedded priors that are read as flows: the same networks in other coordinates."""

from __future__ import annotations

import math

import pytest
import torch

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.catalog import option
from posterior_bench.bench.config.cell import label
from posterior_bench.bench.config.presets import prior_name
from posterior_bench.priors.base import Prior
from posterior_bench.priors.execution import Execution
from posterior_bench.priors.load import describe, load
from posterior_bench.priors.process import Level

LATENT = "priors/assets/fashion_latent"


@pytest.fixture(scope="module")
def flow() -> Prior:
    return load(LATENT, view="flow")


@pytest.fixture(scope="module")
def native() -> Prior:
    return load(LATENT)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("ratio", [0.02, 0.5, 3.0, 1e9])
def test_the_denoiser_is_that_of_the_checkpoint_at_equal_ratios(
    ratio: float, flow: Prior, native: Prior
) -> None:
    x, noise = (normal(3, *native.latent_shape, seed=seed) for seed in (0, 1))
    here, there = flow.level(ratio), native.level(ratio)
    assert here.alpha + here.sigma == pytest.approx(1, abs=1e-14)
    assert here.ratio == pytest.approx(there.ratio, rel=1e-12)
    cond = native.condition(torch.tensor([0, 4, 9]))
    expected = native.denoise(native.process.add_noise(x, there, noise), there, cond, 2.0)
    seen = flow.denoise(flow.process.add_noise(x, here, noise), here, cond, 2.0)
    torch.testing.assert_close(seen, expected, atol=1e-4, rtol=0)


def test_levels_end_where_the_training_did(flow: Prior, native: Prior) -> None:
    """Not at pure noise: the network has never seen it."""
    top = native.process.ratio_max
    assert flow.process.ratio_max == top < 20
    first = flow.grid(10, "uniform_time")[0]
    assert first.ratio == pytest.approx(top, rel=1e-12)
    assert first.sigma == pytest.approx(top / (1 + top), rel=1e-12)
    assert flow.level(math.inf) == first


def test_its_coordinates_count_as_native(flow: Prior) -> None:
    assert flow.process.kind == "flow"
    assert flow.view("native") is flow.view("flow") is flow
    assert flow.view("vp").process.kind == "vp" and flow.view("vp").view("native") is not flow
    assert flow.view("ve").process.kind == "ve"
    assert describe(LATENT, view="flow").process.kind == "flow"
    assert load(LATENT, view="vp").process.kind == "vp"
    with pytest.raises(ValueError, match="unknown view 'edm'"):
        load(LATENT, view="edm")


def test_calls_count_once_and_settings_reach_the_network(native: Prior) -> None:
    flow = load(LATENT, view="flow")
    z = normal(2, *flow.latent_shape)
    with flow.metered() as meter:
        flow.decode(flow.denoise(z, flow.level(1.0)))
    assert (meter.nfe, meter.decode) == (2, 2)
    assert flow.run_as(Execution(channels_last=True)) is flow
    assert flow.execution.channels_last and not native.execution.channels_last
    stacked = Level.stack([flow.level(1.0)] * 2)
    torch.testing.assert_close(
        flow.denoise(z, stacked), flow.denoise(z, flow.level(1.0)), atol=1e-5, rtol=0
    )


def test_the_mixture_as_a_flow_has_the_denoiser_of_the_mixture() -> None:
    flow, ve = (
        build(option("prior", name).content) for name in ("fashion_mixture_flow", "fashion_mixture")
    )
    assert flow.process.kind == "flow" and flow.level(math.inf).alpha == 0
    x, noise = (normal(2, *ve.image_shape, seed=seed).double() for seed in (0, 1))
    here, there = flow.level(0.7), ve.level(0.7)
    torch.testing.assert_close(
        flow.denoise(flow.process.add_noise(x, here, noise), here),
        ve.denoise(ve.process.add_noise(x, there, noise), there),
        atol=1e-8,
        rtol=0,
    )


@pytest.mark.parametrize("name", ["fashion_latent_flow", "fashion_mixture_flow"])
def test_an_option_in_the_folder_of_another_one_has_a_name_of_its_own(name: str) -> None:
    other = name.removesuffix("_flow")
    for own in (name, other):
        node = option("prior", own).content
        assert prior_name(node) == own
        assert label("prior", node, own) == own
    changed = {**option("prior", name).content, "path": "priors/assets/fashion"}
    assert label("prior", changed, name).split()[0] == "fashion"
