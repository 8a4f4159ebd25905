"""Every example in a docstring and on the page of the Python API gives what is printed below it."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.bench.harness import run

ROOT = Path(__file__).parents[1]
FOLDERS = ("bench", "datasets", "masks", "metrics", "operators", "priors", "solvers")
MODULES = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A study of two solvers on two images, which the examples read."""
    folder = tmp_path_factory.mktemp("examples") / "study"
    for solver, steps in (("ddnm", 20), ("blended", 2)):
        problem = ["data=fashion", "data.images=2", "mask=rotated", "draws=2", "batch=4"]
        method = [f"solver={solver}", f"solver.steps={steps}"]
        run([*method, *problem, "metrics=[psnr]", "quiet=true", f"out={folder}"])
    return str(folder)


@pytest.fixture
def one_solver(study_folder: str, tmp_path: Path) -> str:
    """The same study without its second solver."""
    target = tmp_path / "study"
    for cell in Path(study_folder).glob("cells/*"):
        if "ddnm" in (cell / "config.yaml").read_text(encoding="utf-8").split("identity")[1][:200]:
            (target / "cells").mkdir(parents=True)
            (target / "cells" / cell.name).symlink_to(cell)
    return str(target)


@pytest.mark.parametrize("module", MODULES)
def test_examples_of_docstrings(module: str, request: pytest.FixtureRequest) -> None:
    names = {}
    if module in ("datasets.face_components", "datasets.face_posterior"):
        pytest.importorskip("dicebear")
    if module == "bench.api.study":
        names["study_folder"] = request.getfixturevalue("one_solver")
    failed, attempted = doctest.testmod(
        import_module(f"posterior_bench.{module}"), extraglobs=names
    )
    assert failed == 0 and attempted > 0


def test_the_page_of_the_python_api(
    study_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its picture too: the committed one shows what its code draws."""
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "python.md"
    failed, attempted = doctest.testfile(
        str(page), module_relative=False, globs={"study_folder": study_folder}
    )
    assert failed == 0 and attempted > 15
    drawn, committed = (
        np.asarray(Image.open(path).convert("L"), np.float32)
        for path in (tmp_path / "python-solvers.png", page.parent / "pictures/python-solvers.png")
    )
    assert drawn.shape == committed.shape and np.abs(drawn - committed).mean() < 8
