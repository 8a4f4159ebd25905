"""Compute the exact posterior of independent choices, given some pixels of the image.

The variables of a :class:`~datasets.face_components.Law` are given values one after another. As
soon as a pixel depends on no variable that is still open, it is compared with the measurement, and
values that contradict it are dropped. Open variables that share no observed pixel are independent
given the others, so each group of them is solved alone (an AND/OR search; Dechter and Mateescu,
Artificial Intelligence 171, 2007). Nothing is left out that has a posterior probability, but for
noise: see :class:`Measured`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from posterior_bench.datasets.face_components import Choice, Law
from posterior_bench.datasets.face_supports import bits_of, pixels_of

UNLIKELY = 1e-12
"""With noise: probability that the pixels of one comparison fit the true image worse than allowed.

The posterior mass that is lost is below this number times the number of variables, on average over
images and noise.
"""


class TooMany(ValueError):
    """The posterior has more possible choices than can be drawn and compared."""


class Measured:
    """What was observed of an image.

    Parameters
    ----------
    y : NDArray[float]
        Measurement ``(C, H, W)`` in [-1, 1] units; hidden pixels may have any value.
    mask : NDArray[bool]
        ``(H, W)``; True = observed.
    sigma : float, default 0.0
        Standard deviation of the Gaussian noise in ``y``; 0 = ``y`` has the pixels of an 8-bit
        image, and an image fits or does not.
    """

    def __init__(self, y: NDArray[np.floating], mask: NDArray[np.bool_], sigma: float = 0.0):
        self.y, self.mask, self.sigma = np.asarray(y, np.float64), mask, sigma
        self.bytes = np.rint((self.y.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
        self.pixels = bits_of(mask)

    def log_likelihood(self, image: NDArray[np.uint8], pixels: int) -> float:
        """Return the log density of the measurement at some pixels, up to a constant.

        Parameters
        ----------
        image : NDArray[uint8]
            The image ``(C, H, W)`` that was possibly measured.
        pixels : int
            The set of pixels, as in :mod:`datasets.face_supports`.

        Returns
        -------
        float
            At most 0. ``-inf`` if the image is ruled out: it differs or, with noise, it is further
            away than the true image is with probability :data:`UNLIKELY`.
        """
        where = pixels_of(pixels, *self.mask.shape)
        if not self.sigma:
            return 0.0 if np.array_equal(image[:, where], self.bytes[:, where]) else -math.inf
        residual = (image[:, where] / 127.5 - 1 - self.y[:, where]) / self.sigma
        distance = float((residual**2).sum())
        return -distance / 2 if distance <= chi2.isf(UNLIKELY, residual.size) else -math.inf


@dataclass(frozen=True, eq=False)
class Branch:
    """The posterior of one variable and of those that depend on it.

    Parameters
    ----------
    variable : str
        Name of the variable.
    values : tuple[str, ...]
        Its possible values.
    weights : tuple[float, ...]
        Their posterior probabilities, which sum to 1.
    rests : tuple[tuple[Branch, ...], ...]
        For every value, the posteriors of the other variables; they are independent given it.
    log_evidence : float
        Logarithm of the prior mean of the likelihood.
    """

    variable: str
    values: tuple[str, ...]
    weights: tuple[float, ...]
    rests: tuple[tuple[Branch, ...], ...]
    log_evidence: float


class Search:
    """The search for the choices that a measurement allows.

    Parameters
    ----------
    law : Law
        The distribution of images.
    measured : Measured
        The measurement.
    limit : int, default 20000
        Largest number of images that are compared.

    Raises
    ------
    TooMany
        If the search needs more images.
    """

    def __init__(self, law: Law, measured: Measured, limit: int = 20_000):
        self.law, self.measured, self.limit = law, measured, limit
        self.compared = 0
        self._variables = {variable.name: variable for variable in law.variables}
        self._context = {name: law.context(name) for name in self._variables}
        self._kept: dict[tuple[object, ...], int] = {}
        self._solved: dict[tuple[object, ...], Branch | None] = {}

    def run(self) -> tuple[Branch, ...] | None:
        """Return the posteriors of groups of variables that are independent; None if none fits."""
        free = frozenset(self._variables)
        pixels = self.measured.pixels
        never = pixels & ~self._union(free, {})
        if never and self._compare({}, never) == -math.inf:
            return None
        return self._groups_solved(free, {}, pixels & ~never)

    def _groups_solved(
        self, free: frozenset[str], given: Choice, pixels: int
    ) -> tuple[Branch, ...] | None:
        solved = []
        # the smallest groups first: where one has no solution, the others need none
        for group, own in sorted(self._groups(free, given, pixels), key=lambda g: len(g[0])):
            branch = self._branch(group, given, own)
            if branch is None:
                return None
            solved.append(branch)
        return tuple(solved)

    def _branch(self, group: frozenset[str], given: Choice, pixels: int) -> Branch | None:
        """Return the posterior of a group whose variables alone decide on ``pixels``."""
        related = {n for name in group for n in self._context[name]}
        related |= {n for name in group for n in self._variables[name].differs_from}
        relevant = {
            name: value
            for name, value in given.items()
            if name in related or self._support(name, given) & pixels
        }
        key = (group, pixels, frozenset(relevant.items()))
        if key not in self._solved:
            self._solved[key] = self._made(group, given, relevant, pixels)
        return self._solved[key]

    def _made(
        self, group: frozenset[str], given: Choice, relevant: Choice, pixels: int
    ) -> Branch | None:
        name = self._next(group, given, pixels)
        rest = group - {name}
        found = []
        for value, chance in self._variables[name].probabilities(given).items():
            here, shown = {**given, name: value}, {**relevant, name: value}
            still_open = self._union(rest, here) & pixels
            log_weight = math.log(chance) + self._compare(shown, pixels & ~still_open)
            if log_weight == -math.inf:
                continue
            rests = self._groups_solved(rest, here, still_open)
            if rests is not None:
                found.append((value, log_weight + sum(b.log_evidence for b in rests), rests))
        return _normalised(name, found) if found else None

    def _compare(self, choice: Choice, pixels: int) -> float:
        if not pixels:
            return 0.0
        self.compared += 1
        if self.compared > self.limit:
            raise TooMany(
                f"more than {self.limit} drawings would have to be compared with this measurement; "
                "hide less of the image, or lower the noise"
            )
        return self.measured.log_likelihood(self.law.render(choice), pixels)

    def _next(self, group: frozenset[str], given: Choice, pixels: int) -> str:
        """Return the variable that settles most pixels, on average over its values."""
        # those that others differ from come first
        ready = [n for n in group if not group & set(self._variables[n].differs_from)]
        if len(group) == 1 or len(ready) == 1:
            return ready[0]

        def settled(name: str) -> tuple[float, int, str]:
            chances = self._variables[name].probabilities(given)
            rest = group - {name}
            mean = sum(
                chance * (pixels & ~self._union(rest, {**given, name: value})).bit_count()
                for value, chance in chances.items()
            )
            return -mean, len(chances), name

        return min(ready, key=settled)

    def _groups(
        self, free: frozenset[str], given: Choice, pixels: int
    ) -> Iterator[tuple[frozenset[str], int]]:
        """Split variables into groups that share no pixel, and of which none differs from another.

        Every group comes with its pixels.
        """
        left = set(free)
        while left:
            group, own, grows = {left.pop()}, 0, True
            while grows:
                own = pixels & self._union(group, given)
                joined = {n for n in left if self._support(n, given) & own or self._tied(n, group)}
                grows = bool(joined)
                group |= joined
                left -= joined
            yield frozenset(group), own

    def _tied(self, name: str, group: set[str]) -> bool:
        return any(
            name in self._variables[other].differs_from
            or other in self._variables[name].differs_from
            for other in group
        )

    def _union(self, names: frozenset[str] | set[str], given: Choice) -> int:
        found = 0
        for name in names:
            found |= self._support(name, given)
        return found

    def _support(self, name: str, given: Choice) -> int:
        known = (given.get(name), *(given.get(other) for other in self._context[name]))
        key = (name, known)
        if key not in self._kept:
            self._kept[key] = self.law.support(name, given)
        return self._kept[key]


def _normalised(name: str, found: Sequence[tuple[str, float, tuple[Branch, ...]]]) -> Branch:
    values, logs, rests = zip(*found, strict=True)
    top = max(logs)
    weights = np.exp(np.array(logs) - top)
    total = float(weights.sum())
    shares = tuple(float(weight / total) for weight in weights)
    return Branch(name, values, shares, rests, top + math.log(total))


@dataclass(frozen=True)
class Solution:
    """The posterior of all variables of one law.

    Parameters
    ----------
    branches : tuple[Branch, ...]
        Posteriors of independent groups of variables.
    """

    branches: tuple[Branch, ...]

    @classmethod
    def of(cls, law: Law, measured: Measured, limit: int = 20_000) -> Self | None:
        """Return the posterior of a measurement; None if the law gives no such image."""
        branches = Search(law, measured, limit).run()
        return None if branches is None else cls(branches)

    @property
    def log_evidence(self) -> float:
        """Logarithm of the prior mean of the likelihood."""
        return sum(branch.log_evidence for branch in self.branches)

    @property
    def count(self) -> int:
        """Number of choices that are possible."""
        known: dict[int, int] = {}

        def of(branch: Branch) -> int:
            if id(branch) not in known:
                known[id(branch)] = sum(math.prod(map(of, rest)) for rest in branch.rests)
            return known[id(branch)]

        return math.prod(map(of, self.branches))

    def marginals(self) -> dict[str, dict[str, float]]:
        """Return the posterior probabilities of the values of every variable."""
        found: dict[str, dict[str, float]] = {}

        def add(branch: Branch, share: float) -> None:
            own = found.setdefault(branch.variable, {})
            for value, weight, rest in zip(
                branch.values, branch.weights, branch.rests, strict=True
            ):
                own[value] = own.get(value, 0.0) + share * weight
                for inner in rest:
                    add(inner, share * weight)

        for branch in self.branches:
            add(branch, 1.0)
        return found

    def probability(self, choice: Choice) -> float:
        """Return the posterior probability of a choice of all variables."""

        def of(branch: Branch) -> float:
            value = choice[branch.variable]
            if value not in branch.values:
                return 0.0
            place = branch.values.index(value)
            return branch.weights[place] * math.prod(map(of, branch.rests[place]))

        return math.prod(map(of, self.branches))

    def draw(self, uniform: Mapping[str, float]) -> dict[str, str]:
        """Draw a choice.

        Parameters
        ----------
        uniform : Mapping[str, float]
            For every variable a number in [0, 1).

        Returns
        -------
        dict[str, str]
            The value of every variable.
        """
        choice: dict[str, str] = {}

        def go(branch: Branch) -> None:
            sums = np.cumsum(branch.weights)
            sums[-1] = 1.0  # rounding may leave it just below
            place = int(np.searchsorted(sums, uniform[branch.variable], "right"))
            choice[branch.variable] = branch.values[place]
            for inner in branch.rests[place]:
                go(inner)

        for branch in self.branches:
            go(branch)
        return choice
