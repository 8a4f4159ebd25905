"""Solvers that are not ours: a class in a file, and an installed package with options of its
own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from tests.bench import harness

from posterior_bench.bench.config import catalog, plugins
from posterior_bench.bench.config.build import target
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.core.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "docs" / "examples" / "bench_nearest"
SMALL = ["data.images=2", "draws=1", "sheet=false", "threads=1", "metrics=[psnr]"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return shutil.copy(EXAMPLE / "bench_nearest" / "nearest.py", tmp_path / "mine.py")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed packages: the example, and its metadata as an installer writes it."""
    site = tmp_path / "site"
    shutil.copytree(EXAMPLE / "bench_nearest", site / "bench_nearest")
    info = site / "bench_nearest-1.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-nearest\nVersion: 1.0.0\n")
    (info / "entry_points.txt").write_text("[posterior_bench]\nnearest = bench_nearest\n")
    return site


def bench(*arguments: str, site: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(site)])
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": path},
        cwd=ROOT,
    )


# -- a class in a file -----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _admitted_no_longer():
    yield
    plugins.admit([])


def test_a_class_in_a_file_runs_beside_ours(file, tmp_path):
    swept = ("-m", f"solver={file}:Nearest,blended", "solver.steps=5")
    assert harness.bench(*swept, *SMALL, f"out={tmp_path / 'run'}") == 0
    board = pd.read_csv(tmp_path / "run" / "leaderboard.csv")
    assert set(board["solver"]) == {"Nearest", "blended"}
    assert (board["failed"] == 0).all()


def test_its_cell_follows_the_content_and_not_the_place(file, tmp_path):
    def cell(place: Path) -> str:
        words = [f"solver={place}:Nearest", *SMALL, f"out={tmp_path / 'run'}"]
        return harness.planned(check(words)).cell.name

    moved = shutil.copy(file, tmp_path / "elsewhere.py")
    name = cell(file)
    assert cell(moved) == name
    changed = tmp_path / "changed.py"
    changed.write_text(file.read_text().replace("eta=1.0", "eta=0.5"))
    assert cell(changed) != name


def test_its_settings_are_read_without_running_it(file):
    file.write_text(
        "raise SystemExit('executed')\n"
        + file.read_text().replace("from __future__ import annotations", "")
    )
    option = catalog.option("solver", f"{file}:Nearest")
    assert option.parameters == {"steps": 100}
    assert option.summary == "Ancestral sampling with the observed pixels of x0 replaced."
    with pytest.raises(UserError, match=r"unknown key of solver=.*'stpes'\. Did you mean 'steps'"):
        check([f"solver={file}:Nearest", "solver.stpes=3"])
    with pytest.raises(UserError, match="steps takes a whole number"):
        check([f"solver={file}:Nearest", "solver.steps=many"])


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (lambda f: f.unlink(), "Nearest", "does not exist; write FILE.py:CLASS"),
        (lambda f: None, "Nearst", "unknown class of mine.py 'Nearst'. Did you mean 'Nearest'"),
        (lambda f: f.write_text("class Nearest(:"), "Nearest", "is not Python that can be read"),
    ],
)
def test_files_that_do_not_fit_are_refused(file, change, name, message):
    change(file)
    with pytest.raises(UserError, match=message) as refusal:
        check([f"solver={file}:{name}"])
    assert "\n" not in str(refusal.value)


def test_a_file_that_fails_says_so_in_one_line(file, tmp_path, capfd):
    file.write_text(file.read_text().replace("import Tensor", "import Tensr"))
    assert harness.bench(f"solver={file}:Nearest", *SMALL, f"out={tmp_path / 'run'}") == 2
    (said,) = capfd.readouterr().err.strip().splitlines()
    assert "fails when it is imported: ImportError" in said


def test_a_configuration_alone_imports_no_file(file):
    plugins.admit([])
    node = {"_target_": f"{file}:Nearest"}
    with pytest.raises(UserError, match="outside our packages; plugins="):
        target(node)
    plugins.admit([str(file)])
    assert target(node).__name__ == "Nearest"
    plugins.admit([])


def test_a_file_may_not_change_under_a_study(file):
    plugins.admit([str(file)])
    planned = plugins.file_class(f"{file}:Nearest").target
    file.write_text(file.read_text() + "\n# changed\n")
    with pytest.raises(UserError, match="has changed since this study was planned"):
        target({"_target_": planned})
    plugins.admit([])


# -- an installed package --------------------------------------------------------------------------


def test_an_installed_solver_is_listed_shown_and_run(site, tmp_path):
    assert (
        "nearest " in (listed := bench("ls", "solver", site=site).stdout)
        and "(plugins=[nearest])" in listed
    )
    assert "paper: Yours" in bench("show", "solver=nearest", site=site).stdout
    overrides = [
        "solver=nearest",
        "plugins=[nearest]",
        "solver.steps=5",
        *SMALL,
        f"out={tmp_path / 'run'}",
    ]
    done = bench(*overrides, site=site)
    assert done.returncode == 0, done.stderr
    board = pd.read_csv(tmp_path / "run" / "leaderboard.csv")
    assert list(board["solver"]) == ["nearest"]


def test_it_is_imported_only_where_plugins_names_it(site, tmp_path):
    refused = bench("solver=nearest", *SMALL, f"out={tmp_path / 'run'}", site=site)
    assert refused.returncode == 2
    assert (
        "solver=nearest comes with the plugin nearest: plugins=[nearest] lets this run import it"
        in refused.stderr
    )
    unknown = bench(
        "solver=blended", "plugins=[nearst]", *SMALL, f"out={tmp_path / 'run'}", site=site
    )
    assert (
        unknown.returncode == 2
        and "unknown plugin 'nearst'. Did you mean 'nearest'" in unknown.stderr
    )
    assert not (tmp_path / "run").exists()


def test_studies_over_every_solver_are_those_without_it(site):
    """A glob of ours must not pick up what somebody happens to have installed."""
    done = bench("-m", "solver=glob(near*)", site=site)
    assert done.returncode == 2 and "names no solver" in done.stderr


def test_it_is_checked_like_ours(site):
    done = bench("check", "solver=nearest", "plugins=[nearest]", site=site)
    assert (
        done.returncode == 0 and "every promise that could be checked here is kept" in done.stdout
    )


def test_a_plugin_may_not_shadow_ours(site):
    shutil.move(
        site / "bench_nearest/conf/solver/nearest.yaml", site / "bench_nearest/conf/solver/dps.yaml"
    )
    refused = bench("ls", "solver", site=site)
    assert refused.returncode == 2 and "brings solver=dps, which exists already" in refused.stderr


def test_a_plugin_without_options_is_named(site):
    shutil.rmtree(site / "bench_nearest" / "conf")
    refused = bench("ls", "solver", site=site)
    assert (
        refused.returncode == 2 and "which is no installed package with a conf/" in refused.stderr
    )


def test_the_example_is_the_one_of_the_page():
    page = (ROOT / "docs" / "external.md").read_text()
    assert (EXAMPLE / "bench_nearest" / "nearest.py").read_text() in page
