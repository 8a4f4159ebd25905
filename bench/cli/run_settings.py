"""Settings of a run as verbs get them: the words that were typed, made ready for Hydra."""

from __future__ import annotations

from collections.abc import Sequence

from posterior_bench.bench.cli.parser import Parser
from posterior_bench.bench.config import prompts
from posterior_bench.bench.config.overrides import check, refuse_typos
from posterior_bench.bench.config.prior_paths import with_prior_names
from posterior_bench.bench.config.studies import cells, expand
from posterior_bench.bench.config.text_settings import quote_texts, sweeps

SWEEP_FLAG = "-m"


def add_sweep(parser: Parser, help: str) -> None:
    """Declare ``-m``, which becomes the value ``multirun``."""
    parser.add_argument(SWEEP_FLAG, "--multirun", action="store_true", help=help)


def typed_words(overrides: Sequence[str], multirun: bool) -> list[str]:
    """Return the words to type for the same settings."""
    return [SWEEP_FLAG, *overrides] if multirun else list(overrides)


def ready(overrides: Sequence[str], multirun: bool = False) -> list[str]:
    """Return the settings with texts in quotes and a name for every folder of a prior."""
    lines = with_prior_names(overrides)
    refuse_typos(lines)
    several = multirun or sweeps(lines)
    return quote_texts(prompts.quote_prompts(lines, several), several)


def checked_cells(overrides: Sequence[str], multirun: bool) -> list[list[str]]:
    """Return the settings of every cell of a run, sweep or study.

    Raises
    ------
    UserError
        If a setting is unknown or has a wrong value.
    """
    lines = ready(overrides, multirun)
    for sweep in expand(lines):
        check(sweep, multirun, study_sweep=True)
    return cells(lines)
