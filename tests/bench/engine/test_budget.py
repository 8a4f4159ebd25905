"""An equal budget: counts of real rows against counts by hand, and what is left alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.bench.harness import planned, rows, run

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.catalog import option, options
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.conformance.side_effects import snapshot
from posterior_bench.bench.conformance.small_priors import small_prior
from posterior_bench.bench.conformance.small_problem import SmallProblem
from posterior_bench.bench.core.errors import Inapplicable, UserError
from posterior_bench.bench.core.streams import Noise
from posterior_bench.bench.engine.budget import Trial, _largest, weightless, within_budget
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.engine.solving import solve
from posterior_bench.datasets.base import ImageSet
from posterior_bench.priors.base import BudgetExceeded, Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Sampler, Solver

N, PASSES, DRAWS = 24, 60, 2


def walked(steps: int, length: int, times: int) -> int:
    return steps + math.ceil(max(steps - length, 0) / length) * (times - 1) * length


def mgdm(s: Any) -> int:
    visits = range(s.levels - 3)
    fits = [s.late_steps if i >= s.late * s.levels else s.fit_steps for i in visits]
    return 1 + s.repeats * sum(fit + s.inner_steps for fit in fits)


def resample(s: Any) -> int:
    third = s.steps // 3
    left = [i for i in range(1, s.steps) if i <= s.steps - third and i % s.every == 0]
    return s.steps + sum(min(s.lookahead, i) for i in left)


def vipaint(s: Any, draws: int = DRAWS) -> float:
    keypoints = len(s.keypoints)
    return s.iterations * s.monte_carlo * (keypoints + 1) / draws + keypoints - 1 + s.refine_steps


def lanpaint(s: Any) -> int:
    """A call of every level, and round(inner q) more, on the grid of a VE prior."""
    top, bottom = 80 ** (1 / 7), 0.002 ** (1 / 7)
    ratios = [(top + i / max(s.steps - 1, 1) * (bottom - top)) ** 7 for i in range(s.steps)]
    inner = ratios[: max(s.steps - s.early_stop, 0)]
    return s.steps + sum(round(s.inner * r**2 / (1 + r**2)) for r in inner)


BY_HAND: Mapping[str, Callable[[Any], float]] = {
    **dict.fromkeys(
        ["blended", "conditional", "ddrm", "diffpir", "dps", "latino", "mmps"], lambda s: s.steps
    ),
    **dict.fromkeys(
        ["pigdm", "prior", "psld", "reddiff", "reddiff_v", "deepinv"], lambda s: s.steps
    ),
    **dict.fromkeys(["flowchef", "ot_ode"], lambda s: s.steps),
    **dict.fromkeys(["flower", "flower_cov", "pnpflow"], lambda s: s.steps * s.samples),
    **dict.fromkeys(["latentpaint", "latentpaint_free"], lambda s: 2 * s.steps),
    **dict.fromkeys(["vipaint1", "vipaint2", "vipaint4"], vipaint),
    "daps": lambda s: s.steps * s.ode_steps,
    "dcdp": lambda s: s.steps * (s.purify_steps if s.purification == "ddim" else 1),
    "ddnm": lambda s: walked(s.steps, s.travel_length, s.travel_repeat),
    "ding": lambda s: 2 * (s.steps - s.skip) + 1,
    "dmplug": lambda s: s.steps * (s.iterations + 1),
    "latino_pro": lambda s: s.rounds * s.round_steps / DRAWS + s.steps,
    "lanpaint": lanpaint,
    "mgdm": mgdm,
    "repaint": lambda s: walked(s.steps, s.jump_length, s.resamples),
    "resample": resample,
    "pnpdm": lambda s: s.iterations * s.steps,  # with spacing=own
    **dict.fromkeys(["fps", "mcgdiff", "tds"], lambda s: s.steps * s.particles),
    "sitcom": lambda s: s.steps * (s.inner_steps + 1),
    **dict.fromkeys(["flowdps", "flair"], lambda s: s.steps),
    "dflow": lambda s: 2 * s.steps * (s.iterations + 1) + 2 * s.inversion_steps,
    "flow_priors": lambda s: s.steps * (s.inner_steps + 1),
}


def guided_vipaint(s: Any, draws: int = DRAWS) -> float:
    """All forwards of the fit have a gradient, and all steps of the refinement but the last."""
    return s.iterations * s.monte_carlo * (len(s.keypoints) + 1) / draws + s.refine_steps - 1


BACKWARDS: Mapping[str, Callable[[Any], float]] = {
    **dict.fromkeys(["dps", "ot_ode", "pigdm", "psld", "resample"], lambda s: s.steps),
    **dict.fromkeys(["vipaint1", "vipaint2", "vipaint4"], guided_vipaint),
    "dmplug": lambda s: s.steps * s.iterations,
    "latino_pro": lambda s: s.rounds * (s.round_steps - 1) / DRAWS,
    "mgdm": lambda s: mgdm(s) - 1 - s.repeats * (s.levels - 3) * s.inner_steps,
    "mmps": lambda s: s.iterations * s.steps,
    "sitcom": lambda s: s.steps * s.inner_steps,
    "tds": lambda s: (s.steps - 1) * s.particles,
    "dflow": lambda s: 2 * s.steps * s.iterations,
    "flow_priors": lambda s: 3 * s.steps * s.inner_steps,
}
"""Backward passes through the network; solvers that are not here take none."""


def passes(name: str, solver: Any) -> float:
    return BY_HAND[name](solver) + (BACKWARDS[name](solver) if name in BACKWARDS else 0)


ELSEWHERE = {
    "conditional": "inpainting",
    "flow_priors": "flow",
    "latino_pro": "text",
    "psld": "latent",
    "resample": "latent",
}
LINE_SEARCH = ("copaint", "copaint_tt")
WITHOUT_WORK = (
    "exact",
    "gibbs",
    "long_run",
    "folder",
    "torchscript",
    "dpir",
    "tv",
    "telea",
    "navier_stokes",
    "hio",
)


@pytest.fixture(name="cell")
def small_cell():
    """Return a function that makes a cell on a small prior: ``cell("dps", "budget=nfe:9")``.

    Settings are those of the preset ``fast`` where there is one: what ``bench tune`` chooses for
    the embedded prior may change. The function returns the configuration, the choices and the
    session of the cell.
    """

    def make(
        solver: str, *more: str, kind: str = "network"
    ) -> tuple[JobConfig, dict[str, Any], Session]:
        prior = small_prior(kind)
        presets = option("solver", solver).content.get("presets", {})
        preset = ["solver.preset=fast"] if "fast" in presets else []
        lines = [f"solver={solver}", *preset, f"draws={DRAWS}", "metrics=[psnr]", *more]
        cfg, choices = compose(check(lines))
        images = {"shape": list(prior.image_shape), "classes": 0, "images": 1}
        config = replace(job_of(cfg), data={"_target_": "bench.standin.StandIn", **images})
        return config, choices, on_flat(config, prior)

    return make


def on_flat(config: JobConfig, prior: Prior) -> Session:
    """The session of such a cell."""
    session = Session(config, "cpu", prior)
    session.images = Flat(prior.image_shape)
    return session


class Flat(ImageSet):
    """One grey image of any shape."""

    def __init__(self, shape: tuple[int, int, int]):
        self.name, self.ids, self.shape = "flat", ("one",), shape

    def images(self, ids: Sequence[str]) -> torch.Tensor:
        return torch.zeros(len(ids), *self.shape)


class Several(Flat):
    """Eight images, from dark to bright."""

    def __init__(self, shape: tuple[int, int, int]):
        super().__init__(shape)
        self.name, self.ids = "several", tuple("abcdefgh")

    def images(self, ids: Sequence[str]) -> torch.Tensor:
        levels = torch.tensor([self.ids.index(i) / 4 - 0.9 for i in ids])
        return levels.view(-1, 1, 1, 1).expand(-1, *self.shape)


def chosen(config: JobConfig, choices: Mapping[str, Any], session: Session) -> tuple[Solver, float]:
    """The solver that the budget leads to, and the network evaluations of a real row of it."""
    solver, found = a_row(config, choices, session)
    return solver, found["nfe"]


def a_row(
    config: JobConfig, choices: Mapping[str, Any], session: Session
) -> tuple[Solver, Mapping[str, Any]]:
    """The solver that the budget leads to, and a real row of it."""
    config = within_budget(config, choices, session)
    real = on_flat(config, session.prior)
    found = solve(real, real.measure(real.images.ids[:1]), config.draws, config.draws, None)
    return real.solver, found[0]


def test_every_solver_has_a_count_here() -> None:
    assert {*BY_HAND, *LINE_SEARCH, *WITHOUT_WORK} == {*options("solver", plugins=())}


# latentpaint is latentpaint_free with modules that were trained for one prior
@pytest.mark.parametrize("name", [name for name in BY_HAND if name != "latentpaint"])
def test_rows_cost_what_was_asked_for_and_one_step_more_would_be_too_much(cell, name: str) -> None:
    if name == "deepinv":
        pytest.importorskip("deepinv")
    config, choices, session = cell(name, f"budget=nfe:{N}", kind=ELSEWHERE.get(name, "network"))
    preset, count = session.solver, BY_HAND[name]
    solver, nfe = chosen(config, choices, session)
    assert nfe == count(solver) <= N
    size = max(preset.workload.values())
    assert count(preset.scaled((max(solver.workload.values()) + 1) / size)) > N


@pytest.mark.parametrize("name", [*BACKWARDS, "ddnm", "deepinv", "reddiff", "repaint"])
def test_a_budget_of_passes_counts_backwards_too(cell, name: str) -> None:
    if name == "deepinv":
        pytest.importorskip("deepinv")
    config, choices, session = cell(
        name, f"budget=passes:{PASSES}", kind=ELSEWHERE.get(name, "network")
    )
    preset = session.solver
    solver, row = a_row(config, choices, session)
    assert row["nfe"] + row["nge"] == passes(name, solver) <= PASSES
    assert (row["nge"] > 0) == (name in BACKWARDS)
    size = max(preset.workload.values())
    assert passes(name, preset.scaled((max(solver.workload.values()) + 1) / size)) > PASSES


@pytest.mark.parametrize(
    ("name", "steps"), [("dps", 50), ("ddnm", 100), ("mmps", 25), ("repaint", 34)]
)
def test_a_hundred_passes(cell, name: str, steps: int) -> None:
    """RePaint's 34 steps are 33 forward jumps of two more calls each: 34 + 33 * 2 = 100."""
    assert a_row(*cell(name, "budget=passes:100", kind="exact"))[0].steps == steps


