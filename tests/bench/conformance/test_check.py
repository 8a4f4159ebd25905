"""The conformance suite finds what it claims to find: a solver that breaks one promise fails that
one and no other."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count, pairwise
from random import gauss
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.config.build import build, target
from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.conformance.check import check_solver
from posterior_bench.bench.conformance.checked_solver import CheckedSolver
from posterior_bench.bench.conformance.class_promises import CLASS_PROMISES, CheckedClass
from posterior_bench.bench.conformance.promise import examine
from posterior_bench.bench.conformance.report_table import summary
from posterior_bench.bench.conformance.results import FAIL, PASS, SKIPPED, WARNING, Result
from posterior_bench.bench.conformance.run_promises import RUN_PROMISES
from posterior_bench.bench.conformance.side_effects import (
    GlobalRandomnessError,
    forbid_global_randomness,
    global_generator_states,
)
from posterior_bench.bench.conformance.small_priors import PRIORS, small_prior
from posterior_bench.bench.conformance.small_problem import SmallProblem, with_few_steps
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.job import unchecked
from posterior_bench.bench.engine.measurement import Measurement
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.base import BudgetExceeded, Prior
from posterior_bench.priors.mixtures import smooth
from posterior_bench.priors.process import Flow
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler, Samples, Solver
from posterior_bench.solvers.ddnm import DDNM

INPAINTING = options("operator")["inpainting"].content
CARD = Card("A title", "a paper", "an equation")


@dataclass(frozen=True)
class Honest(Sampler):
    """Ancestral sampling with the observed pixels pasted at the end: keeps every promise.

    Parameters
    ----------
    steps : int, default 3
        Network calls.
    """

    card: ClassVar[Card] = CARD
    needs: ClassVar[frozenset[str]] = frozenset({"mask"})
    steps: int = 3

    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        levels = prior.grid(self.steps)
        z = self.start(obs, prior, noise) * levels[0].sigma
        for t, s in pairwise(levels):
            z = prior.process.bridge(
                z, prior.denoise(z, t, obs.cond), t, s, 1.0, noise.normal(prior.latent_shape)
            )
        return self.finish(obs.operator.paste(z, obs.y), obs, prior)

    def start(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        return noise.normal(prior.latent_shape)

    def finish(self, x: Tensor, obs: Observation, prior: Prior) -> Tensor:
        return x


def finishing(finish: Callable[[Tensor, Observation, Prior], Tensor]) -> Honest:
    """An honest solver but for what it does to its samples."""
    return type("Finishing", (Honest,), {"finish": lambda self, *arguments: finish(*arguments)})()


def starting(start: Callable[[Observation, Prior, Noise], Tensor]) -> Honest:
    """An honest solver but for the noise it starts from."""
    return type("Starting", (Honest,), {"start": lambda self, *arguments: start(*arguments)})()


def after(act: Callable[[Observation, Prior], object]) -> Honest:
    """An honest solver that does one thing more."""

    def finish(x: Tensor, obs: Observation, prior: Prior) -> Tensor:
        act(obs, prior)
        return x

    return finishing(finish)


def results(solver: Solver, prior: str = "exact") -> dict[str, Result]:
    return {
        r.name: r
        for r in examine(
            RUN_PROMISES, CheckedSolver(solver, SmallProblem(small_prior(prior), INPAINTING))
        )
    }


def failed(found: dict[str, Result]) -> list[str]:
    return [name for name, result in found.items() if result.status == FAIL]


@pytest.mark.parametrize("prior", ["exact", "network"])
def test_an_honest_solver_keeps_every_promise(prior):
    found = results(Honest(), prior)
    # there may be no GPU, and what a network's images should look like is not known
    elsewhere = ("gpu",) if prior == "exact" else ("gpu", "agrees")
    assert [r for r in found.values() if r.status != PASS and r.name not in elsewhere] == []
    assert list(found) == [promise.name for promise in RUN_PROMISES]


# -- one broken solver for every promise -----------------------------------------------------------


def _fails(*_arguments: object) -> Tensor:
    raise RuntimeError("out of luck")


def _with_state_restored(obs: Observation, prior: Prior, noise: Noise) -> Tensor:
    state = torch.get_rng_state()
    x = torch.randn(obs.n, *prior.latent_shape)
    torch.set_rng_state(state)
    return x


def _of_the_truth(x: Tensor, obs: Observation, prior: Prior) -> Tensor:
    """A solver that goes through its callers' variables until it finds the measurement's truth."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        for value in frame.f_locals.values():
            if isinstance(value, Measurement):
                return value.truth.repeat_interleave(len(x) // len(value.truth), 0) + 0.01 * x
    return x


def _all_zero_if_any_is_nan(x: Tensor, obs: Observation, prior: Prior) -> Tensor:
    return x if x.isfinite().all() else torch.zeros_like(x)


def _scaled_by_the_observed(x: Tensor, obs: Observation, prior: Prior) -> Tensor:
    return x + 0 / obs.operator.mask.flatten(1).sum(1).view(-1, 1, 1, 1)


def _same_for_everybody(obs: Observation, prior: Prior, noise: Noise) -> Tensor:
    own = torch.randn(prior.latent_shape, generator=torch.Generator().manual_seed(0))
    return own + 0 * noise.normal(prior.latent_shape)


def _normalised(x: Tensor, obs: Observation, prior: Prior) -> Tensor:
    return nn.functional.batch_norm(x, None, None, training=True)


def _mixed(x: Tensor, obs: Observation, prior: Prior) -> Tensor:
    """The mean of an image and of a product, which autocast makes half as wide: they no longer
    mix."""
    return torch.lerp(x, x @ torch.eye(x.shape[-1]), 0.5)


@dataclass(frozen=True)
class Careless(Honest):
    """Goes on when its budget is spent."""

    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        try:
            return super().draw(obs, prior, noise)
        except BudgetExceeded:
            return torch.zeros(obs.n, *prior.image_shape)


@dataclass(frozen=True)
class Hidden(Honest):
    """Counts its network calls on a meter of its own."""

    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        with prior.metered():
            return super().draw(obs, prior, noise)


@dataclass(frozen=True)
class OneStream(Solver):
    """Takes the noise of its draws from one stream, so that a draw depends on those before it."""

    def fit(self, obs: Observation, prior: Prior, noise: Noise) -> OneStream._Posterior:
        return self._Posterior(obs, prior, noise)

    @dataclass(frozen=True)
    class _Posterior:
        obs: Observation
        prior: Prior
        noise: Noise

        def sample(self, draws: Sequence[int]) -> Samples:
            z = [self.noise.normal(self.prior.latent_shape) for _ in draws]
            return Samples(
                torch.stack(
                    [self.prior.denoise(x, self.prior.level(1.0), self.obs.cond) for x in z], 1
                )
            )


_runs_so_far = count()

BROKEN = {
    "an error": ("runs", after(_fails)),
    "no channel axis": ("output", finishing(lambda x, *_: x[:, 0])),
    "float64": ("output", finishing(lambda x, *_: x.double())),
    "with a graph": ("output", finishing(lambda x, *_: x.requires_grad_())),
    "one infinity": ("finite", finishing(lambda x, *_: x / (x != x.amax((1, 2, 3), keepdim=True)))),
    "torch.randn": (
        "randomness",
        starting(lambda obs, prior, noise: torch.randn(obs.n, *prior.latent_shape)),
    ),
    "dropout": ("randomness", finishing(lambda x, *_: nn.functional.dropout(x))),
    "torch.randn, state restored": ("randomness", starting(_with_state_restored)),
    "torch.manual_seed": ("randomness", after(lambda *_: torch.manual_seed(0))),
    "numpy": ("randomness", finishing(lambda x, *_: x + np.random.normal())),
    "random": ("randomness", finishing(lambda x, *_: x + random.random())),
    "random, imported by name": ("randomness", finishing(lambda x, *_: x + gauss(0, 1))),
    "a clock": ("repeat", finishing(lambda x, *_: x + os.urandom(1)[0])),
    "memory": ("repeat", finishing(lambda x, *_: x + next(_runs_so_far))),
    "batch norm": ("batch", finishing(_normalised)),
    "a glance at the neighbour": ("batch", finishing(lambda x, *_: x + 1e-6 * x.roll(1, 0))),
    "the place in the batch": (
        "batch",
        finishing(lambda x, *_: x + 1e-3 * torch.arange(len(x)).view(-1, 1, 1, 1)),
    ),
    "one stream for all draws": ("draws", OneStream()),
    "the same noise for all": (
        "noise",
        type(
            "Frozen",
            (Honest,),
            {
                "draw": lambda self, obs, prior, noise: prior.denoise(
                    _same_for_everybody(obs, prior, noise), prior.level(1.0), obs.cond
                )
            },
        )(),
    ),
    "zeros for the batch of a NaN": ("nan", finishing(_all_zero_if_any_is_nan)),
    "a caught BudgetExceeded": ("budget", Careless()),
    "a meter of its own": ("budget", Hidden()),
    "the truth on the stack": ("truth", finishing(_of_the_truth)),
    "a division by the observed": ("masks", finishing(_scaled_by_the_observed)),
    "a pseudo-inverse nobody promised": (
        "needs",
        after(lambda obs, prior: obs.operator.pinv(obs.y)),
    ),
    "no half precision": ("bfloat16", finishing(_mixed)),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_solver_fails_the_promise_it_breaks_and_no_other(case):
    promise, solver = BROKEN[case]
    found = results(solver)
    assert failed(found) == [promise], found
    for name, result in found.items():
        rests_on = next(p.after for p in RUN_PROMISES if p.name == name)
        if promise in rests_on:
            assert (result.status, result.reason) == (SKIPPED, f"rests on {promise}")


def _train_mode(obs: Observation, prior: Prior) -> None:
    prior.net.train()


def _gradient_left(obs: Observation, prior: Prior) -> None:
    next(prior.net.parameters()).requires_grad_()


def _hook_left(obs: Observation, prior: Prior) -> None:
    prior.net.unet.mid_block.register_forward_hook(lambda *_: None)


def _weight_changed(obs: Observation, prior: Prior) -> None:
    next(prior.net.parameters()).data[0] += 1


@pytest.mark.parametrize(
    ("act", "what"),
    [
        (_train_mode, "training mode"),
        (_gradient_left, "gradients"),
        (_hook_left, "hooks"),
        (_weight_changed, "weights"),
        (lambda *_: torch.set_grad_enabled(False), "gradient mode"),
        (lambda *_: torch.set_default_dtype(torch.float64), "default dtype"),
    ],
)
def test_what_a_solver_leaves_behind_is_named(act, what):
    solver = after(act)
    problem = SmallProblem(PRIORS["network"](), INPAINTING)  # one of its own, to be spoilt
    found = {r.name: r for r in examine(RUN_PROMISES, CheckedSolver(solver, problem))}
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    assert failed(found) == ["prior"]
    assert found["prior"].reason == f"the run left changed: {what}"


def test_y_changed_in_place_is_named():
    found = results(after(lambda obs, prior: obs.y.add_(1)))
    # draws get copies of y; only a solver that fits sees the observation itself
    assert failed(found) == []

    @dataclass(frozen=True)
    class Fitting(Honest):
        def fit(self, obs, prior, noise):
            obs.y.clamp_(0, 0.1)
            return super().fit(obs, prior, noise)

    found = results(Fitting())
    assert failed(found) == ["measurement"]
    assert found["measurement"].reason == "y of the observation changed in place"


def test_a_network_call_past_the_meter_is_seen():
    def call(obs: Observation, prior: Prior) -> None:
        prior.net(
            torch.zeros(2, 1, 8, 12), torch.zeros(2), {"label": torch.zeros(2, dtype=torch.long)}
        )

    found = results(after(call), "network")
    assert failed(found) == ["budget"]
    rows = 4 * 2
    assert (
        found["budget"].reason
        == f"the meter counts {3 * rows} network evaluations, but {3 * rows + 2} were made"
    )


def test_a_solver_without_noise_is_called_deterministic_and_one_without_network_calls_is_free():
    @dataclass(frozen=True)
    class Filling(Honest):
        def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
            return obs.operator.first_guess(obs.y)

    found = results(Filling())
    assert failed(found) == []
    assert found["noise"] == Result("noise", SKIPPED, "deterministic: it draws no noise")
    assert found["budget"] == Result("budget", SKIPPED, "it makes no network call")


# -- the code --------------------------------------------------------------------------------------


def static(cls: Any, **node: Any) -> dict[str, Result]:
    return {
        r.name: r
        for r in examine(CLASS_PROMISES, CheckedClass(cls, {"_target_": "solvers.x.X", **node}))
    }


def test_an_honest_class_keeps_the_static_promises():
    presets = {"fast": {"steps": 2}, "slow": {"steps": 9}}
    found = static(
        Honest,
        _target_="bench.conformance.class_promises.CheckedClass",
        preset="fast",
        presets=presets,
        steps=None,
    )
    assert failed(found) == ["presets"]  # CheckedClass takes no steps
    found = static(Honest)
    assert [found[name].status for name in ("card", "settings", "presets")] == [
        PASS,
        PASS,
        SKIPPED,
    ]


def test_a_class_without_card_or_that_can_change_is_refused():
    @dataclass(frozen=True)
    class Nameless(Sampler):
        card: ClassVar[Card] = replace(CARD, equations=" ")

    @dataclass
    class Changing(Sampler):
        card: ClassVar[Card] = CARD

    assert "equations" in static(Nameless)["card"].reason
    assert "frozen" in static(Changing)["card"].reason
    assert "no subclass" in static(dict)["card"].reason
    assert (
        "title, paper, equations"
        in static(type("Bare", (Solver,), {"__dataclass_params__": CARD_PARAMS}))["card"].reason
    )


CARD_PARAMS = Honest.__dataclass_params__


def test_an_undescribed_setting_is_named():
    @dataclass(frozen=True)
    class Secretive(Honest):
        """Says nothing of eta.

        Parameters
        ----------
        steps : int, default 3
            Network calls.
        """

        eta: float = 1.0

    found = static(Secretive)
    assert failed(found) == ["settings"]
    assert found["settings"].reason.endswith("does not describe eta")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"steps": 3, "zeta": 1}, "preset odd sets zeta"),
        ({"eta": 7.0}, "eta 7.0 is outside [0, 1]"),
        ({"instead_of": "fsat", "when": "latent"}, "preset odd says instead_of: fsat"),
        ({"instead_of": "fast"}, "preset odd says instead_of: fast and when: None"),
        ({"instead_of": "odd", "when": "latent"}, "preset odd says instead_of: odd"),
    ],
)
def test_a_preset_that_does_not_build_is_named(values, reason):
    node = options("solver")["ddnm"].content
    node = {**node, "presets": {**node["presets"], "odd": values}}
    found = {r.name: r for r in examine(CLASS_PROMISES, CheckedClass(DDNM, node))}
    assert failed(found) == ["presets"]
    assert reason in found["presets"].reason


