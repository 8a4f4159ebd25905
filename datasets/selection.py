"""Which images of a set a study uses: lists of ids, seeded choices, and the division into
validation and test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path

from posterior_bench.datasets.source import Naming
from posterior_bench.datasets.text import as_seen, read_text

PARTS = ("validation", "test")
_VALIDATION_SHARE = 10


def belongs(image: str, part: str | None) -> bool:
    """Whether an image is of this part; every image is of exactly one of ``PARTS``, and of None.

    Its own hash decides, one in ten for validation: not a seed, nor which other images there are.
    So settings found on validation images are never tested on them, whatever list, subset or copy
    of the data either study uses.
    """
    return part is None or PARTS[_hash(f"part\n{image}") % _VALIDATION_SHARE != 0] == part


def shuffled(ids: Iterable[str], seed: int) -> list[str]:
    """The ids in an order that depends on the seed and on each id alone, so smaller choices lie
    within larger ones.
    """
    return sorted(ids, key=lambda image: (_hash(f"{seed}\n{image}"), image))


def read_list(path: Path, known: Collection[str], naming: Naming) -> list[str]:
    """The ids in a text file, one per line, in its order; empty lines and lines from ``#`` on do
    not count.

    A line may be an id or a file name, as in the lists that authors publish, and may go on with
    more words, such as a label, which are not read. A byte order mark does not count; letters with
    accents may be composed or not, and endings in any case. Raises ValueError naming the line for
    an id that is unknown or there twice.
    """
    try:
        lines = read_text(path.expanduser()).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the list of ids '{path}': {error}") from error
    found: dict[str, int] = {}
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
        if image in found:
            raise ValueError(
                f"{path}, line {number}: the image '{image}' is in line {found[image]} already"
            )
        found[image] = number
    return list(found)


def _by_sight(known: Collection[str]) -> dict[str, list[str]]:
    """The ids by the names that a person sees."""
    names: dict[str, list[str]] = {}
    for image in known:
        names.setdefault(as_seen(image), []).append(image)
    return names


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
