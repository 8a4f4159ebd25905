"""How often the host waits for the GPU in a step, method by method: a table that must not grow.

A step is a step of the loop that the row names. Its counts are the difference of two runs, of 8 and
of 4 steps, divided by 4; the network is one operation. Noise and the coefficients of rows with a
level each are copied from pinned memory, and nobody waits for them. The waits that are left are
choices that a method makes from numbers of the GPU. Before levels stayed on the host and noise was
drawn ahead, DPS waited 4 times a step and VIPaint's fit 24 times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from tests.on_gpu.small import PRIORS
from tests.pretended_gpu import DEVICE, Counts, PretendedGPU

from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.solvers.base import Observation, Solver
from posterior_bench.solvers.blended import Blended
from posterior_bench.solvers.copaint import CoPaint
from posterior_bench.solvers.daps import DAPS
from posterior_bench.solvers.dcdp import DCDP
from posterior_bench.solvers.ddnm import DDNM
from posterior_bench.solvers.ddrm import DDRM
from posterior_bench.solvers.dflow import DFlow
from posterior_bench.solvers.diffpir import DiffPIR
from posterior_bench.solvers.dmplug import DMPlug
from posterior_bench.solvers.dps import DPS
from posterior_bench.solvers.flair import FLAIR
from posterior_bench.solvers.flow_priors import FlowPriors
from posterior_bench.solvers.flowchef import FlowChef
from posterior_bench.solvers.flowdps import FlowDPS
from posterior_bench.solvers.flower import Flower
from posterior_bench.solvers.fps import FPS
from posterior_bench.solvers.latino import LATINO
from posterior_bench.solvers.mcgdiff import MCGDiff
from posterior_bench.solvers.mgdm import MGDM
from posterior_bench.solvers.mmps import MMPS
from posterior_bench.solvers.ot_ode import OTODE
from posterior_bench.solvers.pigdm import PiGDM
from posterior_bench.solvers.pnpdm import PnPDM
from posterior_bench.solvers.pnpflow import PnPFlow
from posterior_bench.solvers.psld import PSLD
from posterior_bench.solvers.reddiff import REDDiff
from posterior_bench.solvers.repaint import RePaint
from posterior_bench.solvers.resample import ReSample
from posterior_bench.solvers.sitcom import SITCOM
from posterior_bench.solvers.tds import TDS
from posterior_bench.solvers.vipaint import VIPaint


class Step(NamedTuple):
    """A method with ``n`` steps, and the most that one step may cost on a prior."""

    make: Callable[[int], Solver]
    prior: str
    operations: float
    copies: float
    waits: float = 0


def _vipaint(**settings: Any) -> VIPaint:
    return VIPaint(**{"iterations": 2, "refine_steps": 2, "monte_carlo": 2, **settings})


def _resample(**settings: Any) -> ReSample:
    return ReSample(**{"steps": 3, "every": 9, "tolerance": 0.0, **settings})


STEPS: dict[str, Step] = {
    "DPS, pixel": Step(DPS, "pixel", 46, 1),
    "DPS, EDM": Step(DPS, "edm", 40, 1),
    "DPS, latent": Step(DPS, "latent", 37, 1),
    "RePaint, pixel": Step(lambda n: RePaint(n, jump_length=1, resamples=1), "pixel", 24, 2),
    "RePaint, EDM": Step(lambda n: RePaint(n, jump_length=1, resamples=1), "edm", 19, 2),
    "DDRM": Step(DDRM, "edm", 35, 1),
    "DDNM": Step(DDNM, "edm", 40, 1),
    "DiffPIR": Step(DiffPIR, "edm", 20, 1),
    "Blended": Step(Blended, "edm", 18, 2),
    "PiGDM": Step(PiGDM, "edm", 26, 1),
    "PiGDM without noise": Step(lambda n: PiGDM(n, eta=0.0), "edm", 26, 0),
    "LATINO, latent": Step(LATINO, "latent", 20, 1),
    "LATINO, residual": Step(lambda n: LATINO(n, delta="blur"), "edm", 23, 1),
    "MMPS": Step(MMPS, "edm", 123, 1),
    "PnP-Flow, EDM": Step(PnPFlow, "edm", 29, 1),
    "PnP-Flow, latent": Step(PnPFlow, "latent", 33, 1),
    "FLOWER": Step(Flower, "edm", 13, 1),
    "FLOWER-cov": Step(lambda n: Flower(n, "draw"), "edm", 17, 3),
    "OT-ODE": Step(OTODE, "edm", 24, 0),
    "FlowChef, EDM": Step(FlowChef, "edm", 29, 0),
    "FlowChef, latent": Step(FlowChef, "latent", 33, 0),
    "PSLD": Step(PSLD, "latent", 59, 0),
    "VIPaint-2, fit, EDM": Step(lambda n: _vipaint(iterations=n), "edm", 198, 14),
    "VIPaint-2, fit, latent": Step(lambda n: _vipaint(iterations=n), "latent", 197, 13),
    "VIPaint-4, fit": Step(
        lambda n: _vipaint(iterations=n, keypoints=[5, 4, 3, 2]), "edm", 360, 16
    ),
    "VIPaint, refinement, EDM": Step(lambda n: _vipaint(refine_steps=n), "edm", 35, 1),
    "VIPaint, refinement, latent": Step(lambda n: _vipaint(refine_steps=n), "latent", 38, 1),
    # a choice: whether a row's loss has grown, which decides on one more call of the network
    "CoPaint": Step(CoPaint, "edm", 136, 0, 2),
    "RED-diff": Step(REDDiff, "edm", 36, 1),
    "RED-diff-V": Step(lambda n: REDDiff(n, times="random"), "edm", 36, 8),
    "MGDM": Step(lambda n: MGDM(n + 4, inner_steps=3, fit_steps=2, late=9), "edm", 339, 56),
    "DAPS, inner step, EDM": Step(lambda n: DAPS(1, inner_steps=n), "edm", 15, 1),
    "DAPS, inner step, latent": Step(lambda n: DAPS(1, inner_steps=n), "latent", 20, 1),
    # a choice: whether all rows have stopped
    "ReSample, iteration": Step(lambda n: _resample(latent_iterations=n), "latent", 40, 0, 1),
    "SITCOM": Step(lambda n: SITCOM(n, inner_steps=2), "edm", 92, 1),
    "DMPlug": Step(DMPlug, "edm", 112, 0),
    "DCDP": Step(lambda n: DCDP(n, inner_steps=2, purify_steps=2), "edm", 44, 1),
    "DCDP, gradient step, EDM": Step(lambda n: DCDP(1, n, purify_steps=1), "edm", 7, 0),
    "DCDP, gradient step, latent": Step(lambda n: DCDP(1, n, purify_steps=1), "latent", 18, 0),
    "TDS": Step(lambda n: TDS(n, particles=2), "edm", 67, 2),
    "PnP-DM, prior": Step(lambda n: PnPDM(1, n, spacing="own"), "edm", 20, 1),
    "PnP-DM, iteration": Step(lambda n: PnPDM(n, 1, spacing="own"), "edm", 30, 3),
    "FPS": Step(lambda n: FPS(n, particles=2), "edm", 71, 3),
    "MCG-Diff": Step(lambda n: MCGDiff(n, particles=2), "edm", 92, 2),
    "FlowDPS, pixel": Step(FlowDPS, "pixel", 63, 1),
    "FlowDPS, latent": Step(FlowDPS, "latent", 77, 1),
    "FLAIR, pixel": Step(lambda n: FLAIR(n, data_steps=2), "pixel", 58, 1),
    "FLAIR, latent": Step(lambda n: FLAIR(n, data_steps=2), "latent", 67, 1),
    "Flow-Priors": Step(FlowPriors, "flow", 81, 1),
    "D-Flow, evaluation": Step(lambda n: DFlow(n, 2, inversion_steps=1, history=2), "edm", 211, 0),
}


def _asked(solver: Solver, prior: str, gpu: PretendedGPU) -> Counts:
    """Return what the GPU is asked for by a run on two images."""
    there = PRIORS[prior]().to(DEVICE)
    keys = [Key(0, "counts", str(i)) for i in range(2)]
    truth = Noise(keys, "truth", DEVICE).normal(there.image_shape).mul(0.3)
    seen = torch.rand(2, 1, *there.image_shape[1:], generator=torch.Generator().manual_seed(0))
    operator = Inpainting(seen > 0.3, 0.05).to(DEVICE)
    obs = Observation(operator.A(truth), operator)
    noise = Noise(keys, "solver", DEVICE)
    with gpu.counted() as counts:
        solver.fit(obs, there, noise).sample([0])
    return counts


@pytest.mark.parametrize("name", STEPS)
def test_a_step_waits_no_more_than_it_must(name, gpu):
    step = STEPS[name]
    few, many = (_asked(step.make(n), step.prior, gpu) for n in (4, 8))
    each = Counts(*(count / 4 for count in (many - few).row))
    assert each.operations <= step.operations
    assert (each.waits, each.streamed) == (step.waits, step.copies)
