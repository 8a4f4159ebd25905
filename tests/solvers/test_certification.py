"""Methods as they ship: what they refuse, where gradients go, and what masks that observe all or
nothing give."""

from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.conformance.small_priors import small_prior
from posterior_bench.bench.conformance.small_problem import SmallProblem, with_few_steps
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.session import Session
from posterior_bench.operators.base import Operator
from posterior_bench.priors.mixtures import g2

INPAINTING = options("operator")["inpainting"].content
PIXEL, LATENT = frozenset({"grad", "pixel"}), frozenset({"grad", "latent"})
MASK, SPECTRUM, LINEAR, NONLINEAR = "mask", "spectrum", "linear", "nonlinear"

# what a method is made for, from its paper: the operator, and pixels, latents or both
MADE_FOR: dict[str, tuple[str, str]] = {
    "blended": (MASK, "both"),
    "lanpaint": (MASK, "both"),
    "repaint": (MASK, "pixel"),
    "ddrm": (SPECTRUM, "pixel"),
    "ding": (SPECTRUM, "pixel"),
    "ddnm": (SPECTRUM, "pixel"),
    "diffpir": (LINEAR, "pixel"),
    "fps": (SPECTRUM, "pixel"),
    "mcgdiff": (SPECTRUM, "pixel"),
    "pnpdm": (LINEAR, "pixel"),
    "pigdm": (LINEAR, "pixel"),
    "mmps": (LINEAR, "pixel"),
    **dict.fromkeys(("flower", "flower_cov", "ot_ode"), (LINEAR, "pixel")),
    **dict.fromkeys(("pnpflow", "flowchef"), (NONLINEAR, "both")),
    "latino": (LINEAR, "both"),
    "psld": (LINEAR, "latent"),
    "resample": (NONLINEAR, "latent"),
    **dict.fromkeys(
        ("dps", "copaint", "copaint_tt", "reddiff", "reddiff_v", "daps"), (NONLINEAR, "both")
    ),
    **dict.fromkeys(("flowdps", "flair", "dflow"), (NONLINEAR, "both")),
    **dict.fromkeys(("mgdm", "tds", "vipaint1", "vipaint2", "vipaint4"), (NONLINEAR, "both")),
    **dict.fromkeys(("sitcom", "dcdp", "dmplug"), (NONLINEAR, "both")),
}
CAPS = {
    MASK: frozenset({"linear", "mask", "projection", "pinv", "prox", "svd"}),
    SPECTRUM: frozenset({"linear", "pinv", "prox", "svd"}),
    LINEAR: frozenset({"linear", "prox"}),
    NONLINEAR: frozenset({"nonlinear"}),
}


def _solver(name: str) -> Any:
    return build(options("solver")[name].content)


def _start_session(
    monkeypatch: pytest.MonkeyPatch, name: str, operator: str, prior: frozenset[str]
) -> None:
    """What a run does before any work, with an operator and a prior of which only the capabilities
    exist."""

    class Stub(Operator):
        caps: ClassVar[frozenset[str]] = CAPS[operator]

    shape = (1, 28, 28)
    Stub.__module__ = "posterior_bench.operators.base"
    monkeypatch.setattr("posterior_bench.operators.base.Stub", Stub, raising=False)
    none = {"num_classes": 0, "null_label": None, "reads_text": False, "net": None, "latent": None}
    stub = SimpleNamespace(caps=prior, image_shape=shape, run_as=lambda execution: None, **none)
    monkeypatch.setattr("posterior_bench.bench.engine.session.shared", lambda *given: stub)
    monkeypatch.setattr(
        "posterior_bench.bench.engine.session.build_images",
        lambda *given: SimpleNamespace(shape=shape),
    )
    config = {
        "mask": options("mask")["box"].content,
        "solver": options("solver")[name].content,
        "operator": {"_target_": "operators.base.Stub"},
        "metrics": {},
    }
    Session(JobConfig.of(config), "cpu")


@pytest.mark.parametrize("prior", [PIXEL, LATENT], ids=["pixel", "latent"])
@pytest.mark.parametrize("operator", CAPS)
@pytest.mark.parametrize("name", MADE_FOR)
def test_what_a_method_is_not_made_for_is_refused_in_one_line(name, operator, prior, monkeypatch):
    hardest, space = MADE_FOR[name]
    kinds = list(CAPS)
    fits = kinds.index(operator) <= kinds.index(hardest) and space in (
        "both",
        "pixel" if prior is PIXEL else "latent",
    )
    if fits:
        _start_session(monkeypatch, name, operator, prior)
        return
    with pytest.raises(
        UserError, match=r"^\w+ needs .*, which this prior and operator do not have .*; choose"
    ) as error:
        _start_session(monkeypatch, name, operator, prior)
    assert "\n" not in str(error.value)


