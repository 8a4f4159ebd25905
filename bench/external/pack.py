"""Read a reference pack: truths, measurements and reference samples of one problem, as files.

``bench pack`` writes packs (:mod:`bench.engine.pack`). A pack holds Parquet tables, JSON and
checksums, so any program can read it. Nothing of ours but this module is needed to score samples
against it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from posterior_bench.bench.core.errors import UserError
from posterior_bench.metrics.base import Draws, DrawSet
from posterior_bench.priors.fingerprint import sha256
from posterior_bench.priors.mixture import MixturePrior, Spectrum
from posterior_bench.priors.process import VE

FORMAT = 1
"""Version of the layout that is described here."""

PROBLEM, METADATA, README, SUMS = "problem.json", "metadata.json", "README.md", "SHA256SUMS"

TRUTHS, MEASUREMENTS, OPERATOR = "truths.parquet", "measurements.parquet", "operator.parquet"
PRIOR, POSTERIORS, REFERENCES = "prior.parquet", "posteriors.parquet", "references.parquet"

_VALUES = "the d values of the image, by channel, then row, then column, in [-1, 1] units"
COLUMNS = {
    TRUTHS: {
        "image_id": "name of the truth; the rows are the order of the pack",
        "values": _VALUES,
    },
    MEASUREMENTS: {
        "image_id": "name of the truth",
        "y": "the measurement; with a mask it has d values, 0 where hidden",
        "observed": "with a mask: d values, true where y holds the value of the image",
    },
    OPERATOR: {
        "image_id": "name of the truth, if every truth has a matrix of its own",
        "row": "row of the matrix A, from 0",
        "weights": "the d entries of this row",
    },
    PRIOR: {
        "component": "component of the Gaussian mixture, from 0",
        "weight": "its weight",
        "mean": "its mean, d values",
        "floor": "variance of the component in all directions that are not listed",
        "variances": "variances along the r listed directions",
        "directions": "the r orthonormal directions, r d values, one direction after another",
    },
    POSTERIORS: {
        "image_id": "name of the truth",
        "mode_weights": "posterior weights of the components of the prior",
        "mean": "posterior mean, d values, as exactly as it is known",
        "rhat": "largest split R-hat of the chains of the reference samples; 1 is converged",
        "ess": "smallest effective size of the reference samples",
        "error": "standard error of the mean of the reference, relative to the posterior's spread",
    },
    REFERENCES: {
        "image_id": "name of the truth",
        "draw": "number of the reference sample, from 0",
        "values": _VALUES,
    },
}
"""What the columns of every table hold. A pack lacks the tables and columns that its problem has no
use for."""


@dataclass(frozen=True)
class Pack:
    """One problem whose posteriors are known.

    Parameters
    ----------
    name : str
        Name of the problem.
    checksum : str
        The sha256 of the list of checksums, which stands for the whole pack.
    ids : tuple of str
        Ids of the truths, in the order of every tensor.
    truth : Tensor
        float32 ``(N, C, H, W)``.
    mask : Tensor or None
        bool ``(N, 1, H, W)``, True = observed; None for an operator without a mask.
    y : Tensor
        float32 ``(N, M)``: the measurements.
    reference : Tensor
        float32 ``(N, R, C, H, W)``: independent samples of every posterior.
    mode_weights : Tensor or None
        float64 ``(N, K)``: posterior weights of the prior's components.
    prior : MixturePrior or None
        The prior, if it is a Gaussian mixture.
    """

    name: str
    checksum: str
    ids: tuple[str, ...]
    truth: Tensor
    mask: Tensor | None
    y: Tensor
    reference: Tensor
    mode_weights: Tensor | None
    prior: MixturePrior | None

    def draws(self, i: int, x: Tensor, kept: Tensor | None = None) -> Draws:
        """Return samples of truth ``i`` as metrics take them.

        Parameters
        ----------
        i : int
            Place of the truth in the pack.
        x : Tensor
            float32 ``(D, C, H, W)``: the samples.
        kept : Tensor, default None
            bool ``(R,)``: the reference samples to compare with; None = all.
        """
        reference = self.reference[i] if kept is None else self.reference[i, kept]
        one = slice(i, i + 1)
        # a measurement of another shape than the image gives no first guess; no metric reads it
        y = self.y[one] if self.mask is None else self.y[one].view_as(self.truth[one])
        return DrawSet(
            x[None],
            self.truth[one],
            None if self.mask is None else self.mask[one],
            y,
            reference[None],
            None if self.mode_weights is None else self.mode_weights[one],
            None if self.prior is None else self.prior.responsibilities,
        ).images[0]


def checked(folder: Path) -> str:
    """Compare every file of a pack with its checksum.

    Parameters
    ----------
    folder : Path
        The folder of the pack.

    Returns
    -------
    str
        The sha256 of the list of checksums.

    Raises
    ------
    UserError
        If the folder is no pack, or a file is missing or changed.
    """
    sums = folder / SUMS
    if not sums.is_file():
        inside = sorted(path.parent.name for path in folder.glob(f"*/{SUMS}"))
        advice = f"; it holds packs, such as {folder / inside[0]}" if inside else ""
        raise UserError(
            f"{folder} is no reference pack, it has no {SUMS}{advice}; `bench pack DIR` writes one"
        )
    lines = sums.read_text("utf-8", "replace").splitlines()
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in (PROBLEM, TRUTHS, MEASUREMENTS, REFERENCES):
        if name not in listed:
            raise UserError(f"{sums} does not list {name}; write the pack again")
    for name, expected in listed.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{folder} lacks {name}; write the pack again")
        if sha256(path) != expected:
            raise UserError(
                f"{path} was changed or damaged, its sha256 is not the one in {SUMS}; restore it, "
                "or write the pack again"
            )
    return sha256(sums)


def read_problem(folder: Path) -> dict[str, Any]:
    """Return what ``problem.json`` says.

    Raises
    ------
    UserError
        If the pack has a layout that this version does not read.
    """
    problem: dict[str, Any] = json.loads((folder / PROBLEM).read_text("utf-8"))
    if problem.get("format") != FORMAT:
        raise UserError(
            f"{folder} has format {problem.get('format')}, and this version reads format {FORMAT}; "
            "write the pack again"
        )
    return problem


def read_pack(folder: Path) -> Pack:
    """Read a pack after all checksums were compared.

    Parameters
    ----------
    folder : Path
        The folder of the pack.

    Raises
    ------
    UserError
        If the folder is no pack, or a file is missing or changed.
    """
    checksum = checked(folder)
    problem = read_problem(folder)
    channels, height, width = problem["shape"]
    shape = (-1, channels, height, width)
    truths, measured = _table(folder, TRUTHS), _table(folder, MEASUREMENTS)
    references = _table(folder, REFERENCES)
    ids = truths["image_id"].to_pylist()
    _demand_order(folder / MEASUREMENTS, measured, ids)
    _demand_order(folder / REFERENCES, references, ids)
    mask, weights = None, None
    if "observed" in measured.column_names:
        mask = torch.from_numpy(_matrix(measured, "observed")).view(shape)[:, :1]
    if (folder / POSTERIORS).is_file():
        posteriors = _table(folder, POSTERIORS)
        _demand_order(folder / POSTERIORS, posteriors, ids)
        if "mode_weights" in posteriors.column_names:
            weights = torch.from_numpy(_matrix(posteriors, "mode_weights"))
    return Pack(
        problem["name"],
        checksum,
        tuple(ids),
        torch.from_numpy(_matrix(truths, "values")).view(shape),
        mask,
        torch.from_numpy(_matrix(measured, "y")),
        torch.from_numpy(_matrix(references, "values")).view(len(ids), *shape),
        weights,
        _prior(folder, (channels, height, width)) if (folder / PRIOR).is_file() else None,
    )


def _table(folder: Path, name: str) -> pa.Table:
    return pq.read_table(folder / name)


def _matrix(table: pa.Table, column: str) -> np.ndarray[Any, Any]:
    """Return a column of lists of the same length as an array ``(rows, length)``."""
    flat = table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.array(flat).reshape(table.num_rows, len(flat) // table.num_rows)


def _demand_order(path: Path, table: pa.Table, ids: Sequence[str]) -> None:
    """Raise UserError unless a table has the same number of rows for every id, in this order."""
    each = table.num_rows // len(ids)
    if table["image_id"].to_pylist() != [image for image in ids for _ in range(each)]:
        raise UserError(
            f"the rows of {path} are not in the order of {TRUTHS}; write the pack again"
        )


def _prior(folder: Path, shape: tuple[int, int, int]) -> MixturePrior:
    """Return the prior of a pack; its noise process plays no role here."""
    table = _table(folder, PRIOR)
    means, values = (torch.from_numpy(_matrix(table, c)) for c in ("mean", "variances"))
    basis = torch.from_numpy(_matrix(table, "directions")).view(*values.shape, means.shape[1])
    weights, floor = (torch.tensor(table[c].to_numpy()) for c in ("weight", "floor"))
    return MixturePrior.decomposed(VE(), weights, means, Spectrum(basis, values, floor), shape)
