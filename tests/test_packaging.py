"""The wheel and a checkout beside the hub library ``datasets``: neither hides the other."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

ROOT = Path(__file__).parents[1]
OURS = "from posterior_bench.datasets.fashion import Fashion"
HUB = "from datasets import load_dataset"
FOLDERS = ("bench", "conf", "datasets", "masks", "metrics", "operators", "priors", "solvers")


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a command that must succeed, without what the tests put on the path of Python."""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=clean, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "wheel", "-qq", *options, "-w", folder, ROOT, cwd=folder)
    (path,) = folder.glob("posterior_bench-*.whl")
    return path


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A fresh virtual environment with a copy of the hub library; all else comes from ours."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    paths = {"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")}
    site = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    library = metadata.distribution("datasets")
    for file in library.files or ():
        if file.suffix == ".pyc" or file.parts[0] == "..":
            continue
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(Path(str(library.locate_file(file))).read_bytes())
    # lines of a .pth file in that folder are not followed, so no checkout comes with it
    (site / "rest.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return tmp_path / "venv"


def python(environment: Path) -> Path:
    return environment / "bin" / "python"


def pip(environment: Path, *arguments: str | Path) -> None:
    run(sys.executable, "-m", "pip", "--python", python(environment), *arguments)


def test_a_wheel_holds_one_package(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"posterior_bench"}
    inside = {name.split("/")[1] for name in names if name.startswith("posterior_bench/")}
    assert inside == {*FOLDERS, "__init__.py", "py.typed"}


@pytest.mark.slow
def test_a_wheel_of_the_source_distribution_holds_the_same_files(
    wheel: Path, tmp_path: Path
) -> None:
    """A source distribution has no links, so the folders are taken from where they lie."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path)
    (archive,) = tmp_path.glob("posterior_bench-*.tar.gz")
    options = ("--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "wheel", "-qq", *options, "-w", tmp_path, archive)
    (other,) = tmp_path.glob("posterior_bench-*.whl")
    assert {*ZipFile(other).namelist()} == {*ZipFile(wheel).namelist()}
    assert len(ZipFile(other).namelist()) > 500


def test_wheel_and_hub_library_work_in_one_process_and_part_again(
    wheel: Path, environment: Path, tmp_path: Path
) -> None:
    pip(environment, "install", "-qq", "--no-deps", "--no-index", wheel)
    for first, second in ((OURS, HUB), (HUB, OURS)):
        run(python(environment), "-c", f"{first}; {second}; Fashion, load_dataset", cwd=tmp_path)
    where = "import posterior_bench as p; print(p.__file__)"
    place = Path(run(python(environment), "-c", where, cwd=tmp_path).stdout.strip())
    assert place.is_relative_to(environment)
    listed = run(environment / "bin" / "bench", "ls", "solver", cwd=tmp_path).stdout
    assert "dps" in listed and "vipaint2" in listed
    pip(environment, "uninstall", "-qq", "--yes", "posterior-bench")
    assert not place.parent.exists()
    run(python(environment), "-c", HUB, cwd=tmp_path)


@pytest.mark.parametrize("lines", [(OURS, HUB), (HUB, OURS)])
def test_a_checkout_does_not_hide_the_hub_library(lines: tuple[str, str]) -> None:
    """Also from the root of the checkout, which ``python -c`` puts first on the path."""
    code = f"import sys; sys.path.insert(1, {str(ROOT / 'src')!r}); {'; '.join(lines)}"
    run(sys.executable, "-c", code, cwd=ROOT)


def test_hosted_checks_are_those_of_the_repository() -> None:
    """The workflow runs ``.ci/run`` and nothing of its own; the citation says no version."""
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step["run"] for step in flow["jobs"]["checks"]["steps"] if "run" in step]
    assert steps[-1] == ".ci/run" and len(steps) == 3
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0" and "version" not in cited
    assert cited["license"] == "MIT" and cited["authors"] and cited["title"]
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"):
        content = yaml.safe_load(form.read_text())
        assert {"name", "description", "body"} <= content.keys()


def test_the_changelog_has_the_version() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_every_folder_of_the_package_is_linked() -> None:
    links = {path.name: path for path in (ROOT / "src" / "posterior_bench").iterdir()}
    for name in FOLDERS:
        assert links[name].resolve() == ROOT / name and not (ROOT / name / "__init__.py").exists()
