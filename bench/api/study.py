"""A study folder as DataFrames."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from posterior_bench.bench.analysis import leaderboard
from posterior_bench.bench.analysis.cell_records import CellRecord, read_cells
from posterior_bench.bench.analysis.compare import compare_solvers
from posterior_bench.bench.analysis.comparison_report import ComparisonReport
from posterior_bench.bench.analysis.study_summary import summarise_study
from posterior_bench.bench.core.errors import UserError, unknown
from posterior_bench.bench.store.read_study import read_study
from posterior_bench.bench.store.row_store import RowStore

WHERE = ("solver", "data", "mask", "operator", "prior", "seed")
"""The columns that say which cell a row belongs to."""


@dataclass(frozen=True)
class Study:
    """The results of a study folder, such as ``runs/default``.

    Parameters
    ----------
    folder : str or Path
        The study folder. It is read anew by every call, so a study that still runs can be read too.

    Raises
    ------
    UserError
        If there is no study in the folder.

    Examples
    --------
    >>> import posterior_bench as pb
    >>> study = pb.Study(study_folder)
    >>> study.rows()[["solver", "mask", "image_id", "draw", "status"]].head(2)
      solver     mask    image_id  draw status
    0   ddnm  rotated  test-00000     0     ok
    1   ddnm  rotated  test-00000     1     ok
    >>> study.leaderboard()[["solver", "images", "draws", "failed"]]
      solver  images  draws  failed
    0   ddnm       2      2       0
    >>> study.image("ddnm", "test-00000", draw=1).size
    (28, 28)
    """

    folder: str | Path

    def __post_init__(self) -> None:
        self._cells()

    def rows(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Read every row of the study.

        Parameters
        ----------
        columns : sequence of str, optional
            Columns of the rows to read; by default all but pictures and features (``"png"`` and
            the like have to be named).

        Returns
        -------
        DataFrame
            One row per image and draw of each cell: ``solver``, ``data``, ``mask``, ``operator``,
            ``prior``, ``seed``, ``image_id``, ``draw``, ``status``, a column per metric, and what
            the row cost. ``cell`` is the name of the cell's folder.
        """
        rows = read_study(self.folder, columns)
        lines = summarise_study(self.folder).lines.set_index("cell")
        lines = lines.assign(solver=lines["label"])[list(WHERE)]
        joined = rows.join(lines, on="cell")
        first = [*WHERE, "image_id", "draw"]
        return joined[[*first, *(c for c in joined.columns if c not in (*first, "cell")), "cell"]]

    def leaderboard(self) -> pd.DataFrame:
        """Build the leaderboard.

        Returns
        -------
        DataFrame
            One line per cell with the columns of ``leaderboard.csv``. ``attrs["notes"]`` holds what
            must be said below a table.
        """
        return leaderboard.build(self.folder)

    def compare(
        self, a: str, b: str, metric: str, margin: float | None = None, **where: str
    ) -> ComparisonReport:
        """Compare two solvers on the same images.

        Parameters
        ----------
        a, b : str
            Names of solvers as the leaderboard shows them.
        metric : str
            The column of the metric, such as ``"psnr_hole"``.
        margin : float, optional
            The largest difference that counts as none: says too whether the two are equal.
        **where : str
            Which cells: ``data``, ``mask``, ``operator``, ``prior``, ``seed``; by default all that
            both solvers have.

        Returns
        -------
        ComparisonReport
            ``text()`` is a paragraph on each pair of cells, ``matches`` holds the numbers, and
            ``figure()`` is a scatter plot.

        Raises
        ------
        UserError
            If the study has no such solver or metric, or the two share no cell.
        """
        return compare_solvers(Path(self.folder), a, b, metric, where, margin)

    def image(self, solver: str, image_id: str, draw: int = 0, **where: str) -> Image.Image:
        """Return a stored image, as the solver returned it.

        Parameters
        ----------
        solver : str
            The name of the solver as the leaderboard shows it.
        image_id : str
            The id of the image, such as ``"test-00003"``.
        draw : int, default 0
            Which draw.
        **where : str
            Which cell, if the solver has several: ``data``, ``mask``, ``operator``, ``prior``,
            ``seed``.

        Returns
        -------
        PIL.Image.Image
            The image, 8 bits, grey or RGB.

        Raises
        ------
        UserError
            If no row or more than one row fits, or the row failed and holds no image.
        """
        rows = self.rows(["status"])
        for name, value in {"solver": solver, **where, "image_id": image_id, "draw": draw}.items():
            if name not in (*WHERE, "image_id", "draw"):
                raise unknown("column", name, WHERE)
            valid = sorted(rows[name].astype(str).unique())
            rows = rows[rows[name].astype(str) == str(value)]
            if rows.empty:
                raise unknown(name, str(value), valid)
        if len(rows) > 1:
            differ = [name for name in WHERE if rows[name].nunique() > 1]
            values = "; ".join(f"{n}: {', '.join(map(str, rows[n].unique()))}" for n in differ)
            raise UserError(f"{len(rows)} cells have this image; choose one by {values}")
        row = rows.iloc[0]
        stored = RowStore(Path(self.folder) / "cells" / row["cell"]).read(
            ["png"], images=[image_id]
        )
        png = stored.set_index("draw")["png"].get(int(draw))
        if png is None:
            raise UserError(f"this row failed ({row['status']}) and holds no image")
        return Image.open(io.BytesIO(png))

    def _cells(self) -> list[CellRecord]:
        try:
            return read_cells(self.folder)
        except ValueError as error:
            raise UserError(str(error)) from None
