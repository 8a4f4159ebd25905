"""``bench tune``: the settings of solvers, with the same effort for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from posterior_bench.bench.cli.parser import Parser, true_or_false
from posterior_bench.bench.cli.run_settings import checked_cells
from posterior_bench.bench.cli.verb import Verb
from posterior_bench.bench.config.tuning_data import TuningData, tuning_data
from posterior_bench.bench.core.errors import UserError

OUT = "runs/tune"
USUAL = ("budget=passes:100", "seed=101", "sheet=false", "report=false")
"""Settings of a run that hold where neither the command nor the data say otherwise."""


def add_arguments(parser: Parser) -> None:
    """Declare the settings of the search, and those of a run."""
    parser.add_setting("trials", "N", "settings to try for each solver", _trials, 16)
    parser.add_setting(
        "objective", "METRIC", "the metric to optimise (default: what conf/tuning.yaml says)"
    )
    parser.add_setting(
        "name", "PRESET", "name of the preset (default: fast, fast_small or fast_latent)"
    )
    parser.add_setting(
        "write",
        "true|false",
        "put the preset into the YAML file of the solver",
        true_or_false,
        False,
    )
    parser.add_run_settings()


def _trials(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise ValueError("takes a whole number of at least 2")
    return int(text)


def run(
    overrides: Sequence[str], trials: int, objective: str | None, name: str | None, write: bool
) -> int:
    """Tune every solver that is named, one after the other.

    Parameters
    ----------
    overrides : sequence of str
        Settings of a run: solvers, and the problems to tune on.
    trials : int
        Settings to try for each solver.
    objective : str or None
        The column to optimise; None = as ``conf/tuning.yaml`` says for the data.
    name : str or None
        The name of the preset; None = ``fast``, with the case behind it.
    write : bool
        Put the preset into the YAML file of the solver.

    Returns
    -------
    int
        0 if every solver has a result.
    """
    typed = {word.lstrip("+").partition("=")[0]: word.partition("=")[2] for word in overrides}
    if "solver" not in typed:
        raise UserError(f"'tune' needs solver=NAME; for example: {VERB.example}")
    told = _told(typed)
    objective = objective or (told.objective if told else None)
    if objective is None:
        raise UserError(
            f"'tune' needs objective=METRIC: conf/tuning.yaml says none for data={typed['data']}"
        )
    out = typed.get("out", OUT)
    words = [word for word in overrides if word.partition("=")[0] != "out"]
    cells = checked_cells([*words, *_more(typed, told)], True)
    # loads torch and Optuna: a mistake in the settings is answered before
    from posterior_bench.bench.tuning.session import tune_solvers

    return tune_solvers(cells, Path(out), objective, trials, name, write)


def _told(typed: dict[str, str]) -> TuningData | None:
    """Return how the data are tuned on; None if the command itself chooses images."""
    names = typed.setdefault("data", "fashion").split(",")
    found = {name: tuning_data(name) for name in names}
    if len({None if each is None else each.objective for each in found.values()}) > 1:
        raise UserError(
            f"data={typed['data']}: conf/tuning.yaml has different objectives for them; tune on "
            "one after the other"
        )
    first = found[names[0]]
    if first is None and not {"data.split", "data.ids", "data.id_list", "data.name"} & typed.keys():
        raise UserError(
            f"conf/tuning.yaml does not say on which images of data={typed['data']} to tune; "
            "choose images that you will not score: data.split=NAME, data.id_list=FILE or "
            "data.name=NAME"
        )
    return first


def _more(typed: dict[str, str], told: TuningData | None) -> list[str]:
    """Return the settings that the command leaves open."""
    settings = [*(told.settings if told else ()), *USUAL]
    if told:
        settings.insert(0, f"metrics=[{','.join(told.metrics)}]")
    missing = {word.partition("=")[0]: word for word in reversed(settings)}
    data = [] if "data" in typed else [f"data={typed['data']}"]
    return [*data, *(word for key, word in missing.items() if key not in typed)]


VERB = Verb(
    name="tune",
    does="choose the settings of solvers on images that no table scores, with the same number of "
    "trials and network passes for each",
    example="bench tune solver=dps,repaint data=fashion mask=rotated,comod trials=16",
    more="Problems are the combinations of data=, mask= and operator=. The space of a solver is "
    "`space` in its YAML file. An interrupted search continues when the same command is given "
    "again. docs/tuning.md says how a preset is chosen.",
    add_arguments=add_arguments,
    run=run,
)
