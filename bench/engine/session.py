"""A session: the objects of one cell, loaded on one device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from torch import nn

from posterior_bench.bench.config.build import build, task_caps
from posterior_bench.bench.config.image_folders import remedy
from posterior_bench.bench.config.job import JobConfig, Node
from posterior_bench.bench.config.masks import build_masks
from posterior_bench.bench.config.plugins import admit_of
from posterior_bench.bench.config.trained_modules import load_modules, modules_identity
from posterior_bench.bench.core.errors import (
    Inapplicable,
    UserError,
)
from posterior_bench.bench.core.streams import Noise
from posterior_bench.bench.engine.arena import build_images
from posterior_bench.bench.engine.batches import BatchSize
from posterior_bench.bench.engine.cache import Kind, forget_others, shared
from posterior_bench.bench.engine.compiled_code import share_compiled_code
from posterior_bench.bench.engine.conditioning import Conditioning
from posterior_bench.bench.engine.enumerated import are_enumerated, demand_posterior, enumerated
from posterior_bench.bench.engine.exact_draws import reference_caps
from posterior_bench.bench.engine.face_variants import compares_variants
from posterior_bench.bench.engine.idle import Idle
from posterior_bench.bench.engine.measurement import Measurement, Originals, observe, read
from posterior_bench.bench.engine.metric_networks import PERCEPTUAL, perceptual_distance
from posterior_bench.bench.engine.scoring import (
    check_base,
    check_chooser,
)
from posterior_bench.bench.engine.source_code import code_of
from posterior_bench.bench.external.folder import Folder, stored_posterior
from posterior_bench.datasets.base import ImageSet
from posterior_bench.masks.base import MaskGenerator
from posterior_bench.metrics.base import (
    AnyMetric,
    ValueMetric,
)
from posterior_bench.priors.base import Condition, Prior
from posterior_bench.solvers.base import Observation, Posterior, Solver
from posterior_bench.solvers.exact import ENUMERATED


class Session:
    """The objects of one cell on one device.

    Parameters
    ----------
    config : JobConfig
        The configuration of the cell.
    device : str
        Where prior and metrics are loaded.
    prior : Prior, default None
        Used in place of the prior that the configuration names, such as a description without
        weights (:func:`bench.engine.cache.described`).
    images : ImageSet, default None
        Used in place of the images that the configuration names.

    Raises
    ------
    Inapplicable
        If solver, prior, operator and data do not fit together; nothing is degraded silently.
    UserError
        If something cannot be loaded.
    """

    def __init__(
        self,
        config: JobConfig,
        device: str,
        prior: Prior | None = None,
        images: ImageSet | None = None,
    ):
        self.config, self.device = config, device
        self.execution = config.execution
        admit_of(config)
        self.mask: MaskGenerator = build_masks(config.mask)
        self.solver: Solver = build(config.solver)
        forget_others(self._needed(), device)
        self.prior: Prior = shared("prior", config.prior, device) if prior is None else prior
        self.images: ImageSet = images or build_images(config.data, self.prior, config.seed)
        self.told = Conditioning(config.data, self.images, self.prior, config.prior.get("path"))
        nodes = config.metrics.items()
        self.metrics: dict[str, AnyMetric] = {
            name: shared("metric", node, device) for name, node in nodes
        }
        self._run_prior()
        self._check_fit()
        modules_identity(config)  # refuses modules that are missing, or made for another prior
        self.code = code_of(config.solver)
        self.perceptual = perceptual_distance(self.solver, device)
        self.warm: set[BatchSize] = set()  # for which the solver has been rehearsed
        self.idle = Idle(config.offload and device != "cpu", self.prior)

    def _needed(self) -> list[tuple[Kind, Node]]:
        """Return the nodes of everything that this session shares with other cells."""
        config, distance = self.config, getattr(self.solver, "perceptual", "none")
        priors: list[tuple[Kind, Node]] = [("prior", config.prior), ("description", config.prior)]
        metrics = [*config.metrics.values()]
        metrics += [PERCEPTUAL[distance]] if distance in PERCEPTUAL else []
        return [*priors, *(("metric", node) for node in metrics)]

    @cached_property
    def modules(self) -> Mapping[str, nn.Module] | None:
        """The trained modules of the solver, loaded when they are first used."""
        return load_modules(self.config, self.device)

    def _check_fit(self) -> None:
        """Refuse data of another shape, and a solver that needs what operator and prior lack."""
        if tuple(self.images.shape) != tuple(self.prior.image_shape):
            raise Inapplicable(
                f"data gives images of {tuple(self.images.shape)}, the prior is made for "
                f"{self.prior.image_shape} "
                f"(channels, height, width); "
                f"{remedy(self.config.data, self.images.shape, self.prior.image_shape)}"
            )
        has = self.prior.caps | task_caps(self.config)
        missing = self.solver.lacks(has, float(self.config.operator.get("sigma") or 0))
        if "unconditional" in missing:
            raise Inapplicable(
                "this prior was trained for inpainting and is no prior without a mask; choose "
                "solver=conditional, or "
                "another prior"
            )
        if missing:
            name = type(self.solver).__name__
            raise Inapplicable(
                f"{name} needs {', '.join(sorted(missing))}, which this prior and operator do not "
                f"have "
                f"(they have {', '.join(sorted(has))}); choose another solver, prior or operator"
            )
        if are_enumerated(self.solver, self.config.data):
            demand_posterior(self.images)
        if self.prior.num_classes and self.prior.null_label is None and not self.told.labels_fit:
            raise Inapplicable(
                f"the prior must be told one of its {self.prior.num_classes} classes, and the data "
                f"has "
                f"{self.images.num_classes or 'none'}; choose prior= and data= that fit"
            )
        self.told.demand_same_classes()
        guidances = (
            value for name, value in vars(self.solver).items() if name.startswith("guidance")
        )
        if any(value not in (None, 1) for value in guidances) and (
            problem := self.told.guidance_problem()
        ):
            raise Inapplicable(problem)
        self.check_metrics()

    def check_metrics(self) -> None:
        """Refuse metrics that need what the cell lacks, or that its images do not fit."""
        has = reference_caps(self.config, self.prior)
        for name, metric in self.metrics.items():
            if {ENUMERATED, "mask"} & (metric.needs - has):
                raise UserError(
                    f"metric '{name}' compares the variants of cartoon faces behind a mask; leave "
                    "it out, or choose data=faces operator=inpainting"
                )
            lacking = ", ".join(sorted(metric.needs - has))
            if lacking:
                raise UserError(
                    f"metric '{name}' compares with the exact posterior and needs {lacking}, which "
                    f"this prior and "
                    "operator do not have; leave it out, or choose a closed-form prior such as "
                    "prior=g2"
                )
            if metric.unclamped and isinstance(self.solver, Folder):
                raise UserError(
                    f"metric '{name}' scores values outside [-1, 1], and the 8-bit images of "
                    f"solver=folder hold none; choose {name.replace('_unclamped', '')}"
                )
            try:
                metric.admit(self.prior.image_shape)
            except ValueError as error:
                raise UserError(str(error)) from None
            if isinstance(metric, ValueMetric):
                check_base(metric, self.metrics)
            check_chooser(metric, self.metrics)
        if compares_variants(self.metrics.values()):
            demand_posterior(self.images)

    def _run_prior(self) -> None:
        """Set how the network is run; cells of a sweep share the prior and may differ in that."""
        if self.execution.compile:
            share_compiled_code()
        try:
            self.prior.run_as(self.execution)
        except ValueError as error:
            raise Inapplicable(str(error)) from None

    def condition(self, measured: Measurement) -> Condition | None:
        """Return the condition of measured images; None for the null condition of the network."""
        labels = None if measured.labels is None else measured.labels.to(self.device)
        return self.told.of(labels, [key.image for key in measured.keys])

    def measure(self, images: Sequence[str]) -> Measurement:
        """Return truth, masks and observations of some images; see :func:`measure`."""
        return self.observe(self.read(images))

    def read(self, images: Sequence[str]) -> Originals:
        """Return some images and their masks, in the memory of the host."""
        return read(self.config, self.images, self.mask, images)

    def observe(self, originals: Originals) -> Measurement:
        """Return what is observed of images that were read."""
        return observe(self.config, originals, self.device)

    def fit(self, obs: Observation, measured: Measurement, draws: int, noise: Noise) -> Posterior:
        """Return the solver's posterior, or images made elsewhere that stand in its place."""
        if isinstance(self.solver, Folder):
            ids = [key.image for key in measured.keys]
            return stored_posterior(
                self.solver, self.images, self.config.images, draws, ids, self.device
            )
        if are_enumerated(self.solver, self.config.data):
            return enumerated(self.images, self.prior, measured, noise)
        return self.solver.fit(obs, self.prior, noise)
