"""Score images that another program made.

A solver never learns which image it is working on, so the harness reads these images and finds them
by their ids. They are checked when a cell is planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, NoReturn

import numpy as np
import torch
from typing_extensions import override

from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.external.image_files import ImageFiles, decode_png, demand_content
from posterior_bench.datasets.base import ImageSet
from posterior_bench.metrics.base import from_uint8
from posterior_bench.priors.base import Prior, Shape
from posterior_bench.priors.process import VE
from posterior_bench.solvers.base import Card, Noise, Observation, Samples, Solver

UNMEASURED = {"seconds_fit": float("nan"), "seconds_sample": float("nan"), "peak_mib": float("nan")}
"""Costs of images made elsewhere: reading a file says nothing about the method."""


@dataclass(frozen=True)
class Folder(Solver):
    """Score images that another program made for the measurements of ``bench export-masks``.

    Draws count from 0. If an image id ends like an image file (``cat.jpg``), the files may be named
    with or without that ending (``cat.png``), unless two ids would then share a name. Files that
    belong to no image are reported.

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

    @override
    def fit(self, obs: Observation, prior: Prior, noise: Noise) -> NoReturn:
        raise UserError(
            "solver=folder has no method to run: its images are found by their ids, which a "
            "solver never sees"
        )


class NoPrior(Prior):
    """A stand-in where no prior is needed, for images of ``shape`` ``(C, H, W)``."""

    def __init__(self, shape: Shape):
        super().__init__(VE(), None, shape)

    @property
    @override
    def caps(self) -> frozenset[str]:
        return frozenset()


def stored_posterior(
    solver: Folder, data: ImageSet, count: int, draws: int, images: Sequence[str], device: str
) -> StoredPosterior:
    """Return what stands for the posterior of some images.

    Parameters
    ----------
    solver : Folder
        Where the images are stored.
    data : ImageSet
        The data set; its first ``count`` ids have stored images.
    count, draws : int
        How many images and draws are stored.
    images : sequence of str
        The ids of the images to read.
    device : str
        Where the images are moved to.

    Raises
    ------
    UserError
        If the stored images are no longer those of the plan.
    """
    return StoredPosterior(
        _image_files(solver, tuple(data.ids[:count]), draws), images, data.shape, device
    )


@cache
def _image_files(solver: Folder, ids: tuple[str, ...], draws: int) -> ImageFiles:
    answers = ImageFiles.find(Path(solver.path), ids, draws)
    demand_content(solver.sha256, answers.sha256, Path(solver.path))
    return answers


@dataclass(frozen=True)
class StoredPosterior:
    """Stored images in place of a posterior."""

    answers: ImageFiles
    images: Sequence[str]
    shape: Shape
    device: str

    def sample(self, draws: Sequence[int]) -> Samples:
        """Return the stored images of some draws, ``(N, D, C, H, W)``."""
        pixels = [
            [decode_png(self.answers.read((i, d)), self.shape) for d in draws] for i in self.images
        ]
        return Samples(from_uint8(torch.from_numpy(np.array(pixels))).to(self.device))
