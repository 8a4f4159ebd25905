"""Chunks: their names, their order, what is redone of them, and who pays for their fit."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.bench.harness import assert_same_rows, planned, run

from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.core.streams import Noise
from posterior_bench.bench.engine import device
from posterior_bench.bench.engine.exact_draws import SIGMA_FLOOR, exact_reference
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.plan import plan_cell, slices
from posterior_bench.bench.engine.session import Session
from posterior_bench.solvers import blended
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.exact import Exact


def test_a_chunk_is_named_by_its_images_their_order_and_their_draws() -> None:
    """A stored chunk is taken for done by its name: other rows must not find it."""

    def names(*images: str, draws: int = 1) -> tuple[str, ...]:
        return tuple(chunk.name for chunk in slices(images, draws, 2 * draws)[0])

    assert names("a", "b", "c") == names("a", "b", "c")
    others = [
        names("a", "b", "c"),
        names("a", "b", "d"),
        names("x", "b", "c"),
        names("b", "a", "c"),
    ]
    others.append(names("a", "b", "c", draws=2))
    first, last = ({name[i] for name in others} for i in (0, -1))
    assert len(first) == 4  # two of the five begin with the same images
    assert len(last) == 3  # three of the five end with the same image
    assert len({*others}) == 5


def test_images_stay_in_the_order_of_the_data(command, tmp_path: Path) -> None:
    """The first N images of a data set are its own first, not the alphabet's."""
    cell, ids = planned(command()).cell, ["z", "10", "9", "a", "B", "é", "0", "y"]
    plan = plan_cell(cell, tmp_path / "other", ids, {}, {}, write=False)
    assert [image for chunk in plan.chunks for image in chunk.images] == ids[:7]
    assert [image for chunk in slices(ids, 1, 3)[0] for image in chunk.images] == ids


def test_retry_redoes_a_chunk_with_one_failed_image_among_good_ones(
    command, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = run(command(out="healthy")).plan
    draw, calls = blended.Blended.draw, iter(range(99))

    def sick(self, obs, prior, noise):
        x = draw(self, obs, prior, noise)
        if next(calls) == 1:
            x[0] = torch.nan
        return x

    with monkeypatch.context() as patch:
        patch.setattr(blended.Blended, "draw", sick)
        outcome = run(command(out="sick"))
    (bad,) = outcome.plan.missing(retry=True)
    statuses = outcome.plan.store.read(["status"])
    statuses = statuses[statuses["image_id"].isin(bad.images)]["status"].tolist()
    assert sorted(statuses) == ["nan", "ok", "ok", "ok"]
    assert outcome.plan.missing() == []
    assert run(command("blended", "retry=true", out="sick")).good
    assert_same_rows(healthy, outcome.plan)


def test_a_fit_and_its_draws_are_paid_by_all_rows_of_the_padded_batch(
    command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 images with 2 draws: 12 seconds of a fit are 3 a row, 6 of sampling 1.5; padding pays
    too."""
    now = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0], monotonic=time.monotonic)
    fit, draw = Session.fit, blended.Blended.draw

    def slow_fit(*arguments):
        now[0] += 12
        return fit(*arguments)

    def slow_draw(*arguments):
        now[0] += 6
        return draw(*arguments)

    monkeypatch.setattr(device, "time", clock)
    monkeypatch.setattr(Session, "fit", slow_fit)
    monkeypatch.setattr(blended.Blended, "draw", slow_draw)
    rows = run(command()).plan.store.read(["seconds_fit", "seconds_sample"])
    assert rows["seconds_fit"].tolist() == pytest.approx([3.0] * 14)
    assert rows["seconds_sample"].tolist() == pytest.approx([1.5] * 14)


def test_exact_draws_for_metrics_are_none_that_a_solver_has_seen(command) -> None:
    """Their stream is ``metric``; that of ``solver`` would give the very draws of
    ``solver=exact``."""
    session = Session(job_of(compose(command())[0]), "cpu")
    measured = session.measure(session.images.ids[:2])
    reference = exact_reference(session.config, session.prior, measured).x[:, :4]
    obs = Observation(measured.y, measured.operator)

    def draws(stream: str) -> torch.Tensor:
        posterior = Exact(SIGMA_FLOOR).fit(obs, session.prior, Noise(measured.keys, stream))
        return posterior.sample(range(4)).x.float()

    assert torch.equal(reference, draws("metric"))
    assert not torch.isclose(reference, draws("solver")).flatten(2).all(2).any()
