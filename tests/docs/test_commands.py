"""Every command that a page, a YAML comment or a help text quotes is one that the program takes.

Each is read by the parser of its verb. Settings of a run are checked and composed, in a folder that
has small files in the place of the reader's own. Commands that take seconds really run.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.docs.quoted_commands import Quoted, comment_commands, page_commands, quoted_commands

from posterior_bench.bench.cli import app
from posterior_bench.bench.cli.entry import run_command
from posterior_bench.bench.cli.run_settings import checked_cells, ready
from posterior_bench.bench.cli.verbs import VERBS, run_verb, split_verb
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.config.studies import cells
from posterior_bench.bench.core.environment import ROOT
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.growing import rule_of, with_images
from posterior_bench.bench.engine.job import job_of, unchecked
from posterior_bench.bench.training.train_solver import ModulesTraining
from posterior_bench.priors.base import Prior
from posterior_bench.priors.convert.adm import LAYOUTS as ADM
from posterior_bench.priors.convert.compvis import LAYOUTS as COMPVIS
from posterior_bench.priors.convert.pnpflow import LAYOUTS as PNPFLOW
from posterior_bench.priors.load import save
from posterior_bench.priors.nets import UNet2D
from posterior_bench.priors.process import VE

COMMANDS = quoted_commands()
PLUGIN = "docs/examples/bench_nearest/bench_nearest/nearest.py:Nearest"
INSTEAD = {
    # what a reader puts in their own names for
    r"solver=(NAME|mymethod)": "solver=dps",
    r"a=X": "a=dps",
    r"solver=(nearest|path/to/nearest\.py:Nearest)(.*)": rf"solver={ROOT}/{PLUGIN}\2",
    r"mask=NAME": "mask=comod",
    r"operator=NAME": "operator=inpainting",
    r"prior=NAME": "prior=fashion",
    r"(data|prior)=\$\w+": r"\1=imagenet64",
    r"prior=(MODEL|/.*)": "prior=tiny",
    r"prior\.path=.*": "prior.path=tiny",
    r"data\.root=.*": "data.root=photos",
    r"mask\.path=.*": "mask.path=masks",
    r"data\.id_list=.*": "data.id_list=list.txt",
    r"FAMILY": "hub",
    r"b=Y": "b=repaint",
    r"metric=M": "metric=psnr",
    # what docs/extending.md adds
    r"mask=stripes": "mask=comod",
    r"prior=ring": "prior=g2",
    r"metrics=\[mae\]": "metrics=[psnr]",
}
"""Patterns of whole words, and what stands for them here."""

SILENT = r"(\[.*|.*\.\.\..*|plugins=.*|hydra.*|VERB)$"
"""Words that stand for others, or need a plugin that is not installed here."""


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a photograph, folders of images and masks, a prior and a study."""
    folder = tmp_path_factory.mktemp("sandbox")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 28, 28, 3), dtype=np.uint8)
    for name in ("photos", "masks"):
        (folder / name).mkdir()
        for i, image in enumerate(pixels):
            Image.fromarray(image).save(folder / name / f"{i}.png")
    _untrained(folder / "tiny", 28)
    (folder / "list.txt").write_text("".join(f"{i}.png\n" for i in range(12)))
    return folder


