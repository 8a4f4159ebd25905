"""What ``plan`` says against what a run then does: passes to the last one, bytes nearly, and
nothing run for it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.bench.engine.test_budget import BACKWARDS, BY_HAND, DRAWS, ELSEWHERE
from tests.bench.engine.test_budget import small_cell as _small_cell  # noqa: F401  (the fixture `cell`)
from tests.bench.harness import rows, run

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.cli.verbs import VERBS
from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.config.studies import cells
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.job import unchecked
from posterior_bench.bench.engine.solving import solve
from posterior_bench.bench.engine.worker import Worker
from posterior_bench.bench.estimate import call_times, row_seconds
from posterior_bench.bench.estimate.call_counts import SHORT, CallCounts, PriorKind, count_calls
from posterior_bench.bench.estimate.call_times import Limits, OverLimit, time_calls
from posterior_bench.bench.estimate.forecast import estimate_cells
from posterior_bench.bench.estimate.plan_settings import PlanSettings
from posterior_bench.bench.estimate.requested_cells import compose_cells
from posterior_bench.priors.load import verify
from posterior_bench.priors.process import VE, VP, Flow

INPAINTING = {"_target_": "operators.inpainting.Inpainting"}
KINDS = {
    "network": PriorKind(VE()),
    "latent": PriorKind(VP.scheduled("scaled_linear", 0.00085, 0.012), latent=True),
    "flow": PriorKind(Flow()),
}


@pytest.fixture
def plan(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Exit code, output and errors of ``python -m bench plan ...``, in this process."""

    def run_plan(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["plan", *arguments])
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), " ".join(out.split()), err

    return run_plan


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be sampled."""

    def refuse(*_: object) -> None:
        raise AssertionError("plan ran a solver on a prior of its own")

    monkeypatch.setattr(Worker, "rows", refuse)
    monkeypatch.setattr("posterior_bench.bench.engine.worker.solve", refuse)


# -- passes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [name for name in BY_HAND if name not in ("conditional", "latentpaint", "deepinv")]
)
def test_counted_calls_are_those_counted_by_hand(name: str) -> None:
    solver = build(options("solver")[name].content)
    found = count_calls(
        solver, KINDS.get(ELSEWHERE.get(name, ""), KINDS["network"]), INPAINTING, 60.0
    )
    by_hand: Any = BY_HAND[name]
    fits = name.startswith("vipaint")
    assert found.of_row(DRAWS)["nfe"] == (by_hand(solver, DRAWS) if fits else by_hand(solver))
    backwards: Any = BACKWARDS.get(name, lambda *_: 0)
    assert found.of_row(DRAWS)["nge"] == (backwards(solver, DRAWS) if fits else backwards(solver))


def test_exact_draws_take_no_pass() -> None:
    solver = build({**options("solver")["exact"].content})
    found = count_calls(solver, PriorKind(VE(), exact=True), {**INPAINTING, "sigma": 0.1}, 60.0)
    assert {*found.of_row(1).values()} == {0.0}


@pytest.mark.parametrize(
    "name", ["dps", "blended", "reddiff", "mmps", "psld", "resample", "diffpir"]
)
def test_long_runs_that_are_foretold_have_the_count_by_hand(name: str) -> None:
    solver = build({**options("solver")[name].content, "steps": 2 * sum(SHORT) + 13})
    found = count_calls(
        solver, KINDS.get(ELSEWHERE.get(name, ""), KINDS["network"]), INPAINTING, 60.0
    )
    assert found.draw["nfe"] == BY_HAND[name](solver)
    assert found.draw["nge"] == (BACKWARDS[name](solver) if name in BACKWARDS else 0)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("dps", "network"),
        ("repaint", "network"),
        ("vipaint2", "network"),
        ("psld", "latent"),
        ("vipaint2", "latent"),
    ],
)
def test_all_counters_are_those_of_real_rows(cell, name: str, kind: str) -> None:
    """Autoencoder calls and their gradients too; the network runs once for real."""
    few = {"vipaint2": ["solver.iterations=3", "solver.refine_steps=4"]}.get(
        name, ["solver.steps=8"]
    )
    _, _, session = cell(name, *few, kind=kind)
    row = solve(session, session.measure(session.images.ids[:1]), DRAWS, DRAWS, None)[0]
    found = count_calls(
        session.solver, PriorKind.of(session.prior), session.config.operator, 60.0
    ).of_row(DRAWS)
    assert found == {key: pytest.approx(row[key]) for key in found}
    assert found["nfe"] > 0


@pytest.mark.parametrize("solver", ["blended", "vipaint2"])
def test_a_cell_costs_what_was_planned(command, solver: str) -> None:
    lines = command(solver)
    (line,) = estimate_cells([lines], PlanSettings())
    done = run(lines).plan
    table = rows(done)
    assert line.rows == len(table) == 14 and line.chunks == len(done.chunks)
    assert line.cost.passes == pytest.approx((table["nfe"] + table["nge"]).mean())
    stored = sum(path.stat().st_size for path in done.store.shards())
    assert line.rows * line.cost.size == pytest.approx(stored, rel=0.2)


def test_a_budget_chooses_the_steps_before_they_are_counted(command) -> None:
    lines = [line for line in command("dps", "budget=passes:30") if line != "solver.steps=8"]
    (line,) = estimate_cells([lines], PlanSettings(measure="none"))
    assert line.cost.passes == 30  # 15 steps, each with its gradient


def test_a_budget_of_a_solver_with_trained_modules_is_planned() -> None:
    lines = ["solver=latentpaint", "data=fashion", "budget=passes:31"]
    (line,) = estimate_cells([lines], PlanSettings(measure="none"))
    assert line.cost.passes == 30  # 15 steps, each with the features of the measurement


# -- words -----------------------------------------------------------------------------------------


def test_a_sweep_is_planned_without_running_anything(command, plan, idle) -> None:
    lines = [line for line in command() if not line.startswith("solver")]
    code, out, _ = plan("-m", "solver=blended,dps", "mask=rotated,comod", "solver.steps=5", *lines)
    assert code == 0
    # 14 rows of five steps; DPS takes a gradient in each
    assert (
        "Estimate: 4 cells, 56 rows, 280 network evaluations, 420 passes (forward + backward), "
        in out
    )
    assert "dps folder comod 14 70 140" in out and "(smooth: " in out


def test_a_sweep_without_m_is_still_refused(command, plan) -> None:
    code, _, err = plan(
        "solver=blended,dps", *[line for line in command() if not line.startswith("solver")]
    )
    assert code == 2 and "add -m" in err


def test_one_cell_says_passes_hours_and_disk(command, plan, idle) -> None:
    code, out, _ = plan(*command("dps"))
    assert code == 0
    assert "rows 14 in 4 chunks" in out
    assert "passes 224 (forward + backward), of them 112 forward" in out  # 14 rows, 8 steps
    assert "of one worker for the solver alone, from " in out
    assert "on this CPU" in out and " MiB" in out


def test_given_seconds_a_pass_need_no_network(
    command, plan, idle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_seconds, "time_calls", None)
    (line,) = estimate_cells([command("dps")], PlanSettings(seconds_pass=0.5))
    assert line.cost.seconds == 8 * 2 * 0.5
    code, out, _ = plan("seconds_pass=36", *command("dps"))
    assert (
        code == 0 and "hours 2.2 of one worker for the solver alone, from seconds_pass" in out
    )  # 224 passes at 36 s are 2.24 hours


def test_another_study_tells_the_seconds_of_a_pass(
    command, tmp_path: Path, idle, monkeypatch
) -> None:
    monkeypatch.undo()
    table = run(command("blended", out="timed")).plan.store.read(
        ["nfe", "nge", "seconds_fit", "seconds_sample"]
    )
    pace = (table["seconds_fit"] + table["seconds_sample"]).mean() / (
        table["nfe"] + table["nge"]
    ).mean()
    (line,) = estimate_cells(
        [command("dps", out="new")], PlanSettings(timings=str(tmp_path / "timed"))
    )
    assert line.cost.source == "timings" and line.cost.seconds == pytest.approx(16 * pace)


MISSING = [
    "data=imagenet64",
    "data.images=3",
    "draws=2",
    "solver.preset=vipaint_paper",
    "metrics=[psnr]",
]


def test_what_is_missing_is_said_once_and_the_rest_is_known(plan, idle, tmp_path: Path) -> None:
    code, out, _ = plan(
        "-m", "solver=dps,blended,reddiff_v", "mask=rotated,comod", *MISSING, f"out={tmp_path}"
    )
    assert code == 0
    assert "dps imagenet64 rotated 6 6 000 12 000" in out  # 1000 steps with gradients
    assert out.count("checkpoints/imagenet64_edm holds no prior.json") == 1
    assert "Not measured, data=imagenet64 prior=imagenet64_edm (6 cells): " in out
    assert "VGG" not in out and not any(tmp_path.iterdir())


def test_one_cell_with_missing_files_is_estimated_and_then_refused(
    plan, idle, tmp_path: Path
) -> None:
    code, out, err = plan("solver=dps", "mask=rotated", *MISSING, f"out={tmp_path}")
    assert code == 2 and err.count("holds no prior.json") == 1
    assert "dps imagenet64 rotated 6 6 000 12 000" in out


def test_a_missing_metric_is_not_reported_as_printed_hours(command) -> None:
    """The audit's case: without VGG's weights every cell said "VIPaint, Table 5"."""
    lines = [line for line in command("blended") if not line.startswith("metrics")]
    (line,) = estimate_cells([[*lines, "metrics=[lpips_vgg]", "data.images=2"]], PlanSettings())
    assert line.cost.source == "calls here" and line.cost.seconds > 0 and not line.cost.missing


def test_a_cell_that_cannot_be_built_does_not_hide_the_others(command) -> None:
    broken = [line for line in command() if not line.startswith("solver")]
    torn = [*broken, "solver=torchscript", "solver.path=/nowhere.pt"]
    whole, lost = estimate_cells([command("blended"), torn], PlanSettings(measure="none"))
    assert whole.cost.passes == 12 and lost.rows == 14
    assert "solver.trust_file=true" in lost.cost.missing


@pytest.mark.parametrize("wrong", ["data.images=0", "precision=fp8", "budget=passes:0"])
def test_a_wrong_command_is_refused(command, wrong: str) -> None:
    with pytest.raises(UserError, match=wrong.partition("=")[0]):
        estimate_cells([command("dps", wrong)], PlanSettings())


# -- limits ----------------------------------------------------------------------------------------


def test_memory_is_looked_at_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the prior was loaded")

    monkeypatch.setattr(call_times, "shared", refuse)
    node = {"_target_": "priors.load.load", "path": "priors/assets/fashion"}
    with pytest.raises(
        OverLimit, match=r"its weights \(0.0 GiB\) and the activations of one call do not fit"
    ):
        time_calls(node, verify(node["path"]), ["nfe"], 16, "cpu", Limits(2**20, math.inf))


def test_a_call_that_would_take_too_long_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_times, "_speed", lambda device: 1e3)
    monkeypatch.setattr(call_times, "shared", None)
    with pytest.raises(
        OverLimit, match=r"one call takes about \d+ s on this CPU, more than \d+ s allow"
    ):
        limits = Limits(2**40, time.monotonic() + 60)
        time_calls({}, verify("priors/assets/fashion"), ["nfe"], 16, "cpu", limits)


def test_counting_ends_in_time_and_says_so() -> None:
    solver = build({**options("solver")["vipaint2"].content, "iterations": 10**6})
    with pytest.raises(
        Exception, match="counting its passes takes more than 0 s; max_seconds=N allows more"
    ):
        count_calls(solver, KINDS["network"], INPAINTING, 0.2)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("measure=all", "measure takes calls, none, rows"),
        ("seconds_pass=-1", "seconds above 0"),
        ("seconds_pass=nan", "seconds above 0"),
        ("max_seconds=soon", "seconds above 0"),
        ("max_memory=8", "a size such as 8GiB"),
        ("timings=/nowhere", "takes a study folder"),
    ],
)
def test_settings_of_plan_are_checked(wrong: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        VERBS["plan"].parser().read([wrong])


def test_settings_of_plan_are_told_from_those_of_a_run() -> None:
    words = ["-m", "max_memory=1.5GiB", "solver=dps", "max_seconds=5", "study.name=measure"]
    read = VERBS["plan"].parser().read(words)
    assert (read["max_memory"], read["max_seconds"]) == (3 * 2**29, 5.0)
    assert read["multirun"] and read["overrides"] == ["solver=dps", "study.name=measure"]


def test_settings_of_plan_that_are_left_out_are_those_of_the_estimate() -> None:
    read = VERBS["plan"].parser().read([])
    assert read["measure"] is None  # what was measured before may be told again
    given = {key: read[key] for key in PlanSettings.__dataclass_fields__ if key != "measure"}
    assert PlanSettings(**given) == PlanSettings()


# -- configurations without Hydra ------------------------------------------------------------------


def test_cells_composed_together_are_those_of_hydra() -> None:
    every = cells(
        [
            "study=embedded",
            "solver=dps,blended",
            "solver.guidance=2",
            "mask=rotated",
            "data=fashion",
        ]
    )
    assert len(every) == 2
    for (config, choices, _), lines in zip(compose_cells(every), every, strict=True):
        cfg, expected = compose(check(lines, study_sweep=True))
        assert config == unchecked(cfg)
        assert choices == expected
        assert config.solver["guidance"] == 2


def test_rows_share_their_fit() -> None:
    assert CallCounts({"nfe": 10.0}, {"nfe": 3.0}, 0, 0).of_row(4) == {"nfe": 5.5}
