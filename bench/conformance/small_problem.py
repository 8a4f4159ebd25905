"""A small inverse problem, on which solvers are checked.

Seeds, noise and measurements are made as in a run; images and priors are small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from posterior_bench.bench.core.isolation import isolated
from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.bench.engine.device import repeatable
from posterior_bench.bench.engine.measurement import Measurement, build_operator
from posterior_bench.operators.base import Operator
from posterior_bench.operators.spectrum import Spectrum
from posterior_bench.priors.base import Prior
from posterior_bench.solvers.base import Distance, Observation, Solver

IMAGES, DRAWS = (0, 1, 2, 3), (0, 1)
"""Image numbers and draw indices of the run with which all other runs are compared."""

_WORK = ("steps", "iterations", "levels", "burn_in", "kept")
_FEW = 4


@dataclass(frozen=True)
class SmallProblem:
    """A prior, an operator, and what else the settings of a solver ask for.

    Parameters
    ----------
    prior : Prior
        The prior; a small one, or a prior of the user.
    operator : Mapping of str to Any
        Configuration of the operator, as in ``conf/operator``.
    modules : Mapping of str to torch.nn.Module or None, default None
        Modules for a solver that was trained for the prior.
    perceptual : Distance or None, default None
        Distance for a solver with a perceptual loss.
    device : str, default 'cpu'
        Device of images and noise; the prior and the modules must be there.
    """

    prior: Prior
    operator: Mapping[str, Any]
    modules: Mapping[str, nn.Module] | None = None
    perceptual: Distance | None = None
    device: str = "cpu"

    def measure(
        self,
        images: Sequence[int] = IMAGES,
        masks: tuple[str, ...] = ("box",),
        other_truth: bool = False,
        truth: Tensor | None = None,
    ) -> Measurement:
        """Measure random images.

        Parameters
        ----------
        images : Sequence of int, default (0, 1, 2, 3)
            Numbers of the images. Image and measurement of a number are the same in every batch.
        masks : tuple of str, default ('box',)
            ``box``, ``all`` (all pixels observed) or ``nothing``: one per image, or one for all.
        other_truth : bool, default False
            Replace the truth by other images with the same measurement. The operator must have a
            pseudo-inverse.
        truth : Tensor or None, default None
            Images ``(N, C, H, W)`` to measure instead of random ones.

        Returns
        -------
        Measurement
            Truth, operator and measurement of every image.
        """
        keys = [Key(0, "check", str(i)) for i in images]
        shape = self.prior.image_shape
        drawn, hidden = (
            0.4 * Noise(keys, "metric", self.device, draw).normal(shape) for draw in (0, 1)
        )
        truth = drawn if truth is None else truth
        operator = self._operator(keys, masks)
        noise = Noise(keys, "noise", self.device).normal(operator.A(truth).shape[1:])
        y = operator.observe(truth, noise)
        if other_truth:
            truth = truth + hidden - operator.pinv(operator.A(hidden))
        classes = max(self.prior.num_classes, 1)
        labels = torch.tensor([i % classes for i in images], device=self.device)
        return Measurement(keys, truth, labels, operator, y)

    def _operator(self, keys: Sequence[Key], masks: tuple[str, ...]) -> Operator:
        """Return the operator with a mask for every key."""
        channels, height, width = self.prior.image_shape
        kinds = masks if len(masks) == len(keys) else masks * len(keys)
        observed = np.stack(
            [_mask(key, kind, height, width) for key, kind in zip(keys, kinds, strict=True)]
        )
        mask = torch.from_numpy(observed)[:, None]
        return build_operator(self.operator, mask, channels).to(self.device)

    @contextmanager
    def moved(self, device: str) -> Iterator[SmallProblem]:
        """Yield the problem on another device, with the kernels that a worker asks for there.

        A prior and its modules are shared by all checks and are moved in place; after the block
        they are back.
        """
        with isolated(numbers=True):
            try:
                repeatable(device)
                yield replace(
                    self, prior=self.prior.to(device), device=device, modules=self._on(device)
                )
            finally:
                self.prior.to(self.device)
                self._on(self.device)

    def _on(self, device: str) -> Mapping[str, nn.Module] | None:
        """Move the modules."""
        modules = self.modules
        return None if modules is None else {name: m.to(device) for name, m in modules.items()}

    @property
    def sigma(self) -> float:
        """The noise level of the operator, in [-1, 1] units."""
        return float(self.operator.get("sigma") or 0)

    def observe(self, measurement: Measurement) -> Observation:
        """Return what the solver may see of a measurement."""
        cond = self.prior.condition(measurement.labels)
        return Observation(
            measurement.y,
            measurement.operator,
            cond,
            perceptual=self.perceptual,
            modules=self.modules,
        )

    def noise(self, measurement: Measurement) -> Noise:
        """Return the noise that a run would hand to the solver."""
        return Noise(measurement.keys, "solver", self.device)


def _mask(key: Key, kind: str, height: int, width: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Draw a mask; a ``box`` shows the columns left of a random column near the middle."""
    if kind != "box":
        return np.full((height, width), kind == "all")
    edge = int(key.rng("mask").integers(width // 4, 3 * width // 4 + 1))
    return np.broadcast_to(np.arange(width) < edge, (height, width)).copy()


def absolute_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean absolute difference of each pair of images.

    It takes the place of a perceptual distance, whose weights a check does not load.
    """
    return (a - b).abs().flatten(1).mean(1)


def with_few_steps(solver: Solver, keep: frozenset[str] = frozenset()) -> Solver:
    """Shorten a solver.

    Parameters
    ----------
    solver : Solver
        The solver, a dataclass.
    keep : frozenset of str, default frozenset()
        Settings that stay as they are.

    Returns
    -------
    Solver
        The solver with at most 4 in every whole-number setting whose name ends in ``steps``,
        ``iterations``, ``levels``, ``burn_in`` or ``kept``; the solver itself if it refuses these
        values because its settings depend on each other.
    """
    values = {f.name: getattr(solver, f.name) for f in fields(solver)}  # type: ignore[arg-type]
    work = {
        k: v for k, v in values.items() if type(v) is int and k not in keep and k.endswith(_WORK)
    }
    try:
        return replace(solver, **{k: min(v, _FEW) for k, v in work.items()})  # type: ignore[type-var]
    except ValueError:
        return solver


def restrict_operator(operator: Operator, needs: frozenset[str]) -> Operator:
    """Return the operator without the capabilities that ``needs`` does not name.

    Parameters
    ----------
    operator : Operator
        The operator.
    needs : frozenset of str
        Capabilities that stay.

    Returns
    -------
    Operator
        An operator that raises where a method needs another capability.
    """
    can = operator.caps & needs

    def amplitudes() -> Operator:
        if "amplitudes" not in can:
            raise NotImplementedError("amplitudes")
        return operator

    class Restricted(Operator):
        caps = can
        takes_mask = operator.takes_mask
        sigma = operator.sigma
        mask = operator.mask if "mask" in can else None

        @override
        def A(self, x: Tensor) -> Tensor:
            return operator.A(x)

        @override
        def At(self, y: Tensor) -> Tensor:
            return operator.At(y)

        @override
        def spectrum(self, like: Tensor) -> Spectrum:
            if "svd" not in can:
                raise NotImplementedError("spectrum")
            return operator.spectrum(like)

        @override
        def pinv(self, y: Tensor) -> Tensor:
            if "pinv" not in can:
                raise NotImplementedError("pinv")
            return operator.pinv(y)

        @override
        def prox(self, x: Tensor, y: Tensor, rho: float | Tensor) -> Tensor:
            if "prox" not in can:
                raise NotImplementedError("prox")
            return operator.prox(x, y, rho)

        @override
        def embed(self, x: Tensor) -> Tensor:
            return amplitudes().embed(x)

        @override
        def extract(self, wide: Tensor) -> Tensor:
            return amplitudes().extract(wide)

        @override
        def with_amplitudes(self, wide: Tensor, y: Tensor) -> Tensor:
            return amplitudes().with_amplitudes(wide, y)

        @override
        def first_guess(self, y: Tensor) -> Tensor:
            # Every operator has a first guess. A linear operator may take it from its
            # pseudo-inverse, which must not be used here unless the needs name it.
            return super().first_guess(y) if "linear" in operator.caps else operator.first_guess(y)

        @override
        def paste(self, x: Tensor, y: Tensor) -> Tensor:
            return operator.paste(x, y) if "mask" in can else x

        @override
        def repeat(self, times: int) -> Operator:
            return restrict_operator(operator.repeat(times), needs)

        @override
        def to(self, device: torch.device | str) -> Operator:
            return restrict_operator(operator.to(device), needs)

    return Restricted()
