"""What ``bench plan`` prints of one configuration."""

from __future__ import annotations

from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.presets import choose
from posterior_bench.bench.engine.cache import described
from posterior_bench.bench.engine.display import title
from posterior_bench.bench.engine.prepare import prepare
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.estimate.problems import collected


def describe(overrides: list[str]) -> str:
    """What ``bench plan`` prints for one configuration."""
    cfg, choices = compose(overrides)
    with collected(cfg, choices):
        study, plan = prepare(cfg, choices, write=False)
    session = Session(plan.cell.config, "cpu", described(plan.cell.config.prior))
    missing = plan.missing()
    rows, todo = plan.rows(), plan.rows(missing)
    return "\n".join(
        (
            f"cell     {plan.cell.name}  {title(plan)}",
            f"folder   {plan.folder}",
            f"rows     {rows} in {len(plan.chunks)} chunks; {todo} rows in {len(missing)} chunks "
            f"still missing",
            f"batch    {plan.padded} images x {plan.cell.draws} draws, every chunk filled up to "
            f"that",
            f"metrics  {', '.join(plan.cell.config.metrics)}",
            *_preset(plan.cell.config),
            *_condition(session),
            f"study    {study}",
        )
    )


def _preset(config: JobConfig) -> list[str]:
    """Which preset the solver has here, and why; nothing of a solver without presets."""
    choice = choose(config.solver, config.prior, config.data)
    return [f"preset   {choice.text}"] if choice else []


def _condition(session: Session) -> list[str]:
    """A line on prompts, or where the prior could be told a class or a prompt and is told none."""
    told = session.told
    if told.unasked:
        return [f"prior    asked with {told.unasked}: {told.why_unasked}"]
    if told.prompts is None:
        return []
    different = list(dict.fromkeys(told.prompts.values()))
    return [f"prompts  {len(different)} for {len(told.prompts)} images, such as '{different[0]}'"]
