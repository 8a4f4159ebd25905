"""The configurations of the cells that a command asks for, composed quickly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser

from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.engine.job import unchecked


class RequestedCell(NamedTuple):
    """A cell as a command asks for it: its configuration, chosen options and settings.

    Parameters
    ----------
    config : JobConfig
        The resolved configuration, not yet checked.
    choices : Mapping
        The name of the chosen option of every group.
    overrides : list of str
        The settings as Hydra gets them.
    """

    config: JobConfig
    choices: Mapping[str, Any]
    overrides: list[str]


def compose_cells(cells: Sequence[Sequence[str]]) -> Iterable[RequestedCell]:
    """Compose the configuration of every cell.

    Hydra takes half a second for each cell. So cells that differ only in their solver are composed
    once, and the node of each solver is read from its file. Where that gives another node than
    Hydra gives, all of them are composed by Hydra.

    Parameters
    ----------
    cells : sequence of sequence of str
        The settings of each cell.
    """
    known: dict[tuple[str, ...], RequestedCell | None] = {}
    for overrides in map(list, cells):
        rest = tuple(
            line for line in overrides if not line.lstrip("+").startswith(("solver=", "solver."))
        )
        node = _solver_node(overrides) if rest != tuple(overrides) else None
        if node is not None and (base := known.get(rest)) is not None:
            name = next(line.partition("=")[2] for line in overrides if line.startswith("solver="))
            yield RequestedCell(
                replace(base.config, solver=node), {**base.choices, "solver": name}, overrides
            )
            continue
        cfg, choices = compose(check(overrides, study_sweep=True))
        cell = RequestedCell(unchecked(cfg), dict(choices), overrides)
        if rest not in known:
            known[rest] = cell if node == cell.config.solver else None
        yield cell


def _solver_node(overrides: Sequence[str]) -> dict[str, Any] | None:
    """Return the solver's node from its file and the settings; None where Hydra must compose it."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    names = [str(item.value()) for item in parsed if item.key_or_group == "solver"]
    if len(names) != 1 or names[0] not in options("solver", ()):
        return None
    node = deepcopy(options("solver", ())[names[0]].content)
    if "defaults" in node or "${" in str(node):
        return None
    for item in parsed:
        if item.key_or_group.startswith("solver."):
            key = item.key_or_group.removeprefix("solver.")
            if "." in key:
                return None
            node[key] = item.value()
    return node
