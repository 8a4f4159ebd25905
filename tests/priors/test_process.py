"""Noise processes against printed schedules, closed forms and each other."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import CLEAN, VE, VP, Flow, Level, Process, Rescaled, Transition


def adm() -> VP:
    return VP.scheduled("linear", 1e-4, 0.02)


def cin256() -> VP:
    return VP.scheduled("scaled_linear", 0.0015, 0.0195)


def churches() -> VP:
    return VP.scheduled("scaled_linear", 0.0015, 0.0155)


def stable_diffusion() -> VP:
    return VP.scheduled("scaled_linear", 0.00085, 0.012)


def prior(process: Process) -> Prior:
    return Prior(process, None, (1, 1, 2))


def normal(seed: int, rows: int = 3) -> torch.Tensor:
    return torch.randn(
        rows, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize(
    ("process", "index", "abar", "places"),
    [
        (cin256, 0, 0.9985, 1e-6),
        (cin256, 400, 0.234447, 5e-7),
        (cin256, 550, 0.075255, 5e-7),
        (cin256, 999, 1.4230e-4, 5e-9),
        (churches, 400, 0.273889, 5e-7),
        (churches, 550, 0.105453, 5e-7),
        (adm, 0, 0.9999, 1e-8),
        (adm, 999, 4.036e-5, 5e-9),
    ],
)
def test_printed_schedule_values(process, index, abar, places):
    level = process().level_at_index(index)
    assert level.alpha**2 == pytest.approx(abar, abs=places)
    assert level.alpha**2 + level.sigma**2 == pytest.approx(1, abs=1e-14)
    assert level.t == index


@pytest.mark.parametrize(
    ("process", "low", "high", "at_400", "at_550"),
    [
        (adm, 0.0100, 157, 2.04, 4.57),
        (cin256, 0.0388, 83.8, 1.81, 3.51),
        (churches, 0.0388, 38.7, 1.63, 2.91),
        (stable_diffusion, 0.0292, 14.6, 1.16, 1.92),
    ],
)
def test_published_noise_ranges(process, low, high, at_400, at_550):
    process = process()
    found = [
        process.ratio_min,
        process.ratio_max,
        *(process.level_at_index(k).ratio for k in (400, 550)),
    ]
    assert found == pytest.approx([low, high, at_400, at_550], rel=4e-3)


def test_vipaint_posterior_coefficients():
    """From step 550 to 400 of cin256. VIPaint multiplies the variance by eta, DDIM's eta is its
    square root."""
    t, s = cin256().level_at_index(550), cin256().level_at_index(400)
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for eta, c_z, c_x0, variance in (
        (1.0, 0.469028, 0.355531, 0.562121),
        (0.2, 0.840405, 0.253652, 0.112424),
    ):
        of_z, var = Process.bridge_moments(one, zero, t, s, math.sqrt(eta))
        of_x0, _ = Process.bridge_moments(zero, one, t, s, math.sqrt(eta))
        assert [of_z.item(), of_x0.item(), var] == pytest.approx([c_z, c_x0, variance], abs=6e-7)


def between(far: Level, s: Level, t: Level) -> tuple[float, float, float]:
    """``q(z_s | z_t, z_far)`` from the product of the two transition densities: coefficients of
    both and variance."""
    low, high = Process.transition(far, s), Process.transition(s, t)
    variance = 1 / (1 / low.v + high.a**2 / high.v)
    return variance * low.a / low.v, variance * high.a / high.v, variance


def test_three_level_identities():
    """At steps 700, 600 and 550 of cin256, with z_550 in the place of x0."""
    t, s, far = (cin256().level_at_index(k) for k in (700, 600, 550))
    jump, low, high = (
        Process.transition(far, t),
        Process.transition(far, s),
        Process.transition(s, t),
    )
    assert jump.v == pytest.approx(0.791762, abs=5e-7)
    assert jump.v == pytest.approx(high.v + high.a**2 * low.v, rel=1e-13)
    assert between(far, s, t) == pytest.approx((0.664854, 0.274242, 0.316354), abs=6e-7)


def test_noise_form_of_the_posterior_mean():
    """``M = (z_t - v / sigma_t eps) / a`` (Ho et al. 2020, Eq. 11, for any two steps)."""
    t, s = cin256().level_at_index(700), cin256().level_at_index(550)
    z, x0 = normal(0), normal(1)
    step = Process.transition(s, t)
    expected = (z - step.v / t.sigma * Process.eps(z, x0, t)) / step.a
    torch.testing.assert_close(Process.posterior(z, x0, s, t)[0], expected, atol=1e-13, rtol=0)


@pytest.mark.parametrize("process", [VE(), adm(), Flow()], ids=["ve", "vp", "flow"])
def test_ancestral_bridge_is_the_posterior(process):
    t, s = process.level(3.0), process.level(0.4)
    z, x0, noise = normal(0), normal(1), normal(2)
    mean, var = process.posterior(z, x0, s, t)
    torch.testing.assert_close(
        process.bridge(z, x0, t, s, 1.0, noise), mean + var**0.5 * noise, atol=1e-13, rtol=0
    )


def test_posterior_against_bayes_rule():
    """``q(z_s | z_t, x0)`` is the normalised product of ``q(z_s | x0)`` and ``q(z_t | z_s)``, on a
    grid."""
    process, x0, z_t = adm(), 0.7, -0.4
    t, s = process.level(1.5), process.level(0.6)
    a, v = t.alpha / s.alpha, t.sigma**2 - (t.alpha / s.alpha) ** 2 * s.sigma**2
    z = np.linspace(-6, 6, 20_001)
    density = np.exp(-((z - s.alpha * x0) ** 2) / (2 * s.sigma**2) - (z_t - a * z) ** 2 / (2 * v))
    density /= density.sum()
    mean, var = process.posterior(torch.tensor(z_t), torch.tensor(x0), s, t)
    assert mean.item() == pytest.approx((density * z).sum(), abs=1e-6)
    assert var == pytest.approx((density * z**2).sum() - (density * z).sum() ** 2, rel=1e-6)


def test_one_jump_has_the_law_of_single_steps():
    chain = [cin256().level_at_index(k) for k in range(400, 551)]
    mean = unit = torch.ones(1, dtype=torch.float64)
    variance = 0.0
    for s, t in pairwise(chain):
        mean = Process.renoise(mean, s, t, 0 * unit)
        spread = Process.renoise(0 * unit, s, t, unit).item()
        variance = (t.alpha / s.alpha) ** 2 * variance + spread**2
    jump = Process.renoise(unit, chain[0], chain[-1], 0 * unit)
    assert jump.item() == pytest.approx(mean.item(), rel=1e-12)
    assert Process.renoise(0 * unit, chain[0], chain[-1], unit).item() ** 2 == pytest.approx(
        variance, rel=1e-12
    )


@pytest.mark.parametrize(
    "other", [adm(), cin256(), Flow(), Flow(3.0)], ids=["adm", "cin256", "flow", "sd3"]
)
@pytest.mark.parametrize("eta", [0.0, 0.2, 1.0])
def test_processes_are_one_process_in_other_coordinates(other, eta):
    """In ``y = z / alpha`` every primitive gives what VE gives at the same ratios."""
    y, x0, noise = normal(0), normal(1), normal(2)
    high, low = 3.5, 0.9
    results = []
    for process in (VE(), other):
        t, s = process.level(high), process.level(low)
        z_s = process.bridge(t.alpha * y, x0, t, s, eta, noise) / s.alpha
        z_t = process.renoise(s.alpha * y, s, t, noise) / t.alpha
        again = process.add_noise(x0, t, noise) / t.alpha
        results.append(torch.stack([z_s, z_t, again, process.eps(t.alpha * y, x0, t)]))
    torch.testing.assert_close(results[1], results[0], atol=1e-12, rtol=0)


def test_a_flow_starts_from_pure_noise():
    process = Flow()
    t, s = process.level(math.inf), process.level(1.0)
    assert (t.alpha, t.sigma, t.ratio) == (0.0, 1.0, math.inf)
    z, x0 = normal(0), normal(1)
    mean, var = process.posterior(z, x0, s, t)
    torch.testing.assert_close(mean, s.alpha * x0, atol=1e-15, rtol=0)
    assert var == s.sigma**2
    assert process.bridge(z, x0, t, s, 0.5, normal(2)).isfinite().all()


def test_shifted_flow_indices():
    """Shift 3 (Stable Diffusion 3): ``sigma = 3 u / (1 + 2 u)``."""
    process = Flow(shift=3.0)
    for index in (1000.0, 750.0, 500.0, 8.0):
        level = process.level_at_index(index)
        u = index / 1000
        assert level.sigma == pytest.approx(3 * u / (1 + 2 * u), rel=1e-14)
        assert level.t == pytest.approx(1000 * level.sigma, rel=1e-14)
        assert process.index(level) == pytest.approx(index, rel=1e-12)


def test_index_interpolation_inverts_itself():
    process = adm()
    for index in (0.0, 0.3, 17.0, 400.5, 998.9, 999.0):
        level = process.level_at_index(index)
        assert process.level(level.ratio).t == pytest.approx(index, abs=1e-10)
        assert process.level(level.ratio).ratio == pytest.approx(level.ratio, rel=1e-13)
    middle = process.level_at_index(400.5)
    ends = [process.level_at_index(k).ratio for k in (400, 401)]
    assert middle.ratio == pytest.approx(math.sqrt(ends[0] * ends[1]), rel=1e-13)


@pytest.mark.parametrize("process", [VE(), adm(), Flow(u_max=0.99)], ids=["ve", "vp", "flow"])
def test_ratios_outside_the_trained_range_are_clamped(process):
    assert process.level(1e9).ratio == pytest.approx(process.ratio_max, rel=1e-12)
    assert process.level(1e-9).ratio == pytest.approx(process.ratio_min, rel=1e-12)


def test_a_vp_index_outside_the_table_is_refused():
    with pytest.raises(ValueError, match=r"index 1000 is outside the checkpoint's range 0\.\.999"):
        adm().level_at_index(1000)


@pytest.mark.parametrize("process", [VE(), adm(), Flow()], ids=["ve", "vp", "flow"])
def test_stacked_levels_equal_single_ones(process):
    pairs = [(process.level(r), process.level(r / 3)) for r in (30.0, 2.0, 0.3)]
    t, s = (Level.stack(levels) for levels in zip(*pairs, strict=True))
    z, x0, noise = normal(0), normal(1), normal(2)
    together = (
        process.bridge(z, x0, t, s, 0.7, noise),
        process.renoise(z, s, t, noise),
        process.eps(z, x0, t),
    )
    for i, (high, low) in enumerate(pairs):
        row = slice(i, i + 1)
        single = (
            process.bridge(z[row], x0[row], high, low, 0.7, noise[row]),
            process.renoise(z[row], low, high, noise[row]),
            process.eps(z[row], x0[row], high),
        )
        for whole, one in zip(together, single, strict=True):
            torch.testing.assert_close(whole[row], one, atol=1e-12, rtol=0)


def test_the_last_step_arrives_at_the_denoised_image():
    t, z, x0 = adm().level(0.5), normal(0), normal(1)
    torch.testing.assert_close(
        Process.bridge(z, x0, t, CLEAN, 1.0, normal(2)), x0, atol=1e-14, rtol=0
    )
    step = Process.transition(CLEAN, t)
    assert step == Transition(t.alpha, t.sigma**2, 1.0, 0.0, 0.0)


def test_respaced_grid_keeps_the_indices_of_guided_diffusion():
    """RePaint and CoPaint: 250 of 1000 steps, the i-th being round(i 999 / 249), with the original
    abar."""
    levels = prior(adm()).grid(250, "index")
    assert [level.t for level in levels[:-1]] == [
        round(i * 999 / 249) for i in reversed(range(250))
    ]
    assert levels[-1] == CLEAN
    betas = np.linspace(1e-4, 0.02, 1000)
    abar = np.cumprod(1 - betas)
    assert [level.alpha**2 for level in levels[:-1]] == pytest.approx(
        [abar[int(level.t)] for level in levels[:-1]]
    )


def test_edm_grid():
    """Karras et al. 2022, Eq. 5, at their 18 steps; the second value is the one their code
    prints."""
    levels = prior(VE()).grid(18, "karras")
    root = np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 18)
    assert [level.sigma for level in levels[:-1]] == pytest.approx(list(root**7), rel=1e-12)
    assert levels[1].sigma == pytest.approx(57.586, abs=1e-3)
    assert [level.t for level in levels[:-1]] == pytest.approx(list(np.log(root**7) / 4), abs=1e-12)
    assert levels[-1] == CLEAN


@pytest.mark.parametrize(
    ("kind", "process"), [("logsnr", VE()), ("flow", Flow()), ("karras", adm())]
)
def test_grids_between_two_levels(kind, process):
    start, end = process.level(10.0), process.level(0.1)
    levels = prior(process).grid(8, kind, start, end)
    coordinate = {
        "logsnr": lambda level: math.log(level.ratio),
        "flow": lambda level: level.sigma / (level.alpha + level.sigma),
        "karras": lambda level: level.ratio ** (1 / 7),
    }[kind]
    values = [coordinate(level) for level in levels]
    assert len(levels) == 9
    assert values == pytest.approx(
        list(np.linspace(coordinate(start), coordinate(end), 9)), rel=1e-9
    )


def test_native_grids():
    assert prior(VE()).grid(5) == prior(VE()).grid(5, "karras")
    assert prior(adm()).grid(5) == prior(adm()).grid(5, "index")
    assert prior(Flow()).grid(5) == prior(Flow()).grid(5, "flow")
    assert [round(level.sigma, 3) for level in prior(Flow()).grid(5)] == [
        1.0,
        0.75,
        0.5,
        0.251,
        0.001,
        0.0,
    ]


@pytest.mark.parametrize("process", [VE(), adm(), Flow(), Flow(u_max=0.99)])
def test_steps_of_one_length_in_the_time_of_a_flow(process):
    *levels, last = prior(process).grid(20, "uniform_time")
    u = [1 - k / 20 for k in range(20)]
    ratios = [process.ratio_max if v == 1 else process.clamp(v / (1 - v)) for v in u]
    assert [level.ratio for level in levels] == pytest.approx(ratios, rel=1e-9)
    assert levels[0] == process.level(process.ratio_max)
    assert last == CLEAN


def test_steps_of_one_length_from_a_start():
    """The same levels as the whole grid without its first ones."""
    p = prior(Flow())
    whole = p.grid(100, "uniform_time")
    part = p.grid(60, "uniform_time", start=p.level_at_index(600))
    assert [level.sigma for level in part] == pytest.approx([w.sigma for w in whole[40:]])
    with pytest.raises(ValueError, match="uniform_time goes down to the clean end; use grid flow"):
        p.grid(10, "uniform_time", end=p.level_at_index(100))


@pytest.mark.parametrize(
    ("process", "kind", "message"),
    [
        (VE(), "index", "no native index"),
        (VE(), "cosine", "unknown grid 'cosine'; valid: native"),
        (Flow(), "karras", "needs a finite start"),
        (Flow(), "logsnr", "needs a finite start"),
    ],
)
def test_grids_that_do_not_exist_are_refused(process, kind, message):
    with pytest.raises(ValueError, match=message):
        prior(process).grid(5, kind)


@pytest.mark.parametrize("base", [VE(), adm(), Flow(u_max=0.99)], ids=["ve", "vp", "flow"])
def test_views_rescale_levels_and_nothing_else(base):
    for ratio in (0.05, 1.0, 20.0):
        native = base.level(ratio)
        vp, ve, flow = (Rescaled(base, kind).level(ratio) for kind in ("vp", "ve", "flow"))
        assert vp.alpha**2 + vp.sigma**2 == pytest.approx(1, abs=1e-14)
        assert ve.alpha == pytest.approx(1, abs=1e-14)
        assert flow.alpha + flow.sigma == pytest.approx(1, abs=1e-14)
        assert vp.t == ve.t == flow.t == native.t
        assert [vp.ratio, ve.ratio, flow.ratio] == pytest.approx([native.ratio] * 3, rel=1e-13)


def test_a_ve_view_cannot_start_where_alpha_is_zero():
    with pytest.raises(ValueError, match="no level at alpha = 0"):
        Rescaled(Flow(), "ve").level(math.inf)


@pytest.mark.parametrize(
    "make",
    [
        lambda: VE(0.0, 80.0),
        lambda: VE(2.0, 1.0),
        lambda: Flow(shift=0.0),
        lambda: Flow(u_max=1.5),
        lambda: VP.scheduled("sigmoid", 1e-4, 0.02),
    ],
)
def test_impossible_processes_are_refused(make):
    with pytest.raises(ValueError, match=r"needs|unknown schedule"):
        make()


def test_the_cosine_schedule_is_diffusers():
    from diffusers import DDPMScheduler

    expected = DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod.double()
    process = VP.scheduled("cosine")
    found = [process.level_at_index(k).alpha ** 2 for k in (0, 500, 998)]
    assert found == pytest.approx(expected[[0, 500, 998]].tolist(), rel=1e-3)
    assert process.spec == {"kind": "vp", "schedule": "cosine", "steps": 1000}
    with pytest.raises(ValueError, match="takes no beta_start and beta_end"):
        VP.scheduled("cosine", 1e-4, 0.02)
    with pytest.raises(ValueError, match="missing its beta_start and beta_end"):
        VP.scheduled("linear")
