"""Where a prior lies, what its ``prior.json`` says, and a hash of its content; imports no torch."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the package: relative paths of shipped priors start here."""

CHECKPOINTS = "checkpoints"
"""The folder, below the working directory or :data:`ROOT`, of published priors that a user has
converted."""


def resolve(path: str | Path) -> Path:
    """The folder of a prior: as given, or below :data:`ROOT` where a relative path does not exist
    here.

    Raises FileNotFoundError where neither holds a ``prior.json``.
    """
    given = Path(path).expanduser()
    candidates = [given] if given.is_absolute() else [given.absolute(), ROOT / given]
    for folder in candidates:
        if (folder / "prior.json").is_file():
            return folder
    if given.parts[:1] == (CHECKPOINTS,):
        name = "/".join(given.parts[1:])
        raise FileNotFoundError(
            f"{given} holds no prior.json; make it with `python -m bench convert FILE --as FAMILY "
            f"--to {given}` "
            f"(`python -m bench show prior={name}` says which file and how, docs/downloads.md "
            f"where it is published), "
            "or set prior.path"
        )
    places = " or ".join(str(folder) for folder in dict.fromkeys(candidates))
    raise FileNotFoundError(
        f"no prior.json in {places}; make one with `python -m bench train prior=NAME`, or give "
        f"prior=PATH, a folder "
        "with prior.json or one of diffusers"
    )


def read_spec(folder: Path) -> dict[str, object]:
    """``prior.json`` as a dict; ValueError where it is not a JSON object."""
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
    """What ``prior.json`` says of its weight files: name to sha256. ValueError where it says
    nothing usable.
    """
    recorded = spec.get("sha256")
    if not isinstance(recorded, dict) or not recorded:
        raise ValueError(f"{folder / 'prior.json'}: 'sha256' must map each weight file to its hash")
    for name in recorded:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(
                f"{folder / 'prior.json'}: '{name}' is no name of a safetensors file in this folder"
            )
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing; restore it or export the prior again"
            )
    return {str(name): str(value) for name, value in recorded.items()}


_POINTER = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(path: Path) -> None:
    """ValueError where a file is the note that git-lfs leaves in the place of a large file; others
    are not read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(_POINTER))
    except OSError:
        return  # whoever reads the file says what is wrong with it
    if head == _POINTER:
        raise ValueError(
            f"{path} is a git-lfs pointer, not the file itself; run `git lfs pull` in "
            f"{path.parent}, or download the "
            "file"
        )


def sha256(path: Path) -> str:
    """The hash of a file's bytes; read once per process and state of the file."""
    status = path.stat()
    return _sha256(path, status.st_mtime_ns, status.st_size)


@cache
def _sha256(path: Path, modified: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: str | Path) -> str:
    """16 hexadecimal digits over ``prior.json`` (its meaning, not its layout) and the bytes of its
    weights.

    It is part of a cell's hash: two priors with one fingerprint give the same numbers. Raises what
    :func:`resolve`, :func:`read_spec` and :func:`weight_hashes` raise.
    """
    folder = resolve(path)
    spec = read_spec(folder)
    content = {
        "spec": spec,
        "files": {name: sha256(folder / name) for name in weight_hashes(folder, spec)},
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