@pytest.mark.parametrize(
    ("name", "settings", "forwards", "backwards"),
    [
        ("dps", ["steps=100"], 100, 100),
        ("ddnm", ["steps=100"], 100, 0),
        ("mmps", ["steps=30", "iterations=3"], 30, 90),
        # 4 iterations of 2 samples at 3 levels, shared by two draws; then 1 + 8 steps, 7 of them
        # guided
        ("vipaint2", ["iterations=4", "monte_carlo=2", "refine_steps=8"], 12 + 9, 12 + 7),
    ],
)
def test_rows_hold_forwards_and_backwards(
    cell, name: str, settings: list[str], forwards: int, backwards: int
) -> None:
    _, row = a_row(*cell(name, *(f"solver.{setting}" for setting in settings), kind="exact"))
    assert (row["nfe"], row["nge"]) == (forwards, backwards)


@pytest.mark.parametrize("name", ["dps", "mmps", "vipaint2"])
def test_a_run_beyond_its_passes_ends_there(cell, name: str) -> None:
    """Steps that the user gave stay, and the rows say what was spent and in which unit."""
    config, _, session = cell(name, "budget=passes:9", "solver.preset=fast", kind="exact")
    work = {"dps": {"steps": 5}, "mmps": {"steps": 3}, "vipaint2": {"iterations": 4}}[name]
    config = config.with_settings("solver", work)
    real = on_flat(config, session.prior)
    with pytest.raises(
        BudgetExceeded, match=rf"passes \(forward \+ backward\); its budget is {9 * DRAWS}$"
    ):
        solve(real, real.measure(real.images.ids[:1]), DRAWS, DRAWS, None)


