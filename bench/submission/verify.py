"""Verify a bundle: form, versions, plan, rows, measurements, table, and some rows anew."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.exact_draws import stored_in
from posterior_bench.bench.engine.plan import CellPlan
from posterior_bench.bench.engine.score import usual_device
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.store.schema import Row
from posterior_bench.bench.submission import checks, tables
from posterior_bench.bench.submission.bundle import Bundle, BundleCell, read_bundle
from posterior_bench.bench.submission.measurements import (
    Line,
    compare_lines,
    measured_name,
    measurement_lines,
    read_measurements,
)
from posterior_bench.bench.submission.members import SUMS, Refusal, read_members
from posterior_bench.bench.submission.metric_nodes import OurMetrics, our_metrics
from posterior_bench.bench.submission.rerun import Rerun, chosen_images, rerun_cell
from posterior_bench.bench.submission.settings import demand_admitted, recomposed, shown_config
from posterior_bench.bench.submission.statement import statement_problems
from posterior_bench.bench.submission.verdict import BITWISE, CLOSE, Verdict

_NAMED = 3
"""So many problems of one check are named."""


@dataclass
class Examined:
    """A bundle on the way through the checks.

    Parameters
    ----------
    verdict : Verdict
        What was found so far.
    bundle : Bundle or None
        Its content, where its form is right.
    metrics : dict
        The metrics of every cell, as they are defined here.
    plans : dict
        The plan of every cell that can be made here.
    """

    verdict: Verdict
    bundle: Bundle | None = None
    metrics: dict[str, OurMetrics] = field(default_factory=dict)
    plans: dict[str, CellPlan] = field(default_factory=dict)

    @property
    def cells(self) -> Sequence[BundleCell]:
        """The cells of the bundle."""
        return self.bundle.cells if self.bundle else ()


def verify(path: Path, rerun: int | None, root: Path | None = None) -> Verdict:
    """Verify a bundle.

    Parameters
    ----------
    path : Path
        A zip file, or a folder with its content.
    rerun : int or None
        How many images are computed again; None = all.
    root : Path, default None
        The folder of the images, where they do not come with the product.

    Raises
    ------
    UserError
        If there is no such file.
    """
    with tempfile.TemporaryDirectory(prefix="bench-verify-") as place:
        seen = examine(path, Path(place) / "study")
        if seen.verdict.accepted:
            _compose_all(seen, Path(place), root)
        if seen.verdict.accepted:
            _check_measurements(seen)
        if seen.verdict.accepted:
            with stored_in(Path(place)):
                _rerun(seen, rerun)
    return seen.verdict


def examine(path: Path, study: Path, old_tasks: bool = False) -> Examined:
    """Check all that needs neither images nor weights, and write the rows as a study.

    Parameters
    ----------
    path : Path
        A zip file, or a folder with its content.
    study : Path
        A folder of ours that does not exist yet.
    old_tasks : bool, default False
        Whether earlier versions of tasks are no reason to refuse it.

    Raises
    ------
    UserError
        If there is no such file.
    """
    seen = Examined(Verdict(path.name))
    verdict = seen.verdict
    try:
        members = read_members(path)
        verdict.sha256 = sha256(
            path.read_bytes() if path.is_file() else members.get(SUMS, b"")
        ).hexdigest()
        seen.bundle = read_bundle(members)
    except Refusal as error:
        verdict.refuse("files", str(error))
        return seen
    size = sum(map(len, members.values()))
    verdict.ok("files", f"{len(members)} files, {size / 1e3:.0f} kB, names, sizes and checksums")
    _check_cells(seen, old_tasks)
    if verdict.accepted:
        _check_table(seen, study)
    return seen


def _check_cells(seen: Examined, old_tasks: bool) -> None:
    verdict, cells = seen.verdict, seen.cells
    seen.metrics = {cell.name: our_metrics(cell) for cell in cells}
    versions = _each(cells, checks.version_problems)
    versions += [] if old_tasks else _each(cells, checks.task_problems)
    _tell(verdict, "versions", versions, "of this product")
    metrics = {cell.title: seen.metrics[cell.name].problems for cell in cells}
    words = [f"{title}: {text}" for title, found in metrics.items() for text in found]
    _tell(verdict, "metrics", words, "definitions and cards are those of this product")
    _tell(verdict, "plan", _each(cells, checks.plan_problems), "every planned row is there, once")
    problems = _each(cells, lambda cell: _row_problems(cell, seen.metrics[cell.name]))
    rows = sum(len(cell.rows) for cell in cells)
    failed = sum(row["status"] != "ok" for cell in cells for row in cell.rows)
    problems += checks.picture_problems(cells)
    _tell(verdict, "rows", problems, f"{rows} rows, {failed} of them failed")


def _row_problems(cell: BundleCell, ours: OurMetrics) -> Iterator[str]:
    yield from checks.row_problems(cell, ours.cards, ours.columns)
    yield from checks.shared_problems(cell, ours.cards)
    yield from checks.copied_problems(cell, _numbers(cell, ours))


def _numbers(cell: BundleCell, ours: OurMetrics) -> list[str]:
    """Return metrics with a number per row."""
    single = [name for name, card in ours.cards.items() if card.get("level") == "image"]
    return [name for name in single if name in cell.rows[0]]


def _each(cells: Sequence[BundleCell], check: Callable[[BundleCell], Iterable[str]]) -> list[str]:
    return [f"{cell.title}: {text}" for cell in cells for text in check(cell)]


def _tell(verdict: Verdict, check: str, problems: Iterable[str], good: str) -> None:
    """Note the first problems of a check, or that there are none."""
    found = [*problems]
    for text in found[:_NAMED]:
        verdict.refuse(check, text)
    if len(found) > _NAMED:
        verdict.refuse(check, f"{len(found) - _NAMED} more problems of this kind")
    if not found:
        verdict.ok(check, good)


def _check_table(seen: Examined, study: Path) -> None:
    assert seen.bundle is not None
    try:
        tables.write_study(study, [(cell, seen.metrics[cell.name]) for cell in seen.cells])
        frame = tables.board_of(study)
    except (ValueError, UserError) as error:
        seen.verdict.refuse("table", f"the rows make no table: {error}")
        return
    problems = tables.table_problems(seen.bundle.table, tables.table_text(frame))
    _tell(seen.verdict, "table", problems, f"{len(frame)} lines follow from the rows")
    _tell(
        seen.verdict,
        "statement",
        statement_problems(seen.bundle.about, frame),
        "methods, training data and reported numbers belong to these cells",
    )


def _compose_all(seen: Examined, place: Path, root: Path | None) -> None:
    """Make every cell from its settings; note those that cannot be made here."""
    verdict, wrong = seen.verdict, list[str]()
    absent: dict[str, str] = {}
    for cell in seen.cells:
        settings = cell.record["settings"]
        if not settings:
            absent[cell.title] = cell.record["alone"] or "it does not say its settings"
            continue
        try:
            demand_admitted(settings)
            plan = recomposed(settings, seen.metrics[cell.name].nodes, place / "rerun", root)
        except Refusal as error:
            wrong.append(f"{cell.title}: {error}")
            continue
        except UserError as error:
            absent[cell.title] = str(error)
            continue
        wrong += [f"{cell.title}: {text}" for text in _plan_differences(cell, plan)]
        seen.plans[cell.name] = plan
    _tell(verdict, "settings", wrong, f"{len(seen.plans)} cells are made here from their settings")
    for title, reason in absent.items():
        verdict.leave("settings", f"{title} cannot be made here: {reason}")


def _plan_differences(cell: BundleCell, plan: CellPlan) -> list[str]:
    here = {key: value for key, value in plan.cell.identity.items() if key != "version"}
    names = [key for key in here if cell.identity.get(key) != here[key]]
    if plan.cell.name != cell.name or names:
        return [
            f"its settings make another cell here, {plan.cell.name}"
            + (f", by {', '.join(names)}" if names else ", by settings that no name shows")
        ]
    if cell.record["config"] != shown_config(plan.cell.config):
        return ["the configuration that it shows is not that of its settings"]
    told = {name: [*images] for name, images in cell.record["chunks"].items()}
    planned = list(dict.fromkeys(image for images in told.values() for image in images))
    if planned != plan.images:
        return ["its images are not the first ones of the data"]
    return []


def _check_measurements(seen: Examined) -> None:
    assert seen.bundle is not None
    verdict, wrong, images, exact = seen.verdict, list[str](), 0, True
    done: set[str] = set()
    for cell in seen.cells:
        name = cell.record["measured"]
        if name != measured_name(cell.identity):
            wrong.append(f"{cell.title}: its measurements are those of another cell")
        plan = seen.plans.get(cell.name)
        try:
            told = read_measurements(seen.bundle.measurements[name], name)
        except Refusal as error:
            wrong.append(str(error))
            continue
        wrong += _untrue(cell, told)
        if plan is None or name in done:
            continue
        session = Session(plan.cell.config, "cpu")
        lines = measurement_lines(
            plan.cell.config, session.images, session.mask, plan.images, plan.padded
        )
        differ, same = compare_lines(told, here := [*lines])
        wrong += [f"{cell.title}: {text}" for text in differ]
        done.add(name)
        images, exact = images + len(here), exact and same
    how = "bit for bit" if exact else "truths and masks bit for bit, noise within the tolerance"
    good = f"{images} images are measured the same here, {how}"
    _tell(verdict, "measurements", wrong, good if done else "as the rows say")


def _untrue(cell: BundleCell, told: Mapping[str, Line]) -> list[str]:
    """Return which rows were measured on another truth than the measurements say."""
    strange = [
        f"{cell.title}: {row['image_id']} is another picture in the measurements"
        for row in cell.rows
        if row.get("truth") and told.get(str(row["image_id"]), {}).get("truth") != row["truth"]
    ]
    return strange[:1]


def _rerun(seen: Examined, count: int | None) -> None:
    assert seen.bundle is not None
    verdict = seen.verdict
    usable = [c for c in seen.cells if c.name in seen.plans and any(map(_good, c.rows))]
    if count == 0 or not usable:
        verdict.leave("rerun", "no row was asked for" if usable else "no cell can be made here")
        return
    leading = {c.name: _leading(seen.metrics[c.name]) for c in usable}
    chosen = chosen_images(usable, count, leading)
    found: list[Rerun] = []
    for cell in (c for c in usable if c.name in chosen):
        plan = seen.plans[cell.name]
        told = seen.bundle.environment
        found.append(rerun_cell(cell, plan, chosen[cell.name], told, usual_device()))
        where = f"{cell.title}, {', '.join(chosen[cell.name][:3])}"
        _tell_rerun(verdict, where, len(chosen[cell.name]), found[-1])
    if verdict.accepted:
        verdict.level = BITWISE if all(each.bitwise for each in found) else CLOSE


def _tell_rerun(verdict: Verdict, where: str, images: int, found: Rerun) -> None:
    """Note what came of computing images of a cell again."""
    problems = [f"{where}: {text}" for text in found.problems]
    how = "bit for bit" if found.bitwise else "within the tolerance"
    why = "the same software and hardware" if found.exact else found.other
    more = " and more" if images > _NAMED else ""
    _tell(verdict, "rerun", problems, f"{where}{more}: {found.rows} rows, {how} ({why})")


def _good(row: Row) -> bool:
    return bool(row["status"] == "ok")


def _leading(ours: OurMetrics) -> str:
    """Return the first metric with a better end, with its direction."""
    cards = ours.cards.items()
    named = [f"{c['direction']} {name}" for name, c in cards if c["direction"] != "none"]
    return next(iter(named), "")
