"""Metrics added to finished rows, from the stored images."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from tests.bench.harness import rows, run, verb

from posterior_bench.bench.analysis import leaderboard
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.score import StoredCell, score
from posterior_bench.bench.store import schema
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.metrics import features, lpips_metric, musiq

MORE = "metrics=[psnr,seam,diversity,over_draws_psnr,kid,fid,precision_recall]"


def nodes(text: str) -> dict:
    return yaml.safe_load(
        yaml.safe_dump({k: dict(v) for k, v in compose(check([text]))[0]["metrics"].items()})
    )


def columns(plan, but: list[str]) -> pd.DataFrame:
    return rows(plan).drop(columns=but)


def test_scoring_later_gives_what_scoring_at_once_gives_in_any_shards(
    command, tmp_path: Path
) -> None:
    at_once = run(command("blended", MORE, "batch=14", out="at_once"))
    later = run(command("blended", "metrics=[psnr]", "batch=4", out="later"))
    before = rows(later.plan)
    done = score(later.study, nodes(MORE))
    assert (done.written, done.there, done.unstored) == (4, 0, [])
    after = rows(later.plan)
    pd.testing.assert_frame_equal(after[before.columns], before, check_exact=True)
    expected = rows(at_once.plan).drop(columns=["padded_batch"])
    pd.testing.assert_frame_equal(after[expected.columns], expected, check_exact=True)
    boards = [leaderboard.build(outcome.study).loc[0] for outcome in (at_once, later)]
    scored = ("kid_stlpips", "fid_stlpips", "recall_stlpips", "psnr_max")
    names = [f"{m}{end}" for m in scored for end in ("", "_lo", "_hi")]
    pd.testing.assert_series_equal(*(board[names] for board in boards))
    assert boards[0][["kid_stlpips", "kid_stlpips_std", "fid_stlpips", "psnr_oracle"]].notna().all()
    assert (
        boards[0]["psnr_min"]
        <= boards[0]["psnr"]
        <= boards[0]["psnr_max"]
        == boards[0]["psnr_oracle"]
    )
    assert np.isnan(boards[0]["fid_stlpips_lo"]), "resamples would shift it"
    board = leaderboard.build(later.study)
    assert any(
        "fid_stlpips is biased upward at N <= 2048 images (here 7)" in note
        for note in board.attrs["notes"]
    )
    assert any(
        "kid_stlpips is uncertain" in note and "(here 7)" in note for note in board.attrs["notes"]
    )
    (caution,) = [note for note in board.attrs["notes"] if "of 7 images: chance" in note]
    assert "recall_stlpips" in caution and "kid_stlpips," not in caution
    assert not any(name.startswith("features_") for name in board.attrs["metrics"])


def test_features_are_stored_once_for_all_metrics_of_a_network(command) -> None:
    plan = run(command("blended", "metrics=[kid,fid]")).plan
    table = rows(plan)
    assert {c for c in table if "stlpips" in c} == {"features_stlpips", "features_stlpips_truth"}
    assert [len(v) for v in table["features_stlpips"]] == [256] * 14
    assert table["features_stlpips_truth"].notna().sum() == 7
    assert schema.TRUTH == features.TRUTH


def test_an_interrupted_scoring_continues_where_it_was(
    command, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = run(command("blended", "metrics=[psnr]"))
    extend, calls = RowStore.extend, []

    def stop(self, chunk, new):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(chunk)
        extend(self, chunk, new)

    monkeypatch.setattr(RowStore, "extend", stop)
    with pytest.raises(KeyboardInterrupt):
        score(outcome.study, nodes("metrics=[seam]"))
    monkeypatch.setattr(RowStore, "extend", extend)
    done = score(outcome.study, nodes("metrics=[seam]"))
    assert (done.written, done.there) == (2, 2)
    assert rows(outcome.plan)["seam"].notna().all()
    assert score(outcome.study, nodes("metrics=[seam]")).written == 0


def test_a_row_without_an_image_is_named(command) -> None:
    outcome = run(command("blended", "metrics=[psnr]"))
    shard = sorted(outcome.plan.folder.glob("rows/*.parquet"))[0].stem
    stripped = [
        {**row, "png": None if i == 0 else row["png"]}
        for i, row in enumerate(outcome.plan.store.table(shard).to_pylist())
    ]
    outcome.plan.store.write(shard, stripped)
    done = score(outcome.study, nodes("metrics=[seam,diversity]"))
    assert done.unstored == [f"{outcome.plan.cell.name}: 0.png draw 0"]
    table = rows(outcome.plan)
    assert table["seam"].isna().tolist() == [True, *[False] * 13]
    assert table["diversity"].isna().tolist() == [True, True, *[False] * 12]


def test_what_is_stored_is_never_replaced(tmp_path: Path) -> None:
    kept = RowStore(tmp_path / "c")
    kept.write("x", [{"cell": "c", "image_id": "a", "draw": 0, "status": "ok", "psnr": 1.0}])
    with pytest.raises(ValueError, match=r"has psnr already.*never replaced"):
        kept.extend("x", [{"psnr": 2.0}])
    with pytest.raises(ValueError, match="has 1 rows, not 2"):
        kept.extend("x", [{"ssim": 2.0}] * 2)
    kept.extend("x", [{"ssim": 2.0}])
    assert kept.read(["psnr", "ssim"]).iloc[0][["psnr", "ssim"]].tolist() == [1, 2]


def test_what_cannot_be_added_is_refused_before_any_work(command) -> None:
    outcome = run(command("blended", "metrics=[psnr]"))
    config = (outcome.plan.folder / "config.yaml").read_bytes()
    for text, message in (
        ("metrics=[energy_score]", r"^energy_score, energy_score_hole cannot be added.*8 bits"),
        (
            "metrics=[msssim]",
            r"^metric 'msssim' needs images of at least 176 pixels a side.*8 x 8; choose ssim$",
        ),
        ("metrics=[kid_inception]", r"^metric 'kid_inception' needs "),
    ):
        with pytest.raises(UserError, match=message):
            score(outcome.study, nodes(text))
    assert (outcome.plan.folder / "config.yaml").read_bytes() == config


def test_unclamped_metrics_see_the_output_itself_and_no_stored_image(
    command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is replaced by the largest value, which is at most 1 in a stored image."""
    monkeypatch.setattr(lpips_metric, "_network", lambda *_: lambda x, _: x.abs().amax((1, 2, 3)))
    monkeypatch.setattr(lpips_metric, "_weight_file", lambda *_: Path())
    monkeypatch.setattr(lpips_metric.LPIPS, "check", lambda _: None)
    outcome = run(command("dps", "metrics=[lpips_alex,lpips_alex_unclamped]"))
    stored = rows(outcome.plan)
    assert (stored["lpips_alex"] <= 1).all() and (stored["lpips_alex_unclamped"] > 1.01).any()
    with pytest.raises(UserError, match=r"^lpips_vgg_unclamped, .* cannot be added.*8 bits"):
        score(outcome.study, nodes("metrics=[lpips_vgg_unclamped]"))


