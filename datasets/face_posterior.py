"""The exact posterior of a cartoon face, given some of its pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Self

import numpy as np
from numpy.typing import NDArray

from posterior_bench.datasets.face_components import FaceStyle
from posterior_bench.datasets.face_drawing import STYLES
from posterior_bench.datasets.face_search import Measured, Solution

_KEPT = 32
"""Solutions that are kept; one of 20000 drawings takes some 3 MB."""


@dataclass(frozen=True)
class Face:
    """A face of the distribution.

    Parameters
    ----------
    style : str
        One of :data:`~datasets.face_drawing.STYLES`.
    choice : Mapping[str, str]
        Value of every variable of this style: a variant, a colour, or ``none``.
    """

    style: str
    choice: Mapping[str, str] = field(hash=False)

    @classmethod
    def of_id(cls, image_id: str) -> Self:
        """Return the face of an image of :class:`~datasets.faces.Faces`.

        Parameters
        ----------
        image_id : str
            Id of the image, such as ``micah_test_00003``.

        Raises
        ------
        ValueError
            If the id begins with no style.
        ImportError
            If a package of the extra ``faces`` is missing.
        """
        style = image_id.partition("_")[0]
        if style not in STYLES:
            raise ValueError(
                f"'{image_id}' is no image of the cartoon faces; an id begins with the style, one "
                f"of {', '.join(STYLES)}"
            )
        return cls(style, FaceStyle.named(style).choice(image_id))

    def pixels(self) -> NDArray[np.uint8]:
        """Return the image ``(3, 64, 64)``, 0 to 255."""
        return FaceStyle.named(self.style).render(self.choice)

    def image(self) -> NDArray[np.float32]:
        """Return the image ``(3, 64, 64)``, float32 in [-1, 1]."""
        return self.pixels().astype(np.float32) / np.float32(127.5) - np.float32(1)


@dataclass(frozen=True)
class FacePosterior:
    """The posterior of the style and of all its choices.

    Without noise it is the prior of the faces, restricted to those whose observed pixels equal the
    measurement. With noise, every face has the weight of its likelihood. The faces are enumerated
    by :class:`~datasets.face_search.Search`; the posterior is exact, but for a mass of at most
    ``1e-10`` with noise. The last :data:`_KEPT` enumerations are kept, so that the solver ``exact``
    and the metrics of the same measurement share one.

    Parameters
    ----------
    styles : Mapping[str, float]
        Posterior probabilities of the styles that are possible.
    solutions : Mapping[str, Solution]
        The posterior of the choices of each of these styles.

    Examples
    --------
    >>> face = Face.of_id("micah_test_00003")
    >>> mask = np.ones((64, 64), bool)
    >>> mask[:, 32:] = False
    >>> posterior = FacePosterior.of(face.image(), mask)
    >>> posterior.marginals("micah")["glasses"]
    {'none': 1.0}
    """

    styles: Mapping[str, float]
    solutions: Mapping[str, Solution]

    @classmethod
    def of(
        cls,
        y: NDArray[np.floating],
        mask: NDArray[np.bool_],
        sigma: float = 0.0,
        styles: Sequence[str] = STYLES,
        limit: int = 20_000,
    ) -> Self:
        """Compute the posterior of a measurement.

        Parameters
        ----------
        y : NDArray[float]
            Measurement ``(3, 64, 64)`` in [-1, 1] units; hidden pixels may have any value.
        mask : NDArray[bool]
            ``(64, 64)``; True = observed.
        sigma : float, default 0.0
            Standard deviation of the Gaussian noise in ``y``. With 0, ``y`` is rounded to 8 bits.
        styles : Sequence[str], default STYLES
            Styles that the image may have; all are equally probable before the measurement.
        limit : int, default 20000
            Largest number of drawings that are compared per style; one takes some 15 ms.

        Raises
        ------
        ValueError
            If no face has these pixels, or more drawings would have to be compared (``TooMany``).
        ImportError
            If a package of the extra ``faces`` is missing.
        """
        measured = Measured(y, mask, sigma)
        digest = _digest(measured)
        found = {name: _solved(_Question(name, digest, limit, measured)) for name in styles}
        solutions = {name: s for name, s in found.items() if s is not None}
        if not solutions:
            raise ValueError(
                "no cartoon face has these pixels; the measurement must be made of an image of "
                "data=faces, and its noise level be the one that is given"
            )
        top = max(s.log_evidence for s in solutions.values())
        weights = {name: math.exp(s.log_evidence - top) for name, s in solutions.items()}
        total = sum(weights.values())
        return cls({name: w / total for name, w in weights.items()}, solutions)

    def marginals(self, style: str) -> dict[str, dict[str, float]]:
        """Return the posterior probabilities of the values of every variable, given the style."""
        return self.solutions[style].marginals()

    def draw(self, uniform: Sequence[float]) -> Face:
        """Draw a face.

        Parameters
        ----------
        uniform : Sequence[float]
            At least :data:`~datasets.base.NUMBERS` independent numbers in [0, 1). The first one
            chooses the style, and one chooses each variable, in the order of the variables.

        Returns
        -------
        Face
            A draw of the posterior; :meth:`Face.image` draws its image.
        """
        shares = np.cumsum(list(self.styles.values()))
        shares[-1] = 1.0  # rounding may leave it just below
        style = list(self.styles)[int(np.searchsorted(shares, uniform[0], "right"))]
        names = [variable.name for variable in FaceStyle.named(style).variables]
        own = dict(zip(names, uniform[1 : 1 + len(names)], strict=True))
        return Face(style, self.solutions[style].draw(own))

    def sample(self, uniform: NDArray[np.floating]) -> NDArray[np.float32]:
        """Draw images ``(D, 3, 64, 64)`` by numbers ``(D, K)``; see :meth:`draw`."""
        return np.stack([self.draw(row.tolist()).image() for row in uniform])

    @property
    def count(self) -> int:
        """Number of faces that are possible; faces may look the same."""
        return sum(solution.count for solution in self.solutions.values())


@dataclass(frozen=True)
class _Question:
    """A style and a measurement; two are equal if their observed pixels and noise are."""

    style: str
    digest: bytes
    limit: int
    measured: Measured = field(compare=False)


@lru_cache(maxsize=_KEPT)
def _solved(question: _Question) -> Solution | None:
    return Solution.of(FaceStyle.named(question.style), question.measured, question.limit)


def _digest(measured: Measured) -> bytes:
    """Return a hash of everything that a solution depends on, but for the law."""
    total = blake2b(repr((measured.y.shape, measured.sigma)).encode())
    total.update(measured.mask.tobytes())
    total.update(measured.y[:, measured.mask].tobytes())
    return total.digest()
