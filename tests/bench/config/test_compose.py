"""Composition in two steps gives what Hydra gives in one, and sees a changed file."""

from __future__ import annotations

import shutil
from pathlib import Path

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from posterior_bench.bench.config import compose as composition
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.core.errors import UserError


def by_hydra(lines: list[str]) -> tuple[str, dict[str, object]]:
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(composition.CONF)):
        cfg = hydra.compose(config_name="config", overrides=lines, return_hydra_config=True)
    choices = dict(cfg.hydra.runtime.choices)
    return OmegaConf.to_yaml(
        DictConfig({k: cfg._get_node(k) for k in cfg if k != "hydra"})
    ), choices


@pytest.mark.parametrize(
    "lines",
    [
        ["solver=dps", "data=arena/g2", "solver.steps=7", "seed=3", "draws=2"],
        ["solver.steps=7", "metrics=[psnr]", "solver=dps", "solver.steps=8", "out='a b'"],
        ["++solver.extra={a: 1, b: [2, x]}", "accept=[nan]", "budget=null", "batch=auto"],
        ["data=arena/g2", "solver=repaint", "study=arena", "solver.preset=null"],
        ["+solver.more=1", "~solver.preset", "mask=comod", "mask.low=0.25"],
    ],
)
def test_it_is_what_hydra_composes(lines: list[str]) -> None:
    expected = by_hydra(lines)
    for _ in range(2):  # the second time from what is kept
        cfg, choices = compose(lines)
        assert (OmegaConf.to_yaml(cfg), choices) == expected
        cfg.solver.steps, choices["solver"] = 99, "changed"  # the caller's own


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("seed=abc", "could not be converted to Integer"),
        ("solver.stepz=3", "Key 'stepz' is not in struct"),
        ("draws=1,2", "Ambiguous value"),
        ("solver=nope", "Could not find 'solver/nope'"),
    ],
)
def test_mistakes_are_said_by_hydra(line: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        compose([line])


def test_a_solver_that_hydra_was_told_of_is_the_one_of_now() -> None:
    """As a class in a file: the same name stands for the same file at another place."""
    for place in ("here", "there"):
        node = {"_target_": f"{place}/mine.py:Mine"}
        ConfigStore.instance().store(group="solver", name="Mine_1234", node=node)
        assert compose(["solver=Mine_1234"])[0].solver == node


def test_a_changed_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = shutil.copytree(composition.CONF, tmp_path / "conf")
    monkeypatch.setattr(composition, "CONF", conf)
    assert "added" not in compose(["mask=comod"])[0].mask
    file = conf / "mask" / "comod.yaml"
    file.write_text(file.read_text() + "\nadded: 0.875\n")
    assert compose(["mask=comod"])[0].mask.added == 0.875
