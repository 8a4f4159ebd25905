"""The bridge to deepinv, against closed forms; what runs the library itself is skipped where it is
not installed."""

from __future__ import annotations

import sys

import pytest
import torch

from posterior_bench.bench.core.streams import Key
from posterior_bench.bench.core.streams import Noise as SeededNoise
from posterior_bench.operators.gaussian_blur import GaussianBlur
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.operators.projection import Projection
from posterior_bench.operators.super_resolution import SuperResolution
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.process import VE
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.ddrm import DDRM
from posterior_bench.solvers.deepinv import Deepinv, Seeded, _Denoiser, _physics

FEW = {"DDRM": 12, "DiffPIR": 6, "DPS": 8}


@pytest.fixture
def deepinv():
    return pytest.importorskip("deepinv", reason="the optional package deepinv is not installed")


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepinv", None)
    with pytest.raises(ImportError, match=r'pip install "posterior-bench\[deepinv\]"'):
        Deepinv()


def test_an_unknown_sampler_is_refused_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepinv", None)
    with pytest.raises(ValueError, match="unknown sampler 'dps'; valid: DDRM, DiffPIR, DPS"):
        Deepinv("dps")


@pytest.mark.parametrize("kind", ["ve", "vp", "flow"])
@pytest.mark.parametrize(
    "sigma", [0.01, 0.3, 4.0, torch.tensor([0.3]), torch.tensor(2.0, dtype=torch.float64)]
)
def test_the_denoiser_is_the_posterior_mean_in_unit_range(kind, sigma, g2):
    """Images x01 = (1 + x) / 2 with noise of deviation sigma: E[x | x + 2 sigma n] = S (S + 4
    sigma^2 I)^-1 z."""
    prior = g2(kind)
    z = torch.randn(1, 1, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x01 = _Denoiser(prior, None, 1.0)((1 + z) / 2, sigma)
    S, noise = (
        prior.covariances[0].double(),
        4 * float(sigma) ** 2 * torch.eye(2, dtype=torch.float64),
    )
    expected = (z.flatten() @ torch.linalg.inv(S + noise) @ S + 1) / 2
    torch.testing.assert_close(x01.flatten().double(), expected, atol=1e-5, rtol=0)


def test_above_the_noisiest_level_the_state_is_shrunk_to_it(g2):
    prior = g2("ve")  # up to 80
    state = torch.tensor([[[[400.0, -400.0]]]], dtype=torch.float64)
    x01 = _Denoiser(prior, None, 1.0)((state + 1) / 2, 100.0)  # noise of deviation 200
    expected = (prior.denoise(state * 80 / 200, prior.level(80.0)) + 1) / 2
    torch.testing.assert_close(x01, expected)


def test_no_noise_is_the_cleanest_level(g2):
    prior = g2("ve")
    z = torch.tensor([[[[0.4, -0.2]]]], dtype=torch.float64)
    torch.testing.assert_close(
        _Denoiser(prior, None, 1.0)((z + 1) / 2, 0.0), (z + 1) / 2, atol=1e-4, rtol=0
    )


# -- with the library ------------------------------------------------------------------------------


def _solvers():
    return [Deepinv(name, steps) for name, steps in FEW.items()]


def test_network_calls_are_the_steps(deepinv, g2, observe, seeded_noise):
    for solver in _solvers():
        prior = g2("ve")
        with prior.metered() as meter:
            x = solver.draw(observe((True, False), 0.5, rows=2), prior, seeded_noise(range(2)))
        assert x.shape == (2, 1, 1, 2) and not x.requires_grad
        assert (meter.nfe, meter.nge) == (
            2 * solver.steps,
            2 * solver.steps if solver.sampler == "DPS" else 0,
        )


def test_a_row_depends_on_its_own_noise_alone_bit_for_bit(deepinv, g2, observe, seeded_noise):
    y, before = torch.linspace(-1, 1, 3), torch.get_rng_state()
    for solver in _solvers():
        batch = solver.draw(observe((True, False), y, rows=3), g2("ve"), seeded_noise(range(3)))
        alone = solver.draw(observe((True, False), y[1:2]), g2("ve"), seeded_noise([1]))
        other = solver.draw(observe((True, False), y[1:2]), g2("ve"), seeded_noise([9]))
        assert torch.equal(batch[1:2], alone)
        assert not torch.equal(alone, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_observed_pixels_keep_their_values(deepinv, g2, observe, seeded_noise):
    for solver in (Deepinv("DDRM", 30), Deepinv("DiffPIR", 30)):
        x = solver.draw(observe((True, False), 0.6, rows=4), g2("ve"), seeded_noise(range(4)))
        assert (x[..., 0] - 0.6).abs().max() < 0.05


OPERATORS = {
    "super-resolution": SuperResolution((1, 4, 4), 2, sigma=0.02),
    "blur": GaussianBlur((1, 4, 4), 7, 0.8, sigma=0.02),
    "projection": Projection((1, 4, 4), 0.5, sigma=0.02),
    "mask": Inpainting(torch.arange(16).view(1, 1, 4, 4) % 3 > 0, sigma=0.02),
}


def _image():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 1, 4, 4, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_of_ours_has_the_products_of_deepinvs_decomposition(deepinv, name):
    """deepinv's own adjoint and proximal step, from the singular values, are ours."""
    operator, x = OPERATORS[name], _image()
    physics = _physics(operator, x, deepinv.physics.GaussianNoise(0.1))
    y = physics.A(x)
    base = deepinv.physics.DecomposablePhysics
    exact = operator.spectrum(x).exact.expand_as(x)
    kept = physics.mask == exact  # the others are truncated for the pseudo-inverse alone
    assert torch.allclose(
        physics.V_adjoint(physics.A_adjoint(y))[kept],
        physics.V_adjoint(base.A_adjoint(physics, y))[kept],
    )
    assert torch.allclose(
        physics.V_adjoint(physics.prox_l2(x, y, 3.0))[kept],
        physics.V_adjoint(base.prox_l2(physics, x, y, 3.0))[kept],
    )
    torch.testing.assert_close(base.A_dagger(physics, y), physics.A_dagger(y))
    assert torch.equal(y, operator.A(x))


def test_our_mask_gives_the_samples_of_deepinvs_mask(deepinv, g2, observe):
    """One seed, one sampler of theirs, and a mask once as their physics and once as ours."""
    noise = deepinv.physics.GaussianNoise(0.02)
    operator = observe((True, False)).operator
    y01, mask = torch.tensor([[[[0.7, 0.0]]]]), operator.mask.float()
    theirs = deepinv.physics.Inpainting((1, 1, 2), mask, noise_model=noise)
    ours = _physics(operator, y01, noise)
    for solver in _solvers():
        runs = []
        for physics in (theirs, ours):
            sampler = solver._sampler(_Denoiser(g2("ve"), None, 1.0), torch.device("cpu"))
            with Seeded(torch.Generator().manual_seed(1)):
                runs.append(sampler(y01, physics))
        torch.testing.assert_close(*runs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["super-resolution", "projection"])
def test_samples_reproduce_what_another_operator_measured(deepinv, name):
    operator = OPERATORS[name]
    prior = MixturePrior(
        VE(), torch.ones(1), torch.zeros(1, 16), 0.25 * torch.eye(16)[None], (1, 4, 4)
    )
    x = 0.5 * _image().float()
    obs = Observation(operator.A(x), operator)

    def apart(solver):
        drawn = solver.draw(obs, prior, SeededNoise([Key(0, "test", "0")], "solver"))
        assert drawn.shape == x.shape and drawn.dtype == torch.float32
        return operator.residual(drawn, obs.y).square().mean().sqrt().item()

    assert apart(Deepinv("DDRM", 30)) < 0.2 and apart(Deepinv("DiffPIR", 30)) < 0.2
    # few steps of DPS leave much of the residual, but less than no guidance leaves
    pull, none = (Deepinv("DPS", 30, options={"weight": weight}) for weight in (10.0, 0.0))
    assert apart(pull) < 0.7 * apart(none)


def test_each_sampler_needs_what_it_asks_of_the_physics(deepinv):
    linear, prior = frozenset({"linear"}), frozenset({"pixel", "grad"})
    assert Deepinv("DDRM").lacks(linear | prior, 0.0) == {"svd"}
    assert Deepinv("DiffPIR").lacks(linear | prior, 0.0) == {"prox"}
    assert Deepinv("DPS").lacks(linear | prior, 0.0) == frozenset()
    assert Deepinv("DPS").lacks(prior, 0.0) == {"linear"}


def test_an_option_reaches_the_sampler_and_a_wrong_one_is_refused(
    deepinv, g2, observe, seeded_noise
):
    obs = observe((True, False), 0.6, rows=2)
    plain, other = (
        Deepinv("DDRM", 12, options=options).draw(obs, g2("ve"), seeded_noise(range(2)))
        for options in ({}, {"eta": 0.1})
    )
    assert not torch.equal(plain, other)
    with pytest.raises(ValueError, match="deepinv's DDRM has no option 'zeta'; valid: "):
        Deepinv("DDRM", options={"zeta": 1})


def test_shipped_presets_are_complete(deepinv, presets):
    assert {solver.sampler for solver in presets("deepinv").values()} == {"DDRM", "DiffPIR", "DPS"}


@pytest.mark.slow
def test_ddrm_of_deepinv_has_the_mean_of_ours_and_less_spread(deepinv, g2, observe):
    """It divides its noise by sqrt(2), so draws of the hidden pixel spread by 1/sqrt(2) of ours."""
    rows = 400

    def noise():
        return SeededNoise([Key(0, "data", str(i)) for i in range(rows)], "solver")

    obs = observe((True, False), 1.0, rows=rows)
    theirs = Deepinv("DDRM", 100).draw(obs, g2("ve"), noise())[..., 1]
    ours = DDRM(100, clip=False).draw(obs, g2("ve"), noise())[..., 1]
    assert theirs.mean().item() == pytest.approx(ours.mean().item(), abs=0.08)
    assert (theirs.std() / ours.std()).item() == pytest.approx(2**-0.5, rel=0.12)
