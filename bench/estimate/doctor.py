"""``bench doctor``: checks everything that a run needs before it uses a second of a GPU.

The checks are in :mod:`bench.estimate.checks`. Weights of a prior are never loaded: its files are
compared by hash, name and shape with a network on the meta device.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig

from posterior_bench.bench.config.cell import digest
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.core.errors import BAD_INPUT
from posterior_bench.bench.engine.arena import are_drawn
from posterior_bench.bench.engine.batches import rows_at_once
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.estimate.checks.data import check_images, check_mask, check_metrics
from posterior_bench.bench.estimate.checks.devices import (
    check_device,
    check_gpus,
    check_packages,
)
from posterior_bench.bench.estimate.checks.fit import check_fit
from posterior_bench.bench.estimate.checks.memory import (
    Need,
    check_enumeration,
    check_memory,
    estimate_cell,
    prior_networks,
    workers_per_memory,
)
from posterior_bench.bench.estimate.checks.prior import check_prior
from posterior_bench.bench.estimate.checks.settings import check_settings
from posterior_bench.bench.estimate.checks.storage import (
    check_disk,
    check_folder,
    most_bytes,
    study_path,
)
from posterior_bench.bench.estimate.checks.threads import busy_cores, check_threads
from posterior_bench.bench.estimate.finding import Finding, print_findings
from posterior_bench.bench.estimate.machine import Machine
from posterior_bench.datasets.base import ImageSet
from posterior_bench.masks.base import MaskGenerator
from posterior_bench.priors.base import Prior

T = TypeVar("T")

_Yields = Generator[Finding, None, T | None]
"""Findings, and a part of the cell at the end, None where it is missing."""


def doctor(jobs: Sequence[Sequence[str]], machine: Machine) -> int:
    """Check jobs for a machine and print the findings.

    Parameters
    ----------
    jobs : sequence of sequence of str
        The settings of every job, as Hydra gets them.
    machine : Machine
        The machine that the run is meant for.

    Returns
    -------
    int
        0 if nothing is missing, else 2.
    """
    checks = Checks(machine, several=len(jobs) > 1)
    of_cells = [finding for overrides in jobs for finding in checks.cell(overrides)]
    findings = list(dict.fromkeys([*of_cells, *checks.summary()]))
    print_findings(findings)
    return BAD_INPUT if any(finding.state == "missing" for finding in findings) else 0


def examine(overrides: Sequence[str]) -> Iterator[Finding]:
    """Yield every finding of one configuration on this machine.

    Parameters
    ----------
    overrides : sequence of str
        Its settings, as Hydra gets them.

    Raises
    ------
    UserError
        If a setting itself is wrong.
    """
    checks = Checks(Machine())
    yield from checks.cell(overrides)
    yield from checks.summary()


def refusals(cfg: DictConfig, choices: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield the findings of a composed configuration for which a run may be refused.

    Parameters
    ----------
    cfg : DictConfig
        The configuration; settings that are not set are changed.
    choices : Mapping
        The name of the chosen option of every group.
    """
    yield from Checks(Machine(), memory=False).composed(cfg, choices)


@dataclass(frozen=True)
class _Cell:
    """A cell under examination: its configuration, option names, and parts that are not set."""

    config: JobConfig
    names: Mapping[str, str]
    absent: frozenset[str]

    def has(self, *groups: str) -> bool:
        """Return whether every setting of some groups is set."""
        return not self.absent.intersection(groups)

    @property
    def about_images(self) -> list[Any]:
        """Everything on which the check of the images depends."""
        config = self.config
        return [config.data, config.prior if are_drawn(config.data) else "", config.seed]


