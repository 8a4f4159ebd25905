"""Latent priors in a run: the preset meant for them, refusals, and perceptual distances handed to
solvers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from tests.bench.harness import run

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.config.build import with_preset
from posterior_bench.bench.config.catalog import show
from posterior_bench.bench.engine.cache import shared
from posterior_bench.bench.engine.metric_networks import perceptual_distance
from posterior_bench.bench.engine.session import Session
from posterior_bench.solvers.dps import DPS


def refusal(capsys: pytest.CaptureFixture[str], overrides: list[str]) -> str:
    """The one line of a cell that is refused at plan time."""
    with pytest.raises(SystemExit) as stop:
        main(["plan", *overrides])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


# -- presets of latent priors ----------------------------------------------------------------------


def test_a_latent_prior_gets_the_latent_preset(latent_prior: Path) -> None:
    node = {
        "preset": "fast",
        "zeta": None,
        "presets": {
            "fast": {},
            "fine": {"instead_of": "fast", "when": "latent"},
            "authors": {},
            "fast_latent": {},
        },
    }
    latent, pixel = {"path": str(latent_prior)}, {"path": "priors/assets/fashion"}
    assert with_preset(node, latent, {}) == {**node, "preset": "fine"}
    assert with_preset(with_preset(node, latent, {}), latent, {}) == with_preset(node, latent, {})
    assert with_preset({**node, "preset": "authors"}, latent, {})["preset"] == "authors"
    for other in (pixel, {"path": "/nowhere"}, {"_target_": "priors.mixtures.smooth"}):
        assert with_preset(node, other, {}) == node
    assert with_preset({"presets": {}}, latent, {}) == {"presets": {}}


def test_small_data_get_the_small_preset(latent_prior: Path) -> None:
    few = {"instead_of": "fast", "when": "small"}
    node = {"preset": "fast", "presets": {"fast": {}, "few": few, "authors": {}}}
    exact, latent = {"_target_": "priors.mixtures.g2"}, {"path": str(latent_prior)}
    for prior in (exact, latent):
        assert with_preset(node, prior, {"preset": "small"})["preset"] == "few"
    assert with_preset(node, exact, {}) == node
    assert (
        with_preset({**node, "preset": "authors"}, exact, {"preset": "small"})["preset"]
        == "authors"
    )


def test_rows_of_a_latent_cell_and_what_is_recorded(latent_command) -> None:
    plan = run(latent_command("dps")).plan
    rows = plan.store.read()
    assert set(rows["status"]) == {"ok"}
    assert set(rows["decode"]) == {5} and set(rows["decode_grad"]) == {4}
    # what a network without a chosen preset gets is no variant; a preset that somebody names is one
    assert plan.cell.identity["variant"] == "steps=4"
    recorded = yaml.safe_load((plan.folder / "config.yaml").read_text())["config"]["solver"]
    assert recorded["preset"] == "fast_latent"


def test_show_says_so() -> None:
    assert "fast_latent: instead of fast on latent priors" in show("solver=dps")
    assert "instead of" not in show("solver=psld")


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["psld", "resample"])
def test_latent_solvers_refuse_pixel_priors(
    solver: str, command, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [o for o in command() if not o.startswith("solver")]
    assert "needs latent, which this prior and operator do not have" in refusal(
        capsys, [f"solver={solver}", *overrides]
    )


def test_an_unknown_perceptual_distance_is_refused(
    latent_command, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, latent_command("dps", "solver.perceptual=stlpip"))
    assert "unknown setting solver.perceptual 'stlpip'. Did you mean 'stlpips'?" in line
    assert "Valid: lpips_alex, lpips_vgg, none, stlpips" in line


def test_missing_weights_are_refused_with_the_file_wanted(
    latent_command,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    pytest.importorskip("lpips")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    line = refusal(capsys, latent_command("dps", "solver.perceptual=lpips_vgg"))
    assert "solver.perceptual=lpips_vgg" in line and "vgg16-397923af.pth" in line


# -- perceptual distances --------------------------------------------------------------------------


def test_the_distance_is_the_metrics_own_and_loaded_once() -> None:
    pytest.importorskip("stlpips_pytorch")
    assert perceptual_distance(DPS(), "cpu") is None
    distance = perceptual_distance(DPS(perceptual="stlpips"), "cpu")
    metric = shared("metric", {"_target_": "metrics.stlpips.STLPIPS"}, "cpu")
    assert distance == metric.between  # a bound method of the same object


def test_solvers_without_the_setting_get_none(command) -> None:
    config = run(command("blended", "data.images=1", "draws=1")).plan.cell.config
    assert Session(config, "cpu").perceptual is None


def test_a_perceptual_term_reaches_the_rows(latent_command) -> None:
    pytest.importorskip("stlpips_pytorch")
    small = ("data.images=2", "draws=1", "metrics=[consistency]")
    plain = run(latent_command("dps", *small)).plan.store.read()
    with_term = run(
        latent_command("dps", *small, "solver.perceptual=stlpips", "solver.perceptual_weight=20")
    ).plan
    rows = with_term.store.read()
    assert set(rows["status"]) == {"ok"}
    assert (rows["consistency"] - plain["consistency"]).abs().min() > 1e-6
