"""Choose the images of a study: lists of ids, seeded choices, validation and test parts."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path

from posterior_bench.datasets.source import Naming
from posterior_bench.datasets.text import as_seen, read_text

PARTS = ("validation", "test")
_VALIDATION_SHARE = 10


def belongs(image: str, part: str | None) -> bool:
    """Tell whether an image belongs to a part of the data set.

    The hash of the id decides: one in ten images is for validation. The part depends neither on a
    seed nor on the other images, so settings tuned on validation images are never tested on them,
    whatever list, subset or copy of the data a study uses.

    Parameters
    ----------
    image : str
        Id of the image.
    part : str or None
        One of :data:`PARTS`; every image belongs to exactly one of them, and to None.

    Returns
    -------
    bool
        True if the image belongs to ``part``.
    """
    return part is None or PARTS[_hash(f"part\n{image}") % _VALIDATION_SHARE != 0] == part


def shuffled(ids: Iterable[str], seed: int) -> list[str]:
    """Return the ids in an order that depends only on the seed and on each id.

    Smaller choices therefore lie within larger ones.
    """
    return sorted(ids, key=lambda image: (_hash(f"{seed}\n{image}"), image))


def read_list(path: Path, known: Collection[str], naming: Naming) -> list[str]:
    """Read a list of ids from a text file.

    A line holds an id or a file name, as in lists that authors publish. Further words in the line,
    such as a label, are ignored, and so are empty lines, lines that start with ``#``, and a byte
    order mark. Accented letters may be composed or decomposed; the case of endings does not matter.

    Parameters
    ----------
    path : Path
        The text file.
    known : Collection[str]
        All valid ids.
    naming : Callable[[str], str]
        Function that returns the id for a file name.

    Returns
    -------
    list[str]
        The ids in the order of the file.

    Raises
    ------
    ValueError
        If the file cannot be read, and, with the number of the line, for an unknown or repeated id.
    """
    try:
        lines = read_text(path.expanduser()).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the list of ids '{path}': {error}") from error
    line_of: dict[str, int] = {}
    alike: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        guesses = (text, naming(text), naming(text.split()[0]))
        image = next((guess for guess in guesses if guess in known), None)
        if image is None:
            alike = alike or _by_sight(known)
            image = next(
                (alike[name][0] for name in map(as_seen, guesses) if len(alike.get(name, ())) == 1),
                None,
            )
        if image is None:
            raise ValueError(
                f"{path}, line {number}: there is no image '{text}'; give one id per line"
            )
        if image in line_of:
            raise ValueError(
                f"{path}, line {number}: the image '{image}' is in line {line_of[image]} already"
            )
        line_of[image] = number
    return list(line_of)


def _by_sight(known: Collection[str]) -> dict[str, list[str]]:
    """Group the ids by names that look alike."""
    names: dict[str, list[str]] = {}
    for image in known:
        names.setdefault(as_seen(image), []).append(image)
    return names


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
