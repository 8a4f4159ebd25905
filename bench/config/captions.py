"""Prompts image by image: a file of captions, one text for all, or the names of classes."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from posterior_bench.bench.config.prompts import Node, source
from posterior_bench.bench.core.errors import UserError
from posterior_bench.datasets.base import ImageSet
from posterior_bench.datasets.source import is_image

ID_COLUMNS = ("image_id", "id", "image", "file_name", "filename", "file", "path", "name")
TEXT_COLUMNS = ("caption", "prompt", "text")
"""Possible names of the two columns of a file of captions; the first one that it has counts."""

_DELIMITERS = ",;\t"
_FORMAT = (
    "give CSV with a header, or a JSON object a line; an id is called "
    f"{' or '.join(ID_COLUMNS[:2])}, a text {' or '.join(TEXT_COLUMNS)}"
)
"""What a file of captions must look like, for messages."""


def prompts_of(node: Node, images: ImageSet, ids: Sequence[str]) -> dict[str, str] | None:
    """Return the prompt of every image, as the settings of a data node give it.

    Parameters
    ----------
    node : Mapping of str to Any
        The data node, with the settings of :mod:`bench.config.prompts`.
    images : ImageSet
        The data, which knows the valid ids and the labels.
    ids : Sequence of str
        The ids of the images in use.

    Returns
    -------
    dict of str to str, or None
        Prompt by id; None if the node gives no prompts.

    Raises
    ------
    UserError
        If an image would get no prompt.
    """
    key = source(node)
    if key is None:
        return None
    if key == "captions":
        return captions_of(Path(node["captions"]).expanduser(), images, ids)
    if key == "prompt":
        return dict.fromkeys(ids, _clean(node["prompt"]))
    return _by_class(node["class_prompt"], images, ids)


def _by_class(template: str, images: ImageSet, ids: Sequence[str]) -> dict[str, str]:
    if "{}" not in template:
        raise UserError(
            f"data.class_prompt={template}: put {{}} where the name of the class belongs, "
            'as in "a photo of a {}"'
        )
    labels = images.labels(ids)
    names = tuple(getattr(images, "class_names", ()))
    if labels is None or len(names) != images.num_classes:
        lacks = "has no labels" if labels is None else "does not name its classes"
        raise UserError(f"data.class_prompt: this data {lacks}; give data.captions=FILE instead")
    return {
        image: _clean(template.replace("{}", names[int(label)]))
        for image, label in zip(ids, labels, strict=True)
    }


def captions_of(path: Path, images: ImageSet, ids: Sequence[str]) -> dict[str, str]:
    """Return the captions of ``ids`` in a file, which may hold captions of other images too.

    Names are matched as a person reads them: however accents are encoded, with or without the
    ending of a file.

    Raises
    ------
    UserError
        With the line of the file: if an id is no image of the data, stands there twice, or has no
        caption; and if an image of ``ids`` is missing.
    """
    match = names_to_images(images)
    captions: dict[str, tuple[str, int]] = {}
    for number, name, text in _read(path):
        where = f"{path}, line {number}"
        image = match(name, where)
        if image in captions:
            raise UserError(
                f"{where}: '{name}' has a caption in line {captions[image][1]} already; "
                "leave one of them out"
            )
        captions[image] = text, number
    if missing := [image for image in ids if image not in captions]:
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(
            f"{path} has no caption for {len(missing)} of the {len(ids)} images in use: {some}; "
            "add them"
        )
    return {image: captions[image][0] for image in ids}


def names_to_images(images: ImageSet) -> Callable[[str, str], str]:
    """Return a function from a name in a file, and its place for messages, to the image it means.

    The function raises UserError for a name that means no image or several.
    """
    match = _matcher(images)
    return lambda name, where: _only(match(name), name, where, next(iter(images.ids), ""))


def _only(candidates: Sequence[str], name: str, where: str, example: str) -> str:
    """Return the one image that a name means; UserError if there is none or several."""
    if len(candidates) == 1:
        return candidates[0]
    problem = (
        f"may mean {' or '.join(map(repr, candidates))}; write the whole name"
        if candidates
        else "is no image"
    )
    raise UserError(f"{where}: '{name}' {problem} of this data, whose ids are such as '{example}'")


# -- names -----------------------------------------------------------------------------------------


def _matcher(images: ImageSet) -> Callable[[str], list[str]]:
    """Return a function from a name in a file to the images that it may mean.

    Of several ways to read a name, the strictest one that fits any image counts.
    """
    whole = _index(images.known, normal_name)
    bare = _index(images.known, lambda name: _without_ending(normal_name(name)))
    id_of: Callable[[str], str] = getattr(images, "id_of", lambda name: name)

    def match(name: str) -> list[str]:
        exact = normal_name(name)
        guesses = (
            whole.get(exact),
            whole.get(normal_name(id_of(exact))),
            whole.get(_without_ending(exact)),
            bare.get(exact),
            bare.get(_without_ending(exact)),
        )
        return next(filter(None, guesses), [])

    return match


def _index(ids: Iterable[str], read: Callable[[str], str]) -> dict[str, list[str]]:
    """Return the ids by the name that ``read`` makes of them."""
    index: dict[str, list[str]] = {}
    for image in ids:
        index.setdefault(read(image), []).append(image)
    return index


def normal_name(name: str) -> str:
    """Return a name with composed accents, ``/`` between folders and no blanks around it."""
    return unicodedata.normalize("NFC", name).strip().replace("\\", "/").removeprefix("./")


def _without_ending(name: str) -> str:
    """Remove the ending of an image file; ``a.b`` keeps its ``.b``, which is none."""
    return name.rpartition(".")[0] if is_image(name) else name


# -- files -----------------------------------------------------------------------------------------


def _read(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line number, name and caption of every entry; UserError for another kind of file."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # a byte order mark is left out
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UserError(f"data.captions={path} cannot be read: {reason}; {_FORMAT}") from None
    if not text.strip():
        raise UserError(f"data.captions={path} is empty; {_FORMAT}")
    entries = _json_lines(path, text) if text.lstrip().startswith("{") else _csv(path, text)
    for number, name, caption in entries:
        if not name.strip() or not caption.strip():
            lacks = (
                "names no image" if not name.strip() else f"'{name.strip()}' has an empty caption"
            )
            raise UserError(f"{path}, line {number}: {lacks}; write both, or leave the line out")
        yield number, name.strip(), _clean(caption)


def _csv(path: Path, text: str) -> Iterator[tuple[int, str, str]]:
    header = text.lstrip("\r\n").splitlines()[0]
    delimiter = max(_DELIMITERS, key=header.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(line for line in lines if any(line))]
        place, caption = _columns(path, names)
        start = lines.line_num + 1
        for line in lines:
            if any(field.strip() for field in line):
                if len(line) != len(names):
                    raise UserError(
                        f"{path}, line {start}: {len(line)} fields, but the header has "
                        f"{len(names)}; a caption with '{delimiter}' in it stands in double quotes"
                    )
                yield start, line[place], line[caption]
            start = lines.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {lines.line_num}: {error}; {_FORMAT}") from None


def _columns(path: Path, names: Sequence[str]) -> tuple[int, int]:
    """Return the positions of the columns of ids and of texts."""
    folded = [name.casefold() for name in names]
    place, caption = (
        next((folded.index(key) for key in keys if key in folded), -1)
        for keys in (ID_COLUMNS, TEXT_COLUMNS)
    )
    if -1 in (place, caption):
        raise UserError(
            f"{path}: the first line, '{', '.join(names)[:60]}', names no such columns; {_FORMAT}"
        )
    return place, caption


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, str, str]]:
    # not splitlines: a JSON text may hold the other line ends of Unicode
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, Mapping):
            raise UserError(f"{path}, line {number}: no JSON object; {_FORMAT}")
        place, caption = _columns(path, list(map(str, entry)))
        values = list(entry.values())
        if not isinstance(values[place], str | int) or not isinstance(values[caption], str):
            raise UserError(
                f"{path}, line {number}: the id and the caption must be texts; {_FORMAT}"
            )
        yield number, str(values[place]), values[caption]


def _clean(text: str) -> str:
    """Return a prompt with composed accents and single blanks.

    Tokenizers read it alike, so it counts as the same prompt.
    """
    return unicodedata.normalize("NFC", " ".join(text.split()))
