"""What the rows of a cell must be like, whatever computer made them: no number is computed anew."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from posterior_bench.bench.config.task_versions import outdated
from posterior_bench.bench.core.cost import Budget
from posterior_bench.bench.core.environment import version
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.job import STATUSES
from posterior_bench.bench.engine.plan import Chunk, slices
from posterior_bench.bench.store.schema import FIXED, Row
from posterior_bench.bench.submission.bundle import BundleCell
from posterior_bench.bench.submission.row_text import COLUMNS

_COSTS = (
    *("seconds_fit", "seconds_sample", "nfe", "nge", "decode", "decode_grad", "encode"),
    *("encode_grad", "nfe_fit", "peak_mib"),
)
_RANGE = re.compile(r"([\[(])(-?[\d.]+|-inf), (-?[\d.]+|inf)([\])])")
_SLACK = 1e-5
"""Rounding that a value may lie outside the range of its metric."""

_HASH = re.compile(r"[0-9a-f]{16}")


def plan_problems(cell: BundleCell) -> Iterator[str]:
    """Yield what is wrong with the images, draws and chunks of a cell."""
    record, draws = cell.record, cell.draws
    names = list(record["chunks"])
    chunks = [Chunk(name, images) for name, images in record["chunks"].items()]
    images = list(dict.fromkeys(image for chunk in chunks for image in chunk.images))
    if len(images) != cell.identity["images"]:
        yield f"it plans {len(images)} images and says {cell.identity['images']}"
    batch = record["batch"]
    pieces = sum(chunk.images == chunks[0].images for chunk in chunks)
    right = batch > 0 and draws * len(images) < 10**8 and pieces <= draws
    planned, padded = slices(images, draws, batch, pieces) if right else ([], 0)
    if [chunk.name for chunk in planned] != names or padded != record["padded"]:
        yield "its chunks are not those that its images, draws and batch make"
        return
    wanted = Counter(key for chunk in chunks for key in chunk.keys(draws))
    found = Counter((str(row["image_id"]), int(str(row["draw"]))) for row in cell.rows)
    lost, more = wanted - found, found - wanted
    if lost:
        image, draw = next(iter(lost))
        yield f"{lost.total()} planned rows are missing, such as {image} draw {draw}"
    if more:
        image, draw = next(iter(more))
        yield f"{more.total()} rows are not planned or there twice, such as {image} draw {draw}"


def version_problems(cell: BundleCell) -> Iterator[str]:
    """Yield which versions in a cell are ahead of this product, or not those of its rows."""
    identity = cell.identity
    for (group, name), (then, now) in outdated(identity).items():
        if then > now:
            yield f"it is of version {then} of {group}={name}, and {now} is the last one here"
    if _numbers(identity["version"]) > _numbers(version()):
        yield f"it is of version {identity['version']} of the product, and this is {version()}"
    for column in ("version", "task_version", "study_version"):
        strange = {str(row.get(column)) for row in cell.rows} - {identity[column]}
        if strange and not (column == "version" and _older(strange, identity["version"])):
            yield f"its rows say {column} {min(strange)}, and the cell says {identity[column]}"


def task_problems(cell: BundleCell) -> Iterator[str]:
    """Yield which tasks of a cell are other tasks now, so that nothing can be made again here."""
    for (group, name), (then, now) in outdated(cell.identity).items():
        if group != "study" and then < now:
            yield (
                f"it is of version {then} of {group}={name}, which is at version {now} here; the "
                "release that made it can verify it"
            )


def _numbers(text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d{1,6}", text)]


def _older(versions: set[str], than: str) -> bool:
    """Return whether all are versions before another one: a cell may be continued."""
    return all(_numbers(text) and _numbers(text) <= _numbers(than) for text in versions)


def row_problems(cell: BundleCell, cards: Mapping[str, Any], columns: set[str]) -> Iterator[str]:
    """Yield what is wrong with single rows of a cell.

    Parameters
    ----------
    cell : BundleCell
        The cell.
    cards : mapping
        The cards of its metrics, ours, by column.
    columns : set of str
        Every column that its metrics fill.
    """
    strange = {name for row in cell.rows[:1] for name in row} - {*COLUMNS} - columns
    if strange:
        yield f"it has columns of no metric: {', '.join(sorted(strange))}"
    seen: set[str] = set()
    for row in cell.rows:
        for problem in _problems(cell, row, cards):
            kind = problem.partition(":")[0]
            if kind not in seen:  # one row of a kind is named
                seen.add(kind)
                yield f"{problem} ({row['image_id']} draw {row['draw']})"


def _problems(cell: BundleCell, row: Row, cards: Mapping[str, Any]) -> Iterator[str]:
    if row["cell"] != cell.name:
        yield f"a row is of another cell: {row['cell']}"
    if row["status"] not in STATUSES:
        yield f"a status is unknown: {row['status']}"
    scored = [name for name in row if name not in FIXED.names and row[name] is not None]
    if row["status"] != "ok":
        if scored:
            yield f"a failed row has values: {scored[0]}"
        return
    for name in ("truth", "code"):
        if not _HASH.fullmatch(str(row.get(name))):
            yield f"a row does not say its {name}: '{row.get(name)}'"
    yield from _cost_problems(cell, row)
    for name in scored:
        value = row[name]
        if isinstance(value, float) and not _inside(value, str(cards.get(name, {}).get("range"))):
            yield f"{name} is outside its range: {value!r}"


def _cost_problems(cell: BundleCell, row: Row) -> Iterator[str]:
    costs = {name: row.get(name) for name in _COSTS}
    bad = [
        name
        for name, value in costs.items()
        if not isinstance(value, float) or not 0 <= value < math.inf
    ]
    if bad:
        yield f"a cost is no number of at least 0: {bad[0]}"
        return
    if float(str(costs["nfe_fit"])) > float(str(costs["nfe"])) * (1 + 1e-9):
        yield f"a fit has more passes than the whole: nfe_fit {costs['nfe_fit']}"
    batch = row.get("padded_batch")
    most = cell.record["padded"] * min(cell.draws, cell.record["batch"])
    if not isinstance(batch, int) or not 0 < batch <= most:
        yield f"a padded batch is none of this plan: {batch}"
    limit = str(cell.record["config"].get("budget") or "")
    if limit and _over(limit, costs):
        yield f"a row costs more than the budget {limit}: nfe {costs['nfe']} nge {costs['nge']}"


def _over(limit: str, costs: Mapping[str, Any]) -> bool:
    try:
        budget = Budget.of(limit)
    except UserError:
        return True
    spent = costs["nfe"] + (costs["nge"] if budget.unit == "passes" else 0.0)
    return bool(spent > budget.amount + 1e-9)


def _inside(value: float, card_range: str) -> bool:
    """Return whether a value is in the range that a card names; True if it names none."""
    match = _RANGE.match(card_range)
    if match is None or math.isinf(value):
        return match is None or "inf" in (match[2], match[3])
    low, high = float(match[2]), float(match[3])
    return low - _SLACK <= value <= high + _SLACK


def copied_problems(cell: BundleCell, columns: Sequence[str]) -> Iterator[str]:
    """Yield which images have the values of another image, which chance does not do.

    Parameters
    ----------
    cell : BundleCell
        The cell.
    columns : sequence of str
        Columns with a number per row.
    """
    ok = [row for row in cell.rows if row["status"] == "ok"]
    varying = [name for name in columns if len({row.get(name) for row in ok}) > 2]
    first: dict[tuple[object, ...], Row] = {}
    for row in ok if len(varying) > 1 else ():
        values = tuple(row.get(name) for name in varying)
        other = first.setdefault(values, row)
        if other["truth"] != row["truth"]:
            yield (
                f"{row['image_id']} draw {row['draw']} has the values of {other['image_id']} draw "
                f"{other['draw']} in all of {len(varying)} metrics"
            )
            return


def shared_problems(cell: BundleCell, cards: Mapping[str, Any]) -> Iterator[str]:
    """Yield which metrics of all draws of an image together have two values for one image."""
    for name in (name for name, card in cards.items() if card.get("level") == "draws"):
        known: dict[object, object] = {}
        for row in cell.rows:
            value = row.get(name)
            if value is not None and known.setdefault(row["image_id"], value) != value:
                yield f"{name} has two values for {row['image_id']}, and it is one for all draws"
                return


def picture_problems(cells: Sequence[BundleCell]) -> Iterator[str]:
    """Yield which images are two pictures in cells that say they have the same."""
    known: dict[tuple[object, ...], object] = {}
    for cell in cells:
        for row in cell.rows:
            key = (cell.identity["content"], row["image_id"])
            if row.get("truth") and known.setdefault(key, row["truth"]) != row["truth"]:
                yield f"{cell.title}: {row['image_id']} is another picture than in other rows"
                return
