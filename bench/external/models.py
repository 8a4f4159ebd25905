"""Models as people have them: a folder of the benchmark's own format, or one of diffusers, which is
converted once.

Conversions are kept in the user's cache folder (``$XDG_CACHE_HOME``, else ``~/.cache``, below
``posterior-bench``), under a hash of the files that are read. The name and the facts that a
conversion records come from these files too: the same model gives the same prior wherever its
folder lies and whatever that is called. No torch is imported here until something is converted.
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


def served(path: str | Path, quiet: bool = False) -> Path:
    """The folder with the ``prior.json`` of the model at ``path``; a folder of diffusers is
    converted on first use.

    ``path`` may also name a file that only such a folder has (``prior.json``,
    ``model_index.json``), the network in a folder of diffusers (``unet``), or a folder of the hub's
    cache with one snapshot. A conversion is said in one line on stderr unless ``quiet``. Raises
    UserError, one line, where nothing at ``path`` can be read as a model.
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


def with_served(node: Mapping[str, Any], quiet: bool = False) -> dict[str, Any]:
    """The node of a prior with the folder that is read in place of one of diffusers; any other node
    as it is.
    """
    path = node.get("path")
    if node.get("_target_") != LOADER or not isinstance(path, str):
        return dict(node)
    given = Path(path).expanduser()
    try:
        known = _own(given) is not None or diffusers_folder(given) is None
    except (OSError, ValueError):
        known = True
    return dict(node) if known else {**node, "path": str(served(given, quiet))}


def absent_model(node: Mapping[str, Any]) -> str:
    """Why nothing can be loaded where the node of a prior says it lies; empty where it can, or no
    file is needed.
    """
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
    """The folder of a prior in the benchmark's own format."""
    folder = path.parent if path.name == "prior.json" and path.is_file() else path
    try:
        return resolve(folder)
    except FileNotFoundError:
        return None


def _stranger(path: Path) -> str:
    """Why nothing at ``path`` is read as a model, and what to do."""
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
