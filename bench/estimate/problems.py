"""All problems of a command at once, each with the setting that mends it: where a run is refused,
what doctor finds.

The checks are those of :mod:`bench.estimate.doctor`. A run makes them only after it was refused, so that a
good one waits for none of them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from posterior_bench.bench.core.errors import Inapplicable, UserError
from posterior_bench.bench.external.models import with_served

if TYPE_CHECKING:
    from posterior_bench.bench.estimate.doctor import Finding
    from posterior_bench.datasets.base import ImageSet
    from posterior_bench.priors.base import Prior

ASKED: list[str] = []
"""The settings that this process was given, as they were typed."""

_FOLDER = "study folder"
_JOINED = "; and "
"""Between several things that a run lacks."""

_NO_REFUSAL = ("memory", "disk", "device")
"""Checks by which doctor warns, and for which no run is refused."""


class Problems(UserError):
    """What a run lacks: one line where that is one thing, else a heading and a line for each."""

    def __init__(self, lines: Sequence[str]):
        super().__init__("; ".join(lines))
        self.lines = [str(UserError(line)) for line in lines]

    def __str__(self) -> str:
        if len(self.lines) == 1:
            return f"{self.lines[0]} (everything that is needed: {doctor_command()})"
        ends = [f"  everything that is needed: {doctor_command()}"]
        return "\n".join(
            [f"{len(self.lines)} problems", *(f"  {line}" for line in self.lines), *ends]
        )


class InapplicableProblems(Problems, Inapplicable):
    """The same, where the parts that were named do not fit together."""


def asked(arguments: Sequence[str]) -> None:
    """Remember what was typed after the verb."""
    ASKED[:] = arguments


def doctor_command() -> str:
    """The command that looks at everything a run of these settings needs."""
    settings = [word for word in ASKED if not word.startswith("-") or word in ("-m", "--multirun")]
    return shlex.join(["python", "-m", "bench", "doctor", *settings])


@contextmanager
def collected(cfg: DictConfig, choices: Mapping[str, Any]) -> Iterator[None]:
    """Where what is done here is refused for something that ``doctor`` finds too, name all that it
    finds.
    """
    try:
        yield
    except UserError as error:
        skipped = isinstance(error, Inapplicable) and cfg.study.get("skip_inapplicable")
        lines = [] if skipped or isinstance(error, Problems) else _lines(cfg, choices, error)
        if not lines:
            raise
        kind = InapplicableProblems if isinstance(error, Inapplicable) else Problems
        raise kind(lines) from error


def _lines(cfg: DictConfig, choices: Mapping[str, Any], error: UserError) -> list[str]:
    """The findings, that on the prior first, with what the error says beside them; none where
    nothing is found.

    What several columns of metrics need is said once.
    """
    found = sorted(
        _missing(cfg, choices), key=lambda finding: not finding.check.startswith("prior ")
    )
    if not found:
        return []
    text = str(error)
    own = [
        part for part in text.split(_JOINED) if not any(_says(finding, part) for finding in found)
    ]
    lines = [_line(finding, text) for finding in found]
    # an error that none of the findings names comes first, and of several those that are left come
    # last
    ordered = [*lines, *own] if _JOINED in text else [*own, *lines]
    return list(
        {line.partition("' needs ")[2] or line: line for line in reversed(ordered)}.values()
    )[::-1]


def _says(finding: Finding, text: str) -> bool:
    return (
        finding.found in text
        or text in finding.found
        or (finding.check == _FOLDER and _FOLDER in text)
    )


def _line(finding: Finding, text: str) -> str:
    """What was found and what mends it; the error of the run where it says more of the same."""
    if finding.found != text and finding.found in text and _JOINED not in text:
        return text
    return f"{finding.found} -> {finding.remedy}" if finding.remedy else finding.found


def _missing(cfg: DictConfig, choices: Mapping[str, Any]) -> Iterator[Finding]:
    from posterior_bench.bench.estimate.doctor import findings

    try:
        for finding in findings(deepcopy(cfg), choices):
            if finding.state == "missing" and finding.check not in _NO_REFUSAL:
                # here there is one option of a group, and it need not be named
                yield replace(
                    finding, found=re.sub(r" is not set for \S+$", " is not set", finding.found)
                )
    except (UserError, ValueError, OSError):
        return  # of the settings themselves: the run's own error says it


def attempt(make: Callable[[], Any]) -> tuple[Any, str]:
    """What ``make`` gives, or the one line that says why it does not; whatever foreign code raises
    is a finding.
    """
    try:
        return make(), ""
    except Exception as error:
        line = next(iter(str(error).splitlines()), "")
        expected = isinstance(error, UserError | ValueError | OSError | ImportError | RuntimeError)
        return None, line if line and expected else f"{type(error).__name__}: {line}"


def unreadable(cfg: DictConfig) -> Iterator[str]:
    """Why the model cannot be converted; ``cfg`` is then left with no prior, so that the rest can
    be looked at.
    """
    node: Any = OmegaConf.to_container(cfg.prior, resolve=True, throw_on_missing=False)
    try:
        with_served(node, quiet=bool(cfg.quiet))
    except UserError as error:
        from posterior_bench.bench.config.catalog import option

        OmegaConf.update(cfg, "prior", option("prior", "none").content, merge=False)
        yield str(error)


# -- whether parts go together, also while some of them are missing --------------------------------


class Misfit(NamedTuple):
    """Why a run of some parts is refused, and what mends it. ``inapplicable``: each part is right
    by itself.
    """

    found: str
    remedy: str
    inapplicable: bool


def misfits(
    config: Mapping[str, Any], prior: Prior, images: ImageSet | None, masks: bool
) -> list[Misfit]:
    """Why solver, prior, operator, data and metrics do not go together; nothing where they do.

    Without ``images`` or ``masks`` others stand in for them; where the size of the images is wrong,
    the rest is looked at too.
    """
    from posterior_bench.bench.config.catalog import option

    nodes = dict(config) if masks else {**config, "mask": option("mask", "half").content}
    stand_in = {
        "_target_": "bench.standin.StandIn",
        "shape": list(prior.image_shape),
        "classes": prior.num_classes,
        "images": 1,
        "prompt": config["data"].get("prompt"),
    }
    tries = [] if images is None else [nodes]
    if images is None or tuple(images.shape) != tuple(prior.image_shape):
        tries.append({**nodes, "data": stand_in})
    found = list(dict.fromkeys(filter(None, (_refusal(each, prior) for each in tries))))
    return [
        Misfit(line, _fitting(config, prior) if "choose another solver" in line else "", kind)
        for line, kind in found
    ]


def _refusal(config: Mapping[str, Any], prior: Prior) -> tuple[str, bool] | None:
    """Why a session refuses its parts, and whether they merely do not go together."""
    from posterior_bench.bench.engine.session import Session

    inapplicable = False

    def start() -> None:
        nonlocal inapplicable
        try:
            Session(config, prior.device.type, prior)
        except Inapplicable:
            inapplicable = True
            raise

    problem = attempt(start)[1]
    return (problem, inapplicable) if problem else None


def _fitting(config: Mapping[str, Any], prior: Prior) -> str:
    """The solvers whose needs this prior and operator have."""
    from posterior_bench.bench.config.build import target
    from posterior_bench.bench.config.catalog import options
    from posterior_bench.solvers.base import lacking

    has = prior.caps | target(config["operator"]).caps
    nodes = {name: option.content for name, option in options("solver", plugins=()).items()}
    fitting = [
        name
        for name, node in nodes.items()
        if not node.get("path") and not lacking(target(node).needs, has)
    ]
    return f"a solver that fits: {', '.join(fitting)}" if fitting else ""
