"""The text that ``bench plan`` prints of a single cell."""

from __future__ import annotations

import math
from pathlib import Path

from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.presets import choose
from posterior_bench.bench.core.errors import Inapplicable, UserError
from posterior_bench.bench.core.terminal import out
from posterior_bench.bench.engine.cache import described
from posterior_bench.bench.engine.display import title
from posterior_bench.bench.engine.plan import CellPlan
from posterior_bench.bench.engine.prepare import prepare
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.estimate.auto_batch import estimated_batch
from posterior_bench.bench.estimate.forecast import Estimator, estimate_cells
from posterior_bench.bench.estimate.forecast_table import forecast_lines, forecast_table
from posterior_bench.bench.estimate.plan_settings import PlanSettings
from posterior_bench.bench.estimate.problems import collected
from posterior_bench.bench.estimate.requested_cells import compose_cells
from posterior_bench.bench.estimate.row_cost import NOT_APPLICABLE, CellEstimate


def print_one_cell(
    checked: list[str], overrides: list[str], settings: PlanSettings
) -> tuple[list[str], Path, CellPlan]:
    """Print the plan of one cell and its cost.

    Parameters
    ----------
    checked : list of str
        Settings of the cell as Hydra gets them.
    overrides : list of str
        The same settings as they were typed.
    settings : PlanSettings
        Settings of the estimate.

    Returns
    -------
    list of str, Path, CellPlan
        The printed texts, the study folder, and the plan.

    Raises
    ------
    UserError
        If the cell cannot run here. Where only its prior or images are absent, the cost is printed
        before.
    """
    try:
        text, study, plan = describe(checked)
    except Inapplicable:
        raise
    except UserError:
        if cells := _without_files(overrides, settings):
            out.print(forecast_table(cells, settings))
        raise
    out.print(text, markup=False, highlight=False)
    (cell,) = estimate_cells([overrides], settings)
    cost = "\n".join(forecast_lines(cell, settings))
    out.print(cost, markup=False, highlight=False)
    return [text, cost], study, plan


def _without_files(overrides: list[str], settings: PlanSettings) -> list[CellEstimate]:
    """Return the estimate of a cell whose prior or images are absent.

    It is empty if a run would refuse the cell for another reason.
    """
    estimator = Estimator(settings)
    try:
        cell = next(iter(compose_cells([overrides])))
        if not estimator.lacks_files(cell):
            return []
        estimate = estimator.estimate(cell)
    except UserError:
        return []
    known = not math.isnan(estimate.cost.passes) and estimate.cost.source != NOT_APPLICABLE
    return [estimate] if known else []


def describe(overrides: list[str]) -> tuple[str, Path, CellPlan]:
    """Return the plan of one cell in words (name, folder, rows, batch, metrics), and as it is.

    Parameters
    ----------
    overrides : list of str
        Settings of the cell as Hydra gets them.

    Raises
    ------
    UserError
        If the cell cannot run here.
    """
    cfg, choices = compose(overrides)
    with collected(cfg, choices):
        study, plan = prepare(cfg, choices, write=False, choose_batch=estimated_batch)
    session = Session(plan.cell.config, "cpu", described(plan.cell.config.prior))
    missing = plan.missing()
    rows, todo = plan.rows(), plan.rows(missing)
    text = "\n".join(
        (
            f"cell     {plan.cell.name}  {title(plan)}",
            f"folder   {plan.folder}",
            f"rows     {rows} in {len(plan.chunks)} chunks; {todo} rows in {len(missing)} chunks "
            "still missing",
            f"batch    {plan.padded} images x {plan.cell.draws} draws; smaller chunks are padded",
            f"metrics  {', '.join(plan.cell.config.metrics)}",
            *_preset(plan.cell.config),
            *_condition(session),
            f"task     {plan.cell.identity['task_version']}  (versions; docs/versions.md)",
            f"study    {study}, {plan.cell.identity['study_version']}",
        )
    )
    return text, study, plan


def _preset(config: JobConfig) -> list[str]:
    """Return which preset the solver has here, and why; nothing of a solver without presets."""
    choice = choose(config.solver, config.prior, config.data)
    return [f"preset   {choice.text}"] if choice else []


def _condition(session: Session) -> list[str]:
    """Return a line on prompts, or on a prior that takes a class or prompt and gets none."""
    told = session.told
    if told.unasked:
        return [f"prior    asked with {told.unasked}: {told.why_unasked}"]
    if told.prompts is None:
        return []
    different = list(dict.fromkeys(told.prompts.values()))
    return [f"prompts  {len(different)} for {len(told.prompts)} images, such as '{different[0]}'"]