# -- what is odd, and no broken promise ------------------------------------------------------------


def _inverted(x: Tensor, obs: Observation, prior: Prior) -> Tensor:
    return torch.where(obs.operator.mask, x.roll(1, 0).mean(), obs.y)


@pytest.mark.parametrize(
    ("finish", "name", "words"),
    [
        (lambda x, obs, prior: (x + 1) * 127.5, "agrees", "return them in"),
        (lambda x, obs, prior: (x + 3) / 2, "agrees", "is the mask inverted"),
        (_inverted, "agrees", "is the mask inverted"),
        (lambda x, obs, prior: x.flip(-1), "agrees", "is the mask inverted"),
        (lambda x, obs, prior: torch.zeros_like(x), "heeds", "the measurement is not used"),
    ],
    ids=["0..255", "1..2", "mask", "mirrored", "blind"],
)
def test_what_few_solvers_mean_is_a_warning(finish, name, words):
    result = results(finishing(finish))[name]
    assert result.status == WARNING and words in result.reason


def test_a_transposed_image_has_another_shape():
    assert (
        "shape (4, 2, 1, 12, 8)"
        in results(finishing(lambda x, obs, prior: x.transpose(-1, -2)))["output"].reason
    )


def test_a_warning_is_said_and_no_failure():
    report = check_solver("prior", config_of("prior"), priors=["exact"])
    assert report.failures == [] and {result.name for _, result in report.warnings} == {
        "heeds",
        "agrees",
    }
    said = summary([report]).splitlines()
    assert said[0] == "every promise that could be checked here is kept"
    assert said[1].startswith(
        "warning: solver=prior heeds (exact): another measurement gives the same samples"
    )


