"""The Hydra application. Its module stays light: torch is imported inside the job."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from bench.catalog import CONF
from bench.errors import BAD_INPUT, Inapplicable, UserError
from bench.schema import register

if TYPE_CHECKING:
    from bench.run import Outcome

register()
OUTCOMES: list[Outcome] = []
"""One entry per job that ran in this process."""
SWEEPS: list[DictConfig] = []
"""The configuration, without the swept values, of every sweep that this process launched."""


class Launched(Callback):
    """Remembers a sweep. Its end is not asked for: Hydra does not tell it where a job has failed."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        SWEEPS.append(config)


class Refused(UserError, CompactHydraException):
    """A job that a launcher ran elsewhere could not be run; Hydra prints its line, without a traceback."""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> None:
    """One cell: a run, or one job of a sweep."""
    from bench.announce import first_line
    from bench.console import SWEEP, out

    choices = HydraConfig.get().runtime.choices
    if not (SWEEP.begun or cfg.quiet):
        out.print(first_line(cfg, choices, SWEEP.cells), markup=False)
    SWEEP.begun = True
    from bench.run import run_job

    try:
        OUTCOMES.append(run_job(cfg, choices, sweep=HydraConfig.get().mode is RunMode.MULTIRUN))
    except OSError as error:  # a full disk, a folder that has become read-only; failures of solvers are rows
        place = f" ({error.filename})" if error.filename else ""
        kept = "what is stored is kept: mend that and give the same command again"
        _refuse(f"{error.strerror or error}{place}; {kept}")
    except UserError as error:
        if isinstance(error, Inapplicable) and cfg.study.get("skip_inapplicable"):
            words = "  ".join(str(choices[group]) for group in ("solver", "data", "mask", "operator"))
            print(f"bench: skipped {words}: {error}", file=sys.stderr)
            SWEEP.cells -= 1
            return
        _refuse(str(error))


def _refuse(message: str) -> NoReturn:
    """End the job with one line."""
    if not HydraConfig.get().launcher._target_.endswith("BasicLauncher"):
        # a job that exits leaves no result, and who launched it would wait for one
        raise Refused(f"bench: {message}") from None
    # Hydra would print a traceback around an exception
    print(f"bench: {message}", file=sys.stderr)
    sys.exit(BAD_INPUT)


def compose(overrides: list[str]) -> tuple[DictConfig, dict[str, object]]:
    """The configuration and choices of one job, for verbs that do not run it."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException

    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        try:
            cfg = hydra_compose(config_name="config", overrides=overrides, return_hydra_config=True)
        except HydraException as error:
            raise UserError(str(error).splitlines()[0]) from error
    choices = dict(cfg.hydra.runtime.choices)
    bare = DictConfig({k: v for k, v in cfg.items_ex(resolve=False) if k != "hydra"})
    return bare, choices
