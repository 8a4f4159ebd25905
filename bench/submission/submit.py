"""Write the bundle of a study: rows without pictures, settings, environment, and what is stated."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from posterior_bench.bench.analysis import papers
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.core.environment import version
from posterior_bench.bench.core.errors import UserError, unknown
from posterior_bench.bench.engine.cache import shared
from posterior_bench.bench.engine.score import StoredCell
from posterior_bench.bench.store.atomic import write_atomic
from posterior_bench.bench.store.study_files import check_study, planned_cells, study_settings
from posterior_bench.bench.submission import tables
from posterior_bench.bench.submission.bundle import CELL_FILE, ROWS_FILE, read_bundle
from posterior_bench.bench.submission.measurements import (
    measured_name,
    measurement_lines,
    measurement_text,
)
from posterior_bench.bench.submission.members import (
    ABOUT,
    BOARD,
    ENVIRONMENT,
    FORMAT,
    MOST_BYTES,
    README,
    SUMS,
    json_bytes,
    sums_text,
    zip_bytes,
)
from posterior_bench.bench.submission.metric_nodes import WIDEST, our_metrics, plain_value
from posterior_bench.bench.submission.readme import readme
from posterior_bench.bench.submission.row_text import rows_text
from posterior_bench.bench.submission.settings import recomposed, settings_of, shown_config
from posterior_bench.bench.submission.statement import (
    method_card,
    reported_beside,
    training_data,
)


@dataclass(frozen=True)
class Statement:
    """What a submitter says.

    Parameters
    ----------
    by : str
        Who submits.
    seen : str
        Whether test images were among the training data of a prior: ``no``, ``yes``, ``unknown``.
    trained_on : str, default ''
        Training data of priors whose files do not name them.
    date : str, default ''
        The day, as ``2026-01-31``.
    reported : tuple of dict, default ()
        Numbers that a paper reports (:func:`bench.submission.statement.reported_file`).
    """

    by: str
    seen: str
    trained_on: str = ""
    date: str = ""
    reported: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True)
class Written:
    """A bundle that was written: its file, size, cells and rows, and what a reader must know."""

    path: Path
    size: int
    sha256: str
    cells: int
    rows: int
    remarks: list[str]


def submit(study: Path, out: Path, statement: Statement, solvers: Sequence[str] = ()) -> Written:
    """Write the bundle of a study.

    Parameters
    ----------
    study : Path
        The study folder.
    out : Path
        The zip file.
    statement : Statement
        What the submitter says.
    solvers : sequence of str, default ()
        The solvers whose cells are submitted; none named = all.

    Raises
    ------
    UserError
        If the study is not finished, its images are not here, something is not stated, or the
        bundle would be too large.
    """
    check_study(study)
    members: dict[str, bytes] = {ENVIRONMENT: _environment(study)}
    stored = _chosen([StoredCell(path.parent, "cpu") for path in planned_cells(study)], solvers)
    remarks: list[str] = []
    rows = 0
    with tempfile.TemporaryDirectory(prefix="bench-submit-") as place:
        for cell in stored:
            rows += _add_cell(members, cell, Path(place), remarks)
        about = {
            "format": FORMAT,
            "product": "posterior-bench",
            "version": version(),
            "date": statement.date,
            "by": statement.by,
            "study": str(stored[0].record["identity"].get("study_version") or ""),
            "methods": _once([method_card(cell.record) for cell in stored]),
            "contamination": {
                "seen": statement.seen,
                "priors": _once([training_data(c.record, statement.trained_on) for c in stored]),
            },
            "reported": [],
        }
        _add_table(members, about, study, Path(place) / "study", statement)
    members[README] = readme(about, members[BOARD].decode()).encode()
    data = zip_bytes(members)
    if len(data) > MOST_BYTES:
        raise UserError(
            f"the bundle would have {len(data) / 1e6:.1f} MB, and at most {MOST_BYTES / 1e6:g} are "
            "possible; name some solvers=[NAME], or run fewer images or draws"
        )
    write_atomic(out, data)
    return Written(out, len(data), sha256(data).hexdigest(), len(stored), rows, remarks)


def _chosen(cells: list[StoredCell], solvers: Sequence[str]) -> list[StoredCell]:
    """Return the cells of some solvers; UserError for a solver that has none."""
    known = {str(cell.record["identity"]["solver"]) for cell in cells}
    for name in solvers:
        if name not in known:
            raise unknown("solver of this study", name, known)
    wanted = {*solvers} or known
    return [cell for cell in cells if str(cell.record["identity"]["solver"]) in wanted]


def _environment(study: Path) -> bytes:
    path = study / "environment.json"
    if not path.is_file():
        raise UserError(f"{path} is missing; run the study again, which writes it")
    return json_bytes(json.loads(path.read_text(encoding="utf-8")))


def _once(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({json.dumps(entry, sort_keys=True): entry for entry in entries}.values())


def _add_cell(members: dict[str, bytes], cell: StoredCell, place: Path, remarks: list[str]) -> int:
    """Add a cell and its measurements; return how many rows it has."""
    record, name = cell.record, str(cell.record["cell"])
    title = " · ".join(str(record["identity"][key]) for key in ("solver", "data", "mask"))
    rows = cell.store.read()
    planned = sum(len({*images}) for images in record["chunks"].values())
    if cell.store.done() != {*record["chunks"]} or not planned:
        raise UserError(f"{title} is not finished; give the command of its run again")
    wide = [c for c in rows if _widest(rows[c]) > WIDEST]
    left = sorted(
        metric
        for metric, node in record["config"]["metrics"].items()
        if metric in record["metrics"] and {*shared("metric", node, "cpu").columns} & {*wide}
    )
    if left:
        remarks.append(f"{', '.join(left)} left out: features make a bundle too large")
    metrics = {
        metric: {
            "node": plain_value(record["config"]["metrics"][metric]),
            "card": plain_value(card),
        }
        for metric, card in record["metrics"].items()
        if metric not in left
    }
    settings, alone, config = _settings(cell, place)
    if alone:
        remarks.append(f"{title}: nobody else can compute its rows again, because {alone}")
    measured = measured_name(record["identity"])
    told = {
        "cell": name,
        "identity": plain_value(record["identity"]),
        "padded": int(record["padded"]),
        "batch": int(record["config"]["batch"]),
        "chunks": plain_value(record["chunks"]),
        "metrics": metrics,
        "settings": settings,
        "alone": alone,
        "config": config,
        "provenance": plain_value(record["provenance"]),
        "measured": measured,
        "left_out": left,
    }
    members[CELL_FILE.format(name)] = json_bytes(told)
    members[ROWS_FILE.format(name)] = rows_text(rows.drop(columns=wide))
    if measured not in members:
        members[measured] = _measurements(cell)
    return len(rows)


def _widest(column: Any) -> int:
    """Return how many features a value of a column has; 0 for numbers and texts."""
    lists = (value for value in column if not isinstance(value, float | int | str | None))
    return max((len(value) for value in lists if hasattr(value, "__len__")), default=0)


def _settings(cell: StoredCell, place: Path) -> tuple[list[str], str, dict[str, Any]]:
    """Return the settings of a cell, or why nobody can compute it again, and its configuration."""
    record = cell.record
    nodes = {name: node for name, node in record["config"]["metrics"].items()}
    try:
        settings = settings_of(record)
        root = record["config"]["data"].get("root")
        plan = recomposed(settings, nodes, place / "rerun", Path(root) if root else None)
    except UserError as error:
        return [], str(error), shown_config(JobConfig.of(record["config"]))
    if plan.cell.name != record["cell"]:
        reason = "its settings make another cell with this version of the product"
        return [], reason, shown_config(JobConfig.of(record["config"]))
    return settings, "", shown_config(plan.cell.config)


def _measurements(cell: StoredCell) -> bytes:
    """Return the measurements of a cell, made again from its images."""
    try:
        cell.load()
    except (UserError, OSError) as error:
        raise UserError(
            f"the images of {cell.record['identity']['data']} cannot be read, and a bundle says "
            f"what was measured on them: {error}"
        ) from None
    ids = list(dict.fromkeys(i for images in cell.record["chunks"].values() for i in images))
    size = int(cell.record["padded"])
    lines = measurement_lines(cell.config, cell.images, cell.mask, ids, size)
    return measurement_text([*lines])


def _add_table(
    members: dict[str, bytes],
    about: dict[str, Any],
    study: Path,
    place: Path,
    statement: Statement,
) -> None:
    """Add what is stated, and the table that the rows in the bundle make."""
    members |= {ABOUT: json_bytes(about), BOARD: b""}
    bundle = read_bundle({**members, SUMS: sums_text(members).encode()})
    ours = [(cell, our_metrics(cell)) for cell in bundle.cells]
    wrong = [text for _, metrics in ours for text in metrics.problems]
    if wrong:
        raise UserError(f"{wrong[0]}; only metrics that everybody has can be submitted")
    tables.write_study(place, ours)
    frame = tables.board_of(place)
    members[BOARD] = tables.table_text(frame)
    declared = study_settings(study).get("study") or {}
    table = papers.declared_table(study) if declared else None
    about["reported"] = reported_beside(statement.reported, table, frame)
    members[ABOUT] = json_bytes(about)
