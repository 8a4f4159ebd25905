"""The pixel flows of PnP-Flow: a small checkpoint with the names of upstream's tensors."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from tests.checkpoints import PNPFLOW, draw, pnpflow_shapes, pnpflow_velocity, pnpflow_weights

from posterior_bench.priors.base import Prior
from posterior_bench.priors.convert import pnpflow
from posterior_bench.priors.load import load, save
from posterior_bench.priors.nets import NETS, UNet2D
from posterior_bench.priors.process import Flow, Level

SIZES = (32, [1, 2, 4, 8], 6, [16, 8])
"""Channels, multipliers, blocks and sides with attention of both published networks."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.save(pnpflow_weights(), tmp_path / "model_final.pt")
    return tmp_path / "model_final.pt"


@pytest.fixture
def prior(path: Path, tmp_path: Path) -> Prior:
    """The prior after it went through its files."""
    converted = pnpflow.convert_pnpflow(path, flags=PNPFLOW)
    meta = {"name": "tiny", "training": dict(converted.facts), "source": "test", "licence": ""}
    return load(save(tmp_path / "kept", converted.prior, meta, torch.float32))


def test_the_output_is_upstreams_with_the_sign_and_the_time_of_a_flow_here(prior: Prior) -> None:
    """At the noise level u upstream is fed 1 - u and gives x0 - eps; the prior turns both round."""
    assert isinstance(prior.process, Flow) and prior.parameterization == "flow"
    assert (prior.image_shape, prior.is_latent) == ((3, 16, 16), False)
    z, state = draw(3, 3, 16, 16), pnpflow_weights()
    exact, exact_state = (
        copy.deepcopy(prior.net).double(),
        {k: v.double() for k, v in state.items()},
    )
    for u in (0.9375, 0.75, 0.25, 0.0625):  # exact in every float
        t = torch.full((3,), 1000 * u)
        with torch.no_grad():
            towards_data = pnpflow_velocity(exact_state, z.double(), (1 - t / 1000).double())
            assert (exact(z.double(), t.double(), {}) + towards_data).abs().max() < 1e-6
            x0 = prior.denoise(z, prior.level(u / (1 - u)))
        # x0 = z + u (x0 - eps): a step of the whole rest of the way
        assert (x0 - (z + u * towards_data)).abs().max() < 1e-5
    assert towards_data.abs().mean() > 0.1


def test_every_row_has_its_own_time(prior: Prior) -> None:
    z = draw(2, 3, 16, 16)
    levels = [prior.level(u / (1 - u)) for u in (0.8, 0.3)]
    with torch.no_grad():
        both = prior.denoise(z, Level.stack(levels))
        alone = [prior.denoise(z[i : i + 1], level) for i, level in enumerate(levels)]
    torch.testing.assert_close(both, torch.cat(alone), atol=1e-5, rtol=0)


def test_pure_noise_is_a_level(prior: Prior) -> None:
    level = prior.level(math.inf)
    assert (level.alpha, level.sigma, level.t) == (0.0, 1.0, 1000.0)
    with torch.no_grad():
        assert prior.denoise(draw(1, 3, 16, 16), level).isfinite().all()


@pytest.mark.parametrize(("layout", "side"), [("celeba128", 128), ("afhq256", 256)])
def test_the_published_layouts_have_upstreams_parameters(layout: str, side: int) -> None:
    shapes = pnpflow_shapes(side, *SIZES)
    with torch.device("meta"):
        net = NETS["UNet2DToData"](pnpflow.pnpflow_config(pnpflow.pnpflow_layout(layout)))
    assert sum(p.numel() for p in net.parameters()) == sum(map(math.prod, shapes.values()))
    # every name is taken, and every tensor of the network is given
    source = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    state = pnpflow._Moving(source, pnpflow.pnpflow_layout(layout), layout).everything()
    assert {f"unet.{name}": value.shape for name, value in state.items()} == {
        name: value.shape for name, value in net.state_dict().items()
    }
    # at 256 pixels no level has 16 or 8 positions a side
    attends = [name for name in shapes if "down" in name and name.endswith("attn_q.weight")]
    assert len(attends) == (6 if side == 128 else 0)


def test_weights_around_another_network_or_in_half_precision(path: Path) -> None:
    state = pnpflow_weights()
    plain = pnpflow.convert_pnpflow(path, flags=PNPFLOW).prior.net.state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    wrapped = pnpflow.convert_pnpflow(path, flags=PNPFLOW).prior.net.state_dict()
    assert all(torch.equal(wrapped[name], value) for name, value in plain.items())
    torch.save({name: value.half() for name, value in state.items()}, path)
    halved = pnpflow.convert_pnpflow(path, flags=PNPFLOW).prior.net.state_dict()
    assert all(torch.equal(halved[name], value.half().float()) for name, value in plain.items())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"ch": 64}, r"'unet\..*' has shape \("),
        ({"num_res_blocks": 2}, r"lacks 'down_modules\.0\.0a_1a_block\.norm1\.weight'"),
        ({"attn_resolutions": [16, 8]}, r"lacks 'down_modules\.0\.0a_0b_attn\.norm\.weight'"),
        ({"attn_resolutions": [4]}, r"has 'down_modules\.1\.1a_0b_attn\..* left over"),
        ({"ch_mult": [1, 2, 2]}, r"lacks 'down_modules\.1\.1b_downsample\.weight'"),
        ({"input_channels": 1}, r"conv_in\.weight' has shape \(32, 3, 3, 3\)"),
        ({"input_height": 17}, "input_height 17 cannot be halved 1 times"),
        ({"colour": 1}, "unknown flag colour; valid: input_channels, input_height"),
        ({"ch": "wide"}, "the flag ch must be a whole number"),
    ],
)
def test_another_network_is_refused(path: Path, flags: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        pnpflow.convert_pnpflow(path, flags={**PNPFLOW, **flags})
    assert "\n" not in str(refusal.value)


def test_layouts_have_names(path: Path) -> None:
    with pytest.raises(ValueError, match="give one of celeba128, afhq256, or its flags"):
        pnpflow.convert_pnpflow(path)
    with pytest.raises(ValueError, match="unknown layout 'mnist'; valid: celeba128, afhq256"):
        pnpflow.convert_pnpflow(path, "mnist")
    with pytest.raises(ValueError, match="lacks 'down_modules"):
        pnpflow.convert_pnpflow(path, "celeba128")


def test_weights_left_over_or_not_finite_are_refused(path: Path) -> None:
    state = pnpflow_weights()
    torch.save({**state, "other.weight": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=r"has 'other\.weight' left over"):
        pnpflow.convert_pnpflow(path, flags=PNPFLOW)
    state["end_conv.2.bias"][0] = float("nan")
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"not finite in 'unet\.conv_out\.bias'"):
        pnpflow.convert_pnpflow(path, flags=PNPFLOW)


def test_other_u_nets_are_not_turned_round(prior: Prior) -> None:
    config, z, t = prior.net.settings["config"], draw(1, 3, 16, 16), torch.tensor([300.0])
    plain = UNet2D(config)
    plain.load_state_dict(prior.net.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(prior.net(z, t, {}), -plain(z, torch.tensor([0.7]), {}))
