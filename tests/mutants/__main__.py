"""``python -m tests.mutants [NAME ...]``: plant known mistakes one at a time, report the share
caught.

A mistake is a patch of the product, ``tests/mutants/NAME.patch``, whose first two lines say what it
is and which tests are to notice it::

    # mistake: ids are sorted before they are cut into chunks
    # tests: tests/bench/engine/test_chunks.py

Each is applied to a copy of the working tree, the tests it names run there, and it is taken back.
The same tests run once without any mistake first: a test that fails anyway catches nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
SECONDS = 900
"""A mistake may make a loop endless: then its tests are ended, and it counts as caught."""


@dataclass(frozen=True)
class Mutant:
    """A planted mistake: its name, its patch, what it is, and the tests that are to notice it."""

    name: str
    patch: Path
    mistake: str
    tests: tuple[str, ...]


def mutants(names: Sequence[str] = ()) -> list[Mutant]:
    """The mutants of these names, or all.

    ValueError for an unknown name and for a patch without its two lines.
    """
    found = {path.stem: path for path in sorted(FOLDER.glob("*.patch"))}
    if unknown := sorted({*names} - found.keys()):
        raise ValueError(f"unknown mutant {', '.join(unknown)}; valid: {', '.join(found)}")
    return [_read(path) for name, path in found.items() if not names or name in names]


def _read(path: Path) -> Mutant:
    said = {}
    for line in path.read_text(encoding="utf-8").splitlines()[:2]:
        key, _, value = line.removeprefix("# ").partition(": ")
        said[key] = value.strip()
    if not said.get("mistake") or not said.get("tests"):
        raise ValueError(
            f"{path} must begin with a line '# mistake: ...' and a line '# tests: ...'"
        )
    return Mutant(path.stem, path, said["mistake"], tuple(said["tests"].split()))


def applies(mutant: Mutant, tree: Path = ROOT) -> str:
    """Why the patch does not apply to the tree; empty where it does."""
    done = _git_apply(mutant, tree, "--check")
    return "" if done.returncode == 0 else done.stderr.strip()


def _git_apply(mutant: Mutant, tree: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "apply", *options, str(mutant.patch)]
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)


def _copy(tree: Path) -> None:
    """What git knows or does not ignore, without the results of studies."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() or (ROOT / name).is_symlink():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            # the links in src/ lead into the copy, as they lead into the checkout
            shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)


def _passes(tree: Path, tests: Sequence[str], seconds: float | None = SECONDS) -> tuple[bool, str]:
    """Whether the tests pass in the tree, and the first that does not."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [*command, *tests],
            cwd=tree,
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return False, f"ended after {seconds} seconds"
    if done.returncode not in (0, 1, 2):  # nothing collected, a wrong name, pytest's own failure
        raise SystemExit(f"pytest {' '.join(tests)} could not run:\n{done.stdout}{done.stderr}")
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode == 0, failed[0].split(" - ")[0] if failed else ""


def main(names: Sequence[str]) -> int:
    """0 where every mutant is caught."""
    chosen = mutants(names)
    survived = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve()
        _copy(tree)
        sound, first = _passes(
            tree, sorted({test for mutant in chosen for test in mutant.tests}), seconds=None
        )
        if not sound:
            print(f"the tests fail without any mistake: {first}")
            return 2
        for mutant in chosen:
            if problem := applies(mutant, tree):
                print(f"{mutant.name} does not apply: {problem}")
                return 2
            _git_apply(mutant, tree)
            passed, first = _passes(tree, mutant.tests)
            _git_apply(mutant, tree, "--reverse")
            print(
                f"{'SURVIVED' if passed else 'caught  '} {mutant.name}: {first or mutant.mistake}",
                flush=True,
            )
            if passed:
                survived.append(mutant)
    caught = len(chosen) - len(survived)
    print(f"{caught} of {len(chosen)} caught, {caught / len(chosen):.0%}")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
