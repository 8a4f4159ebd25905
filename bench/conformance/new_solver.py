"""``bench new-solver NAME``: write the files of a new solver from a template that runs."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.option_files import CONF
from posterior_bench.bench.core.environment import ROOT
from posterior_bench.bench.core.errors import UserError

TEMPLATE = Path(__file__).parent / "assets" / "solver"
USAGE = "bench new-solver NAME, for example: bench new-solver mymethod"


def new_solver(name: str) -> tuple[list[Path], str]:
    """Write the files of a new solver.

    In a checkout these are ``solvers/NAME.py`` and ``conf/solver/NAME.yaml``; where the product is
    installed, ``NAME.py`` in the current folder.

    Parameters
    ----------
    name : str
        The name of the solver and of its file: small letters, digits and ``_``.

    Returns
    -------
    tuple of (list of Path, str)
        The files, and the solver as ``solver=`` takes it.

    Raises
    ------
    UserError
        If no module can have the name, or if it is taken.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UserError(
            f"'{name}' cannot be the name of a Python file; take small letters, digits and _: "
            f"{USAGE}"
        )
    if name in options("solver", plugins=()):
        raise UserError(
            f"there is a solver called '{name}' already; `bench show solver={name}` shows it"
        )
    words = {"mymethod": name, "MyMethod": class_name(name)}
    if (ROOT / "pyproject.toml").is_file():
        files = {ROOT / "solvers" / f"{name}.py": "py", CONF / "solver" / f"{name}.yaml": "yaml"}
        option = name
        # Python would find a folder of this name instead of the file.
        folders = [ROOT / "solvers" / name]
    else:
        files = {Path(f"{name}.py"): "py"}
        option = f"{name}.py:{class_name(name)}"
        folders = []
    taken = [path for path in (*files, *folders) if path.exists()]
    if taken:
        raise UserError(f"{taken[0]} exists already; take another name, or remove it")
    for path, kind in files.items():
        _write(path, filled(kind, words))
    return [*files], option


def class_name(name: str) -> str:
    """Return the name of the class: ``MyMethod`` for ``my_method``."""
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))


def filled(kind: str, words: dict[str, str]) -> str:
    """Fill in the template of a file.

    Parameters
    ----------
    kind : str
        ``py`` or ``yaml``.
    words : dict of str to str
        Words of the template, and the words that take their place.

    Returns
    -------
    str
        The text of the file.
    """
    text = (TEMPLATE / f"solver.{kind}.txt").read_text(encoding="utf-8")
    for word, other in words.items():
        text = text.replace(word, other)
    return text


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
