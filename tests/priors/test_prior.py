"""What holds for every prior: one denoiser, one result, whatever the process and the
parameterisation."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.autograd.forward_ad as forward_ad

from posterior_bench.priors.base import BudgetExceeded, Prior
from posterior_bench.priors.mixtures import g2
from posterior_bench.priors.process import CLEAN, VE, Flow, Level
from posterior_bench.priors.sample import METHODS, sample

from .conftest import PAIRS, SHAPE, DoubleNoise, mixture, perfect_prior


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def chain(prior: Prior, steps: int = 12) -> list[Level]:
    """The same levels, named by their ratio, for every prior."""
    return [*prior.grid(steps, "karras", prior.level(30.0), prior.level(0.05)), CLEAN]


# -- one sampler, seven priors, one result ---------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_seven_families_give_the_same_samples(method):
    results = {
        name: sample(p := perfect_prior(name), chain(p), DoubleNoise(4), method=method)
        for name in PAIRS
    }
    reference = results["ve-edm"]
    assert reference.std() > 0.2
    for result in results.values():
        torch.testing.assert_close(result, reference, atol=1e-9, rtol=0)


def test_every_parameterisation_is_the_exact_denoiser(perfect):
    exact = mixture(perfect.process)
    for ratio in (0.05, 0.7, 30.0):
        level = perfect.level(ratio)
        z = level.alpha * normal(5, *SHAPE) + level.sigma * normal(5, *SHAPE, seed=1)
        torch.testing.assert_close(
            perfect.denoise(z, level), exact.denoise(z, level), atol=1e-10, rtol=0
        )


def test_a_flow_network_works_where_alpha_is_zero(make_perfect):
    """``x0 = (z - sigma u) / (alpha + sigma)`` needs no division by alpha; there ``E[x0 | z]`` is
    the mean."""
    prior = make_perfect("flow-flow")
    out = prior.denoise(normal(3, *SHAPE), prior.level(math.inf))
    torch.testing.assert_close(
        out.flatten(1), mixture(prior.process).mean.expand(3, 2), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("kind", ["vp", "ve", "flow"])
def test_views_do_not_change_the_samples(perfect, kind):
    view = perfect.view(kind)
    native, seen = (
        sample(p, chain(p), DoubleNoise(3), method="ancestral") for p in (perfect, view)
    )
    torch.testing.assert_close(seen, native, atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", ["vp", "ve", "flow"])
def test_a_view_denoises_the_rescaled_state(perfect, kind):
    view = perfect.view(kind)
    native = perfect.level(0.8)
    scale = {
        "ve": native.alpha,
        "vp": math.hypot(native.alpha, native.sigma),
        "flow": native.alpha + native.sigma,
    }[kind]
    z = normal(4, *SHAPE)
    expected = perfect.denoise(z, native)
    torch.testing.assert_close(
        view.denoise(z / scale, view.level(0.8)), expected, atol=1e-9, rtol=0
    )
    stacked = Level.stack([view.level(0.8)] * 4)
    torch.testing.assert_close(view.denoise(z / scale, stacked), expected, atol=1e-9, rtol=0)


def test_a_view_is_a_whole_prior(make_perfect):
    prior = make_perfect("vp-eps", num_classes=2, null_label=2)
    view = prior.view("ve")
    assert (view.caps, view.latent_shape, view.num_classes) == (prior.caps, prior.latent_shape, 2)
    assert view.view("native") is prior.view("vp") is prior
    assert view.view("ve") is view and view.view("flow").base is prior
    assert copy.copy(view).base is prior
    with pytest.raises(ValueError, match="unknown view 'edm'; valid: vp, ve, flow"):
        prior.view("edm")


# -- the properties of a denoiser ------------------------------------------------------------------


def test_denoiser_at_both_ends(perfect):
    """Almost no noise: the state itself. Almost only noise: the mean of the data."""
    exact = mixture(perfect.process)
    x0 = exact.sample(torch.tensor([0.1, 0.6, 0.9]), normal(3, *SHAPE))
    low = perfect.level(0.0)
    near = perfect.denoise(perfect.process.add_noise(x0, low, normal(3, *SHAPE, seed=1)), low)
    assert (near - x0).abs().max() < 3 * low.ratio
    high = perfect.level(80.0)
    far = perfect.denoise(high.sigma * normal(3, *SHAPE), high)
    assert (far.flatten(1) - exact.mean).abs().max() < 0.1


def test_state_is_rebuilt_from_its_two_parts(perfect):
    z, level = normal(3, *SHAPE), perfect.level(0.6)
    x0 = perfect.denoise(z, level)
    again = level.alpha * x0 + level.sigma * perfect.process.eps(z, x0, level)
    torch.testing.assert_close(again, z, atol=1e-14, rtol=0)


def test_rows_do_not_depend_on_their_batch(perfect):
    z, level = normal(5, *SHAPE), perfect.level(0.6)
    singles = torch.cat([perfect.denoise(row, level) for row in z.split(1)])
    torch.testing.assert_close(perfect.denoise(z, level), singles, atol=1e-12, rtol=0)


def test_gradient_equals_finite_differences(perfect):
    level, direction = perfect.level(0.6), normal(2, *SHAPE, seed=1)
    z = normal(2, *SHAPE).requires_grad_()
    weight = normal(2, *SHAPE, seed=2)
    (gradient,) = torch.autograd.grad((weight * perfect.denoise(z, level)).sum(), z)
    step = 1e-6
    with torch.no_grad():
        ends = [
            (weight * perfect.denoise(z + sign * step * direction, level)).sum() for sign in (1, -1)
        ]
    assert (gradient * direction).sum().item() == pytest.approx(
        ((ends[0] - ends[1]) / (2 * step)).item(), rel=1e-6
    )


def test_pixel_priors_encode_and_decode_nothing(perfect):
    x = normal(2, *SHAPE)
    assert perfect.decode(perfect.encode(x)) is x
    assert "pixel" in perfect.caps and not perfect.is_latent


def test_float32_states_stay_float32(perfect):
    """A float32 state gives what a float64 state gives, to float32 round-off."""
    z, level = normal(3, *SHAPE), perfect.level(0.6)
    out = perfect.denoise(z.float(), level)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), perfect.denoise(z, level), atol=2e-5, rtol=0)


def test_an_unknown_parameterisation_is_refused():
    prior = Prior(VE(), torch.nn.Identity(), SHAPE, "score")
    prior.net.forward = lambda x, t, cond: x  # type: ignore[union-attr]
    with pytest.raises(
        ValueError, match="unknown parameterization 'score'; valid: eps, x0, v, flow, edm"
    ):
        prior.denoise(normal(1, *SHAPE), prior.level(1.0))


# -- conditions and guidance -----------------------------------------------------------------------


@pytest.fixture(params=["ve-edm", "vp-v", "flow-flow"])
def labelled(request, make_perfect) -> Prior:
    return make_perfect(request.param, num_classes=2, null_label=2)


def test_labels_reach_the_network(labelled):
    z, level = normal(2, *SHAPE), labelled.level(0.7)
    exact = mixture(labelled.process).denoise(z, level)
    out = labelled.denoise(z, level, labelled.condition(torch.tensor([0, 1])))
    shift = torch.tensor([0.1, -0.2], dtype=torch.float64).view(2, 1, 1, 1)
    torch.testing.assert_close(out, exact + shift, atol=1e-10, rtol=0)
    torch.testing.assert_close(labelled.denoise(z, level), exact, atol=1e-10, rtol=0)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_guidance_extrapolates_from_the_null_condition(labelled, guidance):
    """``D_null + g (D_label - D_null)``: one formula in every parameterisation (Ho and Salimans
    2022)."""
    z, level, cond = (
        normal(2, *SHAPE),
        labelled.level(0.7),
        labelled.condition(torch.tensor([0, 1])),
    )
    given, null = labelled.denoise(z, level, cond), labelled.denoise(z, level)
    expected = null + guidance * (given - null)
    torch.testing.assert_close(
        labelled.denoise(z, level, cond, guidance), expected, atol=1e-10, rtol=0
    )


def test_guidance_without_a_null_condition_is_refused(make_perfect):
    prior, z = make_perfect("ve-edm", num_classes=2), normal(2, *SHAPE)
    cond = prior.condition(torch.tensor([0, 1]))
    with pytest.raises(
        ValueError, match=r"guidance 2\.0 needs a condition and a trained null condition"
    ):
        prior.denoise(z, prior.level(1.0), cond, 2.0)
    with pytest.raises(ValueError, match="no unconditional branch: give labels"):
        prior.denoise(z, prior.level(1.0))
    with pytest.raises(ValueError, match="a mixture has no classes"):
        g2().denoise(z, VE().level(1.0), None, 2.0)


def test_unconditional_priors_ignore_labels(perfect):
    assert perfect.condition(torch.tensor([0, 1])) is None


def test_conditions_repeat_row_by_row(labelled):
    cond = labelled.condition(torch.tensor([0, 1])).repeat(2)
    assert cond.values["label"].tolist() == [0, 0, 1, 1]
    assert cond.null["label"].tolist() == [2, 2, 2, 2]


def test_capabilities(make_perfect):
    assert make_perfect("ve-edm").caps == {"grad", "pixel"}
    assert make_perfect("ve-edm", num_classes=2).caps == {"grad", "pixel", "label"}
    assert make_perfect("ve-edm", num_classes=2, null_label=2).caps == {
        "grad",
        "pixel",
        "label",
        "guidance",
    }
    assert g2().caps == {"grad", "pixel", "exact", "double_backward", "low_dimension"}


# -- meters ----------------------------------------------------------------------------------------


def test_meter_equals_a_count_by_hand(labelled):
    level, cond = labelled.level(0.7), labelled.condition(torch.tensor([0, 1, 0]))
    z = normal(3, *SHAPE).requires_grad_()
    before = labelled.net.rows
    with labelled.metered() as meter:
        labelled.denoise(z.detach(), level)  # 3 forwards
        labelled.denoise(z.detach(), level, cond, 2.0)  # 6
        labelled.denoise(z, level, cond).sum().backward()  # 3 and 3 backwards
        labelled.denoise(z, level, cond, 2.0).sum().backward()  # 6 and 6
        labelled.denoise(z, level)  # 3 forwards, no gradient taken
    assert meter.counts() == {
        "nfe": 21,
        "nge": 9,
        "decode": 0,
        "decode_grad": 0,
        "encode": 0,
        "encode_grad": 0,
    }
    assert labelled.net.rows - before == 21


def test_chained_gradients_are_counted_once_per_evaluation(make_perfect):
    prior = make_perfect("vp-eps")
    t, s = prior.level(2.0), prior.level(0.5)
    z = normal(2, *SHAPE).requires_grad_()
    with prior.metered() as meter:
        x0 = prior.denoise(z, t)
        prior.denoise(prior.process.bridge(z, x0, t, s, 0.0, None), s).sum().backward()
    assert (meter.nfe, meter.nge) == (4, 4)


def _jvp_of_reverse_mode(f, z):
    """``J v`` from two gradients: of ``u J`` with regard to ``u``."""
    u = torch.zeros_like(z, requires_grad=True)
    (uJ,) = torch.autograd.grad(f(z), z, u, create_graph=True)
    torch.autograd.grad(uJ, u, torch.ones_like(uJ))


def _second_derivative(loss):
    def take(f, z):
        (slope,) = torch.autograd.grad(loss(f(z)), z, create_graph=True)
        torch.autograd.grad(slope, z, torch.ones_like(slope))

    return take


def _carried_forwards(f, z):
    with forward_ad.dual_level():
        f(forward_ad.make_dual(z.detach(), torch.ones_like(z)))


def _used_three_times(f, z):
    x0 = f(z)
    for _ in range(3):
        torch.autograd.grad(x0.sum(), z, retain_graph=True)


@pytest.mark.parametrize(
    ("take", "backwards"),
    [
        (lambda f, z: f(z), 0),
        (lambda f, z: torch.autograd.grad(f(z).sum(), z), 1),
        (_used_three_times, 3),
        (_jvp_of_reverse_mode, 2),  # the gradient, and the gradient of it
        (_second_derivative(lambda x: x.sum()), 2),
        # the slope of the loss depends on x0: its gradient goes back through the first pass once
        # more
        (_second_derivative(lambda x: x.square().sum()), 3),
        (_carried_forwards, 1),
    ],
    ids=[
        "none",
        "vjp",
        "graph used again",
        "jvp by gradients",
        "hessian",
        "hessian of a square",
        "jvp forwards",
    ],
)
@pytest.mark.parametrize("prior", [g2("vp"), perfect_prior("vp-eps")], ids=["exact", "network"])
def test_every_kind_of_gradient_is_counted(prior, take, backwards):
    level, z = prior.level(0.7), normal(3, *SHAPE).requires_grad_()
    with prior.metered() as meter:
        take(lambda at: prior.denoise(at, level), z)
    assert (meter.nfe, meter.nge, meter.passes) == (3, 3 * backwards, 3 + 3 * backwards)


@pytest.mark.parametrize("prior", [g2("vp"), perfect_prior("vp-v")], ids=["exact", "network"])
def test_views_count_on_the_meter_of_the_prior(prior):
    view, z = prior.view("ve"), normal(3, *SHAPE)
    with prior.metered() as outer:
        view.denoise(z, view.level(1.0))
        with view.metered() as inner:
            prior.denoise(z, prior.level(1.0))
            view.denoise(z, view.level(1.0))
        prior.denoise(z, prior.level(1.0))
    assert (outer.nfe, inner.nfe) == (6, 6)


def test_budget_is_enforced(perfect):
    z, level = normal(2, *SHAPE), perfect.level(1.0)
    with perfect.metered(limit=4):
        perfect.denoise(z, level)
        perfect.denoise(z, level)
        with pytest.raises(BudgetExceeded, match="used 6 network evaluations; its budget is 4"):
            perfect.denoise(z, level)
    perfect.denoise(z, level)


def test_a_budget_of_passes_counts_backwards_too(perfect):
    z, level = normal(2, *SHAPE).requires_grad_(), perfect.level(1.0)
    with perfect.metered(limit=6, unit="passes") as meter:
        perfect.denoise(z, level).sum().backward()
        x0 = perfect.denoise(z, level)
        with pytest.raises(
            BudgetExceeded, match=r"used 8 network passes \(forward \+ backward\); its budget is 6"
        ):
            x0.sum().backward()
    assert (meter.nfe, meter.nge) == (4, 4)
    with perfect.metered(limit=4):  # evaluations alone: backwards are free
        perfect.denoise(z, level).sum().backward()
        perfect.denoise(z, level).sum().backward()


# -- the sampler -----------------------------------------------------------------------------------


def test_no_global_random_number_is_used(perfect):
    state = torch.get_rng_state()
    sample(perfect, chain(perfect, 3), DoubleNoise(2), method="ancestral")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", METHODS)
def test_rows_of_a_sample_depend_on_their_noise_alone(perfect, method):
    few, many = (sample(perfect, chain(perfect, 4), DoubleNoise(n), method=method) for n in (2, 5))
    torch.testing.assert_close(many[:2], few, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("method", "calls"), [("heun", 23), ("ddim", 12), ("ancestral", 12)])
def test_cost_of_a_chain(make_perfect, method, calls):
    prior = make_perfect("ve-edm")
    with prior.metered() as meter:
        sample(prior, prior.grid(12), DoubleNoise(3), method=method)
    assert meter.nfe == 3 * calls


class BasisNoise:
    """Row ``i`` gets one unit of the i-th noise scalar and nothing else: an affine chain shows its
    whole matrix."""

    def __init__(self, rows: int):
        self.rows, self.used = rows, 0

    def normal(self, shape):
        out = torch.zeros(self.rows, *shape, dtype=torch.float64)
        size = out[0].numel()
        out.flatten(1)[self.used : self.used + size] = torch.eye(size, dtype=torch.float64)
        self.used += size
        return out


@pytest.mark.parametrize(("kind", "variance"), [("vp", 0.9690), ("ve", 0.9585)])
def test_ancestral_sampling_of_a_gaussian(kind, variance):
    """Two pixels of unit variance and correlation 0.9 in 250 steps: exact propagation of the affine
    chain."""
    prior = g2(kind)
    x = sample(prior, prior.grid(250), BasisNoise(502), method="ancestral").flatten(1)
    assert (x.T @ x).diagonal().tolist() == pytest.approx([variance] * 2, abs=1e-4)


@pytest.mark.parametrize("kind", ["ve", "vp"])
def test_heun_is_of_second_order(kind):
    """For a Gaussian the flow is known: every principal axis is scaled by ``sqrt((S alpha^2 +
    sigma^2) / ...)``."""
    prior = g2(kind)
    start, end = prior.level(5.0), prior.level(0.1)
    eigenvalues = torch.tensor([1.9, 0.1], dtype=torch.float64)
    axes = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / 2**0.5
    noise = DoubleNoise(3).normal(SHAPE).flatten(1) * start.sigma
    ends = [level.alpha**2 * eigenvalues + level.sigma**2 for level in (end, start)]
    exact = noise @ axes * (ends[0] / ends[1]).sqrt() @ axes.T
    errors = {}
    for steps in (20, 40):
        for method in ("heun", "ddim"):
            levels = prior.grid(steps, "karras", start, end)
            x = sample(prior, levels, DoubleNoise(3), method=method).flatten(1)
            errors[method, steps] = (x - exact).abs().max().item()
    assert errors["heun", 20] / errors["heun", 40] == pytest.approx(4, rel=0.3)
    assert errors["ddim", 20] / errors["ddim", 40] == pytest.approx(2, rel=0.3)


def test_a_flow_is_sampled_from_pure_noise():
    prior = g2("flow")
    for method in METHODS:
        x = sample(prior, prior.grid(20), DoubleNoise(200), method=method).flatten(1)
        assert torch.corrcoef(x.T)[0, 1].item() == pytest.approx(0.9, abs=0.06)


def test_an_unknown_sampler_is_refused():
    with pytest.raises(ValueError, match="unknown sampler 'euler'; valid: heun, ddim, ancestral"):
        sample(g2(), g2().grid(3), DoubleNoise(1), method="euler")


def test_levels_of_a_prior_are_those_of_its_process(make_perfect):
    prior = make_perfect("vp-eps")
    assert prior.level(2.0) == prior.process.level(2.0)
    assert prior.level_at_index(400) == prior.process.level_at_index(400)
    with pytest.raises(ValueError, match="a VE prior has no native index"):
        make_perfect("ve-edm").level_at_index(400)
    assert Prior(Flow(), None, SHAPE).level(math.inf).alpha == 0.0
