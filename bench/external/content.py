"""Record the content of the files that a cell reads in its configuration.

The content enters the hash of the cell, the path does not: changed files make another cell.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.job import JobConfig, Node
from posterior_bench.bench.core import terminal
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.external.folder import Folder
from posterior_bench.bench.external.image_files import ImageFiles, and_more, demand_content
from posterior_bench.bench.external.torchscript import TorchScript
from posterior_bench.datasets.base import ImageSet
from posterior_bench.masks.base import MaskGenerator
from posterior_bench.masks.files import Files as MaskFiles
from posterior_bench.masks.sources import ReadMasks
from posterior_bench.solvers.dpir import DPIR

SHARES = 200
"""How many masks are counted for the share of hidden pixels."""


def solver_content(config: JobConfig, images: ImageSet) -> Node:
    """Return what to record of the file that a solver reads: its absolute path and its content.

    Every file is opened and checked first. Empty for a solver that reads no file.

    Raises
    ------
    UserError
        If a file cannot be used, or its content is not the ``sha256`` that the configuration asks
        for.
    """
    try:
        solver = build(config.solver)
    except ImportError as error:
        raise UserError(str(error)) from None
    if not isinstance(solver, Folder | TorchScript | DPIR):
        return {}
    path = Path(solver.path).expanduser().absolute()
    if isinstance(solver, TorchScript | DPIR):
        try:
            content = solver.checked(images.shape)
        except ValueError as error:
            raise UserError(str(error)) from None
    else:
        answers = ImageFiles.find(path, tuple(images.ids[: config.images]), config.draws)
        answers.check(images.shape)
        content = answers.sha256
        if answers.unused and not config.quiet:
            terminal.remark(
                f"bench: {path}: {and_more(answers.unused)} not used: no image or draw of this run"
            )
    demand_content(solver.sha256, content, path)
    return {"path": str(path), "sha256": content}


def operator_content(node: Node) -> Node:
    """Return what to record of the file that an operator reads; empty if it reads none.

    Raises
    ------
    UserError
        If the file cannot be read, or its content is not the ``sha256`` in the node.
    """
    if "trust_file" not in node:
        return {}
    path = Path(node["path"]).expanduser().absolute()
    try:
        content = sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"operator.path={path} cannot be read: {error.strerror}") from None
    demand_content(node.get("sha256"), content, path)
    return {"path": str(path), "sha256": content}


def mask_content(config: JobConfig, mask: MaskGenerator, images: ImageSet) -> Node:
    """Return what to record of the files that masks are read from; empty for drawn masks.

    Raises
    ------
    UserError
        If a mask cannot be drawn at the size of the images, if a file is missing or unusable, or if
        the content is not the ``sha256`` that the configuration asks for.
    """
    ids, (height, width) = images.ids[: config.images], images.shape[-2:]
    mask = mask.beside(images)
    try:
        content = mask.content(ids, height, width)
        if content is None:
            mask.for_image(ids[0], 0).generate(
                np.random.Generator(np.random.PCG64(0)), height, width
            )
            return {}
    except (ValueError, OSError) as error:
        raise UserError(f"{config.mask['_target_']}: {error}") from None
    if config.mask.get("path") is None:  # the images themselves say where the masks are
        demand_content(config.mask.get("sha256"), content, Path(images.name))
        return {"sha256": content}
    path = Path(config.mask["path"]).expanduser().absolute()
    demand_content(config.mask.get("sha256"), content, path)
    return {"path": str(path), "sha256": content}


def hidden_share(config: JobConfig, mask: MaskGenerator, images: ImageSet) -> str:
    """Return in words how much masks from files hide; empty for drawn masks.

    The words show a wrong ``white``.
    """
    if not isinstance(mask, ReadMasks):
        return ""
    ids = images.ids[: min(config.images, SHARES)]
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