# -- the solvers we ship ---------------------------------------------------------------------------


def config_of(name: str, *overrides: str) -> JobConfig:
    return unchecked(compose([f"solver={name}", *overrides])[0])


def taking(caps: frozenset[str]) -> list[str]:
    """The solvers that a prior with these capabilities is enough for, and no file of the user's is
    missing for."""
    complete = [name for name, o in options("solver").items() if "???" not in o.content.values()]
    return [
        name
        for name in complete
        if target(options("solver")[name].content).needs <= caps | Inpainting.caps
    ]


# its fit on a network that reads prompts takes half a minute
LONG = {"latino_pro": [pytest.mark.slow]}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=LONG.get(name, [])) for name in options("solver")]
)
def test_every_shipped_solver_keeps_its_promises(name):
    first = next((prior for prior in PRIORS if name in taking(small_prior(prior).caps)), "exact")
    report = check_solver(name, config_of(name), priors=[first])
    assert report.failures == []
    assert name == "prior" or report.warnings == []


@pytest.mark.parametrize("process", ["vp", "flow"])
@pytest.mark.parametrize("name", taking(smooth((1, 4, 4)).caps))
def test_every_solver_of_images_runs_with_the_other_processes(name, process):
    try:
        solver = with_few_steps(build(config_of(name).solver))
    except ImportError as error:
        pytest.skip(str(error))
    x = CheckedSolver(solver, SmallProblem(smooth((1, 4, 4), process), INPAINTING)).samples
    assert x.shape == (4, 2, 1, 4, 4) and x.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("name", taking(frozenset({"grad", "latent", "features"})))
