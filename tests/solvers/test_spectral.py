"""Methods that see an operator through its singular values, against dense matrices.

The references decompose the whole matrix with ``torch.linalg.svd`` and follow the equations of the
papers coordinate by coordinate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from tests.solvers.conftest import BasisNoise, DoubleNoise
from torch import Tensor

from posterior_bench.operators.base import Operator
from posterior_bench.operators.gaussian_blur import GaussianBlur
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.operators.motion_blur import MotionBlur
from posterior_bench.operators.projection import Projection
from posterior_bench.operators.super_resolution import SuperResolution
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.process import VE, VP
from posterior_bench.solvers.base import Observation, Sampler
from posterior_bench.solvers.ddnm import DDNM
from posterior_bench.solvers.ddrm import DDRM
from posterior_bench.solvers.diffpir import DiffPIR
from posterior_bench.solvers.ding import DING
from posterior_bench.solvers.mmps import MMPS
from posterior_bench.solvers.pigdm import PiGDM

SHAPE = (1, 4, 4)
SIZE = math.prod(SHAPE)
EYE = torch.eye(SIZE, dtype=torch.float64)
PIXELS = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(3)) < 0.5
ROWS = 3


def operator(name: str, sigma: float, rows: int = ROWS) -> Operator:
    """An operator on images of 4 x 4 pixels; its small singular values are truncated."""
    made: dict[str, Operator] = {
        "mask": Inpainting(PIXELS.expand(rows, 1, 4, 4), sigma),
        "super-resolution": SuperResolution(SHAPE, 2, sigma=sigma),
        "blur": GaussianBlur(SHAPE, 7, 0.8, sigma=sigma, rcond=0.2),
        "projection": Projection(SHAPE, 0.4, sigma=sigma),
        "motion": MotionBlur(SHAPE, 3, border="circular", sigma=sigma, rcond=0.3),
        "mirrored motion": MotionBlur(SHAPE, 3, sigma=sigma, tolerance=1e-12),
    }
    return made[name]


NAMES = ("mask", "super-resolution", "blur", "projection", "motion")
PROXIMAL = (*NAMES, "mirrored motion")
RCOND = {"blur": 0.2, "motion": 0.3}


@dataclass
class Dense:
    """The matrix of an operator as ``U diag(s) V``, with small ``s`` set to 0; rows are images."""

    A: Tensor
    U: Tensor
    s: Tensor
    V: Tensor

    @classmethod
    def of(cls, operator: Operator, rcond: float) -> Dense:
        basis = EYE.view(SIZE, *SHAPE)
        if operator.mask is not None:
            operator = Inpainting(PIXELS.expand(SIZE, 1, 4, 4))
        A = operator.A(basis).flatten(1).T
        U, s, V = torch.linalg.svd(A)
        s = torch.where(s > max(rcond, 1e-9) * s.max(), s, 0.0)
        return cls(A, U[:, : len(s)], torch.nn.functional.pad(s, (0, SIZE - len(s))), V)

    def solution(self, y: Tensor) -> Tensor:
        """Coordinates ``(N, d)`` of ``A^+ y``."""
        projected = y.flatten(1) @ self.U
        inverse = torch.where(self.s > 0, 1 / self.s, 0.0)
        return torch.nn.functional.pad(projected, (0, SIZE - projected.shape[1])) * inverse


class Recorded:
    """Noise whose draws a reference can ask for again, as images."""

    def __init__(self, rows: int, operator: Operator | None = None):
        self.base, self.operator = DoubleNoise(rows), operator

    def normal(self, shape: Sequence[int]) -> Tensor:
        drawn = self.base.normal(shape)
        return drawn if self.operator is None else self.operator.spectrum(drawn).image(drawn)


def problem(name: str, sigma: float, kind: str) -> tuple[Observation, MixturePrior, Dense]:
    """Measurements of smooth images, the prior they come from, and the dense operator."""
    place = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij"), -1)
    distance = torch.cdist(place.view(-1, 2), place.view(-1, 2))
    process = VE() if kind == "ve" else VP.scheduled("linear", 1e-4, 0.02)
    covariance = 0.5 * 0.8**distance
    prior = MixturePrior(process, torch.ones(1), torch.zeros(1, SIZE), covariance[None], SHAPE)
    made = operator(name, sigma)
    x = torch.randn(ROWS, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Observation(made.A(x), made), prior, Dense.of(made, RCOND.get(name, 0.0))


def walk(obs: Observation, prior: MixturePrior, dense: Dense, steps: int, grid: str = "native"):
    """Levels, a source of coordinates of noise, and a denoiser of coordinates."""
    noise, levels = Recorded(ROWS, obs.operator), prior.grid(steps, grid)

    def fresh() -> Tensor:
        return noise.normal(SHAPE).flatten(1) @ dense.V.T

    def denoise(z: Tensor, t: Any) -> Tensor:
        return prior.denoise((z @ dense.V).view(-1, *SHAPE), t).flatten(1) @ dense.V.T

    return levels, fresh, denoise


# -- the equations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.4])
@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_ddrm_follows_its_equations(name, sigma, kind):
    """Kawar et al. (2022), Eq. 7 and 8, in the paper's coordinates (alpha = 1)."""
    obs, prior, dense = problem(name, sigma, kind)
    prior, eta, eta_b = prior.view("ve"), 0.7, 0.8
    levels, fresh, denoise = walk(obs, prior, dense, 10)
    y, seen = dense.solution(obs.y), dense.s > 0
    noisy = torch.where(seen, sigma / dense.s, 0.0)
    xi = fresh()
    z = levels[0].sigma * xi
    z = torch.where(seen, y + (levels[0].sigma ** 2 - noisy**2).sqrt() * xi, z)
    for t, s in pairwise(levels):
        x0, xi = denoise(z, t), fresh()
        toward = (1 - eta_b) * x0 + eta_b * y
        toward = toward + (s.sigma**2 - eta_b**2 * noisy**2).clamp_min(0).sqrt() * xi
        keep = math.sqrt(1 - eta**2) * s.sigma
        free = x0 + keep * (z - x0) / t.sigma + eta * s.sigma * xi
        past = x0 + keep * (y - x0) / torch.where(noisy > 0, noisy, 1.0) + eta * s.sigma * xi
        z = torch.where(seen, torch.where(s.sigma >= noisy, toward, past), free)
    x = DDRM(10, eta, eta_b).draw(obs, prior, DoubleNoise(ROWS))
    torch.testing.assert_close(x.flatten(1), z @ dense.V, atol=1e-8, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sigma", [0.05, 0.4])
def test_ddnm_plus_follows_its_equations(name, sigma):
    """Wang et al. (2023), Section 3.3: the matrices Sigma_t and Phi_t per singular value."""
    obs, prior, dense = problem(name, sigma, "vp")
    levels, fresh, denoise = walk(obs, prior, dense, 10)
    eta, y, seen = 0.6, dense.solution(obs.y), dense.s > 0
    z = levels[0].sigma * DoubleNoise(ROWS).normal(SHAPE).flatten(1) @ dense.V.T
    fresh()
    for t, s in pairwise(levels):
        x0, xi = denoise(z, t), fresh()
        eps = (z - t.alpha * x0) / t.sigma
        carried = s.alpha * sigma / torch.where(seen, dense.s, 1.0)
        scale = torch.where(s.sigma >= carried, 1.0, s.sigma * math.sqrt(1 - eta**2) / carried)
        spread = torch.where(
            s.sigma >= carried, (s.sigma**2 - carried**2).clamp_min(0).sqrt(), eta * s.sigma
        )
        corrected = s.alpha * (x0 - scale * (x0 - y)) + spread * xi
        free = s.alpha * x0 + s.sigma * (eta * xi + math.sqrt(1 - eta**2) * eps)
        z = torch.where(seen, corrected, free)
    x = DDNM(10, eta).draw(obs, prior, DoubleNoise(ROWS))
    torch.testing.assert_close(x.flatten(1), z @ dense.V, atol=1e-8, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_ding_multiplies_gaussians_of_images(name):
    """The product as precision matrices ``1 / sd^2`` and ``A^T A / (alpha sigma_y)^2``: its mean,
    and its covariance from columns of noise."""
    obs, prior, dense = problem(name, 0.3, "vp")
    s = prior.grid(6, "flow")[3]
    A = dense.U * dense.s[: dense.U.shape[1]] @ dense.V[: dense.U.shape[1]]
    sd = s.sigma * (1 - s.alpha)
    precision = EYE / sd**2 + A.T @ A / (s.alpha * 0.3) ** 2
    rows, one = SIZE + 1, replace(obs, y=obs.y[:1], operator=operator(name, 0.3, 1))
    generator = torch.Generator().manual_seed(1)
    mean, eps = torch.randn(2, 1, SIZE, dtype=torch.float64, generator=generator)
    measured = s.alpha * one.y.flatten(1) + s.sigma * eps @ A.T
    expected = torch.linalg.solve(
        precision, (mean / sd**2 + measured @ A / (s.alpha * 0.3) ** 2).T
    ).T
    spectrum = one.operator.spectrum(one.y)
    to = lambda x: spectrum.coordinates(x.view(1, *SHAPE))  # noqa: E731
    y_s = s.alpha * spectrum.solution(one.y) + s.sigma * to(eps)
    drawn = spectrum.image(
        DING()._product(to(mean), sd, y_s, s, one, spectrum.values, BasisNoise(rows).normal(SHAPE))
    ).flatten(1)
    torch.testing.assert_close(drawn[:1], expected, atol=1e-9, rtol=0)
    columns = drawn[1:] - drawn[0]
    torch.testing.assert_close(columns.T @ columns, torch.linalg.inv(precision))


@pytest.mark.parametrize("name", PROXIMAL)
@pytest.mark.parametrize(("compat", "share"), [("none", 1.0), ("released", 0.5)])
def test_diffpirs_step_solves_its_normal_equations(name, compat, share):
    """The pull of Zhu et al. (2023), Eq. 13, to half the noise level in the released units."""
    obs, prior, dense = problem(name, 0.3, "vp")
    first, last = prior.grid(3)[:2]
    seen: list[Tensor] = []
    denoise = prior.denoise
    prior.denoise = lambda z, *others: seen.append(z) or denoise(z, *others)  # type: ignore[func-returns-value,method-assign]
    DiffPIR(3, 3.0, 0.0, clip=False, grid="index", compat=compat).draw(
        obs, prior, DoubleNoise(ROWS)
    )
    z, after = (state.flatten(1) for state in seen[:2])
    x0 = denoise(seen[0], first).flatten(1)
    rho = 3.0 * (share * 0.3 / first.ratio) ** 2
    system = dense.A.T @ dense.A + rho * EYE
    pulled = torch.linalg.solve(system, (obs.y.flatten(1) @ dense.A + rho * x0).T).T
    step = last.alpha * pulled + last.sigma * (z - first.alpha * pulled) / first.sigma
    torch.testing.assert_close(after, step, atol=1e-6, rtol=1e-6)


# -- identities ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "solver", [DDRM(12), DDNM(12), DDNM(12, 0.85, 4, 2)], ids=["DDRM", "DDNM", "travel"]
)
def test_without_noise_a_sample_has_the_measured_coordinates(name, solver):
    obs, prior, dense = problem(name, 0.0, "ve")
    x = solver.draw(obs, prior, DoubleNoise(ROWS)).flatten(1) @ dense.V.T
    y = dense.solution(obs.y)
    torch.testing.assert_close(x[:, dense.s > 0], y[:, dense.s > 0], atol=1e-10, rtol=0)
    assert (x - y)[:, dense.s == 0].abs().min() > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_ddrm_with_fresh_noise_alone_is_ddnm_where_the_measurement_is_zero(name):
    """Both then start from pure noise; DDRM draws coordinates, DDNM without noise draws images."""
    obs, prior, _ = problem(name, 0.0, "vp")
    obs = replace(obs, y=torch.zeros_like(obs.y))
    ddrm = DDRM(20, eta=1.0).draw(obs, prior, DoubleNoise(ROWS))
    ddnm = DDNM(20, eta=1.0).draw(obs, prior, Recorded(ROWS, obs.operator))
    torch.testing.assert_close(ddrm, ddnm, atol=1e-9, rtol=0)


# -- exact posteriors ------------------------------------------------------------------------------


def law(
    sampler: Sampler, obs: Observation, repeated: Callable[[int], Operator], prior: MixturePrior
) -> tuple[Tensor, Tensor]:
    """The mean ``(d,)`` and the covariance of a sampler that is affine, for the first measurement;
    see ``tests.solvers.conftest.law``."""
    count = BasisNoise(1)
    sampler.draw(Observation(obs.y[:1], repeated(1)), prior, count)
    rows = 1 + count.used
    y = obs.y[:1].expand(rows, *obs.y.shape[1:])
    x = sampler.draw(Observation(y, repeated(rows)), prior, BasisNoise(rows)).flatten(1)
    columns = x[1:] - x[0]
    return x[0], columns.T @ columns


def posterior(prior: MixturePrior, dense: Dense, y: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """The mean ``(d,)`` and the covariance of ``N(0, S)`` given the kept part of ``y``."""
    S = prior.covariances[0].double()
    kept = int((dense.s > 0).sum())
    A = dense.s[:kept, None] * dense.V[:kept]
    inner = A @ S @ A.T + sigma**2 * EYE[:kept, :kept]
    gain = torch.linalg.solve(inner, A @ S).T
    return gain @ (y[:1].flatten(1) @ dense.U[:, :kept])[0], S - gain @ A @ S


def white(prior: MixturePrior, deviation: float) -> MixturePrior:
    """The same process and ``N(0, deviation^2 I)``."""
    covariance = deviation**2 * EYE[None]
    return MixturePrior(prior.process, torch.ones(1), torch.zeros(1, SIZE), covariance, SHAPE)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("solver", [DDRM(120, eta=0.0), DDNM(120, eta=0.0)], ids=["DDRM", "DDNM"])
def test_white_pixels_without_noise_have_the_exact_posterior(name, solver):
    """The hidden coordinates are independent of the measured ones; deterministic steps (DDIM)
    carry them to the prior."""
    obs, prior, dense = problem(name, 0.0, "vp")
    prior = white(prior, 0.6)
    mean, covariance = law(solver, obs, lambda rows: operator(name, 0.0, rows), prior)
    exact = posterior(prior, dense, obs.y, 0.0)
    torch.testing.assert_close(mean, exact[0], atol=1e-9, rtol=0)
    torch.testing.assert_close(covariance, exact[1], atol=0.04, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_pigdm_is_exact_for_white_pixels(name, sigma):
    """``N(0, s^2 I)`` has the assumed variance ``r_t^2``: only the steps leave an error."""
    obs, prior, dense = problem(name, sigma, "vp")
    prior = white(prior, 0.6)
    solver = PiGDM(250, data_std=0.6)
    mean, covariance = law(solver, obs, lambda rows: operator(name, sigma, rows), prior)
    if sigma > 0:  # with noise no singular value is truncated
        dense = Dense.of(obs.operator, 0.0)
    exact = posterior(prior, dense, obs.y, sigma)
    torch.testing.assert_close(mean, exact[0], atol=0.01, rtol=0)
    torch.testing.assert_close(covariance, exact[1], atol=0.05, rtol=0)


@pytest.mark.parametrize("name", PROXIMAL)
def test_pigdm_equals_mmps_for_white_pixels(name):
    obs, prior, _ = problem(name, 0.3, "ve")
    prior = white(prior, 0.6)
    exact = MMPS(20, iterations=SIZE, tolerance=1e-12).draw(obs, prior, DoubleNoise(ROWS))
    x = PiGDM(20, data_std=0.6).draw(obs, prior, DoubleNoise(ROWS))
    torch.testing.assert_close(x, exact, atol=4e-8, rtol=0)
