"""The problems that the cells of a run, sweep or study pose, and their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from posterior_bench.bench.config.cell import digest
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.engine.job import job_of

_SOLVER = re.compile(r"[+~]*solver[=.]")


def problems(cells: Sequence[Sequence[str]]) -> dict[str, JobConfig]:
    """Return a configuration for every problem, each once.

    Parameters
    ----------
    cells : sequence of sequence of str
        The settings of each cell. Cells that differ in the solver pose the same problem.

    Returns
    -------
    dict
        The configurations by a name such as ``arena-g2-inpainting``. Problems that would have the
        same name get a hash too.
    """
    bare = dict.fromkeys(tuple(w for w in words if not _SOLVER.match(w)) for words in cells)
    found = []
    for words in bare:
        cfg, choices = compose(check([*words, "solver=prior"], study_sweep=True))
        config = job_of(cfg)
        data = str(config.data.get("name") or choices["data"])
        name = re.sub(r"[^\w.-]+", "-", f"{data}-{choices['operator']}")
        found.append((name, _hash(config), config))
    same = Counter(name for name, _ in {(name, key) for name, key, _ in found})
    return {f"{name}-{key[:6]}" if same[name] > 1 else name: each for name, key, each in found}


def _hash(config: JobConfig) -> str:
    nodes = [node for group, node in config.nodes.items() if group != "solver"]
    return digest([nodes, config.seed])
