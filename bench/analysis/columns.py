"""The columns of the leaderboard's files, the names of solvers in them, and CSV."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from posterior_bench.bench.analysis import papers

IDENTITY = ["solver", "data", "mask", "operator", "prior", "seed", "images", "draws"]


COSTS = ["nfe", "nge", "passes", "decode", "nfe_fit", "seconds_fit", "seconds_sample", "peak_mib"]


LONG = [
    *("metric", "value", "lo", "hi", "n", "direction"),
    *("n_failed", "rank", "paper", "paper_flag", "deviation", "n_infinite", "metric_version"),
]
"""Columns of ``leaderboard_long.csv`` after :data:`IDENTITY`."""


VERSIONS = ["task_version", "study_version"]


EXTRA = [
    *("missing", "cell", "variant", "preset", "commit", "dirty"),
    *("content", "fingerprint", "mixed"),
]


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def long(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the tidy form: one line per cell and metric.

    ``n`` is the number of images in the mean, ``n_failed`` the number of rows of the cell that are
    not ok, ``rank`` the letters, ``paper`` and ``paper_flag`` the printed number, ``deviation`` its
    distance (:func:`bench.analysis.papers.deviation`), and ``n_infinite`` the number of images
    whose value is infinite and not in the mean. ``metric_version`` is that of the metric's card.
    """
    columns = [*IDENTITY, *LONG, *VERSIONS]
    lines = [
        [
            *line[IDENTITY],
            m,
            *_scored(line, m),
            card["direction"],
            line["failed"],
            *_compared(line, m),
            card["version"],
            *line[VERSIONS],
        ]
        for _, line in frame.iterrows()
        for m, card in frame.attrs["metrics"].items()
    ]
    return pd.DataFrame(lines, columns=columns)


def _scored(line: pd.Series, metric: str) -> list[object]:
    return [line[metric], line[f"{metric}_lo"], line[f"{metric}_hi"], line[f"{metric}_n"]]


def _compared(line: pd.Series, metric: str) -> list[object]:
    """Return ``rank paper paper_flag deviation n_infinite`` of a metric.

    Empty where there is none.
    """
    rank, printed, flag = (
        line.get(f"{metric}{end}", "") for end in ("_rank", "_paper", "_paper_flag")
    )
    value, lo, hi = (float(line[f"{metric}{end}"]) for end in ("", "_lo", "_hi"))
    return [
        rank,
        printed,
        flag,
        papers.deviation(value, lo, hi, str(printed)),
        line[f"{metric}_inf"],
    ]


def csv_columns(metrics: Iterable[str]) -> list[str]:
    """Return the fixed columns of ``leaderboard.csv``."""
    return [
        *IDENTITY,
        "failed",
        *(f"{m}{end}" for m in metrics for end in ("", "_lo", "_hi")),
        *COSTS,
        *VERSIONS,
    ]


def to_csv(frame: pd.DataFrame) -> bytes:
    """Return UTF-8 CSV, ``nan`` and ``inf`` spelt out.

    A text that a spreadsheet would take for a formula gets a ``'``.
    """
    safe = frame.apply(lambda column: column.map(_plain_text))
    return safe.to_csv(index=False, na_rep="nan", lineterminator="\n").encode()


def _plain_text(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def labels(frame: pd.DataFrame) -> pd.Series:
    """Return names of solvers from the columns :data:`IDENTITY`, ``variant`` and ``cell``.

    Cells that would look the same get their changed settings, and if need be their hash.
    """
    names = frame["solver"].astype(str)
    for detail in (" " + frame["variant"], " [" + frame["cell"].str[:8] + "]"):
        same = frame.assign(solver=names).duplicated(IDENTITY, keep=False)
        names = names.where(~same, names + detail).str.strip()
    return names


def range_text(values: pd.Series) -> str:
    """Return one number, or ``least to greatest``."""
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} to {high}"
