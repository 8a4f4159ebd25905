"""What ``bench try`` is asked to do: the photograph, the mask, the model and the solvers.

The files are examined here without torch, so that a mistake is answered at once, and the first line
appears before the networks are loaded. :mod:`bench.cli.try_run` does the work.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from posterior_bench.bench.config.catalog import GROUPS, defaults, option, options
from posterior_bench.bench.config.image_folders import image_shape_of
from posterior_bench.bench.core.errors import UserError, unknown
from posterior_bench.bench.external.diffusers_layout import diffusers_folder
from posterior_bench.bench.external.models import absent_model, local_model
from posterior_bench.datasets.pixels import UNREADABLE, skim
from posterior_bench.masks.levels import colours_of, white_of
from posterior_bench.masks.sources import stack_of

Size = tuple[int, int]
"""Height and width."""

USAGE = "python -m bench try photo.jpg mask.png"

PREFERRED = ("repaint", "dps", "vipaint2", "psld", "resample", "conditional")
"""Solvers that run if the user names none: the first :data:`SOME` that fit the model."""
SOME = 3

_OWN_WORDS = {
    "solver": "--solvers",
    "prior": "--model",
    "mask": "MASK",
    "data": "PHOTO",
    "draws": "--draws",
    "seed": "--seed",
    "out": "--out",
    **dict.fromkeys(("data.root", "data.images", "data.size", "data.mode"), "PHOTO"),
    "mask.path": "MASK",
    "mask.white": "--white",
    "prior.path": "--model",
}
"""Settings that this verb has its own words for."""
_OF_A_STUDY = (
    "study",
    "scale",
    "executor",
    "batch",
    "retry",
    "accept",
    "report",
    "sheet",
    "logger",
    "quiet",
    "trace",
)


@dataclass(frozen=True)
class Request:
    """What the command line asks for, checked as far as that is possible without loading anything.

    ``mask``: the name of a generator, or None where ``white`` holds the pixels of a mask picture,
    True = white. ``prior``: an option of the group prior, or a folder. ``solvers`` is empty where
    the user names none.
    """

    photo: Path
    photo_size: Size
    mask: str | None
    mask_label: str
    white: NDArray[np.bool_] | None
    white_means: str
    prior: str | Path
    solvers: tuple[str, ...]
    draws: int
    seed: int
    out: Path
    settings: tuple[str, ...]
    stand_in: bool = False
    """Whether the prior is an embedded one that the user has not asked for."""

    @property
    def announcement(self) -> str:
        """The first line: what was understood."""
        height, width = self.photo_size
        shape = _shape(_path_of(self.prior))
        made_for = (
            f" ({shape[2]} x {shape[1]}, {'grey' if shape[0] == 1 else 'colour'})" if shape else ""
        )
        who = ", ".join(self.solvers) if self.solvers else f"{SOME} solvers"
        return (
            f"{self.photo.name} ({width} x {height}), mask {self.mask_label}, prior "
            f"{Path(self.prior).name}{made_for}: "
            f"{self.draws} draws of {who}; loading ..."
        )


def make_request(
    photo: Path,
    mask: str,
    white: str = "hole",
    model: str | None = None,
    solvers: str = "",
    draws: int = 4,
    seed: int = 0,
    out: Path | None = None,
    settings: Sequence[str] = (),
) -> Request:
    """Check what the command line asks for, as far as that is possible without a network.

    Parameters
    ----------
    photo : Path
        The photograph.
    mask : str
        A mask picture, or the name of a generator.
    white : str, default "hole"
        What white means in a mask picture: ``hole`` or ``observed``.
    model : str or None, default None
        An option of the group prior, or a folder; None for the embedded prior that fits best.
    solvers : str, default ""
        Names of solvers between commas; empty for those that fit.
    draws : int, default 4
        Draws of every solver.
    seed : int, default 0
        Fixes mask, measurement and draws.
    out : Path or None, default None
        The file for the picture; None for a free name in the current folder.
    settings : sequence of str, default ()
        Further settings of a run.

    Raises
    ------
    UserError
        If a file cannot be read, a name is unknown, or a setting is none of a single photograph.
    """
    if draws < 1:
        raise UserError(f"--draws {draws}: give a whole number of at least 1")
    _check_settings(settings)
    chosen = tuple(dict.fromkeys(filter(None, (name.strip() for name in solvers.split(",")))))
    for name in chosen:
        option("solver", name)
    photo = photo.expanduser()
    size, colour = _look_at(photo)
    generator, pixels = _mask(mask)
    prior = _prior(model, colour, None if pixels is None else pixels.shape)
    if pixels is not None and (shape := _shape(_path_of(prior))):
        check_mask_size(mask, pixels.shape, size, shape[1:])
    return Request(
        photo=photo,
        photo_size=size,
        mask=generator,
        mask_label=generator or Path(mask).name,
        white=pixels,
        white_means=white,
        prior=prior,
        solvers=chosen,
        draws=draws,
        seed=seed,
        out=_target(out, photo, [photo, Path(mask).expanduser()]),
        settings=tuple(settings),
        stand_in=model is None,
    )


def _check_settings(settings: Sequence[str]) -> None:
    for line in settings:
        key, equals, _ = line.lstrip("+").partition("=")
        if not equals:
            raise UserError(
                f"'{line}' is one argument too many: after PHOTO and MASK come options, and "
                f"settings as key=value; "
                f"for example: {USAGE}"
            )
        if key in _OWN_WORDS:
            raise UserError(f"'{line}': here {_OWN_WORDS[key]} says that; for example: {USAGE}")
        if key in _OF_A_STUDY or key.startswith(("executor.", "hydra")):
            raise UserError(f"'{line}' is a setting of studies, and `try` makes none; leave it out")


# -- the files -------------------------------------------------------------------------------------


def _look_at(photo: Path) -> tuple[Size, bool]:
    """Size of a photograph as a person sees it, and whether it is in colour; UserError for what is
    no photograph.
    """
    _demand_file(photo, "PHOTO", "an image file")
    try:
        with Image.open(photo) as image:
            size, colour = (
                (image.height, image.width),
                image.mode not in ("1", "L", "LA", "I", "I;16", "F"),
            )
            upright = image.getexif().get(ExifTags.Base.Orientation, 1) < 5
            skim(image)
    except UNREADABLE as error:
        reason = "it is no image" if isinstance(error, UnidentifiedImageError) else _reason(error)
        raise UserError(
            f"cannot read the photograph {photo}: {reason}; give a jpg or png file"
        ) from None
    return size if upright else size[::-1], colour


def _mask(text: str) -> tuple[str | None, NDArray[np.bool_] | None]:
    """The name of a generator, or the white pixels of a mask picture."""
    path, generators = Path(text).expanduser(), _generators()
    if not path.is_file() and text in generators:
        return text, None
    if not path.exists() and not path.suffix and len(path.parts) == 1:
        raise UserError(f"there is no file {path}; {unknown('mask', text, generators)}")
    _demand_file(path, "MASK", "a picture, or the name of a generator such as comod")
    try:
        white = white_of(*_planes(path))
    except ValueError as error:
        line = str(error)
        raise UserError(line if str(path) in line else f"mask {path}: {line}") from None
    if (
        white.all() or not white.any()
    ):  # of a single level, which some formats tell from others by their opacity
        raise UserError(
            f"mask {path}: it hides everything or nothing; draw what is to be hidden in white on "
            f"black"
        )
    return None, white


def _planes(path: Path) -> tuple[NDArray[np.generic], NDArray[np.generic] | None]:
    """Colours and opacity of a mask picture or of a NumPy file with one mask; ValueError."""
    if path.suffix.lower() not in (".npy", ".npz"):
        return colours_of(path)
    stack = stack_of(path, 0, 0)
    if len(stack) > 1:
        raise ValueError(f"it holds {len(stack)} masks; give a file with one")
    return stack[0], None


def _generators() -> list[str]:
    """Masks that are drawn, not read: those without a setting that has to be given."""
    return [
        name for name, mask in options("mask", ()).items() if "???" not in mask.content.values()
    ]


def check_mask_size(name: str, mask: Size, photo: Size, model: Sequence[int]) -> None:
    """UserError unless a mask picture is as large as the photograph, lying or upright, or as the
    model's images.
    """
    if mask not in (photo, photo[::-1], tuple(model)):
        sizes = [f"{width} x {height}" for height, width in (mask, photo, model)]
        raise UserError(
            f"mask {name} has {sizes[0]} pixels; give one of the photograph's size, {sizes[1]}, or "
            f"of the model's, "
            f"{sizes[2]} (width x height)"
        )


def _demand_file(path: Path, what: str, wanted: str) -> None:
    if path.is_dir():
        raise UserError(f"{what} {path} is a folder; give {wanted}")
    if not path.exists():
        raise UserError(f"{what}: there is no file {path}; give {wanted}")
    if not path.is_file():
        raise UserError(f"{what} {path} is no regular file; give {wanted}")


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _target(given: Path | None, photo: Path, inputs: Sequence[Path]) -> Path:
    """Where the picture goes; UserError, before any work, where it cannot be written."""
    target = _free(Path(f"try_{photo.stem}.png")) if given is None else given.expanduser()
    if target.suffix.lower() != ".png":
        raise UserError(f"--out {target}: the picture is a PNG file; give a name that ends in .png")
    if target.is_dir():
        raise UserError(f"--out {target} is a folder; give the name of a file in it")
    folder = target.absolute().parent
    if not folder.is_dir():
        raise UserError(
            f"--out {target}: there is no folder {folder}; create it, or choose another"
        )
    if any(target.exists() and path.exists() and target.samefile(path) for path in inputs):
        raise UserError(f"--out {target} would replace PHOTO or MASK; choose another name")
    if not os.access(folder, os.W_OK):
        raise UserError(
            f"the folder {folder} is not writable; choose another place with --out FILE.png"
        )
    return target


def _free(target: Path) -> Path:
    """The name, or the first of ``name_2``, ``name_3`` and so on that no file has."""
    number, free = 1, target
    while free.exists():
        number += 1
        free = target.with_stem(f"{target.stem}_{number}")
    return free


# -- the model -------------------------------------------------------------------------------------


def _prior(model: str | None, colour: bool, mask: Size | None) -> str | Path:
    """An option of the group prior, or a folder with ``prior.json``."""
    if model is None:
        return _embedded(colour, mask)
    names, path = options("prior", ()), Path(model).expanduser()
    if model in names:
        if line := absent_model(names[model].content):
            raise UserError(line)
        return model
    if not path.exists() and len(path.parts) == 1:
        raise UserError(f"--model: there is no folder {path}; {unknown('prior', model, names)}")
    if not (path / "prior.json").is_file() and diffusers_folder(path) is None:
        local_model(path)  # which says why it is none
    return path


def _embedded(colour: bool, mask: Size | None) -> str:
    """The prior of the product that fits best: its size that of the mask, then its colours those of
    the photograph.
    """
    shapes = {
        name: _shape(path)
        for name in options("prior", ())
        if (path := _path_of(name))[:14] == "priors/assets/"
    }
    usual = defaults()["prior"]
    networks = {name: shape for name, shape in shapes.items() if shape}
    return max(
        networks,
        key=lambda name: (
            networks[name][1:] == mask,
            (networks[name][0] == 3) == colour,
            name == usual,
        ),
    )


def _path_of(prior: str | Path) -> str:
    """The folder of a prior; empty for one in closed form."""
    if isinstance(prior, Path):
        return str(prior)
    content = option("prior", prior).content
    return str(content.get("path", "")) if content.get("_target_") == "priors.load.load" else ""


def _shape(path: str) -> tuple[int, int, int] | None:
    """Channels, height and width of a prior's images; None where they are not known without loading
    it.
    """
    return image_shape_of({"path": path}) if path else None


def group_of(line: str) -> str:
    """The group that a setting belongs to; empty for a setting of the run."""
    key = line.lstrip("+").partition("=")[0].partition(".")[0]
    return key if key in GROUPS else ""
