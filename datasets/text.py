"""Text files and names as a person sees them: without byte order marks, whatever form their letters
are stored in.
"""

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
    """The text of a file: UTF-8, or what its byte order mark says, which is no part of the text.

    Raises UnicodeDecodeError, a ValueError, for other content.
    """
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    return content.decode(encoding)


def read_text(path: Path) -> str:
    """The text of a file, see :func:`decoded`; OSError for one that cannot be read."""
    return decoded(path.read_bytes())


def as_seen(name: str) -> str:
    """A file's name in composed letters (NFC), its ending in small ones: names that look alike are
    equal.
    """
    stem, dot, ending = unicodedata.normalize("NFC", name).rpartition(".")
    return f"{stem}{dot}{ending.lower()}"
