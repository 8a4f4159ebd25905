"""Inverse problems of the Python API: images and their measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from posterior_bench.bench.api.configuration import configuration
from posterior_bench.bench.api.images import Images, Picture, as_images
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.masks import build_masks
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.measurement import Measurement, measure
from posterior_bench.masks.base import MaskGenerator
from posterior_bench.operators.base import Operator


@dataclass(frozen=True)
class Problem:
    """An inverse problem: find the images ``x`` of which ``y = A(x) + noise`` was observed.

    Parameters
    ----------
    images : Images
        The true images. A solver never sees them.
    generator : MaskGenerator
        It draws the mask of every image.
    config : JobConfig
        The options of mask and operator and the seed, as the command line has them.
    """

    images: Images
    generator: MaskGenerator
    config: JobConfig

    def measured(self, ids: Sequence[str], device: str = "cpu") -> Measurement:
        """Return the measurement of some images; it depends on the seed and the ids alone."""
        return measure(self.config, self.images.source, self.generator, ids, device)

    @cached_property
    def _measurement(self) -> Measurement:
        return self.measured(self.images.ids)

    @property
    def truth(self) -> Tensor:
        """The true images, float32 ``(N, C, H, W)`` in [-1, 1]."""
        return self._measurement.truth

    @property
    def y(self) -> Tensor:
        """The observation, float32 ``(N, ...)``; of inpainting ``(N, C, H, W)``, 0 where hidden."""
        return self._measurement.y

    @property
    def operator(self) -> Operator:
        """The forward operator ``A`` of all images."""
        return self._measurement.operator

    @property
    def mask(self) -> Tensor | None:
        """The mask, bool ``(N, 1, H, W)``, True where observed; None without one."""
        return self.operator.mask


class _UserMasks(MaskGenerator):
    """Masks that the user gives, bool ``(1 or N, H, W)``."""

    def __init__(self, masks: NDArray[np.bool_], index: int = 0):
        self._masks, self._index = masks, index

    @override
    def for_image(self, image_id: str, index: int) -> MaskGenerator:
        return _UserMasks(self._masks, index % len(self._masks))

    @override
    def generate(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        mask = self._masks[self._index]
        if mask.shape != (height, width):
            raise UserError(f"the mask is {mask.shape}, the images are {(height, width)}")
        return mask


def observe(
    image: Picture | Images,
    mask: str | Tensor | NDArray[Any] = "rotated",
    operator: str = "inpainting",
    sigma: float = 0.0,
    seed: int = 0,
    *,
    size: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Problem:
    """Observe images through a mask and an operator, with noise.

    Parameters
    ----------
    image : Tensor, array, PIL image, str, Path or Images
        A tensor or array ``(C, H, W)`` or ``(N, C, H, W)`` in [-1, 1]; a PIL image; the path of an
        image file; or images from :func:`load_images`.
    mask : str, Tensor or array, default "rotated"
        A name that ``python -m bench ls mask`` lists; or a mask ``(H, W)`` or ``(N, H, W)``, True
        where a pixel is observed.
    operator : str, default "inpainting"
        A name that ``python -m bench ls operator`` lists.
    sigma : float, default 0.0
        Standard deviation of the noise, in units of images in [-1, 1].
    seed : int, default 0
        The seed of masks and noise.
    size : int, optional
        Crop and resize a PIL image or file to a square of so many pixels.
    settings : Mapping[str, Any], optional
        Settings by their names on the command line, such as ``{"mask.side": 0.25}``.

    Returns
    -------
    Problem
        The problem, with ``y``, ``mask``, ``operator`` and ``truth``.

    Raises
    ------
    UserError
        If an image or mask cannot be used, or a name or setting is unknown.

    Examples
    --------
    >>> import posterior_bench as pb
    >>> problem = pb.observe(pb.load_images("fashion"), mask="box", settings={"mask.side": 0.5})
    >>> tuple(problem.y.shape), f"{problem.mask.float().mean():.2f}"
    ((1, 1, 28, 28), '0.75')
    """
    images = as_images(image, size)
    options = {"operator": operator, **({"mask": mask} if isinstance(mask, str) else {})}
    values = {"operator.sigma": sigma, "seed": seed, **(settings or {})}
    config = job_of(configuration(options, values))
    generator = build_masks(config.mask) if isinstance(mask, str) else _UserMasks(_masks(mask))
    problem = Problem(images, generator, config)
    try:
        problem.measured(images.ids[:1])
    except ValueError as error:
        raise UserError(str(error)) from None
    return problem


def _masks(mask: Tensor | NDArray[Any]) -> NDArray[np.bool_]:
    """Masks ``(N, H, W)``; UserError for anything but zeros and ones."""
    values = torch.as_tensor(mask)
    if values.ndim not in (2, 3) or not ((values == 0) | (values == 1)).all():
        raise UserError("a mask is (H, W) or (N, H, W), True or 1 where a pixel is observed")
    array: NDArray[np.bool_] = values.bool().cpu().numpy()
    return array[None] if array.ndim == 2 else array
