"""What a bundle states beside its rows: methods, training data, and numbers printed elsewhere."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from posterior_bench.bench.analysis import papers
from posterior_bench.bench.config.build import target
from posterior_bench.bench.core.errors import UserError
from posterior_bench.priors.fingerprint import read_spec, resolve

SEEN = ("no", "yes", "unknown")
"""Whether the test images were among the training data of a prior, as the submitter says."""

_REPORTED = ("solver", "data", "mask", "metric", "value", "source")
_PLACE = ("solver", "data", "mask", "operator", "prior")


def method_card(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the card of a cell's solver: what it is, from which paper, and what differs from it.

    A solver whose code is not of this product has its name and settings alone.
    """
    node, identity = record["config"]["solver"], record["identity"]
    try:
        card = target(node).card
    except (UserError, AttributeError):
        card = None
    said = {key: str(getattr(card, key, "") or "") for key in ("title", "paper", "equations")}
    return {
        "solver": str(identity["solver"]),
        **said,
        "deviations": [str(text) for text in getattr(card, "deviations", ())],
        "preset": str(identity.get("preset") or ""),
        "settings": str(identity.get("variant") or ""),
    }


def training_data(record: Mapping[str, Any], trained_on: str) -> dict[str, str]:
    """Return which data the prior of a cell was trained on.

    Parameters
    ----------
    record : mapping
        The ``config.yaml`` of the cell.
    trained_on : str
        What the submitter says, for priors whose files do not say it.

    Raises
    ------
    UserError
        If neither the files of the prior nor the submitter say it.
    """
    node, identity = record["config"]["prior"], record["identity"]
    about = {key: str(identity[key]) for key in ("prior", "fingerprint", "data")}
    if "path" not in node:
        return {**about, "trained_on": "nothing: a prior in closed form", "licence": ""}
    try:
        spec = read_spec(resolve(node["path"]))
    except (OSError, ValueError):
        spec = {}
    training = spec.get("training")
    data = str((training if isinstance(training, dict) else {}).get("data") or "")
    said = "; ".join(filter(None, (trained_on, data, str(spec.get("source") or ""))))
    if not said:
        raise UserError(
            f"nothing says on which data the prior {about['prior']} was trained; give "
            'trained_on="DATA, split, how many images"'
        )
    return {**about, "trained_on": said[:2000], "licence": str(spec.get("licence") or "")}


def reported_file(path: Path) -> list[dict[str, str]]:
    """Return numbers that a paper reports, from a CSV file.

    Parameters
    ----------
    path : Path
        CSV with the columns ``solver data mask metric value source``; ``operator`` and ``prior``
        are optional.

    Raises
    ------
    UserError
        If the file cannot be read, lacks a column, or has a value that is no number.
    """
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
        lines = [{k: v or "" for k, v in line.items() if k} for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"reported={path} cannot be read: {error}") from None
    for line in lines:
        lacking = [name for name in _REPORTED if not line.get(name)]
        if lacking:
            raise UserError(
                f"reported={path} has a line without {', '.join(lacking)}; its columns are "
                f"{', '.join(_REPORTED)}"
            )
        if not _is_number(line["value"]):
            raise UserError(f"reported={path}: '{line['value']}' is no number")
    return lines


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False


def reported_beside(
    reported: Sequence[Mapping[str, str]], table: str | None, frame: pd.DataFrame
) -> list[dict[str, Any]]:
    """Return reported numbers with the measured ones beside them.

    Parameters
    ----------
    reported : sequence of mappings
        Lines of :func:`reported_file`.
    table : str or None
        The table of a paper that the study declares.
    frame : DataFrame
        The leaderboard.

    Raises
    ------
    UserError
        If a line belongs to no cell, or its metric was not measured.
    """
    found = [*_declared(table, frame)] if table else []
    for line in reported:
        cells = frame[_fits(frame, line)]
        if line["metric"] not in frame.attrs["metrics"] or cells.empty:
            raise UserError(
                f"reported: {line['solver']} on {line['data']} {line['mask']} by {line['metric']} "
                "is no cell and metric of this study"
            )
        for _, cell in cells.iterrows():
            entry = {"printed": line["value"], "flag": "", "source": line["source"]}
            found.append({**entry, **_measured(cell, line["metric"])})
    return found


def _fits(frame: pd.DataFrame, line: Mapping[str, str]) -> pd.Series:
    """Return which cells a line is about: names agree, with or without their settings."""
    fits = pd.Series(True, index=frame.index)
    for key in _PLACE:
        if wanted := line.get(key):
            names = frame[key].astype(str)
            fits &= (names == wanted) | (names.str.partition(" ")[0] == wanted)
    return fits


def _declared(table: str, frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for _, cell in frame.iterrows():
        for metric in frame.attrs["metrics"]:
            printed = papers.lookup(table, {str(k): v for k, v in cell.items()}, metric)
            if printed:
                entry = {"printed": printed.value, "flag": printed.flag, "source": table}
                yield {**entry, **_measured(cell, metric)}


def _measured(cell: pd.Series, metric: str) -> dict[str, Any]:
    ends = (cell[metric], cell[f"{metric}_lo"], cell[f"{metric}_hi"])
    value, lo, hi = (repr(float(end)) for end in ends)
    return {
        "cell": str(cell["cell"]),
        "solver": str(cell["solver"]),
        "metric": metric,
        "measured": value,
        "lo": lo,
        "hi": hi,
    }


def statement_problems(about: Mapping[str, Any], frame: pd.DataFrame) -> Iterator[str]:
    """Yield what a bundle states that its cells do not bear out.

    Parameters
    ----------
    about : mapping
        The content of ``bundle.json``.
    frame : DataFrame
        The leaderboard that its rows make.
    """
    lines = {str(line["cell"]): line for _, line in frame.iterrows()}
    told = about["contamination"]
    if told.get("seen") not in SEEN:
        yield "nothing is said on test images in the training data"
    spoken = {str(p.get("fingerprint")) for p in told["priors"] if p.get("trained_on")}
    mute = [str(line["prior"]) for line in lines.values() if line["fingerprint"] not in spoken]
    if mute:
        yield f"nothing is stated on the training data of the prior {mute[0]}"
    cards = {str(card.get("solver")) for card in about["methods"]}
    nameless = {str(line["solver"]).partition(" ")[0] for line in lines.values()} - cards
    if nameless:
        yield f"the method {min(nameless)} has no card"
    for entry in about["reported"]:
        line, metric = lines.get(str(entry.get("cell"))), str(entry.get("metric"))
        if line is None or metric not in frame.attrs["metrics"]:
            yield "a reported number belongs to no cell or metric"
            return
        if not _agree(str(entry.get("measured")), float(line[metric])):
            yield (
                f"beside a reported number {metric} of {line['solver']} is said to be "
                f"{entry.get('measured')}, and its rows make {float(line[metric])!r}"
            )


def _agree(text: str, value: float) -> bool:
    try:
        told = float(text)
    except ValueError:
        return False
    return (told != told and value != value) or abs(told - value) <= 1e-6 * max(1.0, abs(value))