def test_every_solver_of_latents_keeps_its_promises_with_a_flow(name):
    latent = small_prior("latent")
    prior = Prior(
        Flow(),
        latent.net,
        latent.image_shape,
        "flow",
        num_classes=3,
        null_label=3,
        latent=latent.latent,
    )
    assert check_solver(name, config_of(name), prior=prior).failures == []


@pytest.mark.slow
@pytest.mark.parametrize("name", options("solver"))
def test_every_shipped_solver_keeps_its_promises_on_every_prior(name):
    report = check_solver(name, config_of(name))
    assert report.failures == []


def test_a_required_setting_that_is_missing_skips_the_run():
    config = config_of("ddnm")
    config = config.with_settings("solver", {"eta": "???"})
    report = check_solver("ddnm", config)
    assert report.failures == []
    assert {(r.status, r.reason) for r in report.columns["run"]} == {
        (SKIPPED, "solver.eta is not set; give solver.eta=VALUE")
    }


def test_needs_that_nothing_has_are_a_failure_and_an_unfit_prior_is_not(monkeypatch):
    report = check_solver("psld", config_of("psld"), prior=small_prior("exact"))
    assert [r.status for r in report.columns["run"]] == [SKIPPED]
    monkeypatch.setattr(DDNM, "needs", frozenset({"magic"}))
    (found,) = check_solver("ddnm", config_of("ddnm")).failures
    assert found[1].reason.startswith("it needs magic, ")


