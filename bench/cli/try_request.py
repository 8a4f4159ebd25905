"""The request of ``bench try``: the photograph, the mask, the model and the solvers.

The files are examined here without torch: a mistake is reported at once, and the first line appears
before the networks are loaded. :mod:`bench.cli.try_run` does the work.
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
"""Solvers to try, in this order, if the user names none."""
USUAL_COUNT = 3
"""Number of solvers that run if the user names none: the first ones that fit the model."""

_ARGUMENT_OF = {
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
"""Settings for which this verb has arguments of its own."""
_STUDY_SETTINGS = (
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
class MaskChoice:
    """The mask of a request: a generator or a picture.

    Parameters
    ----------
    label : str
        The name of the generator, or of the picture's file.
    generator : str or None
        The name of the generator; None for a picture.
    white : array of bool (H, W), or None
        The white pixels of the picture; None for a generator.
    white_means : str
        The meaning of white in the picture: ``hole`` or ``observed``.
    """

    label: str
    generator: str | None
    white: NDArray[np.bool_] | None
    white_means: str

    @property
    def size(self) -> Size | None:
        """Height and width of the picture; None for a generator."""
        if self.white is None:
            return None
        height, width = self.white.shape
        return height, width


@dataclass(frozen=True)
class Request:
    """A checked request; no network was loaded for it.

    Parameters
    ----------
    photo : Path
        The photograph.
    photo_size : (int, int)
        Its height and width, upright.
    mask : MaskChoice
        The mask.
    prior : str or Path
        An option of the group prior, or a folder.
    solvers : tuple of str
        Names of solvers; empty if the user names none.
    draws, seed : int
        Draws of every solver, and the seed of mask, measurement and draws.
    out : Path
        The file for the picture.
    settings : tuple of str
        Further settings of a run.
    stand_in : bool, default False
        Whether the prior is an embedded one that the user has not asked for.
    """

    photo: Path
    photo_size: Size
    mask: MaskChoice
    prior: str | Path
    solvers: tuple[str, ...]
    draws: int
    seed: int
    out: Path
    settings: tuple[str, ...]
    stand_in: bool = False

    @property
    def announcement(self) -> str:
        """The first line: photograph, mask, prior and solvers."""
        height, width = self.photo_size
        prior = Path(self.prior).name
        if shape := _image_shape(_folder_of(self.prior)):
            prior += f" ({shape[2]} x {shape[1]}, {'grey' if shape[0] == 1 else 'colour'})"
        solvers = ", ".join(self.solvers) if self.solvers else f"{USUAL_COUNT} solvers"
        return (
            f"{self.photo.name} ({width} x {height}), mask {self.mask.label}, prior {prior}: "
            f"{self.draws} draws of {solvers}; loading ..."
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
    """Check the arguments of the command line as far as possible without a network.

    Parameters
    ----------
    photo : Path
        The photograph.
    mask : str
        A mask picture, or the name of a generator.
    white : str, default "hole"
        The meaning of white in a mask picture: ``hole`` or ``observed``.
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
        If a file cannot be read, a name is unknown, or a setting does not suit one photograph.
    """
    _check_settings(settings, draws)
    names = _solver_names(solvers)
    photo = photo.expanduser()
    size, colour = _read_size(photo)
    chosen = _choose_mask(mask, white)
    prior = _choose_prior(model, colour, chosen.size)
    if chosen.size and (shape := _image_shape(_folder_of(prior))):
        check_mask_size(mask, chosen.size, size, shape[1:])
    return Request(
        photo=photo,
        photo_size=size,
        mask=chosen,
        prior=prior,
        solvers=names,
        draws=draws,
        seed=seed,
        out=_choose_output(out, photo, [photo, Path(mask).expanduser()]),
        settings=tuple(settings),
        stand_in=model is None,
    )


def _solver_names(text: str) -> tuple[str, ...]:
    """Return the names between commas, each once; UserError for an unknown solver."""
    names = tuple(dict.fromkeys(filter(None, (name.strip() for name in text.split(",")))))
    for name in names:
        option("solver", name)
    return names


def _check_settings(settings: Sequence[str], draws: int) -> None:
    if draws < 1:
        raise UserError(f"--draws {draws}: give a whole number of at least 1")
    for line in settings:
        key, equals, _ = line.lstrip("+").partition("=")
        if not equals:
            raise UserError(
                f"'{line}' is one argument too many: after PHOTO and MASK come options, and "
                f"settings as key=value; for example: {USAGE}"
            )
        if key in _ARGUMENT_OF:
            raise UserError(f"'{line}': here {_ARGUMENT_OF[key]} says that; for example: {USAGE}")
        if key in _STUDY_SETTINGS or key.startswith(("executor.", "hydra")):
            raise UserError(f"'{line}' is a setting of studies, and `try` makes none; leave it out")


# -- the files -------------------------------------------------------------------------------------


def _read_size(photo: Path) -> tuple[Size, bool]:
    """Return the upright size of a photograph, and whether it is in colour."""
    _demand_file(photo, "PHOTO", "an image file")
    try:
        with Image.open(photo) as image:
            size = (image.height, image.width)
            colour = image.mode not in ("1", "L", "LA", "I", "I;16", "F")
            upright = image.getexif().get(ExifTags.Base.Orientation, 1) < 5
            skim(image)
    except UNREADABLE as error:
        reason = "it is no image" if isinstance(error, UnidentifiedImageError) else _reason(error)
        raise UserError(
            f"cannot read the photograph {photo}: {reason}; give a jpg or png file"
        ) from None
    return size if upright else size[::-1], colour


def _choose_mask(text: str, white_means: str) -> MaskChoice:
    """Return the generator of this name, or read the mask picture."""
    path, generators = Path(text).expanduser(), _generators()
    if not path.is_file() and text in generators:
        return MaskChoice(text, text, None, white_means)
    if not path.exists() and not path.suffix and len(path.parts) == 1:
        raise UserError(f"there is no file {path}; {unknown('mask', text, generators)}")
    _demand_file(path, "MASK", "a picture, or the name of a generator such as comod")
    try:
        white = white_of(*_planes(path))
    except ValueError as error:
        line = str(error)
        raise UserError(line if str(path) in line else f"mask {path}: {line}") from None
    if white.all() or not white.any():  # possible if the opacity of one level tells its meaning
        raise UserError(
            f"mask {path}: it hides everything or nothing; draw the part to hide in white on black"
        )
    return MaskChoice(path.name, None, white, white_means)


def _planes(path: Path) -> tuple[NDArray[np.generic], NDArray[np.generic] | None]:
    """Return colours and opacity of a mask picture, or of a NumPy file with one mask."""
    if path.suffix.lower() not in (".npy", ".npz"):
        return colours_of(path)
    stack = stack_of(path, 0, 0)
    if len(stack) > 1:
        raise ValueError(f"it holds {len(stack)} masks; give a file with one")
    return stack[0], None


def _generators() -> list[str]:
    """Return the names of masks that are drawn, not read: they have no mandatory setting."""
    masks = options("mask", ()).items()
    return [name for name, mask in masks if "???" not in mask.content.values()]


def check_mask_size(name: str, mask: Size, photo: Size, model: Sequence[int]) -> None:
    """Check that a mask picture is as large as the photograph or the model's images.

    Parameters
    ----------
    name : str
        Name of the mask, for the message.
    mask, photo : (int, int)
        Height and width; those of the photograph may be swapped.
    model : sequence of int
        Height and width of the model's images.

    Raises
    ------
    UserError
        If the mask has another size.
    """
    if mask not in (photo, photo[::-1], tuple(model)):
        sizes = [f"{width} x {height}" for height, width in (mask, photo, model)]
        raise UserError(
            f"mask {name} has {sizes[0]} pixels; give one of the photograph's size, {sizes[1]}, or "
            f"of the model's, {sizes[2]} (width x height)"
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


def _choose_output(out: Path | None, photo: Path, inputs: Sequence[Path]) -> Path:
    """Return the file for the picture; UserError if it cannot be written there."""
    target = _free_name(Path(f"try_{photo.stem}.png")) if out is None else out.expanduser()
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


def _free_name(target: Path) -> Path:
    """Return the name, or the first of ``name_2``, ``name_3`` and so on that no file has."""
    number, free = 1, target
    while free.exists():
        number += 1
        free = target.with_stem(f"{target.stem}_{number}")
    return free


# -- the model -------------------------------------------------------------------------------------


def _choose_prior(model: str | None, colour: bool, mask: Size | None) -> str | Path:
    """Return an option of the group prior, or the folder of a prior."""
    if model is None:
        return _best_embedded(colour, mask)
    names, path = options("prior", ()), Path(model).expanduser()
    if model in names:
        if line := absent_model(names[model].content):
            raise UserError(line)
        return model
    if not path.exists() and len(path.parts) == 1:
        raise UserError(f"--model: there is no folder {path}; {unknown('prior', model, names)}")
    if not (path / "prior.json").is_file() and diffusers_folder(path) is None:
        local_model(path)  # raises an error that says why the folder holds no prior
    return path


def _best_embedded(colour: bool, mask: Size | None) -> str:
    """Return the embedded prior that fits best: the mask's size first, then the photo's colours."""
    usual = defaults()["prior"]
    folders = {name: _folder_of(name) for name in options("prior", ())}
    shapes = {
        name: shape
        for name, folder in folders.items()
        if folder.startswith("priors/assets/") and (shape := _image_shape(folder))
    }

    def fit(name: str) -> tuple[bool, bool, bool]:
        channels, *size = shapes[name]
        return tuple(size) == mask, (channels == 3) == colour, name == usual

    return max(shapes, key=fit)


def _folder_of(prior: str | Path) -> str:
    """Return the folder of a prior; empty for a prior in closed form."""
    if isinstance(prior, Path):
        return str(prior)
    content = option("prior", prior).content
    return str(content.get("path", "")) if content.get("_target_") == "priors.load.load" else ""


def _image_shape(folder: str) -> tuple[int, int, int] | None:
    """Return channels, height and width of a prior's images; None if only loading it tells them."""
    return image_shape_of({"path": folder}) if folder else None


def group_of(line: str) -> str:
    """Return the group that a setting belongs to; empty for a setting of the run."""
    key = line.lstrip("+").partition("=")[0].partition(".")[0]
    return key if key in GROUPS else ""
