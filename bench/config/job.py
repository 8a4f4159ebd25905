"""The configuration of one job after validation: every setting is a typed field, and none changes.

The groups (``solver``, ``data``, ...) stay mappings. The class that their ``_target_`` names
decides which keys they have, and checks them when it is built; a type of ours around them would
know no more. They are annotated as ``Mapping``, so mypy refuses a write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from posterior_bench.bench.config.schema import AUTO_BATCH, defaults
from posterior_bench.priors.execution import Execution

Node = Mapping[str, Any]
"""The chosen option of a group: its ``_target_`` and its settings."""

Group = Literal["solver", "data", "mask", "operator", "prior"]


@dataclass(frozen=True)
class JobConfig:
    """Everything that one job is run with, in plain types that travel to any worker.

    Parameters
    ----------
    solver, data, mask, operator, prior, executor, study, scale : Mapping
        The chosen option of each group.
    metrics : Mapping
        The node of every metric by its column.
    commit : str
        The commit of the code, with ``+dirty`` where files differ from it.
    auto_batch : bool
        Whether ``batch=auto`` was asked for and nothing is chosen yet; ``batch`` is the default.

    The other fields are the settings that ``python -m bench --help`` lists.
    """

    solver: Node
    data: Node
    mask: Node
    operator: Node
    prior: Node
    metrics: Mapping[str, Node]
    executor: Node
    study: Node
    scale: Node
    seed: int
    draws: int
    batch: int
    out: str | None
    budget: str | None
    timeout: float | None
    threads: int | None
    precision: str
    channels_last: bool
    compile: bool
    checkpointing: str
    frozen_convolutions: bool
    tile: int
    offload: bool
    plugins: list[str]
    accept: list[str]
    retry: bool
    trace: bool
    sheet: bool
    report: bool
    logger: str | None
    quiet: bool
    commit: str = ""
    auto_batch: bool = False

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> JobConfig:
        """Read a configuration in plain types, as a study records it.

        A study of an earlier version lacks newer settings, which then have their defaults. A key
        that is no longer a setting is left out.
        """
        known = {field.name for field in fields(cls)}
        settings = {key: value for key, value in record.items() if key in known}
        usual = defaults()
        if settings.get("batch") == AUTO_BATCH:
            settings |= {"batch": usual["batch"], "auto_batch": True}
        return cls(**{**usual, **settings})

    def record(self) -> dict[str, Any]:
        """Return the configuration in plain types, as a study records it."""
        names = (field.name for field in fields(self) if field.name != "auto_batch")
        return {name: getattr(self, name) for name in names}

    def with_settings(self, group: Group, settings: Node) -> JobConfig:
        """Return the configuration with some settings of one group changed or added."""
        changed: dict[str, Any] = {group: {**getattr(self, group), **settings}}
        return replace(self, **changed)

    @property
    def nodes(self) -> dict[Group, Node]:
        """The chosen options that make up a cell, by group."""
        return {
            "solver": self.solver,
            "data": self.data,
            "mask": self.mask,
            "operator": self.operator,
            "prior": self.prior,
        }

    @property
    def images(self) -> int:
        """How many images are used."""
        return int(self.data["images"])

    @property
    def execution(self) -> Execution:
        """How networks are run.

        Raises
        ------
        ValueError
            If a setting of it is unknown, or two of them do not go together.
        """
        return Execution.of(vars(self))