def test_a_solver_that_no_run_can_be_made_of_is_bad_input():
    """Images made elsewhere are found by ids that a solver never sees."""
    with pytest.raises(UserError, match="has no method to run"):
        check_solver("folder", config_of("folder", "++solver.path=somewhere"))


class Filling(nn.Module):
    """Fills the hole with the mean of what is there, image by image."""

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        seen = 1 - hole
        mean = (image * seen).sum((1, 2, 3), keepdim=True) / seen.sum(
            (1, 2, 3), keepdim=True
        ).clamp(min=1)
        return torch.where(hole > 0.5, mean, image)


def test_a_network_from_a_file_is_checked_like_any_other(tmp_path):
    torch.jit.script(Filling()).save(tmp_path / "filling.pt")
    path = f"++solver.path={tmp_path / 'filling.pt'}"
    untrusted = check_solver("torchscript", config_of("torchscript", path))
    assert [r.name for _, r in untrusted.failures] == ["presets"]
    assert "solver.trust_file=true" in untrusted.failures[0][1].reason
    report = check_solver(
        "torchscript", config_of("torchscript", path, "++solver.trust_file=true"), priors=["exact"]
    )
    assert report.failures == []
    assert Result("noise", SKIPPED, "deterministic: it draws no noise") in report.columns["exact"]


