"""The files of a bundle, read from a zip or a folder of anybody's, and written as a zip.

A bundle is input of people we do not know. So only names that a bundle may have are read, nothing
is unpacked to a place that the bundle chooses, no link is followed, and every size has a limit
before a byte is decompressed. The formats inside are JSON and CSV: neither can hold code.
"""

from __future__ import annotations

import io
import json
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

from posterior_bench.bench.core.errors import UserError

FORMAT = 1
"""Version of the layout of a bundle (docs/submitting.md)."""

ABOUT, ENVIRONMENT, README, BOARD = "bundle.json", "environment.json", "README.md", "table.csv"
SUMS = "SHA256SUMS"

MOST_BYTES = 5_000_000
"""A bundle is smaller."""

MOST_UNPACKED, MOST_MEMBERS = 100_000_000, 5_000

_HASH = "[0-9a-f]{16}"
_FILES = re.compile(
    rf"bundle\.json|environment\.json|README\.md|table\.csv|SHA256SUMS"
    rf"|cells/{_HASH}/(cell\.json|rows\.csv)|measurements/{_HASH}\.csv"
)
_FOLDERS = re.compile(rf"(cells|measurements|cells/{_HASH})/")
_BIT_ENCRYPTED = 0x1


class Refusal(Exception):
    """Why a bundle is refused, in one sentence without a full stop."""


def read_members(path: Path) -> dict[str, bytes]:
    """Return the files of a bundle by name.

    Parameters
    ----------
    path : Path
        A zip file, or a folder with its content.

    Raises
    ------
    UserError
        If there is no such file, or it cannot be read.
    Refusal
        If it is no bundle, or breaks a limit.
    """
    try:
        return _read_folder(path) if path.is_dir() else _read_zip(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def _read_zip(path: Path) -> dict[str, bytes]:
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise Refusal(f"it has {size} bytes, and a bundle has at most {MOST_BYTES}")
    try:
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
            wanted = _admitted(archive.infolist())
            return {info.filename: _inflated(archive, info) for info in wanted}
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, ValueError) as error:
        raise Refusal(f"it is no zip file that can be read ({_plain(str(error))})") from None


def _admitted(infos: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """Return the entries that are files, after names, kinds and sizes were checked."""
    _demand_few(len(infos), sum(info.file_size for info in infos))
    names: set[str] = set()
    for info in infos:
        kind = stat.S_IFMT(info.external_attr >> 16)
        folder = info.filename.endswith("/") and _FOLDERS.fullmatch(info.filename)
        if not folder and not _FILES.fullmatch(info.filename):
            _refuse_name(info.filename)
        if kind not in (0, stat.S_IFDIR if folder else stat.S_IFREG):
            raise Refusal(f"'{info.filename}' is a link or a device, and no file")
        if info.flag_bits & _BIT_ENCRYPTED:
            raise Refusal(f"'{info.filename}' is encrypted")
        if info.filename in names:
            raise Refusal(f"'{info.filename}' is in it twice")
        names.add(info.filename)
    return [info for info in infos if not info.filename.endswith("/")]


def _inflated(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Return the bytes of an entry, and never more than its header says."""
    with archive.open(info) as file:
        data = file.read(info.file_size + 1)
    if len(data) != info.file_size:
        raise Refusal(f"'{info.filename}' is longer or shorter than the zip file says")
    return data


def _read_folder(top: Path) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    left, total = [top], 0
    while left:
        for entry in sorted(os.scandir(left.pop()), key=lambda entry: entry.name):
            name = Path(entry.path).relative_to(top).as_posix()
            if entry.is_symlink():
                raise Refusal(f"'{_plain(name)}' is a link or a device, and no file")
            if entry.is_dir() and _FOLDERS.fullmatch(f"{name}/"):
                left.append(Path(entry.path))
                continue
            if not entry.is_file() or not _FILES.fullmatch(name):
                _refuse_name(name)
            total += entry.stat(follow_symlinks=False).st_size
            _demand_few(len(members) + 1, total)
            members[name] = Path(entry.path).read_bytes()
    return members


def _demand_few(members: int, unpacked: int) -> None:
    if members > MOST_MEMBERS or unpacked > MOST_UNPACKED:
        raise Refusal(
            f"it holds {members} files of {unpacked} bytes, and a bundle has at most "
            f"{MOST_MEMBERS} files of {MOST_UNPACKED} bytes unpacked"
        )


def _refuse_name(name: str) -> NoReturn:
    raise Refusal(f"'{_plain(name)}' is no file of a bundle")


def check_sums(members: Mapping[str, bytes]) -> None:
    """Raise Refusal unless ``SHA256SUMS`` lists every other file with its checksum."""
    lacking = [name for name in (ABOUT, ENVIRONMENT, BOARD, SUMS) if name not in members]
    if lacking:
        raise Refusal(f"it lacks {', '.join(lacking)}")
    listed = members[SUMS].decode("utf-8", "replace")
    if listed != sums_text(members):
        known = {name: digest for digest, _, name in _split(listed)}
        others = [name for name in members if name != SUMS]
        bad = [name for name in others if known.get(name) != sha256(members[name]).hexdigest()]
        raise Refusal(
            f"{', '.join(bad[:3])} is not what {SUMS} says"
            if bad
            else f"{SUMS} lists other files than there are"
        )


def _split(text: str) -> list[tuple[str, str, str]]:
    return [line.partition("  ") for line in text.splitlines()]


def sums_text(members: Mapping[str, bytes]) -> str:
    """Return the checksums of all other files, as ``sha256sum`` writes them."""
    names = sorted(name for name in members if name != SUMS)
    return "".join(f"{sha256(members[name]).hexdigest()}  {name}\n" for name in names)


def zip_bytes(members: Mapping[str, bytes]) -> bytes:
    """Return a zip of the files with their checksums; equal files give equal bytes."""
    whole = {**members, SUMS: sums_text(members).encode()}
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(whole):
            info = zipfile.ZipInfo(name)  # dated 1980, so that the bytes do not depend on the hour
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, whole[name])
    return sink.getvalue()


def read_json(data: bytes, name: str) -> Any:
    """Return the content of a JSON file, in plain types.

    Raises
    ------
    Refusal
        If it is no JSON, names a key twice, or holds NaN or infinity.
    """
    try:
        return json.loads(
            data.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_double
        )
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{name} is no JSON ({_plain(str(error))})") from None


def json_bytes(value: object) -> bytes:
    """Return readable JSON, with a line end."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _no_double(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _plain(text: str) -> str:
    """Return the beginning of a text of the bundle's, fit to be printed."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:100])
