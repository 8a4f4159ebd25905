"""Our packages come from one folder, whatever else is installed.

``datasets`` is also the name of a library of the Hugging Face hub. Inside a checkout ours must win: it is put first on
the import path as soon as ``bench`` is imported, which every way in does before it imports another package of ours,
remote workers included. Nothing here imports torch.
"""

from __future__ import annotations

import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

ROOMS = ("solvers", "priors", "operators", "masks", "datasets", "metrics")

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds ``bench`` and must hold every room: a checkout, or site-packages."""


def prefer_house() -> None:
    """Put a checkout first on the import path, unless every room is found in it already.

    An editable install comes last on the path, so the console script would find the hub library before ours. Where
    the packages are installed into site-packages the path is left alone: all of site-packages would move with them.
    """
    if _is_checkout() and any(_found_in(room) != ROOT / room for room in ROOMS):
        sys.path.insert(0, str(ROOT))


def check_house() -> None:
    """Raise SystemExit with one plain line if a room would be, or was, imported from elsewhere."""
    for room in ROOMS:
        found = _found_in(room)
        if found != ROOT / room:
            raise SystemExit(
                f"bench: the package '{room}' of this benchmark lies in {ROOT / room}, but Python "
                f"{'finds none' if found is None else f'takes the one in {found}'}; {_advice(room)}"
            )
    if not _is_checkout():
        _refuse_shared_folder()


def _is_checkout() -> bool:
    return (ROOT / "conf").is_dir()


def _found_in(room: str) -> Path | None:
    """The folder that ``import room`` takes, or took."""
    try:
        spec = find_spec(room)
    except ValueError:  # something without a spec was put into sys.modules under this name
        return None
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return Path(folders[0]).resolve() if folders else None


def _advice(room: str) -> str:
    if room in sys.modules:
        return "it was imported before bench: import bench first"
    if _is_checkout():
        return "restore this folder, for example with: git checkout -- " + room
    return f"start from a folder without '{room}' in it, or work from a checkout"


def _refuse_shared_folder() -> None:
    """In site-packages the hub library and our package overwrite each other's files; order of install decides."""
    try:
        hub = metadata.distribution("datasets")
    except metadata.PackageNotFoundError:
        return
    if Path(str(hub.locate_file("datasets"))).resolve() == ROOT / "datasets":
        raise SystemExit(
            f"bench: the hub library 'datasets' {hub.version} and the package 'datasets' of this benchmark were both "
            f"installed into {ROOT / 'datasets'} and have overwritten each other; work from a checkout "
            "(python -m bench), or pip uninstall both and install this benchmark alone"
        )