# the gradients of a method's own formulas: through the network, through the decoder, through the
# encoder
NONE: frozenset[str] = frozenset()
NETWORK, DECODER, ENCODER = (
    frozenset({"nge"}),
    frozenset({"decode_grad"}),
    frozenset({"encode_grad"}),
)
REACH: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        ("blended", "lanpaint", "repaint", "ddrm", "ddnm", "diffpir", "ding", "prior"), NONE
    ),
    **dict.fromkeys(("latentpaint_free", "pnpdm", "fps", "mcgdiff"), NONE),
    **dict.fromkeys(("flower", "flower_cov", "latino"), NONE),
    **dict.fromkeys(("pigdm", "mmps", "ot_ode"), NETWORK),
    **dict.fromkeys(("reddiff", "reddiff_v", "daps", "dcdp"), DECODER),
    **dict.fromkeys(("pnpflow", "flowchef", "flowdps", "flair"), DECODER),
    **dict.fromkeys(
        ("dps", "copaint", "copaint_tt", "tds", "mgdm", "resample", "vipaint2"), NETWORK | DECODER
    ),
    **dict.fromkeys(("sitcom", "dmplug", "dflow"), NETWORK | DECODER),
    "psld": NETWORK | DECODER | ENCODER,
}


def _touched(name: str, space: str) -> tuple[set[str], list[torch.Tensor]]:
    """Which counters of backward passes a run moves, and the tensors it could have left gradients
    in."""
    prior = small_prior(space)
    problem = SmallProblem(prior, INPAINTING)
    measured = problem.measure((0, 1))
    obs = problem.observe(measured)
    with prior.metered() as meter:
        with_few_steps(_solver(name)).fit(obs, prior, problem.noise(measured)).sample([0])
    leaves = [
        obs.y,
        *(
            p
            for module in (prior.net, prior.latent)
            if module is not None
            for p in module.parameters()
        ),
    ]
    return {k for k, v in meter.counts().items() if v and k in NETWORK | DECODER | ENCODER}, leaves


@pytest.mark.parametrize("name", REACH)
def test_gradients_reach_what_the_method_says_and_nothing_else(name):
    reach = REACH[name]
    spaces = [
        space
        for space in ("network", "latent")
        if _solver(name).needs <= small_prior(space).caps | CAPS[MASK]
    ]
    assert spaces
    for space in spaces:
        touched, leaves = _touched(name, space)
        # pixel priors have no decoder to go through
        assert touched == (reach if space == "latent" else reach & NETWORK)
        assert all(leaf.grad is None and not leaf.requires_grad for leaf in leaves)


# -- masks that observe all or nothing -------------------------------------------------------------

PIXEL_METHODS = [
    name
    for name, (_, space) in MADE_FOR.items()
    if space != "latent" and not name.startswith("vipaint")
]
# fast presets are tuned to images: what two pixels of deviation 1 need to be told
TUNED: dict[str, dict[str, Any]] = {
    "pigdm": {"data_std": 1.0},
    "tds": {"data_std": 1.0},
    "dps": {"zeta": 0.1},
    "mgdm": {"levels": 24},
    "sitcom": {"steps": 20},
    "flowdps": {"step": 0.05},
}
# how far raw samples may stay from a measurement without noise, where not 0.02: by what each method
# takes for its noise
DISTANCE = {
    **{"dps": 0.1, "daps": 0.08, "tds": 0.08, "mgdm": 0.15, "reddiff": 0.05, "reddiff_v": 0.15},
    **{"flowdps": 0.1, "flair": 0.08, "pnpflow": 0.08},
    "pnpdm": 0.1,  # the coupling that is left
    "dmplug": 0.15,  # its few Adam steps have not arrived
}
# those that seek a mode or a mean; DMPlug, whose chain of three steps loses spread; and SITCOM,
# which noises its predictions
MODES = {"reddiff", "reddiff_v", "dmplug", "pnpflow", "flower", "sitcom"}


def _samples(name: str, mask: tuple[bool, bool], observe: Any, seeded_noise: Any) -> torch.Tensor:
    """48 samples ``(48, 2)`` of the shipped fast preset, without its clipping, on two correlated
    pixels."""
    solver = _solver(name)
    changes = {"clip": False} if "clip" in {field.name for field in fields(solver)} else {}
    solver = replace(solver, **changes, **TUNED.get(name, {}))
    obs = observe(mask, 0.4, rows=48)
    posterior = solver.fit(replace(obs, y=obs.y.float()), g2("ve"), seeded_noise(range(48)))
    return posterior.sample([0]).x.flatten(1)


@pytest.mark.parametrize("name", PIXEL_METHODS)
def test_everything_observed_comes_back(name, observe, seeded_noise):
    x = _samples(name, (True, True), observe, seeded_noise)
    assert (x - 0.4).square().mean().sqrt() < DISTANCE.get(name, 0.02)


@pytest.mark.parametrize("name", PIXEL_METHODS)
def test_nothing_observed_leaves_the_prior(name, observe, seeded_noise):
    """N(0, 1) with correlation 0.9, within what 48 samples and few steps can show; methods that
    seek a mode have less spread."""
    x = _samples(name, (False, False), observe, seeded_noise)
    assert x.mean(0).abs().max() < 0.5
    assert x.T.corrcoef()[0, 1] > 0.75
    assert x.var(0).max() < (0.5 if name in MODES else 1.5)
    assert x.var(0).min() > (0 if name in MODES else 0.4)
