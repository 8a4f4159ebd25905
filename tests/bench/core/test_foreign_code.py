"""Nobody's code runs because a study folder, an interpolation or a setting of Hydra's names it; no
secret is recorded.

A study can come from somebody else, and a command line from a page in the web. The code planted
here leaves a mark where it is imported or called, and the secret is looked for in every file and in
all that is printed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.bench.harness import run

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.config import plugins
from posterior_bench.bench.config.build import target
from posterior_bench.bench.config.interpolation import refuse, refuse_resolvers
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.core.errors import BAD_INPUT, UserError

SECRET = "s3cr3t-do-not-tell"
Command = Callable[..., list[str]]


def ended(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


# -- a study of somebody else's --------------------------------------------------------------------


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "executed"


@pytest.fixture
def evil(tmp_path: Path, mark: Path) -> Path:
    """A Python file that leaves a mark when it is imported."""
    file = tmp_path / "evil.py"
    file.write_text(
        f"from pathlib import Path\nPath({str(mark)!r}).touch()\n\n\nclass Evil:\n    pass\n"
    )
    return file


@pytest.fixture
def planted(command: Command, tmp_path: Path, evil: Path) -> Callable[..., Path]:
    """A finished study of ours whose files were edited: these groups name the class of the file."""

    def make(*groups: str, **node: Any) -> Path:
        run(command("blended", "data.images=4", "solver.steps=4"))
        run(command("dps", "data.images=4", "solver.steps=2"))
        for path in (tmp_path / "study").glob("cells/*/config.yaml"):
            record = yaml.safe_load(path.read_text())
            record["config"]["plugins"] = [str(evil)]
            for group in groups:
                record["config"][group] = {
                    **record["config"][group],
                    "_target_": f"{evil}:Evil",
                    **node,
                }
            path.write_text(yaml.safe_dump(record))
        plugins.admit([])
        return tmp_path / "study"

    return make


def test_no_reading_verb_imports_what_a_study_names(
    planted: Callable[..., Path], mark: Path, evil: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    study = str(planted("solver", "data", "mask", "operator", "prior"))
    assert ended("report", study) == 0
    assert ended("leaderboard", study) == 0
    assert ended("compare", study, "a=blended", "b=dps", "metric=psnr") == 0
    assert ended("status", study) == 0
    capfd.readouterr()
    assert ended("score", study, "metrics=[ssim]") == BAD_INPUT
    said = capfd.readouterr().err
    assert f"plugins=[{evil}]" in said and len(said.splitlines()) == 1
    assert not mark.exists()


def test_it_is_imported_where_the_reader_types_it(
    planted: Callable[..., Path], mark: Path, evil: Path
) -> None:
    assert ended("report", str(planted("solver")), f"plugins=[{evil}]") == 0
    assert mark.exists()


def test_what_an_earlier_run_of_this_process_admitted_does_not_count(
    planted: Callable[..., Path], mark: Path, evil: Path
) -> None:
    study = planted("solver")
    plugins.admit([str(evil)])
    assert ended("report", str(study)) == 0
    assert not mark.exists()


def test_a_helper_of_ours_is_no_class_for_a_configuration(
    planted: Callable[..., Path], tmp_path: Path
) -> None:
    """``write_atomic(path, data)`` would write any file: YAML has bytes."""
    written = tmp_path / "written"
    study = planted(
        "data", _target_="bench.store.atomic.write_atomic", path=str(written), data=b"x"
    )
    assert ended("report", str(study)) == 0
    assert not written.exists()


@pytest.mark.parametrize(
    "path",
    [
        "bench.store.atomic.write_atomic",
        "bench.cli.measurement_files.Path",
        "priors.load.save",
        "bench.config.plugins.import_module",
        "os.system",
    ],
)
def test_targets_are_classes_of_their_module_or_what_an_option_names(path: str) -> None:
    with pytest.raises(UserError, match="_target_"):
        target({"_target_": path})


def test_a_recorded_program_runs_only_where_the_reader_says_so() -> None:
    nodes = [{"path": "net.pt", "trust_file": True}, {"path": "other.pt"}]
    plugins.admit([])
    with pytest.raises(
        UserError, match=r"net\.pt is a program .* add trust_file=true to this command"
    ):
        plugins.demand_trusted(nodes)
    plugins.admit([], programs=True)
    plugins.demand_trusted(nodes)
    plugins.admit([])


# -- interpolations --------------------------------------------------------------------------------

CALLS = [
    "${oc.env:SECRET}",
    "${ oc.env:SECRET}",
    "${ oc.env : SECRET }",
    "${\toc.env:SECRET}",
    "\\${oc.env:SECRET}",
    "$\\{oc.env:SECRET}",
    "\\\\${oc.env:SECRET}",
    "a/${oc.env:SECRET}/b",
    "${oc.decode:${oc.env:SECRET}}",
    "${${study.name}:SECRET}",
    "${oc.select:missing,${oc.env:SECRET}}",
    "${oc.create:{a:${oc.env:SECRET}}}",
    "${hydra:job.name}",
    "${hydra.job.env_copy}",
    "${ hydra.runtime.cwd }",
    "${.${oc.env:SECRET}}",
    "${now:%Y}",
    "${custom:SECRET}",
    "${study_folder:null,${oc.env:SECRET}}",
    "${",
]
WHERE = [
    "out={}",
    "out='{}'",
    'out="{}"',
    "study.name={}",
    "data.root={}",
    "++budget={}",
    "data.root='{}',b",
]


@pytest.mark.parametrize("text", CALLS)
@pytest.mark.parametrize("where", WHERE)
def test_no_override_calls_a_resolver(
    text: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", SECRET)
    with pytest.raises(UserError) as refusal:
        check([where.format(text)], sweep=True)
    assert SECRET not in str(refusal.value) and len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize(
    "line", ["data={{root: '{}'}}", "metrics=[psnr,'{}']", "accept=['{}']", "solver=glob('{}')"]
)
def test_nor_does_one_in_nested_values(line: str) -> None:
    with pytest.raises(UserError, match="environment"):
        check([line.format("${ oc.env:SECRET}")], sweep=True)


@pytest.mark.parametrize(
    "text", ["a$b", "{oc.env:HOME}", "$HOME", "100 $", "a}b{c", "$ {oc.env:HOME}"]
)
def test_text_that_is_no_interpolation_is_left_alone(text: str) -> None:
    refuse(text, "it")


@given(st.text(alphabet="${}:. ocenv,'\\[]", max_size=24))
def test_what_omegaconf_would_resolve_through_a_resolver_is_refused(text: str) -> None:
    """OmegaConf itself is asked: every resolver that it calls must have been refused."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    asked: list[str] = []
    for name in ("oc", "e", "oc.env", "env", "n"):
        OmegaConf.register_new_resolver(
            name, lambda *_, name=name: asked.append(name) or "x", replace=True
        )
    try:
        OmegaConf.to_container(OmegaConf.create({"a": text}), resolve=True)
    except (OmegaConfBaseException, RecursionError):
        pass
    finally:
        OmegaConf.clear_resolvers()
        from hydra.core.utils import setup_globals

        from posterior_bench.bench.config.schema import register

        register()
        setup_globals()
    if asked:
        with pytest.raises(UserError):
            refuse(text, "it")


