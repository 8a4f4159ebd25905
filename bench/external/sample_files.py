"""Read samples that another program drew for the truths of a reference pack."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from posterior_bench.bench.core.errors import UserError, unknown
from posterior_bench.bench.external.image_files import and_more

Floats = NDArray[np.float32]
_KEYS = ("image_id", "draw")


def read_samples(path: Path, ids: Sequence[str], size: int) -> Floats:
    """Read the samples of every truth.

    Parameters
    ----------
    path : Path
        One of these files:

        - ``.npy``: an array ``(truths, draws, d)`` or ``(truths, draws, C, H, W)``, truths in the
          order of the pack;
        - ``.npz``: this array as ``samples``; texts ``image_id`` ``(truths,)`` give another order;
        - ``.parquet``: columns ``image_id``, ``draw`` and ``values`` (lists of ``d`` numbers);
        - ``.csv``: columns ``image_id``, ``draw`` and ``v0`` to ``v(d-1)``.
    ids : sequence of str
        Ids of the truths.
    size : int
        Number ``d`` of values of an image.

    Returns
    -------
    array
        float32 ``(truths, draws, d)``, truths in the order of ``ids``, draws by their numbers.

    Raises
    ------
    UserError
        If the file cannot be read, samples are missing or have another shape, or a value is not
        finite.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise unknown("ending of a file of samples", path.suffix, _READERS)
    try:
        path.open("rb").close()  # libraries say in other words that a file is missing
        samples = read(path, ids, size)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, TypeError, pa.ArrowException, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path} is no readable {path.suffix} file: {error}") from None
    with np.errstate(over="ignore"):
        samples = samples.astype(np.float32)
    bad = np.argwhere(~np.isfinite(samples).all(2))
    if len(bad):
        truth, draw = bad[0]
        raise UserError(
            f"{path}: {len(bad)} samples are not finite, the first is number {draw} of "
            f"{ids[truth]}; a method that fails has no score, so leave no NaN in the file"
        )
    return samples


def _npy(path: Path, ids: Sequence[str], size: int) -> NDArray[Any]:
    samples = np.load(path, allow_pickle=False)
    if not isinstance(samples, np.ndarray):
        raise ValueError("it holds several arrays; call it .npz")
    return _checked(path, samples, ids, size)


def _npz(path: Path, ids: Sequence[str], size: int) -> NDArray[Any]:
    with np.load(path, allow_pickle=False) as file:
        if not isinstance(file, np.lib.npyio.NpzFile) or "samples" not in file:
            raise ValueError("it has no array 'samples'")
        samples = file["samples"]
        names = [str(name) for name in file["image_id"]] if "image_id" in file else list(ids)
    _demand_ids(path, names, ids)
    if len(names) != len(samples) or len(set(names)) < len(names):
        raise UserError(
            f"{path}: image_id has {len(names)} names, {len(set(names))} of them different, for "
            f"{len(samples)} truths in samples"
        )
    place = {name: i for i, name in enumerate(names)}
    return _checked(path, samples[[place[image] for image in ids]], ids, size)


def _checked(path: Path, samples: NDArray[Any], ids: Sequence[str], size: int) -> NDArray[Any]:
    """Return an array of samples as ``(truths, draws, d)``."""
    shape = samples.shape
    fits = len(shape) >= 3 and shape[0] == len(ids) and np.prod(shape[2:]) == size and shape[1] > 0
    if not fits or samples.dtype.kind not in "fiu":
        raise UserError(
            f"{path} holds {samples.dtype} of shape {shape}; give numbers of shape "
            f"({len(ids)}, draws, {size})"
        )
    return samples.reshape(*shape[:2], size)


def _parquet(path: Path, ids: Sequence[str], size: int) -> NDArray[Any]:
    file = pq.ParquetFile(path)
    _demand_columns(path, file.schema_arrow.names, (*_KEYS, "values"))
    table = file.read(columns=[*_KEYS, "values"])
    lists = [row or [] for row in table["values"].to_pylist()]
    wrong = next((row for row in lists if len(row) != size), None)
    if wrong is not None:
        raise UserError(
            f"{path}: every row of 'values' must hold {size} numbers, and one holds {len(wrong)}"
        )
    frame = table.select(list(_KEYS)).to_pandas()
    return _ordered(path, frame, np.array(lists, dtype=np.float64), ids)


def _csv(path: Path, ids: Sequence[str], size: int) -> NDArray[Any]:
    # by name: programs that sort columns write v10 before v2
    names = [f"v{i}" for i in range(size)]
    frame = pd.read_csv(
        path,
        dtype={"image_id": str},
        keep_default_na=False,  # an id may be NA
        na_values={name: ["", "nan", "NaN"] for name in names},
    )
    _demand_columns(path, list(frame), (*_KEYS, *names))
    if len(frame.columns) > size + len(_KEYS):
        more = [name for name in frame if name not in {*_KEYS, *names}]
        raise UserError(
            f"{path} has columns too many: {and_more(more)}; an image has {size} values"
        )
    return _ordered(path, frame[list(_KEYS)], frame[names].to_numpy(np.float64), ids)


_READERS: dict[str, Callable[[Path, Sequence[str], int], NDArray[Any]]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".npz": _npz,
    ".npy": _npy,
}


def _demand_columns(path: Path, there: Sequence[str], wanted: Sequence[str]) -> None:
    """Raise UserError for the first columns that a table lacks."""
    lacking = [name for name in wanted if name not in there]
    if lacking:
        raise UserError(
            f"{path} lacks the columns {and_more(lacking)}; docs/packs.md has the layout"
        )


def _demand_ids(path: Path, names: Sequence[str], ids: Sequence[str]) -> None:
    """Raise UserError unless these names are the ids of the pack, in any order."""
    lacking, strange = sorted({*ids} - {*names}), sorted({*names} - {*ids})
    if lacking:
        raise UserError(f"{path} has no samples of {and_more(lacking)}; all truths count")
    if strange:
        raise UserError(f"{path} has samples of {and_more(strange)}, which the pack does not hold")


def _ordered(
    path: Path, keys: pd.DataFrame, values: NDArray[np.float64], ids: Sequence[str]
) -> NDArray[np.float64]:
    """Return rows with an id and a draw as ``(truths, draws, d)``."""
    names = [str(name) for name in keys["image_id"]]
    _demand_ids(path, names, ids)
    draw = pd.to_numeric(keys["draw"]).to_numpy(np.float64)
    if not (draw == np.floor(draw)).all():
        raise UserError(f"{path}: 'draw' must hold whole numbers")
    place = {image: i for i, image in enumerate(ids)}
    truth = np.array([place[name] for name in names])
    counts = np.bincount(truth, minlength=len(ids))
    if counts.min() < counts.max():
        few, many = int(counts.argmin()), int(counts.argmax())
        raise UserError(
            f"{path} has {counts[few]} samples of {ids[few]} and {counts[many]} of {ids[many]}; "
            "give every truth the same number"
        )
    order = np.lexsort((draw, truth))
    sorted_draw = draw[order].reshape(len(ids), -1)
    twice = np.argwhere(np.diff(sorted_draw) == 0)
    if len(twice):
        row, column = twice[0]
        raise UserError(f"{path} has draw {sorted_draw[row, column]:.0f} of {ids[row]} twice")
    return values[order].reshape(len(ids), -1, values.shape[1])
