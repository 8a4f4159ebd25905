"""The template of a results repository: its workflows name commands that exist, its rule holds."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from posterior_bench.bench.cli.verbs import VERBS
from posterior_bench.bench.core.environment import ROOT, version

TEMPLATE = ROOT / "docs" / "results-repository"
WORKFLOWS = sorted(TEMPLATE.glob(".github/workflows/*.yml"))

RIGHT = ["A\tresults/ada/run-1.zip"]
WRONG = {
    "a verdict": ["A\tresults/ada/run-1.zip.verdict.json"],
    "two bundles": [*RIGHT, "A\tresults/ada/run-2.zip"],
    "a changed bundle": ["M\tresults/ada/run-1.zip"],
    "a removed bundle": ["D\tresults/ada/run-1.zip"],
    "a renamed bundle": ["R100\tresults/ada/run-1.zip\tresults/eve/run-1.zip"],
    "a workflow": [*RIGHT, "M\t.github/workflows/verify.yml"],
    "a path upwards": ["A\tresults/../run-1.zip"],
    "a quoted name": ['A\t"results/ada/\\303\\244.zip"'],
    "an option": ["A\tresults/ada/-x.zip"],
    "nothing": [],
}


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(TEMPLATE / "check_changes.py"))


def test_a_pull_request_may_add_one_bundle(script: dict[str, Any]) -> None:
    assert script["problems"](RIGHT) == []


@pytest.mark.parametrize("kind", WRONG)
def test_a_pull_request_may_do_nothing_else(kind: str, script: dict[str, Any]) -> None:
    assert script["problems"](WRONG[kind])


def _steps(path: Path) -> list[str]:
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step]


def test_workflows_call_verbs_as_they_are() -> None:
    text = "\n".join(step for path in WORKFLOWS for step in _steps(path))
    commands = re.findall(r"bench (verify|board) ([^|;\n]+)", text)
    assert {name for name, _ in commands} == {"verify", "board"}
    for name, words in commands:
        VERBS[name].parser().read(shlex.split(words))


def test_the_workflow_for_strangers_can_write_nothing() -> None:
    verify = yaml.safe_load((TEMPLATE / ".github/workflows/verify.yml").read_text())
    assert verify["permissions"] == {"contents": "read"}
    assert "pull_request" in verify.values() and "secrets" not in str(verify)


def test_the_template_pins_this_version() -> None:
    assert (TEMPLATE / "requirements.txt").read_text() == f"posterior-bench=={version()}\n"
