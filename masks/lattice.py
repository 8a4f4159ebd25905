"""Observe pixels in a regular pattern: every n-th row, or every n-th pixel of every n-th row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from posterior_bench.masks.base import MaskGenerator


@dataclass(frozen=True)
class Lattice(MaskGenerator):
    """Pixels of every n-th row and column are observed.

    With one of the two steps at 1 the pattern is alternating lines; with both above 1 it is
    nearest-neighbour subsampling. These are the masks ``line`` and ``sr2`` of CoPaint (Zhang et
    al., ICML 2023), and ``ev2li`` and ``nn2`` of RePaint (Lugmayr et al., CVPR 2022). Only
    CoPaint's code says which lines are observed: the odd ones, counted from 0.

    Parameters
    ----------
    rows : int, default 2
        One row out of this many is observed; 1 = every row.
    columns : int, default 2
        One column out of this many is observed; 1 = every column.
    first_row : int | None, default None
        First observed row, counted from 0; None = the last row of the first group.
    first_column : int | None, default None
        First observed column, counted from 0; None = the last column of the first group.

    Raises
    ------
    ValueError
        For a step below 1, a first row or column outside its group, a pattern that hides nothing,
        and an image too small to have an observed pixel.
    """

    rows: int = 2
    columns: int = 2
    first_row: int | None = None
    first_column: int | None = None

    def __post_init__(self) -> None:
        for name, step, first in (
            ("row", self.rows, self.first_row),
            ("column", self.columns, self.first_column),
        ):
            if step < 1:
                raise ValueError(f"{name}s={step}: give 1 for every {name}, 2 for every other one")
            if first is not None and not 0 <= first < step:
                raise ValueError(
                    f"first_{name}={first} is not below {name}s={step}; count from 0, or give null"
                )
        if self.rows == self.columns == 1:
            raise ValueError("rows=1 and columns=1 hide nothing; give 2 or more for one of them")

    @override
    def generate(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        row = self.rows - 1 if self.first_row is None else self.first_row
        column = self.columns - 1 if self.first_column is None else self.first_column
        if row >= height or column >= width:
            raise ValueError(
                f"no pixel of {height} x {width} lies on this lattice; make "
                "rows and columns smaller"
            )
        mask = np.zeros((height, width), dtype=bool)
        mask[row :: self.rows, column :: self.columns] = True
        return mask