@dataclass
class Checks:
    """The checks of cells for a machine; what cells have in common is checked once.

    Parameters
    ----------
    machine : Machine
        The machine of the run.
    several : bool, default False
        Whether there are several cells, so that findings name the option they are about.
    memory : bool, default True
        Whether memory is estimated.
    """

    machine: Machine
    several: bool = False
    memory: bool = True
    needs: list[Need] = field(default_factory=list)
    disk: dict[Path, int] = field(default_factory=dict)
    chunks: list[tuple[JobConfig, int]] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)

    def once(self, check: Callable[..., Any], *about: Any, key: Any) -> Any:
        """Return ``check(*about)``, computed once for every ``key``."""
        plain = json.loads(json.dumps(key, default=str))
        name = f"{check.__name__} {digest(plain)}"
        if name not in self.results:
            result = check(*about)
            self.results[name] = list(result) if isinstance(result, Iterator) else result
        return self.results[name]

    def cell(self, overrides: Sequence[str]) -> Iterator[Finding]:
        """Yield the findings of one configuration by itself."""
        yield from self.composed(*compose(list(overrides)))

    def composed(self, cfg: DictConfig, choices: Mapping[str, Any]) -> Iterator[Finding]:
        """Yield the findings of a composed configuration by itself.

        Parameters
        ----------
        cfg : DictConfig
            The configuration; settings that are not set are changed.
        choices : Mapping
            The name of the chosen option of every group.
        """
        wrong = check_settings(cfg, choices)
        yield from wrong
        names = {group: str(name) for group, name in choices.items()}
        absent = frozenset(finding.check.split()[0] for finding in wrong)
        cell = _Cell(job_of(cfg), names, absent)
        prior = yield from self._prior(cell)
        images = yield from self._images(cell, prior)
        mask = yield from self._mask(cell, images)
        yield from self.once(check_metrics, cell.config, key=cell.config.metrics)
        if cell.has("solver", "operator"):
            if self.memory:
                yield from self._memory(cell, prior)
            if prior is not None:
                yield from self._fit(cell, prior, images, mask is not None)
        if prior is not None:
            self._add(cell.config, prior)
        yield check_folder(cell.config)
        yield from check_packages(cell.config)
        yield from check_device(cell.config, self.machine)
        busy = self.once(busy_cores, key="")
        yield from check_threads(cell.config, self.machine, busy)

    def summary(self) -> Iterator[Finding]:
        """Yield the findings of all cells together.

        They are the most memory for every prior, idle GPUs, and the sum of the disk space.
        """
        for prior in dict.fromkeys(need.prior for need in self.needs):
            most = max(
                (need for need in self.needs if need.prior == prior), key=lambda need: need.total
            )
            yield from check_memory(most, self.machine, self.several)
        yield from dict.fromkeys(
            finding
            for config, chunks in self.chunks
            for finding in check_gpus(config, chunks, self.machine)
        )
        for study, needed in self.disk.items():
            yield check_disk(study, needed)

    def _named(self, findings: Iterable[Finding], name: str) -> list[Finding]:
        """Return findings that name their option where there are several cells."""
        return [replace(f, check=f"{f.check} {name}") if self.several else f for f in findings]

    def _prior(self, cell: _Cell) -> _Yields[Prior]:
        if not cell.has("prior"):
            return None
        config, name = cell.config, cell.names["prior"]
        prior, findings = self.once(check_prior, config, name, key=config.prior)
        yield from findings
        return prior

    def _images(self, cell: _Cell, prior: Prior | None) -> _Yields[ImageSet]:
        if not cell.has("data"):
            return None
        images, findings = self.once(check_images, cell.config, prior, key=cell.about_images)
        yield from self._named(findings, cell.names["data"])
        return images

    def _mask(self, cell: _Cell, images: ImageSet | None) -> _Yields[MaskGenerator]:
        if not cell.has("mask"):
            return None
        about = [cell.config.mask, cell.about_images]
        mask, findings = self.once(check_mask, cell.config, images, key=about)
        yield from self._named(findings, cell.names["mask"])
        return mask

    def _memory(self, cell: _Cell, prior: Prior | None) -> Iterator[Finding]:
        """Yield what is wrong with the networks; keep the cell's need of memory for the summary."""
        config, names = cell.config, cell.names
        networks = self.once(
            prior_networks, config.prior, names["prior"], prior, key=[config.prior, prior is None]
        )
        if networks is None:
            return
        memory, problem = networks
        if problem:
            remedy = (
                "convert the prior again: `python -m bench convert` says which setting is not "
                "supported"
            )
            found = Finding("network", "missing", f"it cannot be called: {problem}", remedy)
            yield from self._named([found], names["prior"])
            return
        about = [
            *(config.solver, config.operator, config.prior, config.metrics),
            *(config.draws, config.batch, config.precision, config.checkpointing),
        ]
        known, problem = self.once(estimate_cell, config, memory, key=about)
        if problem:
            yield Finding("memory", "warning", f"not estimated for {names['solver']}: {problem}")
        elif known is not None:
            workers = workers_per_memory(config, self.machine)
            self.needs.append(Need(names["prior"], names["solver"], known, config, workers))
            yield from check_enumeration(names["solver"], config, self.machine)

    def _fit(
        self, cell: _Cell, prior: Prior, images: ImageSet | None, masks: bool
    ) -> Iterator[Finding]:
        config = cell.config
        about = [
            *(config.solver, config.data, config.operator, config.prior, config.metrics),
            *(config.seed, [asdict(config.execution), config.plugins]),
        ]
        key = [about, images is None, masks]
        fit = self.once(check_fit, config, prior, images, masks, key=key)
        yield from self._named(fit, cell.names["solver"])

    def _add(self, config: JobConfig, prior: Prior) -> None:
        """Add the rows and chunks of a cell to those of its study."""
        study = study_path(config)
        self.disk[study] = self.disk.get(study, 0) + most_bytes(config, prior)
        images = rows_at_once(config.draws, config.batch).images
        self.chunks.append((config, -(-config.images // images)))