@pytest.mark.parametrize("kind", ["exact", "network"])
@pytest.mark.parametrize("name", LINE_SEARCH)
def test_a_line_search_stays_within_its_passes(cell, name: str, kind: str) -> None:
    _, row = a_row(*cell(name, "budget=passes:60", kind=kind))
    assert row["nge"] > 0 and 39 <= row["nfe"] + row["nge"] <= 60


@pytest.mark.parametrize("kind", ["exact", "network"])
@pytest.mark.parametrize("name", LINE_SEARCH)
def test_a_line_search_stays_within_the_budget_and_near_it(cell, name: str, kind: str) -> None:
    """Without a try that fails, CoPaint makes a call and one per iteration at every step of its
    walk but the last."""
    solver, nfe = chosen(*cell(name, "budget=nfe:40", kind=kind))
    tries = (walked(solver.steps, solver.jump_length, solver.resamples) - 1) * (
        1 + solver.iterations
    )
    assert max(tries, 26) <= nfe <= 40


@dataclass(frozen=True)
class Search(Sampler):
    """A call for all rows at every step, and one more where a row's number is below 0.05."""

    def draw(self, obs: Any, prior: Prior, noise: Any) -> Any:
        x = noise.normal(prior.image_shape)
        for again in (noise.uniform((10,)) < 0.05).any(0):
            for _ in range(1 + int(again)):
                x = prior.denoise(x, Level(0.5, 0.5))
        return x


