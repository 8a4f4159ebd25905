"""``bench new-solver``, and that the code of docs/solver.md runs as it is pasted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from tests.bench.harness import verb

from posterior_bench.bench.config.build import arguments, build
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.config.plugins import admit
from posterior_bench.bench.conformance import new_solver
from posterior_bench.bench.conformance.check import check_solver
from posterior_bench.bench.core.environment import ROOT
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.job import unchecked

WORDS = {"mymethod": "mymethod", "MyMethod": "MyMethod"}


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def test_the_solver_of_the_page_runs_and_keeps_every_promise(tmp_path: Path) -> None:
    (code,) = (block for block in blocks("docs/solver.md", "python") if "MyMethod" in block)
    (tmp_path / "mymethod.py").write_text(code, encoding="utf-8")
    overrides = check([f"solver={tmp_path}/mymethod.py:MyMethod"])
    config = unchecked(compose(overrides)[0])
    admit(config.plugins)
    report = check_solver("mymethod", config, priors=["exact"])
    assert report.failures == [] and report.warnings == []
    assert any(result.status == "pass" for result in report.columns["exact"])


def test_the_page_shows_what_the_verb_writes() -> None:
    assert new_solver.filled("py", WORDS) in blocks("docs/solver.md", "python")
    assert new_solver.filled("yaml", WORDS) in blocks("docs/solver.md", "yaml")


def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, installed: bool = False) -> None:
    """Empty folders in the place of the product's."""
    for folder in ("solvers", "conf/solver"):
        (tmp_path / folder).mkdir(parents=True)
    if not installed:
        (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(new_solver, "ROOT", tmp_path)
    monkeypatch.setattr(new_solver, "CONF", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)


def test_a_checkout_gets_a_file_and_a_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout(tmp_path, monkeypatch)
    files, option = new_solver.new_solver("null_space_2")
    assert option == "null_space_2" and [path.name for path in files] == [
        "null_space_2.py",
        "null_space_2.yaml",
    ]
    node = yaml.safe_load(files[1].read_text())
    assert (
        node["_target_"] == "solvers.null_space_2.NullSpace2"
        and "class NullSpace2(" in files[0].read_text()
    )
    admit([str(files[0])])
    # every preset of the yaml builds the class of the file
    for preset in node["presets"]:
        settings = arguments({**node, "preset": preset})
        assert build({"_target_": f"{files[0]}:NullSpace2", **settings}).steps == settings["steps"]
    with pytest.raises(UserError, match=r"null_space_2\.py exists already"):
        new_solver.new_solver("null_space_2")


def test_the_name_of_a_methods_folder_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout(tmp_path, monkeypatch)
    (tmp_path / "solvers" / "shared").mkdir()
    with pytest.raises(UserError, match="shared exists already"):
        new_solver.new_solver("shared")
    assert not (tmp_path / "solvers" / "shared.py").exists()


def test_an_installed_product_gets_a_file_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout(tmp_path, monkeypatch, installed=True)
    files, option = new_solver.new_solver("mine")
    assert files == [Path("mine.py")] and option == "mine.py:Mine" and Path("mine.py").is_file()
    assert list((tmp_path / "solvers").iterdir()) == []


@pytest.mark.parametrize(
    "given", [[], ["a", "b"], ["My"], ["2x"], ["a-b"], ["class"], ["../x"], ["dps"]]
)
def test_a_name_that_cannot_be_is_one_line(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout(tmp_path, monkeypatch)
    with pytest.raises(UserError) as caught:
        verb("new-solver", *given)
    assert "\n" not in str(caught.value) and list((tmp_path / "solvers").iterdir()) == []