def _untrained(folder: Path, size: int) -> Path:
    blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    widths = {"block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = UNet2D({"sample_size": size, "in_channels": 3, "out_channels": 3, **widths, **blocks})
    facts = {"name": folder.name, "training": {}, "source": "this test", "licence": "MIT"}
    return save(folder, Prior(VE(), net, (3, size, size)), facts)


def words_of(command: Quoted) -> list[str]:
    """The words of a command, with small files and names that exist in place of the reader's."""
    kept = [word for word in command.words if not re.match(SILENT, word)]
    for pattern, text in INSTEAD.items():
        kept = [re.sub(f"^(?:{pattern})$", text, word) for word in kept]
    # the published weights are not here
    return [*kept, "prior.path=tiny"] if "prior=celebahq_ddpm" in kept else kept


def demand_taken(words: Sequence[str]) -> None:
    """Raise UserError if the program would refuse a command before any work."""
    name, rest = split_verb(words)
    if name is not None and name not in VERBS:
        raise UserError(f"no verb {name}")
    if not rest:
        return
    parser = VERBS[name or "run"].parser()
    try:
        values = parser.read(rest)
    except SystemExit:  # --help and --version
        return
    if parser.takes_run_settings:
        several = bool(values.get("multirun")) or name == "tune"
        _demand_composed(name or "run", values["overrides"], several)
    elif name == "convert":
        _demand_layout(values)


def _demand_composed(verb: str, overrides: Sequence[str], multirun: bool) -> None:
    checked_cells(overrides, multirun)
    first = cells(ready(overrides, multirun))[0]
    cfg, _ = compose(check(first, study_sweep=True))
    # what a command leaves to the reader, as a study leaves data.root, is no mistake of it
    if "???" in unchecked(cfg).data.values():
        return
    rule = rule_of(cfg) if verb == "run" else None
    config = job_of(with_images(cfg, rule.limit) if rule else cfg)
    if verb == "train" and any(word.startswith("solver=") for word in overrides):
        named = any(word.startswith("data=") for word in overrides)
        ModulesTraining.of(config, config.data if named else None)


def _demand_layout(values: dict[str, object]) -> None:
    """Raise UserError for a layout that its family does not know, or does not say by itself."""
    known = {"adm": ADM, "compvis": COMPVIS, "pnpflow": PNPFLOW}
    layouts = known.get(str(values["family"]))
    if layouts is not None and values["layout"] not in layouts:
        raise UserError(f"--layout {values['layout']} is none of {', '.join(layouts)}")


@pytest.mark.parametrize("command", COMMANDS, ids=[" ".join(c.words) or "bench" for c in COMMANDS])
def test_a_quoted_command_is_taken(
    command: Quoted, sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sandbox)
    demand_taken(words_of(command))


MISTAKES = {
    # the one that the comment of a study once had: nobody had run it
    "train solver=latentpaint prior=celebahq_ddpm": "this prior does not name the images",
    "solver=dps solver.stepz=3": "stepz",
    "-m solver=dps,ddnm mask=comood": "comood",
    "solver=dps solver.preset=none": "unknown preset of dps 'none'",
    "trian prior=fashion": "no verb trian",
    "report runs/default imagez=4": "imagez",
    "convert a.pt --as adm --to b": "--layout None is none of",
    "study=vipaint_fig8": "vipaint_fig8",
}
PAGE = """Text `bench trian
prior=fashion` and `bench compare`, or `bench: a message`.

    python -m bench solver=dps solver.stepz=3   # a comment
    python -m bench -m solver=dps,ddnm \\
        mask=comood

```
bench convert a.pt --as adm --to b && bench report runs/default imagez=4
srun python -m bench solver=dps solver.preset=none
```
"""
COMMENTS = """a: 1  # makes
# `bench train solver=latentpaint
# prior=celebahq_ddpm` and more
b: 2  # python -m bench study=vipaint_fig8
"""


def test_mistakes_on_a_page_are_noticed(sandbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sandbox)
    found = [*page_commands(PAGE, "page"), *comment_commands(COMMENTS, "comments")]
    assert {" ".join(command.words) for command in found} == {*MISTAKES, "compare"}
    for command in found:
        if command.words == ("compare",):
            demand_taken(words_of(command))
            continue
        with pytest.raises(UserError, match=re.escape(MISTAKES[" ".join(command.words)])):
            demand_taken(words_of(command))


def bench(*words: str) -> int:
    """Run a command as the program does, and return its exit code."""
    app.OUTCOMES.clear()
    app.SWEEPS.clear()
    name, rest = split_verb(words)
    before = sys.argv
    try:
        with pytest.raises(SystemExit) as stop:
            run_command(lambda: run_verb(name, rest), name, words)
    finally:
        sys.argv = before
    return int(stop.value.code or 0)


PRINTING = [c for c in COMMANDS if c.words[:1] in (("ls",), ("show",), ("--help",), ("--version",))]
STORED = ("status", "leaderboard", "score", "compare", "report", "diff", "compact")


def test_commands_that_print_really_run(capsys: pytest.CaptureFixture[str]) -> None:
    for command in PRINTING:
        assert bench(*words_of(command)) == 0, command
    for name in VERBS:
        assert bench(name, "--help") == 0
    assert "usage: bench train" in capsys.readouterr().out


@pytest.mark.slow
def test_commands_on_a_study_really_run(
    sandbox: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every quoted command on ``runs/default`` and the like, on a study of three small cells."""
    monkeypatch.chdir(sandbox)
    small = ["data.images=6", "draws=2", "batch=4", "solver.steps=4", "metrics=[psnr,stlpips]"]
    quiet = ["quiet=true", "sheet=false", "report=false", "threads=1"]
    study = ["-m", "solver=dps,ddnm,blended", *small, *quiet]
    commands = [c for c in COMMANDS if c.words[:1] and c.words[0] in STORED and len(c.words) > 1]
    folders = {word for c in commands for word in c.words[1:] if re.match(r"runs/|STUDY|DIR", word)}
    assert len(commands) > 10 and "runs/default" in folders
    assert bench(*study, "out=runs/default") == 0
    for folder in folders - {"runs/default"}:
        shutil.copytree("runs/default", folder)
    instead = {"b=vipaint2": "b=ddnm", "a=vipaint2": "a=ddnm", "b=repaint": "b=blended"}
    instead |= {"b=copaint_tt": "b=blended", "metric=lpips_vgg": "metric=stlpips"}
    for command in commands:
        assert bench(*(instead.get(word, word) for word in words_of(command))) == 0, command
    assert (sandbox / "runs/default/report.html").is_file()
    assert "kid_stlpips" in (sandbox / "runs/default/leaderboard.csv").read_text()


@pytest.mark.slow
def test_the_modules_of_latentpaint_are_trained_as_the_pages_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each quoted ``train solver=latentpaint``, for a few steps of a small network."""
    monkeypatch.chdir(tmp_path)
    commands = [c for c in COMMANDS if c.words[:2] == ("train", "solver=latentpaint")]
    commands = [c for c in commands if "data=celebahq" in c.words]
    assert len(commands) >= 2
    _untrained(tmp_path / "tiny", 256)
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 256, 256, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "list.txt").write_text("".join(f"{i}.jpg\n" for i in range(24)))
    few = {"steps": 2, "batch": 2, "mask_count": 5, "validation_images": 2, "bf16": "false"}
    for command in commands:
        words = [
            re.sub("^solver.modules=solvers/assets", f"solver.modules={tmp_path}", word)
            for word in words_of(command)
        ]
        if not any(word.startswith("solver.modules=") for word in words):
            words.append(f"solver.modules={tmp_path}/latentpaint")
        settings = [f"solver.train.{key}={value}" for key, value in few.items()]
        assert bench(*words, *settings, "quiet=true", "threads=1") == 0
    assert {path.parent.parent.name for path in tmp_path.glob("*/tiny/modules.json")} == {
        "latentpaint",
        "latentpaint_one",
    }
