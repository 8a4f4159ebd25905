"""``prior=PATH``: a folder in the place of a prior's name. No torch is imported here, and nothing
is read but names.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posterior_bench.bench.core.errors import UserError

LOADER = "priors.load.load"
"""The ``_target_`` of priors that lie in a folder."""

PREFIX = "prior="
SETTINGS = ("vq_gradient", "control_scale")
"""Settings of the loader that a prior in a folder may have beside its path."""

_PATHS: dict[str, Path] = {}
"""The folders that this process was given, by the names under which Hydra knows them."""


def with_prior_names(overrides: Sequence[str]) -> list[str]:
    """The overrides with a name that Hydra finds for every path that ``prior=`` gives; the others
    as they are.

    A path has a separator in it, or is the name of a file or folder that is there. Doing it twice
    changes nothing. Raises UserError where ``prior.path=`` says again where the prior lies.
    """
    lines = [_line(line) for line in overrides]
    again = next((line for line in overrides if re.match(r"\+*prior\.path=", line)), None)
    given = next((old for old, new in zip(overrides, lines, strict=True) if old != new), None)
    given = given or next((line for line in overrides if line.removeprefix(PREFIX) in _PATHS), None)
    if again is not None and given is not None:
        raise UserError(
            f"{given} and {again.lstrip('+')} both say where the prior lies; give one of them"
        )
    return lines


def folder(name: str) -> Path | None:
    """The folder for which :func:`named` put this name; None of any other name."""
    return _PATHS.get(name)


def content(path: Path) -> dict[str, Any]:
    """What an option of a prior in a folder says."""
    return {"_target_": LOADER, "path": str(path)}


def _line(line: str) -> str:
    if not line.startswith(PREFIX):
        return line
    return PREFIX + ",".join(_name(part) for part in _parts(line.removeprefix(PREFIX)))


def _parts(value: str) -> list[str]:
    """The values between commas, which a path that is there may have in its name."""
    whole = _unquoted(value)
    return [value] if _exists(whole) else value.split(",")


def _name(text: str) -> str:
    """The name for a path; a text that is none stays as it is."""
    from posterior_bench.bench.config.catalog import options

    path = _unquoted(text)
    if not path or "${" in path or path in _PATHS or path in options("prior") or not _is_path(path):
        return text
    return _stored(path)


def _is_path(text: str) -> bool:
    separators = {os.sep, os.altsep or os.sep}
    if re.match(r"(choice|glob|range|interval|sort|shuffle)\(|\[", text):  # of Hydra's grammar
        return False
    return (
        text.startswith("~")
        or text in (".", "..")
        or any(s in text for s in separators)
        or _exists(text)
    )


def _exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).expanduser().exists()
    except (
        OSError,
        ValueError,
        RuntimeError,
    ):  # a name that is too long; a byte that no name has; no home
        return False


def _unquoted(text: str) -> str:
    """A value without quotes of Hydra's grammar around it."""
    stripped = text.strip()
    quote = stripped[:1]
    if len(stripped) < 2 or quote not in ("'", '"') or stripped[-1] != quote:
        return stripped
    return stripped[1:-1].replace(f"\\{quote}", quote)


def _stored(text: str) -> str:
    """Make a folder known to Hydra, here and where a launcher sends a job; returns its name."""
    from hydra.core.config_store import ConfigStore

    path = Path(text).expanduser()
    path = (
        path.absolute() if _exists(text) else path
    )  # shipped priors are found by a relative path from everywhere
    stem = re.sub(r"[^A-Za-z0-9]+", "_", path.resolve().name).strip("_")[:40]
    stem = stem if stem[:1].isalpha() else f"model_{stem}".rstrip("_")
    name = f"{stem}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
    _PATHS[name] = path
    ConfigStore.instance().store(group="prior", name=name, node=content(path))
    return name
