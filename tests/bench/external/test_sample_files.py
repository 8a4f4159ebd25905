"""Samples of other programs: every layout gives the same array, and every mistake is one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.external.sample_files import read_samples

IDS = ["b", "a", "007", "NA"]
D, SIZE = 4, 12
X = np.random.default_rng(0).normal(size=(len(IDS), D, SIZE)).astype(np.float32)


def table(x: np.ndarray = X) -> pd.DataFrame:
    """Rows in another order, draws in another order."""
    rows = [
        {"image_id": image, "draw": draw, "values": x[i, draw]}
        for i, image in enumerate(IDS)
        for draw in range(D)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=1)


def wide(frame: pd.DataFrame) -> pd.DataFrame:
    """The values in columns, ``v10`` before ``v2``."""
    values = pd.DataFrame(np.stack(frame["values"]), index=frame.index)
    both = pd.concat([frame[["image_id", "draw"]], values.add_prefix("v")], axis=1)
    return both[sorted(both)]


def written(folder: Path, ending: str) -> Path:
    path = folder / f"x{ending}"
    if ending == ".npy":
        np.save(path, X.reshape(len(IDS), D, 1, 3, 4))
    if ending == ".npz":
        np.savez(path, samples=X[[2, 0, 3, 1]], image_id=[IDS[i] for i in (2, 0, 3, 1)])
    if ending == ".parquet":
        table().to_parquet(path)
    if ending == ".csv":
        wide(table()).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("ending", [".npy", ".npz", ".parquet", ".csv"])
def test_all_layouts_give_the_same_array(ending: str, tmp_path: Path) -> None:
    samples = read_samples(written(tmp_path, ending), IDS, SIZE)
    assert samples.dtype == np.float32
    assert np.array_equal(samples, X)


def test_an_archive_without_ids_has_the_order_of_the_pack(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", samples=X.astype(np.float64))
    assert np.array_equal(read_samples(tmp_path / "x.npz", IDS, SIZE), X)


BROKEN = X.copy()
BROKEN[1, 2, 3] = np.nan


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (X[:2], r"of shape \(2, 4, 12\); give numbers of shape \(4, draws, 12\)"),
        (X[:, :, :11], r"of shape \(4, 4, 11\)"),
        (X[:, 0], r"of shape \(4, 12\)"),
        (X[:, :0], r"of shape \(4, 0, 12\)"),
        (X.astype(complex), "holds complex128"),
        (X.astype(str), "holds <U"),
        (BROKEN, r"1 samples are not finite, the first is number 2 of a;"),
        (X.astype(np.float64) * 1e39, "16 samples are not finite"),
        (X.astype(object), "is no readable .npy file"),
    ],
)
def test_a_wrong_array_is_one_line(array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        read_samples(tmp_path / "x.npy", IDS, SIZE)


def without(frame: pd.DataFrame, image: str, draw: int | None = None) -> pd.DataFrame:
    gone = frame["image_id"] == image
    return frame[~(gone if draw is None else gone & (frame["draw"] == draw))]


WRONG_TABLES = [
    (without(table(), "a"), "has no samples of a; all truths count"),
    (table().iloc[:0], r"has no samples of 007 \(and 3 more\)"),
    (table().replace({"image_id": {"a": "c"}}), "has no samples of a"),
    (
        pd.concat([table(), table().replace({"image_id": {"a": "c"}})]),
        "has samples of c, which the pack does not hold",
    ),
    (without(table(), "a", 2), "has 3 samples of a and 4 of b; give every truth the same"),
    (table().replace({"draw": {3: 2}}), "has draw 2 of b twice"),
    (table().astype({"draw": float}).replace({"draw": {3: 2.5}}), "whole numbers"),
    (table().drop(columns="draw"), "lacks the columns draw"),
    (table(BROKEN), "the first is number 2 of a"),
]


@pytest.mark.parametrize(("frame", "message"), WRONG_TABLES)
def test_a_wrong_table_is_one_line(frame: pd.DataFrame, message: str, tmp_path: Path) -> None:
    frame.to_parquet(tmp_path / "x.parquet")
    with pytest.raises(UserError, match=message):
        read_samples(tmp_path / "x.parquet", IDS, SIZE)


@pytest.mark.parametrize(
    ("frame", "message"),
    [case for case in WRONG_TABLES if len(case[0]) and "draw" in case[0]],
)
def test_a_wrong_wide_table_is_one_line(frame: pd.DataFrame, message: str, tmp_path: Path) -> None:
    wide(frame).to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(UserError, match=message):
        read_samples(tmp_path / "x.csv", IDS, SIZE)


def test_values_of_another_number_are_refused(tmp_path: Path) -> None:
    frame = table()
    frame["values"] = [row[:11] for row in frame["values"]]
    frame.to_parquet(tmp_path / "x.parquet")
    with pytest.raises(UserError, match="must hold 12 numbers, and one holds 11"):
        read_samples(tmp_path / "x.parquet", IDS, SIZE)
    wide(frame).to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(UserError, match="lacks the columns v11"):
        read_samples(tmp_path / "x.csv", IDS, SIZE)
    wide(table()).assign(v12=0).to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(UserError, match="columns too many: v12; an image has 12 values"):
        read_samples(tmp_path / "x.csv", IDS, SIZE)


def test_a_wrong_archive_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    for content, message in (
        ({"x": X}, "it has no array 'samples'"),
        ({"samples": X, "image_id": ["b", "a", "c", "NA"]}, "has no samples of 007"),
        ({"samples": X, "image_id": [*IDS, "c"]}, "has samples of c"),
        ({"samples": X, "image_id": [*IDS, "a"]}, "has 5 names, 4 of them different, for 4 truths"),
    ):
        np.savez(path, **content)
        with pytest.raises(UserError, match=message):
            read_samples(path, IDS, SIZE)
    path.rename(tmp_path / "x.npy")
    with pytest.raises(UserError, match="it holds several arrays"):
        read_samples(tmp_path / "x.npy", IDS, SIZE)


@pytest.mark.parametrize("ending", [".npy", ".npz", ".parquet", ".csv"])
def test_a_file_that_is_none_is_one_line(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{ending}"
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_samples(path, IDS, SIZE)
    path.write_bytes(b"nonsense\n")
    with pytest.raises(UserError, match=r"is no readable|lacks the columns"):
        read_samples(path, IDS, SIZE)
    with pytest.raises(UserError, match=r"unknown ending of a file of samples '\.txt'.*Valid: "):
        read_samples(tmp_path / "x.txt", IDS, SIZE)
