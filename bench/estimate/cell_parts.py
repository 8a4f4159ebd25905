"""The parts of a cell whose files may be missing: what is known of its prior, and what fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from posterior_bench.bench.config.build import arguments, build, target
from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.cell import digest
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.standin import StandIn
from posterior_bench.bench.core.errors import Inapplicable, UserError
from posterior_bench.bench.engine.conditioning import Conditioning
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.estimate.call_counts import PriorKind
from posterior_bench.datasets.base import ImageSet
from posterior_bench.priors.base import Prior
from posterior_bench.priors.fingerprint import fingerprint
from posterior_bench.priors.load import load, verify
from posterior_bench.solvers.base import Solver


@dataclass(frozen=True)
class DescribedPrior:
    """A prior without its weights.

    Parameters
    ----------
    prior : Prior or None
        The prior on the meta device or in closed form; None if its files are not here.
    kind : PriorKind
        Its kind.
    missing : str, default ''
        Why it is not here.
    """

    prior: Prior | None
    kind: PriorKind
    missing: str = ""

    @classmethod
    def of(cls, node: Mapping[str, Any], name: str) -> DescribedPrior:
        """Describe the prior of a node, whose option has this name."""
        try:
            prior: Prior = verify(node["path"]) if target(node) is load else build(node)
        except (UserError, OSError, ValueError) as error:
            option = options("prior").get(name)
            kind = PriorKind.described(option.summary if option else "")
            return cls(None, kind, str(error).splitlines()[0])
        return cls(prior, PriorKind.of(prior))


class _PartsOnly(Session):
    """A session that only checks whether the parts of a cell fit together."""

    def __init__(self, config: JobConfig, solver: Solver, prior: Prior, images: ImageSet):
        self.config, self.solver, self.prior, self.images = config, solver, prior, images
        self.metrics = {}
        # the prompts of images that are not here are unknown
        node = {"images": 0} if isinstance(images, StandIn) else config.data
        self.told = Conditioning(node, images, prior, config.prior.get("path"))
        self._check_fit()


def demand_fit(
    config: JobConfig, solver: Solver, described: DescribedPrior, images: ImageSet | str
) -> None:
    """Refuse a cell whose parts do not fit together; parts that are missing are assumed to fit.

    Parameters
    ----------
    config : JobConfig
        The configuration of the cell.
    solver : Solver
        Its solver.
    described : DescribedPrior
        Its prior.
    images : ImageSet or str
        Its images, or why they are not here.

    Raises
    ------
    Inapplicable
        If a run would refuse the cell.
    """
    prior = described.prior if described.prior is not None else described.kind.stand_in()
    if isinstance(images, str) or described.prior is None:
        images = StandIn(prior.image_shape, prior.num_classes)
    _PartsOnly(config, solver, prior, images)
    if described.prior is not None:
        try:
            if (execution := config.execution).changed and described.prior.net is None:
                described.prior.run_as(execution)
        except ValueError as error:
            raise Inapplicable(str(error)) from None


def settings_of(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node's class and settings, without the hash that a plan adds."""
    return {
        "_target_": node["_target_"],
        **{k: v for k, v in arguments(node).items() if k != "sha256"},
    }


def prior_key(node: Mapping[str, Any]) -> str:
    """Return the fingerprint of a prior's files, or of its settings where there are no files."""
    if "path" in node:
        try:
            return fingerprint(node["path"])
        except (OSError, ValueError):
            return str(node["path"])
    return digest(settings_of(node))


def cost_key(config: JobConfig) -> str:
    """Return a key; rows of cells with equal keys cost the same.

    Images, mask, seed and metrics are not in it.
    """
    nodes = [settings_of(node) for node in (config.solver, config.operator)]
    prior, changed = prior_key(config.prior), config.execution.changed
    return digest([nodes, prior, config.draws, config.budget, changed])
