"""Which solver makes a reference, what it holds, and that a long run is made once per image."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from tests.bench.harness import planned, run
from torch import Tensor

from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine import exact_draws
from posterior_bench.bench.engine.exact_draws import (
    exact_reference,
    reference_solver,
    reference_solvers,
    stored_in,
)
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.measurement import Measurement
from posterior_bench.bench.engine.session import Session
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.operators.squared_projection import SquaredProjection
from posterior_bench.priors.mixtures import bipsda, correlated
from posterior_bench.priors.process import CLEAN
from posterior_bench.solvers.exact import Exact
from posterior_bench.solvers.long_run import LongRun

PHASE = ["data=arena/bipsda_phase", "metrics=[mmse_gap,hpd_coverage,score_ksd]", "draws=2"]
SHORT = LongRun(particles=16, stages=3, moves=1, steps=8, kept=4)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each long run was given; the runs are short."""
    counts: list[int] = []
    fit = LongRun.fit

    def counted(self, obs, prior, noise):  # type: ignore[no-untyped-def]
        counts.append(obs.n)
        return fit(self, obs, prior, noise)

    monkeypatch.setattr(LongRun, "fit", counted)
    monkeypatch.setattr(exact_draws, "reference_solvers", lambda: (Exact(0.001), SHORT))
    monkeypatch.setattr(exact_draws, "_CACHE", {})
    return counts


def problem(*overrides: str) -> tuple[Session, Measurement]:
    session = Session(job_of(compose([*PHASE, "solver=prior", *overrides])[0]), "cpu")
    return session, session.measure(["draw-00000", "draw-00001", "draw-00001"])


def test_the_first_solver_that_applies_is_chosen() -> None:
    few, many = bipsda().caps, correlated((1, 16, 16)).caps
    assert isinstance(reference_solver(few | Inpainting.caps, 0.0), Exact)
    assert isinstance(reference_solver(few | SquaredProjection.caps, 0.1), LongRun)
    assert reference_solver(few | SquaredProjection.caps, 0.0) is None
    assert reference_solver(many | SquaredProjection.caps, 0.1) is None
    assert isinstance(reference_solvers()[0], Exact)


def test_metrics_without_a_reference_are_refused() -> None:
    words = ["data=arena/gauss256", "operator=squared_projection", "solver=prior"]
    config = job_of(compose([*words, "metrics=[energy_distance]"])[0])
    with pytest.raises(UserError, match="needs reference, which this prior and operator"):
        Session(config, "cpu")


def test_a_long_run_is_made_once_per_image(made: list[int], tmp_path: Path) -> None:
    session, measured = problem()
    with stored_in(tmp_path):
        first = exact_reference(session.config, session.prior, measured)
        assert made == [2], "the third image fills up the batch"
        exact_draws._CACHE.clear()
        again = exact_reference(session.config, session.prior, measured)
        fewer = session.measure(["draw-00001"])
        alone = exact_reference(session.config, session.prior, fewer)
        assert made == [2]
        more = session.measure(["draw-00001", "draw-00002"])
        exact_reference(session.config, session.prior, more)
        assert made == [2, 1]
    assert torch.equal(first.x, again.x) and torch.equal(first.mean, again.mean)
    assert torch.equal(alone.x[0], first.x[1]) and torch.equal(first.x[1], first.x[2])
    table = pd.read_csv(tmp_path / "references.csv")
    assert list(table.image_id) == [f"draw-0000{i}" for i in range(3)]
    assert table[["rhat", "ess", "error"]].gt(0).all(axis=None)
    assert first.rhat is not None and first.rhat[0].item() == pytest.approx(table.rhat[0], rel=1e-3)


def test_other_measurements_have_other_references(made: list[int], tmp_path: Path) -> None:
    with stored_in(tmp_path):
        for more in ([], ["seed=1"], ["operator.sigma=0.2"]):
            session, measured = problem(*more)
            exact_reference(session.config, session.prior, measured)
    assert made == [2] * 3


def test_a_reference_knows_its_density_and_score(made: list[int]) -> None:
    for words in ([], ["data=arena/bipsda_high"]):
        session, measured = problem(*words)
        reference = exact_reference(session.config, session.prior, measured)
        assert reference.log_density is not None and reference.score is not None
        x = reference.x[:, :3].double()
        step = torch.zeros_like(x)
        step[..., 4] = 1e-5

        def at(values: Tensor) -> Tensor:
            return reference.log_density(values)  # type: ignore[misc]  # noqa: B023

        slope = (at(x + step) - at(x - step)) / 2e-5
        torch.testing.assert_close(reference.score(x)[..., 0, 0, 4], slope, rtol=1e-5, atol=1e-5)


def test_the_density_is_that_of_the_closed_form() -> None:
    session, measured = problem("data=arena/bipsda_low")
    reference = exact_reference(session.config, session.prior, measured)
    assert reference.log_density is not None and reference.mode_weights is not None
    sigma = 0.1 / 12
    A = torch.eye(10, dtype=torch.float64)[[0, 1, 2, 4, 5, 6, 7, 9]]
    y = measured.y[0].flatten().double() @ A.T
    exact = session.prior.posterior(A, y, sigma)  # type: ignore[operator]
    x = reference.x[:1, :5].double()
    ours, theirs = reference.log_density(reference.x[:, :5])[0], exact.log_prob(x[0], CLEAN)
    torch.testing.assert_close(ours - ours[0], theirs - theirs[0], rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(reference.mode_weights[0], exact.weights)
    torch.testing.assert_close(reference.mean[0].flatten(), exact.mean)
    assert reference.rhat is None


def test_a_run_stores_references_beside_its_cells(made: list[int], tmp_path: Path) -> None:
    words = [*PHASE, "data.images=3", "batch=4", f"out={tmp_path}", "report=false", "sheet=false"]
    for solver in (["solver=prior"], ["solver=dps", "solver.steps=2"]):
        run([*solver, *words])
    assert sum(made) == 3
    rows = planned(["solver=prior", *words]).store.read()
    assert (rows.status == "ok").all() and rows.mmse_gap.notna().all()
    assert len(list((tmp_path / "references").iterdir())) == 3
    assert len(pd.read_csv(tmp_path / "references.csv")) == 3