def test_no_configuration_file_calls_a_resolver() -> None:
    from omegaconf import OmegaConf

    refuse_resolvers(
        OmegaConf.create({"data": {"root": "${out}"}, "hydra": {"x": "${oc.env:HOME}"}, "out": "a"})
    )
    with pytest.raises(UserError, match=r"the setting data\.list\[1\] calls a resolver"):
        refuse_resolvers(OmegaConf.create({"data": {"list": ["a", "${ oc.env:HOME}"]}}))


def test_a_secret_stands_in_no_file_and_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SECRET", SECRET)
    monkeypatch.chdir(tmp_path)
    for verb in ("run", "plan", "doctor", "export-masks", "train", "check"):
        for text in ("${ oc.env:SECRET}", "'${oc.env:SECRET}'"):
            assert ended(verb, f"out={text}", "solver=dps", "prior=fashion") == BAD_INPUT
    said = "".join(capfd.readouterr())
    assert SECRET not in said and len(said.splitlines()) == 12
    assert not any(
        SECRET in name for _, folders, files in os.walk(tmp_path) for name in (*folders, *files)
    )


# -- Hydra's own node ------------------------------------------------------------------------------

REFUSED = [
    "+hydra.callbacks.e._target_=os.system",
    "++hydra.callbacks.e._target_=os.system",
    "+hydra.callbacks.e={_target_: os.system}",
    "hydra.callbacks={e: {_target_: os.system}}",
    "hydra.callbacks.launched=null",
    "~hydra.callbacks",
    "~hydra",
    "hydra={callbacks: {e: {_target_: os.system}}}",
    "++hydra.job_logging={version: 1}",
    "+hydra.job_logging.handlers.h.class=evil.Handler",
    "hydra.hydra_logging.root.level=DEBUG",
    "hydra/job_logging=default",
    "hydra/hydra_logging=colorlog",
    "+hydra/callbacks=x",
    "hydra/launcher@hydra.callbacks.e=basic",
    "+solver@hydra.callbacks.e=dps",
    "solver@prior=dps",
    "hydra.searchpath=[pkg://x]",
    "+hydra.searchpath=[file:///tmp]",
    "hydra.sweeper._target_=os.system",
    "hydra.sweeper.params={hydra.callbacks.e._target_: os.system}",
    "hydra/sweeper=basic",
    "hydra.launcher._target_=os.system",
    "hydra.launcher={_target_: os.system}",
    "hydra.launcher.extra={_target_: os.system}",
    "+hydra.launcher.x=1",
    "hydra.job.env_set={A: b}",
    "hydra.job.config.override_dirname.sep=/",
    "hydra.job.chdir=true",
    "hydra.run.dir=/proc/x",
    "hydra.sweep.dir=/proc/x",
    "hydra.sweep.subdir=..",
    "hydra.output_subdir=x",
    "hydra.mode=MULTIRUN",
    "hydra.runtime.choices.solver=dps",
    "hydra/launcher=[basic,slurm]",
    "solver={_target_: os.system}",
    "data={_target_: os.system}",
    "solver._target_=os.system",
    "+data.x._target_=os.system",
    "prior.train._target_=os.system",
    "prior.train={_target_: os.system}",
    "study.figure={x: {_target_: os.system}}",
    "metrics.psnr={_target_: os.system}",
    "metrics=[{_target_: os.system}]",
    "mask.low={_target_: os.system},0.1",
    "study.parts=[{solver: {_args_: [x]}}]",
]


@pytest.mark.parametrize("line", REFUSED)
def test_hydra_is_told_nothing_that_it_would_import(line: str) -> None:
    with pytest.raises(UserError) as refusal:
        check([line], sweep=True, study_sweep=True)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize(
    "line",
    [
        "hydra.verbose=true",
        "hydra/launcher=basic",
        "hydra.launcher.partition=gpu",
        "hydra.job.name=x",
    ],
)
def test_what_launches_jobs_can_be_set(line: str) -> None:
    assert check([line]) == [line]


@pytest.mark.parametrize(
    "flag",
    [
        *(
            "--config-dir=x",
            "--config-d=x",
            "-cd=x",
            "--config-path=x",
            "-cp=x",
            "--config-name=x",
            "-cn=x",
        ),
        *("--experimental-rerun=x", "--exp=x", "--no-such-flag"),
    ],
)
def test_no_flag_brings_configurations_or_pickles(
    flag: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ended("run", flag, "solver=dps") == BAD_INPUT
    said = capfd.readouterr().err
    assert len(said.splitlines()) == 1 and ("is not taken here" in said or "--help" in said)
