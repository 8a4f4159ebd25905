"""Our ``datasets`` wins over a library of that name; where it cannot, one plain line says so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from bench.guard import ROOMS

ROOT = Path(__file__).parents[2]
CHECK = "import bench.guard; bench.guard.check_house(); import datasets; print(datasets.__file__)"
OURS = str(ROOT / "datasets" / "__init__.py")


def start(*arguments: str, cwd: Path, path: list[Path]) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter with ``path`` as PYTHONPATH."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def fake_hub(tmp_path: Path) -> Path:
    """A folder with a package ``datasets`` that is not ours."""
    package = tmp_path / "hub" / "datasets"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("load_dataset = None\n")
    return package.parent


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line a refused start prints."""
    assert done.returncode == 1, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def test_ours_wins_in_the_checkout(fake_hub: Path) -> None:
    assert start("-c", CHECK, cwd=ROOT, path=[fake_hub]).stdout.strip() == OURS


def test_ours_wins_when_the_library_comes_first_on_the_path(fake_hub: Path, tmp_path: Path) -> None:
    """The order a console script of an editable install sees."""
    path = [fake_hub, ROOT]
    assert start("-c", "import datasets; print(datasets.__file__)", cwd=tmp_path, path=path).stdout.strip() != OURS
    assert start("-c", CHECK, cwd=tmp_path, path=path).stdout.strip() == OURS


def test_the_command_line_runs_beside_the_library(fake_hub: Path, tmp_path: Path) -> None:
    done = start("-m", "bench", "ls", "data", cwd=tmp_path, path=[fake_hub, ROOT])
    assert done.returncode == 0, done.stderr
    assert "fashion" in done.stdout


def test_a_library_imported_earlier_is_named(fake_hub: Path) -> None:
    done = start(
        "-c", f"import sys; sys.path.insert(0, {str(fake_hub)!r}); import datasets; {CHECK}", cwd=ROOT, path=[]
    )
    line = refused(done)
    assert str(fake_hub / "datasets") in line
    assert "import bench first" in line


def test_a_missing_room_is_named(tmp_path: Path) -> None:
    site = installed(tmp_path)
    shutil.rmtree(site / "masks")
    assert "'masks'" in refused(start("-c", CHECK, cwd=tmp_path, path=[site]))


def installed(tmp_path: Path) -> Path:
    """A site-packages folder with the guard and empty rooms."""
    site = tmp_path / "site"
    for name in ("bench", *ROOMS):
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").touch()
    for name in ("__init__.py", "guard.py"):
        shutil.copy(ROOT / "bench" / name, site / "bench" / name)
    return site


def test_an_install_beside_the_library_is_refused(tmp_path: Path) -> None:
    site = installed(tmp_path)
    assert start("-c", CHECK, cwd=tmp_path, path=[site]).stdout.strip() == str(site / "datasets" / "__init__.py")
    about = site / "datasets-9.8.7.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: datasets\nVersion: 9.8.7\n")
    line = refused(start("-c", CHECK, cwd=tmp_path, path=[site]))
    assert "9.8.7" in line
    assert "checkout" in line


def test_an_install_does_not_move_the_import_path(tmp_path: Path, fake_hub: Path) -> None:
    """Moving site-packages to the front would let it hide the standard library; the guard refuses instead."""
    line = refused(start("-c", CHECK, cwd=tmp_path, path=[fake_hub, installed(tmp_path)]))
    assert str(fake_hub / "datasets") in line


def test_the_libraries_we_use_work_beside_the_real_hub_library(tmp_path: Path) -> None:
    try:
        site = Path(str(metadata.distribution("datasets").locate_file("")))
    except metadata.PackageNotFoundError:
        pytest.skip("the hub library 'datasets' is not installed; it comes with the extra 'dev'")
    code = f"""
import sys
sys.path.insert(0, {str(site)!r})
import importlib.util
print(importlib.util.find_spec("datasets").origin)
{CHECK}
import lpips, stlpips_pytorch
from diffusers import AutoencoderKL, UNet2DModel
from torchmetrics.image import LearnedPerceptualImagePatchSimilarity, StructuralSimilarityIndexMeasure
from datasets.base import ImageSet
print(sys.modules["datasets"].__file__)
"""
    done = start("-c", code, cwd=tmp_path, path=[ROOT])
    assert done.returncode == 0, done.stderr
    hub, *ours = done.stdout.splitlines()
    assert Path(hub).parent.parent == site.resolve(), "the hub library was not first on the path: nothing was shadowed"
    assert ours == [OURS, OURS]
