"""What a network is told: labels that are its own, prompts, and the measurement where it was
trained for inpainting."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from pathlib import Path

import pytest
import torch
from tests.bench.harness import planned, rows, run

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.conformance.check import check_solver
from posterior_bench.bench.conformance.reference_pages.pages import pages
from posterior_bench.bench.conformance.reference_pages.prior_kinds import (
    INPAINT,
    capabilities_by_kind,
    missing_capabilities,
)
from posterior_bench.bench.conformance.results import SKIPPED
from posterior_bench.bench.conformance.small_priors import PRIORS, small_prior
from posterior_bench.bench.core.errors import Inapplicable
from posterior_bench.bench.engine.session import Session
from posterior_bench.priors.base import Prior
from posterior_bench.priors.load import describe, load, save

META: dict[str, object] = {"name": "tiny", "training": {}, "source": "this test", "licence": "MIT"}
PROMPTS = ["a dog", "a cat", "a crane"]

Command = Callable[..., list[str]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small priors as folders; that for inpainting has prompts."""
    root = tmp_path_factory.mktemp("priors")
    for name in ("network", "latent", "inpainting"):
        meta = {**META, "class_names": PROMPTS} if name == "inpainting" else META
        save(root / name, square(name), meta, torch.float32)
    return root


def square(name: str) -> Prior:
    """A small prior of images as a folder gives them."""
    prior = copy(small_prior(name))
    side = prior.image_shape[1]
    prior.image_shape, prior.latent_shape = (1, side, side), (prior.latent_shape[0], 8, 8)
    return prior


@pytest.fixture
def cell(command: Command, folders: Path) -> Command:
    """``cell(solver, prior)``: a small cell on 16 x 16 images, or on 8 x 8 ones for the prior
    ``network``."""

    def make(solver: str, prior: str, *more: str) -> list[str]:
        replaced = ("solver", "prior", "data.size", "mask", "data.images")
        kept = [o for o in command() if not o.startswith(replaced)]
        size = "8" if prior == "network" else "16"
        chosen = [
            f"solver={solver}",
            "solver.steps=2",
            "prior=sd15_inpainting",
            f"prior.path={folders / prior}",
        ]
        return [*kept, *chosen, f"data.size={size}", "data.images=2", "mask=box", *more]

    return make


def plan(capsys: pytest.CaptureFixture[str], overrides: list[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["plan", *overrides])
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


def test_an_inpainting_model_runs_with_its_solver(cell):
    table = rows(run(cell("conditional", "inpainting")).plan)
    assert (table["status"] == "ok").all()
    assert (
        set(table["nfe"]) == {2.0}
        and set(table["encode"]) == {1.0}
        and set(table["decode"]) == {1.0}
    )


def test_other_solvers_and_priors_are_refused_before_any_work(capsys, cell):
    code, _, err = plan(capsys, cell("dps", "inpainting"))
    assert code == 2 and err.count("\n") == 1
    assert "this prior was trained for inpainting" in err and "choose solver=conditional" in err
    code, _, err = plan(capsys, cell("conditional", "latent"))
    assert code == 2 and "Conditional needs inpaint" in err and err.count("\n") == 1


def test_guidance_without_labels_is_refused_before_any_work(capsys, cell):
    """The prior has a null condition; the images of this data have no class."""
    code, _, err = plan(capsys, cell("dps", "network", "solver.guidance=2"))
    assert code == 2 and "guidance other than 1 needs" in err and err.count("\n") == 1
    assert plan(capsys, cell("dps", "network", "solver.guidance=1"))[0] == 0


def test_a_label_chooses_a_prompt_only_where_there_is_one_prompt_a_class(capsys, cell, monkeypatch):
    code, out, _ = plan(capsys, cell("conditional", "inpainting"))
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.startswith("prior ")]
    assert line.startswith("prior    asked with the empty prompt: no prompt is given (set prompt=")
    assert "3 prompts (a dog, a cat, a crane), and the data has no classes" in line

    session = Session(planned(cell("conditional", "inpainting")).cell.config, "cpu")
    labels = torch.tensor([2, 0])
    assert session.told.of(None, []) is None
    for classes, expected in ((0, None), (1000, None), (3, [2, 0])):
        monkeypatch.setattr(session.images, "num_classes", classes)
        cond = session.told.of(labels, [])
        assert (cond if cond is None else cond.values["label"].tolist()) == expected


def test_a_prior_that_must_be_told_a_class_of_its_own_is_refused_without(cell, folders, tmp_path):
    prior = load(folders / "network")
    prior.null_label = None
    save(tmp_path / "told", prior, META, torch.float32)
    with pytest.raises(
        Inapplicable, match="must be told one of its 3 classes, and the data has none"
    ):
        planned(cell("prior", "network", f"prior.path={tmp_path / 'told'}"))


def test_labels_of_the_data_reach_the_network_where_they_fit(capsys):
    code, out, _ = plan(capsys, ["solver=prior", "data=fashion", "metrics=[psnr]", "data.images=2"])
    assert code == 0 and not [line for line in out.splitlines() if line.startswith("prior ")]


def test_the_prompts_of_a_prior_are_read_with_it(folders):
    assert load(folders / "inpainting").class_names == tuple(PROMPTS)
    assert load(folders / "latent").class_names == ()


def test_a_prior_without_weights_still_has_its_prompts(folders):
    """A plan compares them with those of a text encoder, before any weights are loaded."""
    whole, bare = load(folders / "inpainting"), describe(folders / "inpainting")
    for index in (0, -1):
        rows = bare.prompt_rows(index)
        assert rows.keys() == whole.prompt_rows(index).keys()
        assert all(torch.equal(rows[k], v) for k, v in whole.prompt_rows(index).items())
    assert [name for name, p in bare.net.named_parameters() if not p.is_meta] == ["contexts"]
    assert bare.caps == whole.caps and bare.class_names == whole.class_names


def test_check_and_docs_know_a_solver_that_no_embedded_prior_can_run():
    option, operator = options("solver")["conditional"], options("operator")["inpainting"]
    assert {
        family: missing_capabilities(option, operator, family) for family in capabilities_by_kind()
    } == {
        family: frozenset() if family == INPAINT else {"inpaint"}
        for family in capabilities_by_kind()
    }
    assert missing_capabilities(options("solver")["dps"], operator, INPAINT) == {"unconditional"}
    assert "`solver=conditional`" in pages()["docs/applicability.md"]
    config = JobConfig.of({"solver": option.content, "operator": operator.content})
    report = check_solver("conditional", config, priors=["inpainting"])
    assert (
        report.failures == []
        and [r.status for r in report.columns["inpainting"]].count(SKIPPED) <= 2
    )  # there may be no GPU, and its images are not known in closed form
    elsewhere = check_solver(
        "conditional", config, priors=[name for name in PRIORS if name != "inpainting"]
    )
    assert elsewhere.failures == [] and [r.status for r in elsewhere.columns["run"]] == [SKIPPED]