def test_a_line_search_is_counted_on_many_rows_together(cell) -> None:
    """A try that one row needs is a call for all rows, so one row alone would need fewer."""
    _, _, session = cell("copaint", "draws=8", kind="exact")
    session.images = Several(session.prior.image_shape)
    trial = Trial.of(session, "nfe")
    noise = Noise(trial.keys, "solver").draws(range(8))
    noise.normal(session.prior.image_shape)
    tries = int((noise.uniform((10,)) < 0.05).any(0).sum())
    assert (len(trial.keys), trial.taken) == (8, 8) and tries > 5
    assert trial.cost(Search()) == 10 + tries
    _, _, session = cell("dps", "draws=8", kind="exact")
    session.images = Several(session.prior.image_shape)
    assert (len(Trial.of(session, "nfe").keys), Trial.of(session, "nfe").taken) == (1, 1)


@pytest.mark.parametrize(("draws", "budget"), [(1, 60), (2, 60), (8, 60), (3, 41)])
def test_draws_share_the_fit(cell, draws: int, budget: int) -> None:
    config, choices, session = cell(
        "vipaint2", f"budget=nfe:{budget}", f"draws={draws}", kind="exact"
    )
    solver, nfe = chosen(config, choices, session)
    assert nfe == pytest.approx(vipaint(solver, draws)) and nfe <= budget
    assert (
        vipaint(
            session.solver.scaled((solver.refine_steps + 1) / session.solver.refine_steps), draws
        )
        > budget
    )


def trial(kind: str, draws: int = DRAWS) -> Trial:
    problem = SmallProblem(
        small_prior(kind), {"_target_": "operators.inpainting.Inpainting", "sigma": 0.0}
    )
    measured = problem.measure((0,))
    return Trial(problem.prior, problem.observe(measured), list(measured.keys), draws)


@pytest.mark.parametrize("kind", ["exact", "network", "latent"])
def test_a_dry_run_counts_and_leaves_the_prior_as_it_was(kind: str) -> None:
    found, dps = trial(kind), build({"_target_": "solvers.dps.DPS", "steps": 5})
    before, names = snapshot(found.prior), {*vars(found.prior)}
    assert found.cost(dps) == 5
    assert found.cost(dps, limit=4) == math.inf
    assert snapshot(found.prior) == before and {*vars(found.prior)} == names
    assert found.prior.latent is None or not {"encode", "decode"} & {*vars(found.prior.latent)}


