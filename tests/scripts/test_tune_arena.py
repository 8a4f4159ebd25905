"""The settings that are tried for the arena's presets, the truths they are tried on, and the rule
that chooses."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest
from scripts import tune_arena
from scripts.tune_arena import GRIDS, Tried, choose, settings, shipped, standard_error

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.catalog import option, options
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.presets import settings as settings_of
from posterior_bench.bench.engine.arena import build_images
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.prepare import prepare
from posterior_bench.bench.engine.session import Session
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.operators.projection import Projection

NOISE = 0.05


def composed(data: str, *overrides: str) -> JobConfig:
    return job_of(
        compose([f"data=arena/{data}", "solver=exact", "metrics=energy_distance", *overrides])[0]
    )


def fit_for(operator: type) -> set[str]:
    """Solvers whose needs a closed-form prior and this operator meet, files and optional packages
    apart."""
    caps = Session(composed("g2"), "cpu").prior.caps | operator.caps
    others = {"folder", "torchscript", "deepinv", "conditional", "exact", "prior"}
    nodes = {
        name: option("solver", name).content for name in options("solver") if name not in others
    }
    return {name for name, node in nodes.items() if not build(node).lacks(caps, NOISE)}


def test_every_solver_of_the_arena_has_a_grid() -> None:
    assert set(GRIDS) == fit_for(Inpainting)
    assert set(GRIDS) - tune_arena.MASKS_ONLY == fit_for(Projection)


@pytest.mark.parametrize("solver", GRIDS)
def test_a_grid_is_as_many_valid_settings_as_any_other(solver: str) -> None:
    tried = settings(solver)
    assert len(tried) == len({str(t) for t in tried}) == 6
    assert tried.count(shipped(solver)) == 1
    assert {tuple(block) for block in map(sorted, GRIDS[solver])} == {
        tuple(sorted(GRIDS[solver][0]))
    }
    node = {**option("solver", solver).content, "preset": "fast"}
    for setting in tried:
        built = build({**node, **setting})
        for key, value in setting.items():
            assert getattr(built, key) == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    "solver", [name for name in GRIDS if "fast_small" in option("solver", name).content["presets"]]
)
def test_a_preset_for_a_few_numbers_was_tried_and_costs_no_more_steps(solver: str) -> None:
    presets = option("solver", solver).content["presets"]
    fast, small = presets["fast"], presets["fast_small"]
    changed = {key: value for key, value in settings_of(small).items() if value != fast.get(key)}
    assert changed.keys() <= shipped(solver).keys()
    assert {**shipped(solver), **changed} in settings(solver)


@pytest.mark.parametrize("data", sorted({prior for prior, _ in tune_arena.PROBLEMS}))
def test_the_truths_are_none_that_the_arena_scores(data: str) -> None:
    arena, tuned = (
        composed(data),
        composed(data, f"data.name={tune_arena.NAME}", f"seed={tune_arena.SEED}"),
    )
    one, two = Session(arena, "cpu"), Session(tuned, "cpu")
    ids = one.images.ids[: max(arena.images, tune_arena.IMAGES)]
    scored, tried = (
        [
            hashlib.sha256(x.numpy().tobytes()).hexdigest()
            for x in build_images(s.config.data, s.prior).images(ids)
        ]
        for s in (one, two)
    )
    assert one.images.ids == two.images.ids and one.images.shape == two.images.shape
    assert len(set(scored) | set(tried)) == 2 * len(ids)
    # nor is the noise on the measurement: what is left of it after the truth is taken off
    a, b = (s.measure(ids[:4]) for s in (one, two))
    assert not np.allclose(a.y - a.operator.A(a.truth), b.y - b.operator.A(b.truth), atol=0.01)


@pytest.mark.parametrize("solver", ["dps", "vipaint4", "repaint"])
def test_a_setting_is_the_cell_that_the_command_line_would_run(solver: str) -> None:
    jobs = list(tune_arena.jobs(solver, "g2", "inpainting"))
    assert len(jobs) == 6
    for (cfg, choices), setting in zip(jobs, settings(solver), strict=True):
        said = [f"solver.{key}={str(value).replace(' ', '')}" for key, value in setting.items()]
        typed = compose([*tune_arena.problem(solver, "g2", "inpainting"), *said])
        ids = [prepare(*job, write=False)[1].cell.name for job in ((cfg, choices), typed)]
        assert ids[0] == ids[1]


def tried(setting: dict, values: list[float], passes: float = 100, failed: int = 0) -> Tried:
    return Tried(setting, pd.DataFrame({"a": values, "b": values}), passes, failed)


def test_the_rule() -> None:
    fast = shipped("dps")
    noise = np.array([0.0, 0.1, -0.1, 0.05])
    base = tried(fast, list(1 + noise))
    better, worse = tried({"zeta": 0.3}, list(0.5 + noise**2)), tried({"zeta": 0.1}, [2.0] * 4)
    chosen = choose("dps", [worse, base, better])
    assert (
        chosen.better
        and chosen.best is better
        and chosen.gain == pytest.approx(0.5 + noise.mean() - 0.005625)
    )
    # a gain within two standard errors is none
    slight = tried({"zeta": 0.3}, [0.98, 1.0, 1.0, 1.02])
    doubtful = choose("dps", [base, slight])
    differences = np.array(base.objective["a"]) - np.array(slight.objective["a"])
    assert doubtful.gain_error == pytest.approx(differences.std(ddof=1) / 2)
    assert doubtful.best is slight and not doubtful.better
    # what costs more, or fails, is not chosen
    assert choose("dps", [base, tried({"zeta": 0.3}, [0.1] * 4, passes=101)]).best is base
    assert choose("dps", [base, tried({"zeta": 0.3}, [0.1] * 4, failed=1)]).best is base
    assert not choose("dps", [base]).better


def test_problems_that_share_images_do_not_count_apart() -> None:
    values = pd.Series([0.0, 1.0, 2.0, 4.0])
    once = standard_error(pd.DataFrame({"a": values}))
    assert once == pytest.approx(values.sem())
    assert standard_error(pd.DataFrame({name: values for name in "abcd"})) == pytest.approx(once)
