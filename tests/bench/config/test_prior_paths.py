"""``prior=PATH``: what counts as a path, what Hydra gets, and that a cell does not depend on how a
prior is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.bench.harness import planned

from posterior_bench.bench.config.catalog import option, show
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.config.prior_paths import with_prior_names
from posterior_bench.bench.core.errors import UserError

FASHION = Path(__file__).resolve().parents[3] / "priors" / "assets" / "fashion"


def chosen(*overrides: str) -> str:
    """The path of the prior in the composed configuration."""
    return str(compose(check(list(overrides)))[0].prior.path)


@pytest.mark.parametrize(
    "name",
    ["model", "2024_01", "1e5", "null", "true", "inf", "a (b) [c]", "größe, #1", "it's", "-x"],
)
def test_a_folder_of_any_name_is_found_as_it_is_typed(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    assert chosen(f"prior={tmp_path / name}") == str(tmp_path / name)


def test_relative_paths_and_tildes_are_those_of_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for typed in ("mine", "./mine", "mine/", "~/mine", "'mine'", '"./mine"'):
        assert chosen(f"prior={typed}") == str(tmp_path / "mine"), typed
    assert chosen("prior=./later") == "later"  # not there: said when it is read
    assert (
        chosen("prior=priors/assets/fashion") == "priors/assets/fashion"
    )  # shipped: found from everywhere


def test_a_name_stays_a_name_beside_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fashion").mkdir()
    monkeypatch.chdir(tmp_path)
    assert with_prior_names(["prior=fashion", "data.root=a/b"]) == [
        "prior=fashion",
        "data.root=a/b",
    ]
    assert with_prior_names(["prior=fashion,g2"]) == ["prior=fashion,g2"]


def test_paths_can_be_swept_beside_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (line,) = check([f"prior={tmp_path / 'a'},g2,{tmp_path / 'b'}"], sweep=True)
    first, second, third = line.removeprefix("prior=").split(",")
    assert second == "g2"
    assert [str(compose([f"prior={name}"])[0].prior.path) for name in (first, third)] == [
        str(tmp_path / "a"),
        str(tmp_path / "b"),
    ]


def test_two_places_for_one_prior_are_refused() -> None:
    for path in ("prior.path=/other", "++prior.path=/other"):
        with pytest.raises(
            UserError,
            match=r"^prior=/a/b and prior.path=/other both say where the prior lies; give one",
        ):
            check(["prior=/a/b", path])


def test_a_name_that_does_not_exist_lists_the_names_and_says_that_a_folder_can_be_given() -> None:
    with pytest.raises(
        UserError, match=r"Did you mean 'fashion'\? Valid: .*g2.*given as prior=PATH$"
    ):
        check(["prior=fashon"])


def test_settings_of_the_loader_are_known_and_others_are_refused(tmp_path: Path) -> None:
    assert (
        compose(check([f"prior={tmp_path}", "prior.vq_gradient=hard"]))[0].prior.vq_gradient
        == "hard"
    )
    with pytest.raises(UserError, match="Did you mean 'vq_gradient'"):
        check([f"prior={tmp_path}", "prior.vq_gradent=hard"])
    (line,) = with_prior_names([f"prior={tmp_path}"])
    assert (
        f"The model in {tmp_path}" in show(line)
        and not option("prior", line.removeprefix("prior=")).brings
    )


def test_the_cell_is_that_of_the_same_prior_by_name(tmp_path: Path) -> None:
    """Neither its name, which names the folder of its rows, nor what tables say of it holds a
    path."""
    shutil.copytree(FASHION, tmp_path / "copy of it")
    common = [
        "solver=dps",
        "solver.steps=2",
        "metrics=[psnr]",
        "data=fashion",
        "data.images=1",
        "draws=1",
        f"out={tmp_path / 'study'}",
    ]
    ways = ["prior=fashion"], [f"prior={tmp_path / 'copy of it'}"], [f"prior.path={FASHION}"]
    cells = [planned(check([*common, *way])).cell for way in ways]
    assert len({cell.name for cell in cells}) == 1
    assert {cell.identity["prior"] for cell in cells} == {"fashion"}
    assert not any("copy" in str(cell.identity) for cell in cells)
