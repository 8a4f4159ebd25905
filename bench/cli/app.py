"""The Hydra application. Its module stays light: torch is imported inside the job."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from posterior_bench.bench.cli.last_resort import last_resort
from posterior_bench.bench.config.catalog import CONF
from posterior_bench.bench.config.compose import one_line
from posterior_bench.bench.config.interpolation import refuse_resolvers
from posterior_bench.bench.config.schema import register
from posterior_bench.bench.core.errors import Inapplicable, UserError

if TYPE_CHECKING:
    from posterior_bench.bench.engine.run import Outcome

register()
OUTCOMES: list[Outcome] = []
"""One entry per job that ran in this process."""
SWEEPS: list[DictConfig] = []
"""The configuration, without the swept values, of every sweep that this process launched."""


class Launched(Callback):
    """Remembers a sweep. Its end is not asked for: Hydra does not tell it where a job has
    failed.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        refuse_resolvers(config)
        SWEEPS.append(config)


class Refused(UserError, CompactHydraException):
    """A job that a launcher ran elsewhere could not be run; Hydra prints its line, without a
    traceback.
    """


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> None:
    """One cell: a run, or one job of a sweep."""
    from posterior_bench.bench.cli.announce import first_line
    from posterior_bench.bench.core.terminal import out
    from posterior_bench.bench.engine.display import SWEEP

    choices = HydraConfig.get().runtime.choices
    if not (SWEEP.begun or cfg.quiet):
        out.print(first_line(cfg, choices, SWEEP.cells), markup=False)
    SWEEP.begun = True
    from posterior_bench.bench.engine.prepare import prepare
    from posterior_bench.bench.engine.run import execute
    from posterior_bench.bench.estimate.problems import collected

    try:
        refuse_resolvers(cfg)
        with collected(cfg, choices):
            study, plan = prepare(cfg, choices)
        sweep = HydraConfig.get().mode is RunMode.MULTIRUN
        OUTCOMES.append(execute(cfg, study, plan, sweep))
    except UserError as error:
        if isinstance(error, Inapplicable) and cfg.study.get("skip_inapplicable"):
            words = "  ".join(
                str(choices[group]) for group in ("solver", "data", "mask", "operator")
            )
            print(f"bench: skipped {words}: {error}", file=sys.stderr)
            SWEEP.cells -= 1
            return
        _refuse(error)
    except (
        Exception
    ) as error:  # a full disk, a folder that has become read-only; failures of solvers are rows
        _refuse(error)


def _refuse(error: Exception) -> NoReturn:
    """End the job. What a launcher runs elsewhere tells its launcher one line, and this process
    handles the error.
    """
    if not HydraConfig.get().launcher._target_.endswith("BasicLauncher"):
        # a job that exits leaves no result, and who launched it would wait for one
        raise Refused(
            str(error) if isinstance(error, UserError) else last_resort(error)[0]
        ) from None
    raise _Ended(error)


class _Ended(BaseException):
    """Carries an error past Hydra, which catches every Exception and prints more than one line
    about it.
    """

    def __init__(self, error: Exception):
        super().__init__(error)
        self.error = error


def launch() -> None:
    """Let Hydra read ``sys.argv`` and run its jobs. Raises UserError for what Hydra refuses, else
    what a job raised.
    """
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on, instead of printing them
    try:
        job()
    except _Ended as end:
        raise end.error from None
    except (HydraException, OmegaConfBaseException) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(one_line(error)) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("submitit", "hydra_plugins"):
            raise
        raise UserError(f"the launcher could not run the jobs: {error}") from error
    finally:
        if before is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        else:
            os.environ["HYDRA_FULL_ERROR"] = before
