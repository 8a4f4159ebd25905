"""The Python API: the same bits as the command line, and one clear line for what cannot be."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tests.bench.harness import rows, run

import posterior_bench as pb
from posterior_bench.bench.core.errors import UserError
from posterior_bench.metrics.base import to_uint8
from posterior_bench.priors.mixtures import smooth

SIZE = ("data=fashion", "data.images=3", "draws=2", "batch=4", "metrics=[psnr,consistency]")


@pytest.fixture(scope="module")
def prior() -> object:
    return pb.load_prior("fashion")


@pytest.fixture
def problem() -> pb.Problem:
    return pb.observe(pb.load_images("fashion", images=2), mask="rotated", seed=0)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize(
    ("solver", "settings"),
    [
        ("ddnm", {"solver.steps": 4}),
        ("vipaint2", {"solver.iterations": 2, "solver.refine_steps": 3}),
    ],
)
def test_the_images_scores_and_costs_of_the_command_line(
    solver: str, settings: dict[str, int], tmp_path: Path
) -> None:
    out, words = f"out={tmp_path / 'study'}", [f"{k}={v}" for k, v in settings.items()]
    lines = [f"solver={solver}", "mask=rotated", "seed=3", "quiet=true", out, *words, *SIZE]
    stored = rows(run(lines).plan)
    problem = pb.observe(pb.load_images("fashion", images=3), mask="rotated", seed=3)
    result = pb.solve(
        solver, problem, pb.load_prior("fashion"), draws=2, batch=4, settings=settings
    )
    scored = pb.score(result, ["psnr", "consistency"])
    for _, row in stored.iterrows():
        i, d = problem.images.ids.index(row["image_id"]), row["draw"]
        assert (to_uint8(result.images[i, d])[0].numpy() == pixels(row["png"])).all()
        for metric in ("psnr", "psnr_hole_pasted", "consistency"):
            assert scored.loc[(row["image_id"], d), metric] == row[metric]
    assert result.cost["nfe"] == pytest.approx(stored["nfe"].mean())
    if solver == "vipaint2":
        assert tuple(result.trace["loss"].shape) == (3, 2)


def test_an_image_in_memory(prior: object, tmp_path: Path) -> None:
    image = pb.load_images("fashion").pixels[0]
    mask = torch.ones(28, 28, dtype=torch.bool)
    mask[10:18, 10:18] = False
    problem = pb.observe(image, mask=mask)
    assert torch.equal(problem.y[0], image * mask) and torch.equal(problem.mask[0, 0], mask)
    result = pb.solve("ddnm", problem, prior, draws=2, settings={"solver.steps": 3})
    again = pb.solve("ddnm", problem, prior, draws=2, settings={"solver.steps": 3})
    other = pb.solve("ddnm", problem, prior, draws=2, seed=1, settings={"solver.steps": 3})
    assert result.images.shape == (2, 1, 28, 28) and torch.equal(result.images, again.images)
    assert not torch.equal(result.images, other.images)
    assert torch.equal(result.pasted[:, :, mask], image[:, mask].expand(2, -1, -1))
    # the same picture as a PIL image and as a file
    picture = Image.fromarray(to_uint8(image)[0].numpy())
    picture.save(tmp_path / "photo.png")
    for same in (picture, tmp_path / "photo.png", str(tmp_path / "photo.png"), image.numpy()):
        assert torch.allclose(pb.observe(same, mask=mask).truth[0], image, atol=1e-6)


def test_noise_is_that_of_sigma() -> None:
    images = pb.load_images("fashion", images=8)
    problem = pb.observe(images, mask=np.ones((28, 28)), sigma=0.5, seed=1)
    noise = problem.y - problem.truth
    assert noise.std().item() == pytest.approx(0.5, rel=0.05)
    assert torch.equal(problem.y, pb.observe(images, mask=np.ones((28, 28)), sigma=0.5, seed=1).y)


def test_a_prior_of_ones_own() -> None:
    prior = smooth((1, 8, 8))
    problem = pb.observe(torch.zeros(2, 1, 8, 8), mask="box")
    result = pb.solve("exact", problem, prior, draws=3)
    assert result.images.shape == (2, 3, 1, 8, 8) and result.images.isfinite().all()


def test_an_arena_draws_its_images() -> None:
    problem = pb.observe(pb.load_images("arena/g2", images=2), mask="box")
    result = pb.solve("exact", problem, pb.load_prior("g2"), draws=2)
    assert result.images.shape[:2] == (2, 2)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda p, x: pb.load_prior("fashoin"), "fashion"),
        (lambda p, x: pb.load_images("fashion", images=10**6), "give 1 to"),
        (lambda p, x: pb.observe(torch.full((1, 28, 28), 7.0)), r"in \[-1, 1\]"),
        (lambda p, x: pb.observe(torch.zeros(28)), r"\(C, H, W\)"),
        (lambda p, x: pb.observe("nowhere.png"), "nowhere.png"),
        (lambda p, x: pb.observe(torch.zeros(1, 28, 28), mask=torch.ones(3, 3)), r"\(3, 3\)"),
        (lambda p, x: pb.observe(torch.zeros(1, 28, 28), mask="rotatet"), "rotated"),
        (lambda p, x: pb.observe(torch.zeros(1, 28, 28), settings={"mask.sid": 1}), "mask.sid"),
        (lambda p, x: pb.solve("dsp", x, p), "dps"),
        (lambda p, x: pb.solve("dps", x, p, preset="fats"), "fast"),
        (lambda p, x: pb.solve("psld", x, p), "latent"),
        (lambda p, x: pb.solve("dps", x, p, settings={"solver.stepps": 3}), "solver.steps"),
        (lambda p, x: pb.solve("dps", pb.observe(torch.zeros(1, 8, 8)), p), "prior"),
        (lambda p, x: pb.solve("dps", x, p, draws=0), "at least 1"),
        (lambda p, x: pb.Study("nowhere"), "nowhere is not a study folder"),
    ],
)
def test_what_cannot_be_is_one_line(
    call: Callable[..., object], said: str, prior: object, problem: pb.Problem
) -> None:
    with pytest.raises(UserError, match=said) as error:
        call(prior, problem)
    assert len(str(error.value).splitlines()) == 1


def test_a_study_as_data_frames(tmp_path: Path) -> None:
    study = tmp_path / "study"
    common = ["mask=rotated", "solver.steps=3", "quiet=true", f"out={study}", *SIZE]
    for solver in ("ddnm", "blended"):
        run([f"solver={solver}", *common])
    read = pb.Study(study)
    frame = read.rows()
    assert list(frame.columns[:8]) == [
        *("solver", "data", "mask", "operator", "prior", "seed", "image_id", "draw"),
    ]
    assert frame.groupby(["solver", "mask"]).size().to_dict() == {
        ("blended", "rotated"): 6,
        ("ddnm", "rotated"): 6,
    }
    board = read.leaderboard()
    table = (
        pd.read_csv(study / "leaderboard.csv") if (study / "leaderboard.csv").exists() else board
    )
    assert sorted(board["solver"]) == ["blended", "ddnm"] and len(table) == 2
    assert board.set_index("solver")["psnr"]["ddnm"] == pytest.approx(
        frame[frame["solver"] == "ddnm"].groupby("image_id")["psnr"].mean().mean()
    )
    report = read.compare("ddnm", "blended", metric="psnr")
    assert "ddnm" in report.text() and len(report.matches) == 1
    picture = read.image("ddnm", "test-00001", draw=1)
    assert picture.size == (28, 28)
    with pytest.raises(UserError, match="test-00002"):
        read.image("ddnm", "test-99999")
    with pytest.raises(UserError, match="blended, ddnm"):
        read.image("dps", "test-00001")


def test_importing_the_package_is_cheap_and_typed() -> None:
    code = "import sys, posterior_bench; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert set(pb.__all__) <= set(dir(pb)) and Path(pb.__file__).with_name("py.typed").exists()
    for name in pb.__all__:
        assert getattr(pb, name).__doc__
    with pytest.raises(AttributeError, match="nothing"):
        pb.nothing  # noqa: B018
