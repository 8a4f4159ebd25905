"""Models as people have them: a folder of the benchmark's own format, or one of diffusers.

A folder of diffusers is converted on first use (:mod:`bench.external.model_cache`). torch is
imported only when something is converted.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posterior_bench.bench.config.prior_paths import LOADER
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.external.diffusers_layout import diffusers_folder
from posterior_bench.bench.external.model_cache import converted_once
from posterior_bench.priors.fingerprint import resolve


def local_model(path: str | Path, quiet: bool = False) -> Path:
    """Return the folder with the ``prior.json`` of the model at ``path``.

    A folder of diffusers is converted on first use, which one line on stderr reports unless
    ``quiet``.

    Parameters
    ----------
    path : str or Path
        A folder of ours or of diffusers. It may also be a file that only such a folder has
        (``prior.json``, ``model_index.json``), the network in a folder of diffusers (``unet``), or
        a folder of the hub's cache with one snapshot.
    quiet : bool, default False
        Print nothing.

    Raises
    ------
    UserError
        If nothing at ``path`` can be read as a model.
    """
    given = Path(path).expanduser()
    try:
        found = _own(given)
        if found is not None:
            return found
        folder = diffusers_folder(given)
        if folder is None:
            raise UserError(_stranger(given))
        return converted_once(folder, quiet)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{given} cannot be read: {reason}") from None


def converted_path(node: Mapping[str, Any], quiet: bool = False) -> dict[str, str]:
    """Return the setting ``path`` that replaces a folder of diffusers by its conversion.

    Empty for a prior that needs no conversion.
    """
    path = node.get("path")
    if node.get("_target_") != LOADER or not isinstance(path, str):
        return {}
    given = Path(path).expanduser()
    try:
        known = _own(given) is not None or diffusers_folder(given) is None
    except (OSError, ValueError):
        known = True
    return {} if known else {"path": str(local_model(given, quiet))}


def absent_model(node: Mapping[str, Any]) -> str:
    """Return why the model of a prior's node cannot be loaded; empty if it can."""
    path = node.get("path")
    if not isinstance(path, str) or path == "???":
        return ""
    try:
        resolve(path)
    except FileNotFoundError as error:
        given = Path(path).expanduser()
        return "" if diffusers_folder(given) is not None else str(error)
    except (OSError, ValueError) as error:
        return f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
    return ""


def _own(path: Path) -> Path | None:
    """Return the folder of a prior in the benchmark's own format, if it is one."""
    folder = path.parent if path.name == "prior.json" and path.is_file() else path
    try:
        return resolve(folder)
    except FileNotFoundError:
        return None


def _stranger(path: Path) -> str:
    """Return why nothing at ``path`` is a model, and what to do."""
    wanted = "a folder with prior.json, or a folder of diffusers with model_index.json"
    if path.is_file():
        command = f"python -m bench convert {shlex.quote(str(path))} --as edm|adm|compvis --to DIR"
        return (
            f"{path} is a file, and a model is {wanted}; if it is a checkpoint: `{command}`, "
            f"then prior=DIR"
        )
    if not path.is_dir():
        return (
            f"{path} does not exist; give {wanted}, or a name that `python -m bench ls prior` lists"
        )
    listed = sorted(entry.name for entry in path.iterdir())
    holds = ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "") if listed else "nothing"
    return f"{path} holds neither prior.json nor model_index.json (it holds {holds}); give {wanted}"
