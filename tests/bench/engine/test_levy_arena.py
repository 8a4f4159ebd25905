"""The arena of Lévy signals: its problems and their noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.bench.harness import rows, run

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.catalog import option, options
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.option_files import whole_file
from posterior_bench.bench.core.environment import ROOT
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.session import Session
from posterior_bench.operators.base import Operator
from posterior_bench.priors.increments import Gauss
from posterior_bench.priors.levy import LAWS, draw

PROBLEMS = sorted(name for name in options("data") if name.startswith("arena/levy_"))
SOLVER = {True: "solver=exact", False: "solver=gibbs"}
DECIBELS = 25
GOLDEN = np.load(ROOT / "tests" / "golden" / "levy_golden.npz")


def operator_of(name: str) -> Operator:
    """The operator of a problem, for many signals; of a mask, the observed samples alone."""
    file = whole_file(option("data", name).path)
    brought = {
        key.split("/")[1]: value for entry in file["defaults"] for key, value in entry.items()
    }
    node = {**option("operator", brought["operator"]).content, **file["operator"]}
    if brought["operator"] != "inpainting":
        return build(node, shape=(1, 1, 64))
    mask = torch.zeros(1, 1, 1, 64, dtype=torch.bool)
    mask[..., list(option("mask", brought["mask"]).content["listed"])] = True
    return build(node, mask=mask)


def signals(name: str, count: int) -> torch.Tensor:
    file = whole_file(option("data", name).path)
    law = file["data"]["name"].removeprefix("arena-levy-").replace("-", "_")
    increments = {"gauss": Gauss(), **LAWS}[law].scaled(file["prior"]["scale"])
    uniform = torch.rand(count, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return draw(increments, uniform).view(count, 1, 1, 64)


def test_four_laws_with_four_operators() -> None:
    assert len(PROBLEMS) == 16
    swept = whole_file(option("study", "arena_levy").path)["hydra"]["sweeper"]["params"]["data"]
    assert sorted(part.strip() for part in swept.split(",")) == PROBLEMS


def test_the_mask_is_that_of_the_benchmark() -> None:
    places = option("mask", "levy").content["listed"]
    assert len(places) == 33 and np.flatnonzero(GOLDEN["indices"]).tolist() == list(places)


@pytest.mark.parametrize("name", PROBLEMS)
def test_noise_lies_25_decibels_below_the_median_power(name: str) -> None:
    operator, x = operator_of(name), signals(name, 20_000)
    y = operator.A(x)
    seen = y[operator.mask.expand_as(y)].view(len(y), -1) if operator.mask is not None else y
    power = seen.flatten(1).square().mean(1).median().item()
    # the median of 20 000 powers has a standard error of about 1 %, its root half as much
    assert operator.sigma == pytest.approx((power / 10 ** (DECIBELS / 10)) ** 0.5, rel=0.025)


@pytest.mark.parametrize("name", ["arena/levy_gauss_sampling", "arena/levy_laplace_fourier"])
def test_measurements_of_the_arena(name: str) -> None:
    exact = "gauss" in name
    arena = Session(job_of(compose([f"data={name}", SOLVER[exact]])[0]), "cpu")
    measured = arena.measure(["draw-00000", "draw-00001"])
    assert measured.truth.shape == (2, 1, 1, 64) and measured.truth.abs().max() < 1
    again = Session(job_of(compose([f"data={name}", SOLVER[exact], "seed=1"])[0]), "cpu")
    assert not torch.equal(again.measure(["draw-00000"]).truth, measured.truth[:1])


def test_a_run_with_the_gibbs_sampler(tmp_path) -> None:
    plan = run(
        [
            "data=arena/levy_laplace",
            "solver=gibbs",
            "solver.burn_in=20",
            "solver.kept=20",
            "solver.thin=1",
            "data.images=2",
            "draws=2",
            "metrics=[energy_score]",
            "threads=1",
            "quiet=true",
            "sheet=false",
            f"out={tmp_path}",
        ]
    ).plan
    table = rows(plan)
    assert (table["status"] == "ok").all() and len(table) == 4
    assert (table["nfe"] == 0).all() and table["energy_score"].notna().all()
