"""Write the page of versions: what each task, study and metric has meant."""

from __future__ import annotations

from collections.abc import Iterator

from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.task_versions import GROUPS, UNTOLD, history_of
from posterior_bench.bench.conformance.reference_pages.markdown import codes, table

INTRODUCTION = """\
A name such as `mask=box` stands for a task. If the name begins to mean another task, its version
goes up, and the line here says why. Numbers can be compared only within one version.

- **Task**: image set, mask and operator. Their versions stand in every row and in the tables
  (`task_version`, such as `data=1 mask=2 operator=1`), in `plan` and in `show`. A version above 1
  is part of the name of a cell. So a run never continues cells of an older version, and tables do
  not rank cells of different versions together. Cells of releases that recorded no versions count
  as version 1; in their rows the column is empty.
- **Study**: the list of its cells and their settings. Rows and tables say which study a cell was
  first planned for (`study_version`, such as `vipaint_table6=1`). Cells with the same settings are
  the same cells in every version of a study.
- **Metric**: the version stands on its card and in `leaderboard_long.csv` (`metric_version`).
  Values of an older version are left out of tables.

A run, `plan`, the leaderboard and the report print a line if a study folder holds cells of another
version. `score` refuses such cells, because the present code would measure another task.

**Whoever changes a task** adds a line to `conf/versions.yaml`. The test `test_task_versions.py`
compares the masks, measurements and settings of every option with stored ones, and fails if they
change while the version does not. `python -m tests.bench.config.task_meanings` stores those of new
options and new versions. A plugin may have a `versions.yaml` beside its options."""

_TITLES = {
    "data": "Data",
    "mask": "Masks",
    "operator": "Operators",
    "study": "Studies",
    "metrics": "Metrics",
}


def sections() -> Iterator[str]:
    """Yield a section per group: the changes, and the options that have had none."""
    for group in GROUPS:
        names = sorted(name for name, option in options(group).items() if not option.plugin)
        told = [name for name in names if list(history_of(group, name)) != UNTOLD]
        rows = [
            (f"`{name}`", str(version), line)
            for name in told
            for version, line in enumerate(history_of(group, name), 1)
        ]
        first = codes(name for name in names if name not in told)
        yield "\n\n".join(
            [
                f"## {_TITLES[group]}",
                *([table(("name", "version", "meaning"), rows)] if rows else []),
                f"Version 1, without a change: {first}.",
            ]
        )