def test_another_operator_checks_what_it_can():
    config = config_of("ddnm", "operator=projection")
    noisy = config.with_settings("operator", {"sigma": 0.1})  # DDNM+
    for problem in (config, noisy):
        report = check_solver("ddnm", problem, priors=["exact"])
        assert report.failures == []
        assert Result("masks", SKIPPED, "the operator takes no mask") in report.columns["exact"]
    (refused,) = check_solver(
        "ddnm", config_of("ddnm", "operator=motion_blur"), priors=["exact"]
    ).columns["run"]
    assert refused.status == SKIPPED
    assert refused.reason.startswith("it needs pinv, svd, ")


def test_a_missing_package_skips_the_run(monkeypatch):
    def draw(*_arguments: object) -> Tensor:
        raise ModuleNotFoundError("No module named 'somebody'")

    monkeypatch.setattr(DDNM, "draw", draw)
    report = check_solver("ddnm", config_of("ddnm"), priors=["exact"])
    assert report.failures == []
    assert report.columns["exact"][0] == Result("runs", SKIPPED, "No module named 'somebody'")


def test_a_class_that_cannot_be_imported_is_a_failure():
    config = config_of("ddnm")
    config = config.with_settings("solver", {"_target_": "solvers.nowhere.Nobody"})
    assert "solvers.nowhere" in check_solver("ddnm", config).failures[0][1].reason


def test_steps_are_cut_but_for_those_the_user_gives():
    assert with_few_steps(DDNM(steps=50)) == DDNM(steps=4)
    assert with_few_steps(DDNM(steps=50), keep=frozenset({"steps"})) == DDNM(steps=50)
    assert with_few_steps(DDNM(steps=2)) == DDNM(steps=2)


# -- the command -----------------------------------------------------------------------------------


def test_the_command_prints_a_line_for_every_promise_and_ends_with_zero(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["check", "solver=ddnm", "prior=smooth", "prior.shape=[1,4,4]"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert all(promise.name in text for promise in (*CLASS_PROMISES, *RUN_PROMISES))
    assert "every promise that could be checked here is kept" in text


def test_the_command_ends_with_one_where_a_promise_is_broken(capsys, monkeypatch):
    monkeypatch.setattr(
        DDNM, "draw", lambda self, obs, prior, noise: torch.full_like(obs.y, torch.nan)
    )
    with pytest.raises(SystemExit) as stop:
        main(["check", "solver=ddnm", "prior=g2"])
    assert stop.value.code == 1
    assert "solver=ddnm breaks finite (prior)" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["solver=nobody"], ["solver=ddnm", "solver.stepps=3"]])
def test_bad_input_ends_with_two_and_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["check", *arguments])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


# -- the poison ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.rand(2),
        lambda: torch.zeros(2).normal_(),
        lambda: torch.randperm(3),
        lambda: torch.multinomial(torch.ones(3), 1),
        lambda: torch.bernoulli(torch.ones(2) / 2),
        lambda: torch.seed(),
        lambda: np.random.rand(),
        lambda: np.random.seed(0),
        lambda: np.random.shuffle([1, 2]),
        lambda: random.choice([1, 2]),
        lambda: random.seed(0),
    ],
)
def test_global_generators_raise_inside_the_block_and_are_untouched_after_it(draw):
    before = global_generator_states()
    with forbid_global_randomness(), pytest.raises(GlobalRandomnessError):
        draw()
    assert global_generator_states() == before
    with suppress(TypeError):  # outside it draws again
        draw()


def test_generators_of_ones_own_work_inside_the_block():
    generator = torch.Generator().manual_seed(0)
    expected = torch.randn(3, generator=torch.Generator().manual_seed(0))
    with forbid_global_randomness():
        assert torch.equal(torch.randn(3, generator=generator), expected)
        np.random.default_rng(0).normal()
        random.Random(0).random()
        nn.functional.scaled_dot_product_attention(*[torch.ones(1, 2, 4, 8)] * 3)
