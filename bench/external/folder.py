"""Images that another program made: found by their ids, checked when a cell is planned, and scored
like any other.

A solver never learns which image it is given, so these images are read by the harness. What a
solver reads from files enters the hash of its cell by content, not by place: changed files are
another cell.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image

from posterior_bench.bench.config.build import build
from posterior_bench.bench.core import terminal
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.external.torchscript import TorchScript
from posterior_bench.datasets.base import ImageSet
from posterior_bench.datasets.folder import EXTENSIONS
from posterior_bench.masks.base import MaskGenerator
from posterior_bench.masks.files import Files as MaskFiles
from posterior_bench.masks.sources import ReadMasks
from posterior_bench.metrics.base import from_uint8
from posterior_bench.priors.base import Prior, Shape
from posterior_bench.priors.process import VE
from posterior_bench.solvers.base import Card, Noise, Observation, Samples, Solver

Place = tuple[str, int]
"""An image id and a draw."""

COLUMNS = {"image_id": "texts", "draw": "whole numbers", "png": "bytes"}
UNMEASURED = {"seconds_fit": float("nan"), "seconds_sample": float("nan"), "peak_mib": float("nan")}
"""Costs of images made elsewhere: reading a file says nothing about the method."""

SHARES = 200
"""How many masks are counted for the share of hidden pixels."""


@dataclass(frozen=True)
class Folder(Solver):
    """Scores images that another program made for the measurements of ``python -m bench
    export-masks``.

    Draws count from 0. Where an image id ends like an image file (``cat.jpg``), the files may be
    named with or without that ending (``cat.png``), unless two ids would then share a name. Files
    that belong to no image are reported.

    Parameters
    ----------
    path : str
        A directory of 8-bit PNG files ``<image_id>.png`` (one draw), ``<image_id>_<draw>.png``
        or ``<image_id>/<draw>.png``; or one Parquet file with the columns image_id, draw and
        png (the bytes of a PNG file).
    label : str | None, default None
        Name of the row in the leaderboard; null = folder.
    sha256 : str | None, default None
        Content of the images; the plan fills it in, and refuses other images where it is given.
    """

    card: ClassVar[Card] = Card(
        title="Images made elsewhere",
        paper="That of the method that made them; give its name with solver.label",
        equations="None: no method is run",
        deviations=(
            "Images are 8-bit, so consistency is limited by their rounding.",
            "Network evaluations count as 0; times and memory are not known. State them yourself.",
        ),
    )
    version: ClassVar[int] = 1

    path: str
    label: str | None = None
    sha256: str | None = None

    def fit(self, obs: Observation, prior: Prior, noise: Noise) -> NoReturn:
        raise UserError(
            "solver=folder has no method to run: its images are found by their ids, which a solver "
            "never sees"
        )


class NoPrior(Prior):
    """Stands in where no prior is needed, for images ``shape`` ``(C, H, W)`` of any size; it can do
    nothing.
    """

    def __init__(self, shape: Shape):
        super().__init__(VE(), None, shape)

    @property
    def caps(self) -> frozenset[str]:
        return frozenset()


def pinned(config: Mapping[str, Any], images: ImageSet) -> Mapping[str, Any]:
    """The configuration with the content of the file its solver reads recorded beside an absolute
    path.

    Every file is opened and checked first. Raises UserError for what cannot be used, and where the
    content is not the ``sha256`` that was asked for; where the solver reads no file, nothing
    changes.
    """
    try:
        solver = build(config["solver"])
    except ImportError as error:
        raise UserError(str(error)) from None
    if not isinstance(solver, Folder | TorchScript):
        return config
    path = Path(solver.path).expanduser().absolute()
    if isinstance(solver, TorchScript):
        content = solver.checked(images.shape)
    else:
        answers = Answers.find(path, tuple(images.ids[: config["data"]["images"]]), config["draws"])
        answers.check(images.shape)
        content = answers.sha256
        if answers.unused and not config["quiet"]:
            terminal.err.print(
                f"bench: {path}: {_and_more(answers.unused)} not used: no image or draw of this run"
            )
    _same_content(solver.sha256, content, path)
    return {**config, "solver": {**config["solver"], "path": str(path), "sha256": content}}


def pinned_operator(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """The node of an operator with the content of the file it reads, if any, beside an absolute
    path.
    """
    if "trust_file" not in node:
        return node
    path = Path(node["path"]).expanduser().absolute()
    try:
        content = sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"operator.path={path} cannot be read: {error.strerror}") from None
    _same_content(node.get("sha256"), content, path)
    return {**node, "path": str(path), "sha256": content}


def pinned_mask(
    config: Mapping[str, Any], mask: MaskGenerator, images: ImageSet
) -> Mapping[str, Any]:
    """The configuration with the content of the files that masks are read from.

    Raises UserError, before any work, where a mask cannot be drawn at the size of the images, where
    one of a file is missing or unusable, and where their content is not the ``sha256`` that was
    asked for.
    """
    ids, (height, width) = images.ids[: config["data"]["images"]], images.shape[-2:]
    mask = mask.beside(images)
    try:
        content = mask.content(ids, height, width)
        if content is None:
            mask.for_image(ids[0], 0).generate(
                np.random.Generator(np.random.PCG64(0)), height, width
            )
            return config
    except (ValueError, OSError) as error:
        raise UserError(f"{config['mask']['_target_']}: {error}") from None
    path = Path(config["mask"]["path"]).expanduser().absolute()
    _same_content(config["mask"].get("sha256"), content, path)
    return {**config, "mask": {**config["mask"], "path": str(path), "sha256": content}}


def hidden_share(config: Mapping[str, Any], mask: MaskGenerator, images: ImageSet) -> str:
    """What masks of files hide, in words that show a wrong ``white``; empty for masks that are
    drawn.
    """
    if not isinstance(mask, ReadMasks):
        return ""
    ids = images.ids[: min(config["data"]["images"], SHARES)]
    shares = mask.beside(images).hidden(ids, *images.shape[-2:])
    mean, least, most = sum(shares) / len(shares), min(shares), max(shares)
    text = f"{mean:.0%} of the pixels are hidden" + (
        f" ({least:.0%} to {most:.0%})" if least < most else ""
    )
    if isinstance(mask, MaskFiles):
        text += (
            f", with mask.white={mask.white}; "
            f"mask.white={'observed' if mask.white == 'hole' else 'hole'} hides "
        )
        text += "the others"
    return text


def given(
    solver: Folder, data: ImageSet, count: int, draws: int, images: Sequence[str], device: str
) -> Given:
    """What stands for the posterior of some ``images``: those of ``solver`` for the first ``count``
    ids of ``data``.

    Raises UserError where they are no longer those of the plan.
    """
    return Given(_answers(solver, tuple(data.ids[:count]), draws), images, data.shape, device)


@cache
def _answers(solver: Folder, ids: tuple[str, ...], draws: int) -> Answers:
    answers = Answers.find(Path(solver.path), ids, draws)
    _same_content(solver.sha256, answers.sha256, Path(solver.path))
    return answers


def _same_content(wanted: str | None, found: str, path: Path) -> None:
    if wanted not in (None, found):
        raise UserError(
            f"the content of {path} has sha256 {found}, not {wanted}: it has changed since"
        )


@dataclass(frozen=True)
class Given:
    """Images that are there already, in place of a posterior."""

    answers: Answers
    images: Sequence[str]
    shape: Shape
    device: str

    def sample(self, draws: Sequence[int]) -> Samples:
        pixels = [
            [decode(self.answers.read((i, d)), self.shape) for d in draws] for i in self.images
        ]
        return Samples(from_uint8(torch.from_numpy(np.array(pixels))).to(self.device))


@dataclass(frozen=True)
class Answers:
    """One PNG for every image and draw, and the names of what belongs to none."""

    where: str
    names: Mapping[Place, str]
    read: Callable[[Place], bytes] = field(compare=False)
    unused: Sequence[str] = ()

    @classmethod
    def find(cls, path: Path, ids: tuple[str, ...], draws: int) -> Answers:
        """The images of a directory or Parquet file; UserError for those that are missing or
        ambiguous.
        """
        if path.is_dir():
            return _in_directory(path, ids, draws)
        if path.is_file():
            return _in_parquet(path, ids, draws)
        raise UserError(f"solver.path={path}: there is no such directory or Parquet file")

    def check(self, shape: Shape) -> None:
        """UserError, naming the first and counting the others, where an image is unreadable or of
        another shape.
        """
        problems = [
            f"{self.names[place]} {problem}"
            for place in self.names
            if (problem := self._problem(place, shape))
        ]
        if problems:
            raise UserError(f"{self.where}: {_and_more(problems)}")

    def _problem(self, place: Place, shape: Shape) -> str:
        try:
            decode(self.read(place), shape)
        except ValueError as error:
            return str(error)
        return ""

    @cached_property
    def sha256(self) -> str:
        """Of all images with their ids and draws, wherever they lie and however they are called."""
        whole = sha256()
        for image, draw in sorted(self.names):
            content = sha256(self.read((image, draw))).hexdigest()
            whole.update(f"{image}\x1f{draw}\x1f{content}\n".encode())
        return whole.hexdigest()


def decode(png: bytes, shape: Shape) -> NDArray[np.uint8]:
    """The 8-bit pixels ``(C, H, W)`` of a PNG file. RGB counts as grey where its channels are
    equal.

    Raises ValueError, worded to follow the name of the file, for anything but an opaque 8-bit PNG
    of that shape.
    """
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as file:
            mode, transparent, pixels = file.mode, file.has_transparency_data, file.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        raise ValueError("cannot be read as a PNG file") from None
    if transparent or mode not in ("1", "L", "P", "RGB"):
        raise ValueError(
            f"has the mode {mode}{' with transparency' * transparent}; give opaque 8-bit grey or "
            f"RGB"
        )
    channels, height, width = shape
    if pixels.size != (width, height):
        raise ValueError(
            f"has {pixels.width} x {pixels.height} pixels (width x height), the data {width} x "
            f"{height}"
        )
    array = np.asarray(pixels).transpose(2, 0, 1)
    if channels == 1 and (array != array[:1]).any():
        raise ValueError("is coloured, the data are grey")
    return array[:channels].copy()


# -- where images are found ------------------------------------------------------------------------


def answer_names(ids: Sequence[str]) -> dict[str, list[str]]:
    """What the files of every image may be called, without ``.png``: its id, and that without an
    image's ending.
    """
    short = {
        i: str(PurePosixPath(i).with_suffix("")) if i.lower().endswith(EXTENSIONS) else i
        for i in ids
    }
    used = Counter([*short.values(), *(i for i in ids if short[i] != i)])
    return {i: [i] if short[i] == i or used[short[i]] > 1 else [short[i], i] for i in ids}


def _in_directory(root: Path, ids: tuple[str, ...], draws: int) -> Answers:
    paths = (p.relative_to(root) for p in root.rglob("*") if p.is_file())
    there = {p.as_posix() for p in paths if not any(part.startswith(".") for part in p.parts)}
    stems = answer_names(ids)
    plain = {f"{name}.png" for names in stems.values() for name in names}
    found: dict[Place, str] = {}
    problems = []
    for image in ids:
        for draw in range(draws):
            names = [
                f"{stem}{end}.png" for stem in stems[image] for end in (f"_{draw}", f"/{draw}")
            ]
            if draws == 1:
                # cat_0.png is the image cat_0, if there is one, and only else draw 0 of cat
                names = [
                    *(f"{stem}.png" for stem in stems[image]),
                    *(name for name in names if name not in plain),
                ]
            here = [name for name in names if name in there]
            if len(here) == 1:
                found[image, draw] = here[0]
            else:
                problems.append(
                    f"{' and '.join(here)} are one draw" if here else f"{names[0]} is missing"
                )
    if problems:
        single = draws > 1 and not found and any(f"{stem}.png" in there for stem in stems[ids[0]])
        hint = (
            "with one image per id, give draws=1"
            if single
            else "PNG files are <image_id>.png (draws=1), "
        )
        hint += "" if single else "<image_id>_<draw>.png or <image_id>/<draw>.png, draws from 0"
        raise UserError(f"{root}: {_and_more(problems)}; {hint}")
    unused = sorted(there.difference(found.values()))
    return Answers(str(root), found, lambda place: (root / found[place]).read_bytes(), unused)


def _in_parquet(path: Path, ids: tuple[str, ...], draws: int) -> Answers:
    wanted = {(image, draw) for image in ids for draw in range(draws)}
    rows: dict[Place, tuple[int, int]] = {}
    unused, problems = [], []
    file = _parquet(path)
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=["image_id", "draw"])
        for row, place in enumerate(
            zip(*(table[c].to_pylist() for c in ("image_id", "draw")), strict=True)
        ):
            if place not in wanted:
                unused.append(_row_name(place))
            elif place in rows:
                problems.append(f"{_row_name(place)} is there twice")
            rows.setdefault(place, (group, row))
    problems += [f"{_row_name(place)} is missing" for place in sorted(wanted - rows.keys())]
    if problems:
        raise UserError(f"{path}: {_and_more(problems)}; draws count from 0")

    @lru_cache(maxsize=1)
    def images(group: int) -> pa.ChunkedArray:
        return file.read_row_group(group, columns=["png"])["png"]

    def read(place: Place) -> bytes:
        group, row = rows[place]
        return images(group)[row].as_py() or b""

    return Answers(str(path), {place: _row_name(place) for place in sorted(wanted)}, read, unused)


def _parquet(path: Path) -> pq.ParquetFile:
    """The file, with the columns it needs; UserError where it is none, or lacks one."""
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError):
        raise UserError(f"solver.path={path} is neither a directory nor a Parquet file") from None
    types = {
        name: file.schema_arrow.field(name).type
        for name in COLUMNS
        if name in file.schema_arrow.names
    }
    fits = {
        "image_id": lambda t: pa.types.is_string(t) or pa.types.is_large_string(t),
        "draw": pa.types.is_integer,
        "png": lambda t: pa.types.is_binary(t) or pa.types.is_large_binary(t),
    }
    for name, what in COLUMNS.items():
        if name not in types or not fits[name](types[name]):
            is_now = f"holds {types[name]}" if name in types else "is missing"
            raise UserError(
                f"{path}: the column '{name}' must hold {what}, but {is_now}; needed: "
                f"{', '.join(COLUMNS)}"
            )
    return file


def _row_name(place: Place) -> str:
    return f"image_id {place[0]} draw {place[1]}"


def _and_more(texts: Iterable[str]) -> str:
    """The first text, and how many others there are."""
    first, *others = texts
    return first + (f" (and {len(others)} more)" if others else "")
