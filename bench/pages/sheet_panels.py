"""The images that one cell shows on a contact sheet, and their check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Panel:
    """The images that one cell shows; arrays or CPU tensors.

    Parameters
    ----------
    title : str
        Name of the cell's solver.
    truth, observed : array (N, C, H, W)
        In [-1, 1], C = 1 or 3. An observation of another size is scaled; one that is no picture is
        left blank.
    mask : array of bool (N, 1, H, W)
        True = observed.
    draws : array (N, D, C, H, W)
        NaN where a draw failed.
    captions : sequence of str, default ()
        A few words below the draws of each image.
    group : str, default ''
        The measurement; it stands once above the panels that share it.
    """

    title: str
    truth: ArrayLike
    observed: ArrayLike
    mask: ArrayLike
    draws: ArrayLike
    captions: Sequence[str] = ()
    group: str = ""


class PanelArrays:
    """A panel as arrays, checked.

    Raises
    ------
    ValueError
        If shapes disagree.
    """

    def __init__(self, panel: Panel):
        self.panel = panel
        self.truth, self.draws = (
            np.asarray(panel.truth, np.float32),
            np.asarray(panel.draws, np.float32),
        )
        self.observed, self.mask = (
            np.asarray(panel.observed, np.float32),
            np.asarray(panel.mask, bool),
        )
        n, *image = self.truth.shape
        if len(image) != 3 or image[0] not in (1, 3):
            raise ValueError(
                f"'{panel.title}': truth must be (N, 1 or 3, H, W), not {self.truth.shape}"
            )
        if self.draws.ndim != 5 or self.draws.shape[:1] + self.draws.shape[2:] != self.truth.shape:
            raise ValueError(
                f"'{panel.title}': draws {self.draws.shape} are no draws of truth "
                f"{self.truth.shape}"
            )
        if self.mask.shape != (n, 1, *image[1:]):
            raise ValueError(
                f"'{panel.title}': mask must be {(n, 1, *image[1:])}, not {self.mask.shape}"
            )
        if panel.captions and len(panel.captions) != n:
            raise ValueError(f"'{panel.title}': {len(panel.captions)} captions for {n} images")

    @property
    def measurement(self) -> tuple[str, bytes, bytes, bytes]:
        """Return a value that is equal for panels of the same measurement."""
        return self.panel.group, self.truth.tobytes(), self.observed.tobytes(), self.mask.tobytes()

    @property
    def spread(self) -> Floats:
        """Return the standard deviation over draws, mean over channels, ``(N, H, W)``.

        It is NaN where a draw failed.
        """
        return self.draws.std(axis=1, ddof=1).mean(axis=1)

    @property
    def largest_spread(self) -> float:
        """Return the end of the colour scale, which all but the last 0.5 % of pixels reach.

        So one pixel does not darken all others.
        """
        known = self.spread[np.isfinite(self.spread)]
        return float(np.quantile(known, 0.995)) if known.size else 0.0