def test_guidance_counts_twice() -> None:
    assert (
        trial("network").cost(build({"_target_": "solvers.dps.DPS", "steps": 5, "guidance": 2.0}))
        == 10
    )


@dataclass(frozen=True)
class Hasty(Sampler):
    """Fails before its first step."""

    def draw(self, obs: Any, prior: Prior, noise: Any) -> Any:
        raise ArithmeticError("the first step\nis cursed")


def test_a_solver_that_fails_is_one_line() -> None:
    found = trial("network")
    before = snapshot(found.prior)
    with pytest.raises(
        UserError, match=r"Hasty failed while .*: ArithmeticError: the first step"
    ) as error:
        found.cost(Hasty())
    assert len(str(error.value).splitlines()) == 1 and snapshot(found.prior) == before


@pytest.mark.parametrize("kind", ["network", "latent"])
def test_the_stand_in_denoises_and_runs_no_network(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no noise the state is the image; in pure noise it is the mean of the stand-in,
    zero."""
    prior, z = small_prior(kind), torch.full((2, *small_prior(kind).latent_shape), 0.3)
    monkeypatch.setattr(prior.net, "forward", lambda *_: pytest.fail("the network was run"))
    with weightless(prior, whole=False):
        clean = prior.denoise(z, Level(1.0, 1e-4))
        noisy = prior.denoise(z, Level(0.0, 1.0))
        image = prior.decode(z)
        assert prior.encode(image).shape == z.shape and image.shape == (2, *prior.image_shape)
    torch.testing.assert_close(clean, z, atol=1e-5, rtol=0)
    torch.testing.assert_close(noisy, torch.zeros_like(z))


# -- the search ------------------------------------------------------------------------------------


@given(
    a=st.integers(1, 40),
    b=st.integers(0, 60),
    usual=st.integers(1, 1000),
    limit=st.integers(1, 2000),
)
def test_the_most_of_an_affine_count(a: int, b: int, usual: int, limit: int) -> None:
    runs: list[int] = []
    found = _largest(lambda k: runs.append(k) or a * k + b, usual, limit)
    assert found == max(0, (limit - b) // a)
    assert len(runs) <= 14


@given(
    rises=st.lists(st.integers(1, 30), min_size=1),
    usual=st.integers(1, 1000),
    limit=st.integers(1, 300),
)
def test_the_most_of_an_uneven_count_is_within_the_limit_and_near_it(
    rises: list[int], usual: int, limit: int
) -> None:
    """Rises that come again and again, up to 30 beyond any limit."""
    counts = [0, *accumulate(rises * 331)]
    found = _largest(lambda k: counts[k] if k < len(counts) else math.inf, usual, limit)
    assert counts[found] <= limit < counts[found + 1] + 30


def test_a_count_that_rises_in_jumps_stays_within_the_limit() -> None:
    found = _largest(lambda k: 10.0 * (1 + k // 10), 50, 45)
    assert found == 39


@given(least=st.integers(1, 50), usual=st.integers(50, 100), limit=st.integers(1, 200))
def test_what_a_constructor_refuses_is_passed_over(least: int, usual: int, limit: int) -> None:
    found = _largest(lambda k: -math.inf if k < least else 2.0 * k, usual, limit)
    assert found == limit // 2 or found < least > limit // 2


@pytest.mark.parametrize("most", [0, 1, 7, 49])
def test_where_more_work_counts_no_more_it_stays(most: int) -> None:
    runs: list[int] = []
    assert _largest(lambda k: runs.append(k) or min(k, most), 80, 50) == 80
    assert len(runs) <= 9


# -- cells -----------------------------------------------------------------------------------------


@pytest.fixture
def plain_command(command):
    """The small cell of the other tests with the preset's own settings."""
    return lambda *more, **where: [
        line for line in command("dps", *more, **where) if not line.startswith("solver.")
    ]


def test_what_was_chosen_is_in_the_plan_and_the_rows(plain_command) -> None:
    overrides = plain_command("budget=nfe:20")
    outcome = run(overrides)
    assert outcome.good and (rows(outcome.plan)["nfe"] == 20).all()
    recorded = yaml.safe_load((outcome.plan.folder / "config.yaml").read_text())
    assert recorded["config"]["solver"]["steps"] == 20
    assert recorded["identity"]["variant"].split()[-2:] == ["steps=20", "budget=nfe:20"]
    assert not planned(overrides).missing()


def test_chunks_workers_and_images_change_nothing(plain_command) -> None:
    cells = {
        planned([*plain_command("budget=nfe:20", out=f"study{i}"), *more]).cell.name
        for i, more in enumerate(
            [[], ["batch=1"], ["batch=64"], ["threads=2"], ["solver.steps=20"]]
        )
    }
    assert len(cells) == 1
    assert planned(plain_command("budget=nfe:21")).cell.name not in cells


def test_what_the_user_gave_is_respected(cell) -> None:
    config, choices, session = cell("vipaint2", "budget=nfe:1000", "solver.iterations=3")
    assert within_budget(config, choices, session) is config
    config, choices, session = cell("copaint", "budget=nfe:30", "solver.lr_decay=1.5", kind="exact")
    solver, _ = chosen(config, choices, session)
    assert solver.lr_decay == 1.5 and solver.steps != session.solver.steps


def test_without_a_budget_nothing_is_chosen(cell) -> None:
    config, choices, session = cell("dps")
    assert within_budget(config, choices, session) is config


def test_growth_over_the_whole_run_stays(cell) -> None:
    """CoPaint's step size grows by a factor per level, and its presets by their number of
    levels."""
    config, choices, session = cell(
        "copaint", "solver.preset=authors_faces", "budget=nfe:60", kind="exact"
    )
    preset, (solver, _) = session.solver, chosen(config, choices, session)
    assert solver.steps < preset.steps
    for name in ("lr_decay", "weight_decay"):
        whole = getattr(preset, name) ** preset.steps
        assert getattr(solver, name) ** solver.steps == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "budget", "message"),
    [
        (
            "tds",
            "nfe:3",
            "TDS takes at least 4 network evaluations per draw with this preset, more than "
            "budget=nfe:3",
        ),
        ("copaint", "nfe:2", "CoPaint takes at least 3 network"),
        (
            "dps",
            "passes:1",
            r"DPS takes at least 2 network passes \(forward \+ backward\) .*; give budget=passes:2 "
            r"or",
        ),
        ("exact", "nfe:100", "Exact has no setting for how much work it does"),
    ],
)
def test_a_solver_that_cannot_meet_the_budget_does_not_apply(
    cell, name: str, budget: str, message: str
) -> None:
    config, choices, session = cell(name, f"budget={budget}", kind="exact")
    with pytest.raises(Inapplicable, match=message) as refusal:
        within_budget(config, choices, session)
    assert len(str(refusal.value).splitlines()) == 1


FILE = """
from dataclasses import dataclass
from typing import ClassVar
from posterior_bench.solvers.base import Sampler


@dataclass(frozen=True)
class Mine(Sampler):
    \"\"\"Two calls a round.\"\"\"

    work: ClassVar[tuple[str, ...]] = ("rounds",)
    rounds: int = 50

    def draw(self, obs, prior, noise):
        z = noise.normal(prior.latent_shape)
        for _ in range(2 * self.rounds):
            z = prior.denoise(z, prior.level(1.0))
        return z
"""


def test_a_solver_in_a_file_names_its_own_work(cell, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    config, choices, session = cell(f"{path}:Mine", "budget=nfe:31")
    solver, nfe = chosen(config, choices, session)
    assert (solver.rounds, nfe) == (15, 30)
    config, choices, session = cell(f"{path}:Mine", "budget=nfe:31", "solver.rounds=4")
    assert within_budget(config, choices, session) is config
