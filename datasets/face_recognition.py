"""Find the face of a distribution that is nearest to an image, where the image is hidden.

The choices of the face are changed one at a time, as long as this brings it nearer: coordinate
descent over the values that the posterior allows. A component that is absent is tried in every
colour. Faces that contradict the observed pixels are never tried. The search starts from several
possible faces, and the best end counts. It may not be the nearest face of all, if other choices
would have to change together; exact draws, whose distance is 0, show how often this happens.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posterior_bench.datasets.face_components import Choice, Law
from posterior_bench.datasets.face_search import Measured

ROUNDS = 8
"""Rounds over all choices at most; two or three are usual."""

CLOSE = 0.03
"""Root mean square distance over hidden values of a face that is surely right."""

Marginals = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Found:
    """The face that an image was recognised as.

    Parameters
    ----------
    choice : Mapping[str, str]
        Its value of every variable; arbitrary where nothing shows it.
    squares : float
        Squared distance to the image over hidden values, in [-1, 1] units.
    shares : Mapping[str, NDArray[float]]
        By variable, the probability that the image shows each possible value, in the order of the
        marginals. Values that look the same, such as variants behind a hat, share it as they share
        posterior probability.
    """

    choice: Choice
    squares: float
    shares: Mapping[str, NDArray[np.float64]]


class FaceRecogniser:
    """Recognises images of one measurement.

    Parameters
    ----------
    law : Law
        The distribution of the faces.
    measured : Measured
        What was observed.
    marginals : Mapping[str, Mapping[str, float]]
        By variable, the posterior probability of each possible value.
    starts : Sequence[Mapping[str, str]]
        Possible choices, from which the search starts, one after the other. Where one leads closer
        than :data:`CLOSE`, the others are left out.
    """

    def __init__(
        self, law: Law, measured: Measured, marginals: Marginals, starts: Sequence[Choice]
    ):
        self.law, self.measured, self.starts = law, measured, starts
        self.marginals = {
            name: {value: p for value, p in values.items() if p > 0}
            for name, values in marginals.items()
        }
        hidden = ~measured.pixels
        support = {v.name: law.support(v.name, {}) for v in law.variables}
        # the largest first: skin and hair decide what eyes are compared with
        self.open = sorted(
            (n for n in support if len(self.marginals[n]) > 1 and support[n] & hidden),
            key=lambda name: (-support[name].bit_count(), name),
        )
        self._seen = {name for name in self.open if support[name] & measured.pixels}
        self._chained = [v for v in law.variables if v.differs_from]

    def recognise(self, image: NDArray[np.floating]) -> Found:
        """Find the nearest face.

        Parameters
        ----------
        image : NDArray[float]
            ``(C, H, W)`` in [-1, 1]; values outside count too.

        Returns
        -------
        Found
            A possible face from which no change of one variable leads to a nearer one.
        """
        x = np.asarray(image, np.float64)[:, ~self.measured.mask]
        found = self._from(self.starts[0], x)
        for start in self.starts[1:]:
            if found.squares < CLOSE**2 * x.size:
                break
            found = min(found, self._from(start, x), key=lambda one: one.squares)
        return found

    def _from(self, start: Choice, x: NDArray[np.float64]) -> Found:
        choice = dict(start)
        best = self._error(choice, x)
        errors: dict[str, NDArray[np.float64]] = {}
        for _ in range(ROUNDS):
            before = best
            for name in self.open:
                changes = [{**choice, name: value} for value in self.marginals[name]]
                each = np.array([self._error(one, x) for one in changes])
                errors[name] = each
                if each.min() < best:
                    best, choice = float(each.min()), changes[int(each.argmin())]
            if best == before:
                best, choice = self._in_other_colors(choice, x, best)
            if best == before:
                break
        shares = {name: self._shares(name, each) for name, each in errors.items()}
        return Found(choice, best, shares)

    def _in_other_colors(
        self, choice: Choice, x: NDArray[np.float64], best: float
    ) -> tuple[float, dict[str, str]]:
        """Change components together with colours that nothing shows yet."""
        found = dict(choice)
        for color in self.open:
            if self.law.support(color, choice):
                continue
            for name in set(self.law.context(color)) & set(self.open):
                for pair in itertools.product(self.marginals[name], self.marginals[color]):
                    one = {**choice, name: pair[0], color: pair[1]}
                    error = self._error(one, x)
                    if error < best:
                        best, found = error, one
        return best, found

    def _error(self, choice: Choice, x: NDArray[np.float64]) -> float:
        """Return the squared distance over hidden values; infinite for an impossible face."""
        if self._chained and not self._has_probability(choice):
            return np.inf
        image = self.law.render(choice)
        mask = self.measured.mask
        if self._seen and self.measured.log_likelihood(image, self.measured.pixels) == -np.inf:
            return np.inf
        return float(((image[:, ~mask] / 127.5 - 1 - x) ** 2).sum())

    def _has_probability(self, choice: Choice) -> bool:
        """Whether colours differ where they must; one that nothing shows could be another."""
        for variable in self._chained:
            names = variable.name, *variable.differs_from
            value, *others = (choice[n] if self.law.support(n, choice) else "" for n in names)
            given = dict(zip(variable.differs_from, others, strict=True))
            if value and value not in variable.probabilities(given):
                return False
        return True

    def _shares(self, name: str, errors: NDArray[np.float64]) -> NDArray[np.float64]:
        same = (errors == errors.min()) * np.array(list(self.marginals[name].values()))
        shares: NDArray[np.float64] = same / same.sum()
        return shares
