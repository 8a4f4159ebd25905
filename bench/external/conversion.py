"""Convert a published checkpoint to a folder that the benchmark reads, without executing it."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.external.diffusers_layout import diffusers_folder
from posterior_bench.priors.fingerprint import read_spec, refuse_pointer

if TYPE_CHECKING:
    from posterior_bench.priors.convert.base import Converted

SYNONYMS = {"diffusers": "hub"}
"""Other words for a family: folders of the hub are in the layout of the diffusers library."""
_OPTIONS = {
    "layout": ("adm", "compvis", "pnpflow"),
    "config": ("adm", "compvis", "pnpflow"),
    "weights": ("compvis",),
    "autoencoder": ("compvis",),
    "prompts": ("hub",),
    "controlnet": ("hub",),
    "size": ("hub",),
}
"""Options that some families alone take."""


@dataclass(frozen=True)
class Conversion:
    """A checkpoint to convert.

    Parameters
    ----------
    source : Path
        The published file, or the folder of a diffusers pipeline.
    target : Path
        The folder of the prior; new or empty.
    family : str or None, default None
        Whose layout the file has: ``edm``, ``adm``, ``compvis``, ``pnpflow`` or ``hub`` (also
        ``diffusers``). None for a folder, which says it itself.
    layout : str or None, default None
        Which of the known networks (adm, compvis, pnpflow).
    config : Path or None, default None
        The settings of the network, where they are in a file of their own (adm, compvis, pnpflow).
    weights : str or None, default None
        ``ema`` or ``raw``, where the file holds both (compvis).
    autoencoder : Path or None, default None
        The autoencoder, where it is published apart (compvis).
    prompts : Path or None, default None
        Embedded prompts (hub).
    controlnet : Path or None, default None
        A ControlNet beside a transformer (hub).
    size : int or None, default None
        Height and width of the images, where the network reads several (hub).
    dtype : str, default "fp32"
        How the weights are stored: ``fp32`` or ``fp16``.
    name : str or None, default None
        The name of the prior in tables; None for that of the folder.
    licence : str or None, default None
        The licence of the weights.
    sha256 : str or None, default None
        Refuse a file with another hash.
    """

    source: Path
    target: Path
    family: str | None = None
    layout: str | None = None
    config: Path | None = None
    weights: str | None = None
    autoencoder: Path | None = None
    prompts: Path | None = None
    controlnet: Path | None = None
    size: int | None = None
    dtype: str = "fp32"
    name: str | None = None
    licence: str | None = None
    sha256: str | None = None


def convert(given: Conversion) -> Path:
    """Convert a checkpoint and return the folder of the prior.

    Parameters
    ----------
    given : Conversion
        The checkpoint and how it is to be read.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    UserError
        If an option does not go with the family, if the file is refused, or if the folder exists
        already.
    """
    family = SYNONYMS.get(given.family or "", given.family) or _guessed(given.source)
    source = _diffusers(given.source) if family == "hub" else None
    given = replace(given, family=family, source=source or given.source)
    for option, families in _OPTIONS.items():
        if getattr(given, option) is not None and family not in families:
            raise UserError(
                f"--{option} is an option of --as {_listed(families)} alone; leave it out"
            )
    target = given.target
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there already; choose another --to, or remove it")
    _check_hash(given.source, given.sha256)
    try:
        converted = _read(given)
        _try(converted, given)
        return _save(target, converted, given)
    except (ValueError, FileNotFoundError) as error:
        raise UserError(str(error)) from error


def next_command(folder: Path) -> str:
    """Return the command to type after a conversion: a run with this prior on photographs."""
    # loads torch: a wrong command line is answered before
    from posterior_bench.bench.config.catalog import options
    from posterior_bench.priors.nets import NETS, Inpainter

    known = [
        name for name, prior in options("prior").items() if prior.content.get("path") == str(folder)
    ]
    typed = str(folder) if len(folder.parts) > 1 else f"./{folder}"
    chosen = f"prior={known[0]}" if known else shlex.quote(f"prior={typed}")
    made = NETS[str(read_spec(folder)["net"]["class"])]  # type: ignore[index]
    solver = "conditional" if isinstance(made, type) and issubclass(made, Inpainter) else "dps"
    return f"python -m bench {chosen} data=folder data.root=PHOTOS solver={solver}"


def _guessed(source: Path) -> str:
    """Return the family of a source that shows it: a folder of diffusers."""
    if _diffusers(source) is not None:
        return "hub"
    if not source.exists():
        raise UserError(f"{source} does not exist; give the checkpoint, or the folder, to convert")
    raise UserError(
        f"{source} is of unknown kind; give --as edm, --as adm, --as compvis or --as pnpflow"
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _diffusers(source: Path) -> Path | None:
    try:
        return diffusers_folder(source)
    except (OSError, ValueError):
        return None  # whoever reads it says what is wrong


def _try(converted: Converted, given: Conversion) -> None:
    from posterior_bench.priors.convert.trial import call_once

    call_once(converted.prior, given.source)


def _check_hash(source: Path, wanted: str | None) -> None:
    """Check that the file is the one that was meant, before anything is read from it."""
    if wanted is None:
        return
    if not source.is_file():
        raise UserError(f"--sha256 is the hash of one file, and {source} is not a file")
    _refuse_pointer(source)
    if (found := _hash(source)) != wanted.lower():
        raise UserError(f"{source} has the sha256 {found}, not {wanted}; download it again")


def _read(given: Conversion) -> Converted:
    source: Path = given.source
    if given.family == "hub":
        # loads torch: a wrong command line is answered before
        from posterior_bench.priors.convert import hub

        return hub.convert_diffusers(source, given.prompts, given.controlnet, given.size)
    if not source.is_file():
        raise UserError(f"{source} is not a file; give the checkpoint to convert")
    if given.family == "edm":
        # loads torch: a wrong command line is answered before
        from posterior_bench.priors.convert import edm

        return edm.convert_edm(source)
    if given.family == "adm":
        # loads torch: a wrong command line is answered before
        from posterior_bench.priors.convert import adm

        return adm.convert_adm(source, given.layout, _config(given.config))
    if given.family == "pnpflow":
        # loads torch: a wrong command line is answered before
        from posterior_bench.priors.convert import pnpflow

        return pnpflow.convert_pnpflow(source, given.layout, _config(given.config))
    # loads torch: a wrong command line is answered before
    from posterior_bench.priors.convert import compvis

    return compvis.convert_compvis(
        source, given.layout, _config(given.config), given.weights, given.autoencoder
    )


def _config(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    _refuse_pointer(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings; give the configuration of the checkpoint")
    return content


def _refuse_pointer(path: Path) -> None:
    try:
        refuse_pointer(path)
    except ValueError as error:
        raise UserError(str(error)) from None


def _save(target: Path, converted: Converted, given: Conversion) -> Path:
    # loads torch: a wrong command line is answered before
    import torch

    from posterior_bench.priors.load import save

    source: Path = given.source
    name, how = given.name or target.name, f"--as {given.family}"
    meta = conversion_facts(
        converted, source, name, source.resolve().name, how, given.licence, given.controlnet
    )
    return save(
        target, converted.prior, meta, torch.float16 if given.dtype == "fp16" else torch.float32
    )


def conversion_facts(
    converted: Converted,
    source: Path,
    name: str,
    origin: str,
    how: str,
    licence: str | None = None,
    controlnet: Path | None = None,
) -> dict[str, object]:
    """Return the facts that a converted prior records beside its architecture.

    Parameters
    ----------
    converted : Converted
        The prior with the files it was read from.
    source : Path
        The file or folder that was converted.
    name : str
        Name of the prior.
    origin : str
        What the prior was converted from, in words for people.
    how : str
        The options of ``bench convert``.
    licence : str, optional
        The licence; None = what the source states.
    controlnet : Path, optional
        The folder of a ControlNet that was converted too.
    """
    meta: dict[str, object] = {
        "name": name,
        "training": dict(converted.facts),
        "source": f"converted from {origin} by `python -m bench convert {how}`",
        "licence": licence or converted.licence or "not stated by the source",
        "converted_from": {
            _name(file, source, controlnet): _hash(file) for file in converted.files
        },
    }
    if converted.class_names:
        meta["class_names"] = converted.class_names
    return meta


def _name(file: Path, source: Path, controlnet: Path | None) -> str:
    """Return a file's name in its folder; two folders may hold files of the same name."""
    if file.is_relative_to(source) and file != source:
        return str(file.relative_to(source))
    if controlnet is not None and file.is_relative_to(controlnet):
        return f"controlnet/{file.name}"
    return file.name


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
