"""``data.images=auto:METRIC:HALF_WIDTH:LIMIT``: images are added until a mean is known well enough.

No torch is imported here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from posterior_bench.bench.core.errors import UserError

AUTO_IMAGES = "auto"
"""The word with which such a value begins."""

FIRST = 16
"""Images before the first look; with fewer, an interval says little about skewed values."""

_FORM = "data.images=auto:METRIC:HALF_WIDTH:LIMIT, such as data.images=auto:psnr_hole:0.5:256"


@dataclass(frozen=True)
class AutoImages:
    """When a cell has enough images.

    Parameters
    ----------
    metric : str
        The metric whose mean is to be known.
    half_width : float
        Half the length of its 95 % interval, in units of the metric.
    limit : int
        The number of images at which it ends in any case.
    """

    metric: str
    half_width: float
    limit: int

    @classmethod
    def of(cls, value: object) -> AutoImages | None:
        """Read a value of ``data.images``; None if it is no such text.

        Raises
        ------
        UserError
            If it begins as such a text, and is none.
        """
        word, *parts = str(value).split(":")
        if word != AUTO_IMAGES:
            return None
        try:
            metric, half_width, limit = parts[0], float(parts[1]), int(parts[2])
        except (IndexError, ValueError):
            metric, half_width, limit = "", math.nan, 0
        if len(parts) != 3 or not metric or not 0 < half_width < math.inf or limit < FIRST:
            raise UserError(
                f"data.images={value}: give {_FORM}; the half-width is above 0 and the limit at "
                f"least {FIRST}"
            )
        return cls(metric, half_width, limit)

    def looks(self, step: int = 1) -> list[int]:
        """Return the numbers of images at which the mean is looked at, the limit last.

        16, 24, 32, 48, 64, 96 and so on, each rounded up to a multiple of ``step``: the images of a
        chunk, so that no chunk is cut.
        """
        rounded = {-(-images // step) * step for images in _growing(self.limit)}
        return [*sorted(images for images in rounded if images < self.limit), self.limit]


def _growing(limit: int) -> Iterator[int]:
    """Yield 16, 24, 32, 48 and so on below a limit."""
    for power in count():
        for images in (FIRST * 2**power, FIRST * 2**power * 3 // 2):
            if images >= limit:
                return
            yield images
