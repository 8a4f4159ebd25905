"""The Hydra application: it runs the jobs of a command and notes their outcomes.

The module loads neither torch nor pandas, so that a job can print its first line at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from typing_extensions import override

from posterior_bench.bench.cli.announce import first_line
from posterior_bench.bench.cli.error_line import error_line
from posterior_bench.bench.config.compose import one_line
from posterior_bench.bench.config.interpolation import refuse_resolvers
from posterior_bench.bench.config.option_files import CONF
from posterior_bench.bench.config.schema import register
from posterior_bench.bench.core.errors import Inapplicable, UserError
from posterior_bench.bench.core.terminal import out, remark
from posterior_bench.bench.engine.display import SWEEP
from posterior_bench.bench.estimate.problems import collected

if TYPE_CHECKING:
    from posterior_bench.bench.engine.run import Outcome

register()
OUTCOMES: list[Outcome] = []
"""One entry per job that ran in this process."""
SWEEPS: list[DictConfig] = []
"""The configuration, without the swept values, of every sweep that this process launched."""


SKIPPED: list[str] = []
"""The cells of a study that this process left out because they do not apply."""


class SweepRecorder(Callback):
    """Note every sweep when it starts.

    Hydra does not tell a callback that a sweep has ended if one of its jobs failed.
    """

    @override
    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        refuse_resolvers(config)
        SWEEPS.append(config)


class JobRefusal(UserError, CompactHydraException):
    """Tell the launcher in one line why a job could not run; Hydra prints no traceback for it."""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> None:
    """Run one cell: a single run, or one job of a sweep."""
    # A launcher pickles this function with all that it names; a function it imports by its name.
    _run_job(cfg)


def _run_job(cfg: DictConfig) -> None:
    choices = HydraConfig.get().runtime.choices
    if not (SWEEP.begun or cfg.quiet):
        out.print(first_line(cfg, choices, SWEEP.cells), markup=False)
    SWEEP.begun = True
    try:
        _run_cell(cfg, choices)
    except Inapplicable as error:
        if not cfg.study.get("skip_inapplicable"):
            _refuse(error)
        cell = "  ".join(str(choices[group]) for group in ("solver", "data", "mask", "operator"))
        remark(f"bench: skipped {cell}: {error}")
        SKIPPED.append(cell)
        SWEEP.cells -= 1
    except Exception as error:
        # A UserError, a full disk or a read-only folder. A solver that fails gets error rows.
        _refuse(error)


def _run_cell(cfg: DictConfig, choices: Mapping[str, Any]) -> None:
    # These load torch and pandas, which takes seconds: the first line is printed before.
    from posterior_bench.bench.engine.growing import grow, rule_of, with_images
    from posterior_bench.bench.engine.prepare import prepare
    from posterior_bench.bench.engine.run import execute
    from posterior_bench.bench.estimate.auto_batch import measured_batch

    refuse_resolvers(cfg)
    sweep = HydraConfig.get().mode is RunMode.MULTIRUN
    rule = rule_of(cfg)
    whole = with_images(cfg, rule.limit) if rule else cfg
    with collected(whole, choices):
        study, plan = prepare(whole, choices, write=not rule, choose_batch=measured_batch)
    OUTCOMES.append(
        grow(cfg, choices, rule, study, plan, sweep) if rule else execute(cfg, study, plan, sweep)
    )


def _refuse(error: Exception) -> NoReturn:
    """End the job with an error.

    A job in another process tells its launcher one line. In this process :func:`launch` raises the
    error again.
    """
    if HydraConfig.get().launcher._target_.endswith("BasicLauncher"):
        raise _JobError(error)
    # A job that exits leaves no result, and its launcher would wait for one: raise an Exception.
    text = str(error) if isinstance(error, UserError) else error_line(error)[0]
    raise JobRefusal(text) from None


class _JobError(BaseException):
    """Carry an error past Hydra, which catches every Exception and prints several lines."""

    def __init__(self, error: Exception):
        super().__init__(error)
        self.error = error


def launch() -> None:
    """Let Hydra read ``sys.argv`` and run its jobs.

    Raises
    ------
    UserError
        If Hydra refuses the settings, or a launcher cannot run the jobs.
    Exception
        Any error of a job.
    """
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    try:
        job()
    except _JobError as end:
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
