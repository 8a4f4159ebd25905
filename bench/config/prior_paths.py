"""``prior=PATH``: a folder in the place of a prior's name.

No torch is imported here, and no file is read.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posterior_bench.bench.config.option_files import option_files
from posterior_bench.bench.core.errors import UserError

LOADER = "priors.load.load"
"""The ``_target_`` of priors that lie in a folder."""

PREFIX = "prior="
SETTINGS = ("vq_gradient", "control_scale", "embedded_guidance", "view")
"""Settings of the loader beside the path of the folder."""

_PATHS: dict[str, Path] = {}
"""The folders on the command line, by the names under which Hydra knows them."""


def with_prior_names(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with a name that Hydra finds for every path after ``prior=``.

    A text is a path if it has a separator in it, or names an existing file or folder. A second call
    changes nothing.

    Raises
    ------
    UserError
        If ``prior.path=`` is set too.
    """
    lines = [_line(line) for line in overrides]
    setting = next((line for line in overrides if re.match(r"\+*prior\.path=", line)), None)
    option = next((old for old, new in zip(overrides, lines, strict=True) if old != new), None)
    option = option or next((old for old in overrides if old.removeprefix(PREFIX) in _PATHS), None)
    if setting is not None and option is not None:
        raise UserError(
            f"{option} and {setting.lstrip('+')} both say where the prior lies; give one of them"
        )
    return lines


def folder(name: str) -> Path | None:
    """Return the folder that :func:`with_prior_names` gave this name; None of another name."""
    return _PATHS.get(name)


def content(path: Path) -> dict[str, Any]:
    """Return the node of a prior in a folder."""
    return {"_target_": LOADER, "path": str(path)}


def _line(line: str) -> str:
    if not line.startswith(PREFIX):
        return line
    return PREFIX + ",".join(_name(part) for part in _parts(line.removeprefix(PREFIX)))


def _parts(value: str) -> list[str]:
    """Split a value at its commas, unless the whole value is an existing path."""
    whole = _unquoted(value)
    return [value] if _exists(whole) else value.split(",")


def _name(text: str) -> str:
    """Return the name for a path; any other text as it is."""
    path = _unquoted(text)
    if (
        not path
        or "${" in path
        or path in _PATHS
        or path in option_files("prior")
        or not _is_path(path)
    ):
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
    # a name that is too long; a byte that no name may have; no home folder
    except (OSError, ValueError, RuntimeError):
        return False


def _unquoted(text: str) -> str:
    """Remove the quotes of Hydra's grammar around a value."""
    stripped = text.strip()
    quote = stripped[:1]
    if len(stripped) < 2 or quote not in ("'", '"') or stripped[-1] != quote:
        return stripped
    return stripped[1:-1].replace(f"\\{quote}", quote)


def _stored(text: str) -> str:
    """Make a folder known to Hydra, here and where a launcher sends a job; return its name."""
    # only here: Hydra loads slowly, and most commands give no path
    from hydra.core.config_store import ConfigStore

    path = Path(text).expanduser()
    # not every path: shipped priors are found by a relative path from everywhere
    path = path.absolute() if _exists(text) else path
    stem = re.sub(r"[^A-Za-z0-9]+", "_", path.resolve().name).strip("_")[:40]
    stem = stem if stem[:1].isalpha() else f"model_{stem}".rstrip("_")
    name = f"{stem}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
    _PATHS[name] = path
    ConfigStore.instance().store(group="prior", name=name, node=content(path))
    return name
