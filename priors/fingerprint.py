"""The folder of a prior, the content of its ``prior.json``, and a hash of both.

This module imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the package: relative paths of shipped priors start here."""

CHECKPOINTS = "checkpoints"
"""The folder of converted published priors, below the working directory or :data:`ROOT`."""


def resolve(path: str | Path) -> Path:
    """Return the folder of a prior.

    Parameters
    ----------
    path : str or Path
        A folder with ``prior.json``. A relative path that does not exist in the working directory
        is looked up below :data:`ROOT`.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    FileNotFoundError
        If neither place holds a ``prior.json``.
    """
    wanted = Path(path).expanduser()
    candidates = [wanted] if wanted.is_absolute() else [wanted.absolute(), ROOT / wanted]
    for folder in candidates:
        if (folder / "prior.json").is_file():
            return folder
    if wanted.parts[:1] == (CHECKPOINTS,):
        name = "/".join(wanted.parts[1:])
        raise FileNotFoundError(
            f"{wanted} holds no prior.json; make it with "
            f"`python -m bench convert FILE --as FAMILY --to {wanted}` "
            f"(`python -m bench show prior={name}` says which file and how, "
            "docs/downloads.md where it is published), or set prior.path"
        )
    places = " or ".join(str(folder) for folder in dict.fromkeys(candidates))
    raise FileNotFoundError(
        f"no prior.json in {places}; make one with `python -m bench train prior=NAME`, or give "
        "prior=PATH, a folder with prior.json or a diffusers folder"
    )


def read_spec(folder: Path) -> dict[str, object]:
    """Read ``prior.json``.

    Parameters
    ----------
    folder : Path
        The folder of a prior.

    Returns
    -------
    dict[str, object]
        The JSON object.

    Raises
    ------
    ValueError
        If the file is a git-lfs pointer, or does not hold a JSON object.
    """
    path = folder / "prior.json"
    refuse_pointer(path)
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); restore or export it again"
        ) from None
    if not isinstance(spec, dict):
        raise ValueError(f"{path} must hold one JSON object; restore or export it again")
    return spec


def weight_hashes(folder: Path, spec: dict[str, object]) -> dict[str, str]:
    """Return the hashes of the weight files that ``prior.json`` records.

    Parameters
    ----------
    folder : Path
        The folder of a prior.
    spec : dict[str, object]
        Its ``prior.json``.

    Returns
    -------
    dict[str, str]
        File name to sha256.

    Raises
    ------
    ValueError
        If the node ``sha256`` is missing, or names anything but safetensors files of the folder.
    FileNotFoundError
        If a file is missing.
    """
    recorded = spec.get("sha256")
    if not isinstance(recorded, dict) or not recorded:
        raise ValueError(f"{folder / 'prior.json'}: 'sha256' must map each weight file to its hash")
    for name in recorded:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(
                f"{folder / 'prior.json'}: '{name}' does not name a safetensors file in this folder"
            )
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing; restore it or export the prior again"
            )
    return {str(name): str(value) for name, value in recorded.items()}


_POINTER = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(path: Path) -> None:
    """Check that a file is not the pointer that git-lfs leaves in place of a large file.

    Parameters
    ----------
    path : Path
        Any file. One that cannot be opened passes; the function that reads it reports the reason.

    Raises
    ------
    ValueError
        If the file is a pointer.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(_POINTER))
    except OSError:
        return  # the function that reads the file reports the reason
    if head == _POINTER:
        raise ValueError(
            f"{path} is a git-lfs pointer, not the file itself; "
            f"run `git lfs pull` in {path.parent}, or download the file"
        )


def sha256(path: Path) -> str:
    """Return the sha256 of a file; it is computed once per process and modification of the file."""
    status = path.stat()
    return _sha256(path, status.st_mtime_ns, status.st_size)


@cache
def _sha256(path: Path, modified: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: str | Path) -> str:
    """Return a hash of a prior: 16 hexadecimal digits.

    Parameters
    ----------
    path : str or Path
        The folder of a prior, found as :func:`resolve` finds it.

    Returns
    -------
    str
        A hash of the values in ``prior.json`` and of the bytes of the weights. It is part of a
        cell's hash: two priors with one fingerprint return the same numbers.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`resolve`, :func:`read_spec` and :func:`weight_hashes`.
    """
    folder = resolve(path)
    spec = read_spec(folder)
    content = {
        "spec": spec,
        "files": {name: sha256(folder / name) for name in weight_hashes(folder, spec)},
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
