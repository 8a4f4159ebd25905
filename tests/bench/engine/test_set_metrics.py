"""Metrics of draws and of whole sets, from the worker through the shards to the leaderboard."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from tests.bench.harness import assert_same_rows, rows, run

from posterior_bench.bench.analysis import leaderboard, scores
from posterior_bench.bench.analysis.statistics import (
    RESAMPLES,
    bootstrap_interval,
    generator,
    statistic_over_images,
)
from posterior_bench.bench.config.catalog import show
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.core.streams import Key
from posterior_bench.bench.engine.exact_draws import DRAWS, exact_reference
from posterior_bench.bench.engine.measurement import Measurement
from posterior_bench.bench.store.copies import DifferentCopies
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.datasets.folder import Folder
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.mixtures import smooth, two_modes
from posterior_bench.solvers import exact

ARENA = ["energy_distance_rel", "energy_distance", "sliced_w2", "c2st", "mean_error", "cov_error"]
SETS = ["sbc", "tarp", "rank_histogram", "spread_skill"]
PER_DRAWS = ["energy_score", "energy_score_hole", "coverage_50", "coverage_90"]


def truths(folder: Folder, ids: Sequence[str]) -> torch.Tensor:
    """Images of the prior itself, one generator per id."""
    seeds = [
        int.from_bytes(hashlib.blake2b(i.encode(), digest_size=4).digest(), "big") for i in ids
    ]
    normal = torch.stack(
        [torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(s)) for s in seeds]
    )
    return smooth([1, 8, 8]).sample(torch.full((len(ids),), 0.5), normal)


@pytest.fixture
def arena(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Overrides of a cell whose truths come from its closed-form prior: ``arena("exact", "draws=3",
    out="a")``."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(80):
        Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    monkeypatch.setattr(Folder, "images", truths)

    def make(solver: str = "exact", *more: str, out: str = "study") -> list[str]:
        data = [f"data.root={folder}", "data.size=8", "data.mode=grey", "data.images=80"]
        prior = ["prior=smooth", "prior.shape=[1,8,8]"]
        fixed = ["metrics=arena", "draws=6", "batch=480", "threads=1", "quiet=true", "sheet=false"]
        return [
            f"solver={solver}",
            "data=folder",
            *data,
            *prior,
            *fixed,
            f"out={tmp_path / out}",
            *more,
        ]

    return make


def test_exact_draws_lead_and_draws_of_the_prior_trail(arena) -> None:
    run(arena("prior", "solver.steps=30"))
    outcome = run(arena("exact"))
    frame = leaderboard.build(outcome.study).set_index("solver")
    assert list(frame.index) == ["exact", "prior"], "energy_distance_rel is first, and sorts"
    exact, prior = frame.loc["exact"], frame.loc["prior"]
    assert all(exact[m] < prior[m] for m in [*ARENA, "energy_score_hole", "tarp", "sbc"])
    for m, ideal in (("energy_distance", 0), ("c2st", 0.5), ("mean_error", 0), ("cov_error", 0)):
        assert exact[f"{m}_lo"] < ideal < exact[f"{m}_hi"] and prior[f"{m}_lo"] > ideal, m
    for m in ("sbc", "tarp"):
        assert exact[f"{m}_lo"] < 0 < exact[f"{m}_hi"] and prior[f"{m}_lo"] > 0, m
    assert exact["coverage_50_lo"] < 0.5 < exact["coverage_50_hi"]
    assert exact["spread_skill_lo"] < 1 < exact["spread_skill_hi"]
    # a posterior of one component has no modes to miss
    assert math.isnan(exact["mode_coverage"]) and exact["mode_coverage_n"] == 0
    for m in (*ARENA, *SETS, *PER_DRAWS):
        assert exact[f"{m}_n"] == 80 and exact[f"{m}_lo"] <= exact[m] <= exact[f"{m}_hi"], m


def test_scores_do_not_depend_on_how_images_are_cut_into_chunks(arena) -> None:
    study = "metrics=[sliced_w2,c2st,sbc,tarp,energy_score]"
    whole = run(arena("exact", study, "data.images=6", "batch=36", out="whole")).plan
    alone = run(arena("exact", study, "data.images=6", "batch=6", out="alone")).plan
    assert len(whole.chunks) == 1 and len(alone.chunks) == 6
    assert_same_rows(whole, alone, but=["padded_batch"])
    parts = [leaderboard.build(plan.folder.parents[1]) for plan in (whole, alone)]
    pd.testing.assert_series_equal(
        *(part.loc[0, ["sbc", "sbc_lo", "sbc_hi", "tarp", "sliced_w2"]] for part in parts)
    )


def test_features_stand_once_per_image_as_single_floats(arena) -> None:
    plan = run(arena("exact", "metrics=[sbc,spread_skill]", "data.images=3", "batch=18")).plan
    table = rows(plan)
    assert table["sbc"].notna().tolist() == [True, *[False] * 5] * 3
    assert [len(f) for f in table["sbc"].dropna()] == [32] * 3
    shard = next(iter(plan.folder.glob("rows/*.parquet")))
    assert pq.read_schema(shard).field("spread_skill").type.value_type == pa.float32()


def test_a_draw_that_is_not_finite_takes_its_image_out_and_touches_no_other(
    arena, monkeypatch
) -> None:
    overrides = "metrics=[psnr,sliced_w2,tarp,sbc,interval_coverage]"
    healthy = run(arena("exact", overrides, "data.images=5", "batch=30", out="healthy"))
    sample = exact.ExactPosterior.sample

    def sick(self, draws):
        samples = sample(self, draws)
        if len(draws) < DRAWS:
            samples.x[1, 2, 0, 0, 0] = math.nan
        return samples

    monkeypatch.setattr(exact.ExactPosterior, "sample", sick)
    outcome = run(arena("exact", overrides, "data.images=5", "batch=30", out="sick"))
    table, expected = rows(outcome.plan), rows(healthy.plan)
    image = table["image_id"] == "01.png"
    assert (table["status"] == "nan").sum() == 1 and table[image]["psnr"].notna().sum() == 5
    assert table[image][["sliced_w2", "coverage_50"]].isna().all().all()
    assert [len(f) for f in table[image]["tarp"].dropna()] == [0]
    pd.testing.assert_frame_equal(table[~image], expected[~image], check_exact=True)
    line = leaderboard.build(outcome.study).loc[0]
    assert (line["failed"], line["sliced_w2_n"], line["tarp_n"], line["psnr_n"]) == (1, 4, 4, 5)
    without = expected[~image].groupby("image_id")["sliced_w2"].first()
    assert line["sliced_w2"] == pytest.approx(without.mean()), "left out, never a zero"
    # the same command again finds its rows scored, though one column is empty in places
    assert run(
        arena("exact", overrides, "data.images=5", "batch=30", "accept=[nan]", out="sick")
    ).good


def test_calibration_needs_no_closed_form(arena) -> None:
    images = [
        "data=fashion",
        "prior=fashion",
        "data.images=2",
        "draws=2",
        "batch=4",
        "solver.steps=2",
    ]
    outcome = run(
        [
            o
            for o in arena("blended", "metrics=calibration", *images)
            if not o.startswith(("data", "prior"))
        ]
        + images[:3]
    )
    assert outcome.good
    line = leaderboard.build(outcome.study).loc[0]
    assert line[[*SETS, *PER_DRAWS]].notna().all() and (line[[f"{m}_n" for m in SETS]] == 2).all()


def test_a_prior_without_a_closed_form_is_refused_at_plan_time(arena, tmp_path: Path) -> None:
    wanted = [o for o in arena("blended", "metrics=[c2st]") if not o.startswith(("data", "prior"))]
    with pytest.raises(
        UserError,
        match=r"^metric 'c2st' compares with the exact posterior and needs reference.*leave it",
    ):
        run([*wanted, "data=fashion", "prior=fashion", "data.images=2"])
    assert not (tmp_path / "study").exists()


def test_bundles_can_be_mixed_with_what_they_hold(arena) -> None:
    assert "metrics=sbc" in show("metrics=calibration") and "metrics=calibration" in show(
        "metrics=arena"
    )
    plan = run(
        arena("exact", "metrics=[arena,calibration,sbc,psnr]", "data.images=2", "batch=12")
    ).plan
    assert {*ARENA, *SETS, *PER_DRAWS, "mode_coverage", "mode_weights_error", "psnr"} <= {
        *rows(plan).columns
    }


def measurement(y: Sequence[float], seed: int = 0) -> Measurement:
    mask = torch.tensor([True, False]).expand(len(y), 1, 1, 2)
    truth = torch.tensor(y).view(-1, 1, 1, 1) * torch.ones(1, 1, 1, 2)
    keys = [Key(seed, "data", str(value)) for value in y]
    return Measurement(keys, truth, None, Inpainting(mask), torch.where(mask, truth, 0.0))


def config(seed: int = 0) -> JobConfig:
    groups = {name: {"_target_": "same"} for name in ("mask", "operator", "prior")}
    data = {"_target_": "bench.standin.StandIn"}
    return JobConfig.of({**groups, "data": data, "seed": seed})


def test_the_reference_is_the_posterior_of_two_modes_by_bayes() -> None:
    prior, y = two_modes(), [0.02, -0.3]
    reference = exact_reference(config(), prior, measurement(y))
    assert reference.x.shape == (2, DRAWS, 1, 1, 2)
    for i, value in enumerate(y):
        likelihood = [math.exp(-((value - m) ** 2) / (2 * 0.2**2)) for m in (0.3, -0.3)]
        weight = likelihood[0] / sum(likelihood)
        assert reference.mode_weights[i].tolist() == pytest.approx([weight, 1 - weight], abs=1e-3)
        hidden = reference.x[i, :, 0, 0, 1]
        assert (hidden > 0).double().mean().item() == pytest.approx(
            weight, abs=4 * math.sqrt(0.25 / DRAWS)
        )
        # the prior's probabilities of each draw average to the posterior's weights
        assert reference.assign(reference.x[i]).mean(0).tolist() == pytest.approx(
            [weight, 1 - weight], abs=0.1
        )
        assert (hidden.abs() - 1).std().item() == pytest.approx(0.2, rel=0.15)


def test_a_reference_is_kept_and_does_not_depend_on_its_neighbours() -> None:
    prior = two_modes()
    both = exact_reference(config(1), prior, measurement([0.1, 0.2], 1))
    assert exact_reference(config(1), prior, measurement([0.1, 0.2], 1)) is both
    alone = exact_reference(config(1), prior, measurement([0.2], 1))
    assert torch.equal(alone.x[0], both.x[1])
    other = exact_reference(config(2), prior, measurement([0.2], 2))
    assert not torch.equal(other.x, alone.x)


def mean(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weights @ features[:, 0] / weights.sum(1)


def test_the_interval_of_a_mean_is_that_of_the_interval_of_means() -> None:
    sample = np.random.default_rng(0).gamma(1, size=(25, 1))
    value, lo, hi = statistic_over_images(mean, sample, "key")
    expected = bootstrap_interval(sample, generator("key\x1f25"))[:, 0]
    assert value == pytest.approx(sample.mean())
    assert (lo, hi) == pytest.approx(expected, rel=0.01)


def test_an_interval_holds_its_value_though_chance_can_only_add() -> None:
    def uneven(f, w):
        return np.abs(w @ f / w.sum(1, keepdims=True)).max(1)

    for seed in range(20):
        value, lo, hi = statistic_over_images(
            uneven, np.random.default_rng(seed).normal(size=(12, 8)), "key"
        )
        assert lo <= value <= hi and lo < hi


def test_few_images_and_undefined_values_have_no_interval() -> None:
    assert np.isnan(statistic_over_images(mean, np.empty((0, 0)), "key")).all()
    value, lo, hi = statistic_over_images(mean, np.ones((1, 1)), "key")
    assert value == 1 and math.isnan(lo) and math.isnan(hi)
    value, lo, hi = statistic_over_images(mean, np.arange(5.0)[:, None], "key")
    assert value == 2 and math.isnan(lo) and math.isnan(hi), "five images are too few to claim 95 %"
    assert statistic_over_images(mean, np.ones((6, 1)), "key") == pytest.approx((1, 1, 1))
    seen: list[int] = []
    statistic_over_images(
        lambda f, w: (seen.append(len(w)), mean(f, w))[1], np.arange(7.0)[:, None], "key"
    )
    assert seen == [1, RESAMPLES, 7]


def row(image: str, draw: int = 0, **more: object) -> dict[str, object]:
    return {"cell": "c", "image_id": image, "draw": draw, "status": "ok", **more}


def test_features_stored_twice_must_agree(tmp_path: Path) -> None:
    twice = RowStore(tmp_path / "same" / "c")
    twice.write("x", [row("a", sbc=[0.1, 0.2])])
    twice.write("y", [row("a", sbc=[0.1, 0.2]), row("b", sbc=[])])
    assert [list(f) for f in twice.read(["sbc"])["sbc"]] == [pytest.approx([0.1, 0.2]), []]
    differ = RowStore(tmp_path / "differ" / "c")
    differ.write("x", [row("a", sbc=[0.1, 0.2])])
    differ.write("y", [row("a", sbc=[0.1, 0.3])])
    with pytest.raises(DifferentCopies):
        differ.read()


def test_a_chunk_without_features_joins_one_with_them(tmp_path: Path) -> None:
    rows_of = RowStore(tmp_path / "c")
    rows_of.write("x", [row("a", sbc=[0.5])])
    rows_of.write("y", [{**row("b"), "status": "error"}])
    assert rows_of.read()["sbc"].isna().tolist() == [False, True]


def test_a_vector_per_draw_reaches_the_leaderboard_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []

    class PerDraw:
        def reduce(self, features, weights):
            seen.append(features.shape)
            return weights @ features.sum((1, 2)) / weights.sum(1)

    monkeypatch.setattr(scores, "build_object", lambda node: PerDraw())
    identity = dict(
        solver="s",
        data="d",
        mask="m",
        operator="o",
        prior="p",
        seed=0,
        images=3,
        draws=2,
        variant="",
    )
    recorded = {
        "cell": "c",
        "identity": identity,
        "chunks": {"x": ["a", "b", "lost"]},
        "metrics": {
            "kid": {"title": "KID", "direction": "down", "unit": "", "level": "set", "version": 2}
        },
        "config": {"metrics": {"kid": {"_target_": "metrics.kid.KID"}}},
    }
    folder = tmp_path / "cells" / "c"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(recorded))
    lost = [row("lost", 0, kid=[]), {**row("lost", 1, kid=[]), "status": "nan"}]
    vectors = [row(i, d, kid=[1.0, 2.0 * d, 4.0 * (i == "b")]) for i in "ab" for d in (0, 1)]
    RowStore(folder).write("x", [*vectors, *lost])
    line = leaderboard.build(tmp_path).loc[0]
    assert seen[0] == (2, 2, 3)
    # image a: 1 + 0 + 1 + 2 = 4, image b: 8 more
    assert line["kid"] == 8 and line["kid_n"] == 2
