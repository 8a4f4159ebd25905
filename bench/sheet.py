"""The contact sheet: what the solvers made of the first images, as one picture that can be read without a legend.

A row is an image. Its columns are the truth, what was observed of it, then per solver the draws and where they
disagree. Solvers that saw the same measurements stand side by side, others below.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bench.store import write_atomic


class ArrayLike(Protocol):
    """A NumPy array or a CPU tensor."""

    def __array__(self) -> np.ndarray: ...


Pixels = NDArray[np.uint8]

PAPER, INK, FAINT = "#ffffff", "#1a1a1a", "#6f6f6f"
HOLE, STRIPE = "#f2d9a8", "#e3b765"
FAILED = "#d9d9d9"
SPREAD = "cividis"
TILE, LARGEST = 112, 256
WIDEST, ROWS, SECTION_ROWS = 1800, 8, 3
GAP, GROUP_GAP, MARGIN = 4, 18, 24
TITLE, HEADING, CAPTION, FOOT = 46, 22, 18, 44
DPI = 100


@dataclass(frozen=True)
class Panel:
    """What one cell has to show for some images.

    ``truth``, ``observed`` ``(N, C, H, W)`` in [-1, 1], C = 1 or 3; ``mask`` bool ``(N, 1, H, W)``, True = observed;
    ``draws`` ``(N, D, C, H, W)``, a draw that failed is NaN; ``captions``: a few words below an image's draws;
    ``group``: what the measurement was, the heading of panels that share it.
    """

    title: str
    truth: ArrayLike
    observed: ArrayLike
    mask: ArrayLike
    draws: ArrayLike
    captions: Sequence[str] = ()
    group: str = ""
