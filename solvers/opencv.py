"""The two classical fillings of OpenCV: Telea's marching from the border, and a fluid's flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.solvers.base import Card, Observation
from posterior_bench.solvers.shared.estimate import Estimator

_DEVIATIONS = (
    "The prior is not used, and all draws of an image are equal.",
    "OpenCV works on 8-bit values: the observation is clipped to [-1, 1] and rounded to 256 "
    "values, and so is what fills the hole. Observed pixels are put back as they were measured.",
    "Noise on the measurement is not modelled.",
    "Three channels are filled together, any other number one by one. Where nothing is observed, "
    "the image is mid-grey.",
)


@dataclass(frozen=True)
class _Filling(Estimator):
    """Fill the hole with ``cv2.inpaint``.

    Parameters
    ----------
    radius : float, default 3.0
        Radius of the neighbourhood of a pixel that fills it, positive, in pixels.

    Raises
    ------
    ImportError
        If OpenCV is not installed.
    ValueError
        If ``radius`` is not positive.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"mask"})
    version: ClassVar[int] = 1
    work: ClassVar[tuple[str, ...]] = ()  # no passes of the network
    flag: ClassVar[str]

    radius: float = 3.0

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise ValueError(f"radius must be positive, got {self.radius}")
        try:
            import cv2  # noqa: F401  # an optional package
        except ImportError as error:
            raise ImportError(
                f'OpenCV cannot be imported ({error}); pip install "posterior-bench[opencv]"'
            ) from None

    @override
    def estimate(self, obs: Observation, prior: Prior) -> Tensor:
        assert obs.operator.mask is not None
        values = obs.operator.At(obs.y).nan_to_num(0.0).clamp(-1, 1)
        images = ((values + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).cpu().numpy()
        holes = (~obs.operator.mask[:, 0]).to(torch.uint8).cpu().numpy()
        filled = np.stack([self._fill(*row) for row in zip(images, holes, strict=True)])
        x = torch.from_numpy(filled).movedim(-1, 1).to(obs.y) / 127.5 - 1
        return obs.operator.paste(x, obs.y)

    def _fill(self, image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        """Return an image ``(H, W, C)`` of bytes whose hole is filled."""
        import cv2  # an optional package

        if hole.all():
            return np.full_like(image, 128)
        parts = [image] if image.shape[-1] == 3 else np.split(image, image.shape[-1], axis=-1)
        flag = getattr(cv2, self.flag)
        done = [cv2.inpaint(np.ascontiguousarray(p), hole, self.radius, flag) for p in parts]
        return np.concatenate([d.reshape(p.shape) for d, p in zip(done, parts, strict=True)], -1)


@dataclass(frozen=True)
class Telea(_Filling):
    """Inpainting by fast marching, Telea (2004), as OpenCV implements it.

    Parameters
    ----------
    radius : float, default 3.0
        Radius of the neighbourhood of a pixel that fills it, positive, in pixels.

    Raises
    ------
    ImportError
        If OpenCV is not installed.
    ValueError
        If ``radius`` is not positive.
    """

    card: ClassVar[Card] = Card(
        title="Telea (OpenCV)",
        paper="Telea, An Image Inpainting Technique Based on the Fast Marching Method, Journal of "
        "Graphics Tools 2004",
        equations="cv2.inpaint with INPAINT_TELEA",
        deviations=_DEVIATIONS,
    )
    flag: ClassVar[str] = "INPAINT_TELEA"


@dataclass(frozen=True)
class NavierStokes(_Filling):
    """Inpainting by fluid dynamics, Bertalmio et al. (2001), as OpenCV implements it.

    Parameters
    ----------
    radius : float, default 3.0
        Radius of the neighbourhood of a pixel that fills it, positive, in pixels.

    Raises
    ------
    ImportError
        If OpenCV is not installed.
    ValueError
        If ``radius`` is not positive.
    """

    card: ClassVar[Card] = Card(
        title="Navier-Stokes (OpenCV)",
        paper="Bertalmio, Bertozzi and Sapiro, Navier-Stokes, Fluid Dynamics, and Image and Video "
        "Inpainting, CVPR 2001",
        equations="cv2.inpaint with INPAINT_NS",
        deviations=_DEVIATIONS,
    )
    flag: ClassVar[str] = "INPAINT_NS"