def test_the_hash_of_unhashed_weights_is_recorded_with_the_cell(
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(musiq.closed_form(), musiq.KONIQ.path)
    outcome = run(command("blended", "metrics=[musiq]"))
    stored = rows(outcome.plan)
    assert stored["musiq"].notna().all() and stored["musiq"].nunique() > 1
    recorded = yaml.safe_load((outcome.plan.folder / "config.yaml").read_text())
    sha256 = recorded["config"]["metrics"]["musiq"]["sha256"]
    assert sha256 == hashlib.sha256(musiq.KONIQ.path.read_bytes()).hexdigest()
    torch.save({**musiq.closed_form(), "head.bias": torch.zeros(1)}, musiq.KONIQ.path)
    with pytest.raises(UserError, match="'musiq' was set up with other weights"):
        score(outcome.study, {"musiq": {**nodes("metrics=[musiq]")["musiq"], "sha256": sha256}})
    for again in (
        lambda: score(outcome.study, nodes("metrics=[musiq]")),
        lambda: run(command("blended", "metrics=[musiq]")),
    ):
        with pytest.raises(UserError, match=f"by weights with sha256 {sha256[:16]}"):
            again()


def test_the_verb_names_its_mistakes(tmp_path: Path) -> None:
    for arguments, message in (
        (["runs/x"], "needs metrics="),
        ([str(tmp_path), "metrics=[psnr]"], "is not a study folder"),
        ([str(tmp_path), "metrics=[psnr]", "draws=2"], "not draws=2"),
        ([str(tmp_path), "metrics=[kiddo]"], "unknown metrics 'kiddo'"),
    ):
        with pytest.raises(UserError, match=message):
            verb("score", *arguments)


def test_a_torchscript_network_of_the_users_own(command, tmp_path: Path) -> None:
    class Means(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)

    file = tmp_path / "net.pt"
    torch.jit.script(Means()).save(file)
    outcome = run(command("blended", "metrics=[psnr]"))
    untrusted = ["metrics=[kid_torchscript]", f"metrics.kid_torchscript.path={file}"]
    with pytest.raises(UserError, match=r"is a program.*metrics\.kid_torchscript\.trust_file=true"):
        verb("score", outcome.study, *untrusted)
    assert verb("score", outcome.study, *untrusted, "metrics.kid_torchscript.trust_file=true") == 0
    cell = StoredCell(outcome.plan.folder, "cpu")
    assert len(cell.config.metrics["kid_torchscript"]["sha256"]) == 64
    file.unlink()
    assert leaderboard.build(outcome.study).loc[0, "kid_torchscript"] < np.inf
