"""Truth drawn from the prior: what it depends on, and that it is one more draw of the posterior."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
from tests.bench.harness import planned, rows, run

from posterior_bench.bench.config.catalog import option, options
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.core.streams import Noise
from posterior_bench.bench.engine.arena import PriorDraws, build_images
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.session import Session
from posterior_bench.priors.base import Prior
from posterior_bench.priors.mixtures import g2, modes25
from posterior_bench.priors.process import VE
from posterior_bench.solvers.base import Observation

# the problems of Lévy signals bring operators of their own: test_levy_arena.py
ARENAS = [
    name
    for name in options("data")
    if name.startswith("arena/") and not name.startswith("arena/levy_")
]


BIPSDA = [-0.4258509, -0.406167, -0.3331298]
"""The first values of ``draw-00000`` of the four problems of BIPSDA at seed 0."""

GAUSS8 = [0.1724846512079239, 0.2570726275444031, 0.2690645456314087]
"""The first values of ``draw-00000`` of ``arena/gauss8`` at seed 0, as version 0.1.0 drew them."""


def session(*overrides: str) -> Session:
    return Session(job_of(compose(list(overrides))[0]), "cpu")


def test_an_image_depends_on_its_name_alone() -> None:
    prior = modes25((1, 4, 4))
    data, other = PriorDraws("arena-a", prior), PriorDraws("arena-b", prior)
    ids = ["draw-00003", "draw-00000", "draw-00009"]
    together = data.images(ids)
    assert together.dtype == torch.float32 and data.labels(ids) is None
    assert torch.equal(together[1:2], data.images(ids[1:2]))
    assert not torch.equal(other.images(ids), together)


def test_the_study_seed_moves_the_measurement_and_the_truth() -> None:
    """A replicate with another seed is one with other images; those of seed 0 are what they were in
    version 0.1.0."""
    one, two = (
        session("data=arena/gauss8", "solver=exact", f"seed={seed}").measure(["draw-00000"])
        for seed in (0, 1)
    )
    assert not torch.equal(one.truth, two.truth) and not torch.equal(one.y, two.y)
    assert one.truth.flatten()[:3].tolist() == pytest.approx(GAUSS8, abs=1e-6)
    # the noise of seed 0 is not the noise that made the truth
    assert not torch.allclose(
        (one.y / 0.05)[one.operator.A(torch.ones(1, 1, 1, 8)) > 0], one.truth.flatten()[:4]
    )


def test_draws_have_the_moments_of_the_prior() -> None:
    data = PriorDraws("arena-g2", g2())
    x = data.images(data.ids[:4000]).flatten(1).double()
    # a covariance entry of 4000 draws has a deviation of at most sqrt(2 / 4000)
    assert (x.T @ x / 4000 - data.exact.covariance).abs().max() < 4 * math.sqrt(2 / 4000)
    assert x.mean(0).abs().max() < 4 / math.sqrt(4000)


def test_a_prior_without_a_closed_form_is_refused() -> None:
    with pytest.raises(ValueError, match="must be in closed form"):
        PriorDraws("arena-x", Prior(VE(), None, (1, 2, 2)))
    with pytest.raises(ValueError, match="must start with 'arena-'"):
        PriorDraws("fashion", g2())
    with pytest.raises(UserError, match="must be in closed form"):
        build_images(option("data", "arena/g2").content, Prior(VE(), None, (1, 2, 2)))


@pytest.mark.parametrize("name", [name for name in ARENAS if "bipsda" not in name])
@pytest.mark.parametrize("operator", ["inpainting", "projection"])
def test_every_arena_measures_something_and_leaves_something_open(name: str, operator: str) -> None:
    arena = session(f"data={name}", f"operator={operator}", "solver=exact")
    measured = arena.measure(["draw-00000", "draw-00001"])
    assert measured.operator.sigma == 0.05 and measured.truth.shape[1:] == arena.prior.image_shape
    assert measured.truth.abs().mean() < 1.5
    values = measured.truth[0].numel()
    seen = measured.y.shape[1] if operator == "projection" else int(measured.operator.mask[0].sum())
    assert 0 < seen < values
    assert arena.images.name == "arena-" + name.removeprefix("arena/")


@pytest.mark.parametrize(
    ("name", "sigma", "seen"),
    [("high", 5 / 12, 8), ("low", 0.1 / 12, 8), ("xray", 1.0, 15), ("phase", 25 / 144, 5)],
)
def test_the_problems_of_bipsda_measure_the_same_images(name: str, sigma: float, seen: int) -> None:
    arena = session(f"data=arena/bipsda_{name}", "solver=prior")
    measured = arena.measure(["draw-00000", "draw-00001"])
    assert measured.operator.sigma == pytest.approx(sigma)
    assert measured.truth[0, 0, 0, :3].tolist() == pytest.approx(BIPSDA, abs=1e-6)
    assert (measured.y[0] != 0).sum() == seen
    if measured.operator.mask is not None:
        assert (~measured.operator.mask[0]).flatten().nonzero().flatten().tolist() == [3, 8]


def test_exact_draws_and_truth_are_exchangeable(tmp_path) -> None:
    """The rank of the truth among exact draws is uniform: its mean over 60 images and 8 pixels is
    near a half."""
    common = [
        "data=arena/gauss8",
        "metrics=[consistency]",
        "threads=1",
        "quiet=true",
        "sheet=false",
        f"out={tmp_path}",
    ]
    plan = run(["solver=exact", "data.images=60", "draws=9", *common]).plan
    assert (rows(plan)["status"] == "ok").all()
    arena = Session(plan.cell.config, "cpu")
    measured = arena.measure(arena.images.ids[:60])

    posterior = arena.solver.fit(
        Observation(measured.y, measured.operator), arena.prior, Noise(measured.keys, "solver")
    )
    below = (posterior.sample(range(9)).x < measured.truth[:, None]).double().mean(1)
    hidden = ~measured.operator.mask
    assert below[hidden].mean().item() == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / 60))


def test_the_same_images_for_every_chunking(tmp_path) -> None:
    common = [
        "data=arena/modes16",
        "solver=exact",
        "data.images=5",
        "draws=2",
        "metrics=[consistency]",
        "threads=1",
    ]
    tables = []
    for batch in (2, 64):
        more = [f"batch={batch}", "quiet=true", "sheet=false", f"out={tmp_path / str(batch)}"]
        run([*common, *more])
        tables.append(rows(planned([*common, *more])).drop(columns=["padded_batch"]))
    pd.testing.assert_frame_equal(*tables)
