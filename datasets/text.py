"""Read text files and file names regardless of their Unicode encoding."""

from __future__ import annotations

import codecs
import unicodedata
from pathlib import Path

_MARKS = (
    # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decoded(content: bytes) -> str:
    """Decode the content of a text file.

    The encoding is UTF-8 unless a byte order mark says otherwise. The mark is removed.

    Raises
    ------
    UnicodeDecodeError
        If the content is no text. It is a ``ValueError``.
    """
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    return content.decode(encoding)


def read_text(path: Path) -> str:
    """Read a text file.

    Raises
    ------
    OSError
        If the file cannot be read.
    UnicodeDecodeError
        If the content is no text, see :func:`decoded`.
    """
    return decoded(path.read_bytes())


def as_seen(name: str) -> str:
    """Return a file name with composed letters (NFC) and its ending in lower case.

    Names that look alike become equal.
    """
    stem, dot, ending = unicodedata.normalize("NFC", name).rpartition(".")
    return f"{stem}{dot}{ending.lower()}"
