"""Methods that must agree with each other, and with themselves in other coordinates: identities of
the papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.mixtures import g2 as named_g2
from posterior_bench.priors.process import VE, Flow, Process
from posterior_bench.solvers.base import Observation, Sampler
from posterior_bench.solvers.blended import Blended
from posterior_bench.solvers.copaint import CoPaint
from posterior_bench.solvers.daps import DAPS
from posterior_bench.solvers.dcdp import DCDP
from posterior_bench.solvers.ddnm import DDNM
from posterior_bench.solvers.ddrm import DDRM
from posterior_bench.solvers.dflow import DFlow
from posterior_bench.solvers.diffpir import DiffPIR
from posterior_bench.solvers.ding import DING
from posterior_bench.solvers.dmplug import DMPlug
from posterior_bench.solvers.dps import DPS
from posterior_bench.solvers.flair import FLAIR
from posterior_bench.solvers.flowchef import FlowChef
from posterior_bench.solvers.flowdps import FlowDPS
from posterior_bench.solvers.flower import Flower
from posterior_bench.solvers.fps import FPS
from posterior_bench.solvers.lanpaint import LanPaint
from posterior_bench.solvers.latino import LATINO
from posterior_bench.solvers.mcgdiff import MCGDiff
from posterior_bench.solvers.mgdm import MGDM
from posterior_bench.solvers.mmps import MMPS
from posterior_bench.solvers.ot_ode import OTODE
from posterior_bench.solvers.pigdm import PiGDM
from posterior_bench.solvers.pnpdm import PnPDM
from posterior_bench.solvers.pnpflow import PnPFlow
from posterior_bench.solvers.reddiff import REDDiff
from posterior_bench.solvers.repaint import RePaint
from posterior_bench.solvers.sitcom import SITCOM
from posterior_bench.solvers.tds import TDS
from posterior_bench.solvers.unconditional import PriorSamples


def _noisy(obs: Observation, sigma: float) -> Observation:
    return replace(obs, operator=replace(obs.operator, sigma=sigma))


# -- two methods that are one ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_ddnm_with_fresh_noise_alone_is_diffpir_with_a_noise_free_proximal_step(
    kind, g2, observe, double_noise
):
    obs = observe((True, False), torch.linspace(-1, 1, 4), rows=4)
    pir = DiffPIR(40, lam=1.0, zeta=1.0, sigma_floor=1e-9, clip=False).draw(
        obs, g2(kind), double_noise(4)
    )
    torch.testing.assert_close(
        DDNM(40, 1.0).draw(obs, g2(kind), double_noise(4)), pir, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddrm_and_ddnm_are_one_where_nothing_is_observed(eta, g2, observe, double_noise):
    nothing = observe((False, False), rows=4)
    ddnm = DDNM(30, eta).draw(nothing, g2("vp"), double_noise(4))
    torch.testing.assert_close(
        DDRM(30, eta).draw(nothing, g2("vp"), double_noise(4)), ddnm, atol=1e-9, rtol=0
    )


def test_pigdm_is_tds_with_one_particle(g2, observe, double_noise):
    """The same pull at every level but the last, where TDS reports the prediction: at sigma 0.002 a
    pull of 1e-4."""
    obs = _noisy(observe((True, False), torch.linspace(-1, 1, 4), rows=4), 0.3)

    class Paired:
        """Normals without the uniforms in between."""

        def __init__(self):
            self.base = double_noise(4)

        def normal(self, shape: Sequence[int]) -> Tensor:
            return self.base.normal(shape)

        def uniform(self, shape: Sequence[int]) -> Tensor:
            return torch.zeros(4, *shape)

    guided = PiGDM(30, data_std=0.5).draw(obs, g2("ve"), double_noise(4))
    particle = TDS(30, particles=1, data_std=0.5).draw(obs, g2("ve"), Paired())
    torch.testing.assert_close(particle, guided, atol=3e-4, rtol=0)


@pytest.mark.parametrize(
    "solver",
    [
        DPS(30, 5.0, clip=False),
        PiGDM(30),
        PiGDM(30, weight="practical"),
        MMPS(30),
        MMPS(30, eta=0.0),
        PiGDM(30, eta=0.5),
    ],
    ids=lambda solver: f"{type(solver).__name__}-{getattr(solver, 'eta', '')}",
)
@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_guidance_by_nothing_is_no_guidance(solver, kind, g2, observe, double_noise):
    nothing = observe((False, False), rows=4)
    free = PriorSamples(30, getattr(solver, "eta", 1.0)).draw(nothing, g2(kind), double_noise(4))
    torch.testing.assert_close(
        solver.draw(nothing, g2(kind), double_noise(4)), free, atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("kind", ["flow", "vp", "ve"])
def test_pnp_flow_is_flower_where_nothing_is_observed(kind, observe, double_noise):
    """Both predict and add fresh noise, in turns."""
    nothing, prior = observe((False, False), rows=4), named_g2(kind)
    flower = Flower(20).draw(nothing, prior, double_noise(4))
    plug = PnPFlow(20).draw(nothing, prior, double_noise(4))
    torch.testing.assert_close(plug, flower, atol=1e-9, rtol=0)


def test_ding_delays_nothing_where_nothing_is_observed(observe, double_noise):
    """The noise that the measurement is carried by is needed only where there is a measurement."""
    nothing, prior = observe((False, False), rows=3), named_g2("flow")

    class Single:
        """Only the second draw of every pair after the first, which is what the delayed form asks
        for."""

        def __init__(self):
            self.base, self.calls = double_noise(3), 0

        def normal(self, shape: Sequence[int]) -> Tensor:
            self.calls += 1
            zeros = self.calls > 1 and self.calls % 2 == 0
            return torch.zeros(3, *shape, dtype=torch.float64) if zeros else self.base.normal(shape)

    delayed = DING(12, delayed=True).draw(nothing, prior, double_noise(3))
    torch.testing.assert_close(DING(12).draw(nothing, prior, Single()), delayed, atol=1e-12, rtol=0)


# -- an identity autoencoder -----------------------------------------------------------------------


class Autoencoded(MixturePrior):
    """The same prior, said to be latent: its encoder and decoder change nothing."""

    is_latent = True


DECODING = [
    DPS(20, 0.5, clip=False),
    CoPaint(10, clip=False),
    REDDiff(20),
    DAPS(8, ode_steps=2, inner_steps=5),
    MGDM(levels=8, inner_steps=4),
    TDS(10, 3),
    LATINO(),
    PriorSamples(20),
    SITCOM(6, 3, clip=False),
    DMPlug(5, clip=False),
    FlowDPS(10, 0.1),
    FLAIR(10),
    DFlow(iterations=5, steps=2, inversion_steps=3),
    PnPFlow(20, 2),
    FlowChef(20),
    LanPaint(10),
]


@pytest.mark.parametrize("solver", DECODING, ids=lambda solver: type(solver).__name__)
def test_an_identity_autoencoder_changes_nothing(solver, g2, observe, double_noise):
    pixel, obs = g2("ve"), observe((True, False), torch.linspace(-1, 1, 3), rows=3)
    latent = Autoencoded(
        pixel.process, pixel.weights, pixel.means, pixel.covariances, pixel.latent_shape
    )
    assert torch.equal(
        solver.draw(obs, latent, double_noise(3)), solver.draw(obs, pixel, double_noise(3))
    )


# -- VP view = VE view = flow view at equal ratios -------------------------------------------------

TOP, BOTTOM = 80.0, 0.001 / 0.999
FREE_OF_COORDINATES: list[Sampler] = [
    PriorSamples(20, 0.5, grid="flow"),
    Blended(20, grid="flow"),
    RePaint(20, 5, 3, clip=False, grid="flow"),
    DDRM(20, grid="flow"),
    DDNM(20, 0.85, 5, 2, grid="flow"),
    DiffPIR(20, zeta=0.5, clip=False, grid="flow"),
    PiGDM(20, grid="flow"),
    MMPS(20, iterations=1, grid="flow"),
    TDS(20, 3, grid="flow"),
    PnPDM(6, 8, decay=0.5, rho_min=0.2, grid="flow"),
    PnPDM(6, 8, decay=0.5, rho_min=0.2, compat="released"),
    FPS(20, particles=3, grid="flow"),
    MCGDiff(20, 3, grid="flow"),
    SITCOM(10, 3, clip=False, grid="flow"),
    DMPlug(5, clip=False, grid="flow"),
    DCDP(4, 10, purify_steps=5, clip=False, grid="flow"),
    FlowDPS(20, 0.1, grid="flow"),
    FLAIR(20),
    DFlow(iterations=5, steps=3, inversion_steps=4),
    PnPFlow(20, 2, 0.5),
    Flower(20),
    Flower(20, "draw"),
    OTODE(18),
    FlowChef(20),
    LATINO(8, delta=0.3, clip=False),
    LanPaint(20, grid="flow"),
    LanPaint(8, dynamics="underdamped", ramp="step", known="chain", grid="flow"),
]


@pytest.mark.parametrize("solver", FREE_OF_COORDINATES, ids=lambda solver: type(solver).__name__)
@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_a_flow_is_ve_and_vp_at_equal_ratios(solver, sigma, g2, observe, double_noise):
    obs = _noisy(observe((True, False), torch.linspace(-1, 1, 3), rows=3), sigma)
    covariances = g2("ve").covariances

    def drawn(process: Process, view: str = "native") -> Tensor:
        prior = MixturePrior(
            process, torch.ones(1), torch.zeros(1, 2), covariances, (1, 1, 2)
        ).view(view)
        return solver.draw(obs, prior, double_noise(3))

    flow = Flow(u_max=TOP / (1 + TOP))
    native = drawn(flow)
    torch.testing.assert_close(drawn(VE(BOTTOM, TOP)), native, atol=1e-6, rtol=0)
    torch.testing.assert_close(drawn(flow, "vp"), native, atol=1e-6, rtol=0)


# -- 64 correlated pixels --------------------------------------------------------------------------


class Silence:
    """No noise at all: of an affine sampler it leaves the mean."""

    def __init__(self, rows: int):
        self.rows = rows

    def normal(self, shape: Sequence[int]) -> Tensor:
        return torch.zeros(self.rows, *shape, dtype=torch.float64)


@pytest.mark.parametrize(
    ("solver", "error", "tolerance"),
    [
        (MMPS(1000, iterations=32, tolerance=1e-9), 0.0, 0.03),
        (DDNM(1000), 0.09, 0.04),
    ],
    ids=["MMPS", "DDNM"],
)
@pytest.mark.slow
def test_error_of_the_mean_over_the_missing_half(solver, error, tolerance, ar64):
    """Root mean square distance to the exact conditional mean, over 16 truths; published for
    one."""
    prior, rows = ar64("ve"), 16
    mask = (torch.arange(64) < 32).view(1, 1, 8, 8).expand(rows, 1, 8, 8)
    normal = torch.randn(
        rows, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    truth = prior.sample(torch.zeros(rows), normal)
    x = solver.draw(Observation(Inpainting(mask).A(truth), Inpainting(mask)), prior, Silence(rows))
    S = prior.covariances[0]
    exact = truth.flatten(1)[:, :32] @ torch.linalg.solve(S[:32, :32], S[:32, 32:])
    assert (x.flatten(1)[:, 32:] - exact).square().mean().sqrt().item() == pytest.approx(
        error, abs=tolerance
    )
