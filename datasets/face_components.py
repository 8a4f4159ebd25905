"""The distribution of the cartoon faces: independent choices, and the image that they give.

A style draws a face from components such as hair, eyes and mouth. Every component is absent with
some probability, or shows one of its variants; every colour is one of a palette. DiceBear derives
each of these choices from the seed by a hash of its own, so over seeds they are independent, with
the one exception of colours that must differ from other colours. No position, size or angle is
drawn: the distribution is discrete, and all of it is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from posterior_bench.datasets.face_drawing import BACKGROUNDS, averaged, definition, drawn
from posterior_bench.datasets.face_supports import Supports

NONE = "none"
"""The value of a component that is absent."""

Choice = Mapping[str, str]
"""A value for every variable: a variant, a colour such as ``#f2d3b1``, or ``none``."""


@dataclass(frozen=True)
class Variable:
    """One of the choices that make a face.

    Parameters
    ----------
    name : str
        Name of a component, such as ``hair``, or of a colour, such as ``hairColor``.
    values : tuple[str, ...]
        The possible values.
    weights : tuple[float, ...]
        Their probabilities, which sum to 1.
    differs_from : tuple[str, ...], default ()
        Variables whose value this one never has. Their value is then left out, and the weights of
        the others are scaled to sum to 1; if none is left, all values stay.
    """

    name: str
    values: tuple[str, ...]
    weights: tuple[float, ...]
    differs_from: tuple[str, ...] = ()

    def probabilities(self, given: Choice) -> dict[str, float]:
        """Return the probabilities of the values.

        Parameters
        ----------
        given : Mapping[str, str]
            Values of other variables, of all in ``differs_from`` at least.

        Returns
        -------
        dict[str, float]
            The values of positive probability, with their probabilities.
        """
        excluded = {given[name] for name in self.differs_from}
        left = {v: w for v, w in zip(self.values, self.weights, strict=True) if v not in excluded}
        left = left or dict(zip(self.values, self.weights, strict=True))
        total = sum(left.values())
        return {value: weight / total for value, weight in left.items() if weight > 0}


class Law(Protocol):
    """A distribution of images over independent choices, which a posterior can be computed for."""

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables; each stands behind the ones that it differs from."""

    def support(self, name: str, given: Choice) -> int:
        """Return the pixels that may depend on a variable.

        Parameters
        ----------
        name : str
            Name of the variable.
        given : Mapping[str, str]
            Values of some variables; the others may have any value. If ``name`` is among them, the
            pixels are the ones that this value touches.

        Returns
        -------
        int
            The set of pixels; bit ``i`` stands for pixel ``i``, row by row. It may be too large,
            never too small.
        """

    def context(self, name: str) -> tuple[str, ...]:
        """Return the variables whose value changes the support of a variable."""

    def render(self, choice: Choice) -> NDArray[np.uint8]:
        """Return the image ``(C, H, W)``. Variables that ``choice`` leaves out are not drawn."""


class FaceStyle:
    """One style: its variables, their probabilities, and the image of every choice.

    Parameters
    ----------
    content : Mapping[str, Any]
        Definition of the style, in the format of ``dicebear-styles``.
    backgrounds : Sequence[str], default BACKGROUNDS
        Colours of the background, with equal probabilities.

    Raises
    ------
    ValueError
        If the style draws positions, sizes or angles, or has a component that repeats another:
        such a style is not made of independent choices from lists.

    Examples
    --------
    >>> style = FaceStyle.named("miniavs")
    >>> choice = style.choice("miniavs_test_00000")
    >>> style.render({**choice, "glasses": "normal"}).shape
    (3, 64, 64)
    """

    def __init__(self, content: Mapping[str, Any], backgrounds: Sequence[str] = BACKGROUNDS):
        from dicebear import Style  # an optional package

        _demand_discrete(content)
        self.content = content
        self._style = Style(content)
        self._backgrounds = tuple(f"#{colour}" for colour in backgrounds)
        self._components = content["components"]
        every = [*self._component_variables(), *self._color_variables()]
        self._constants = {v.name: v.values[0] for v in every if len(v.values) == 1}
        self._variables = _behind_others([v for v in every if len(v.values) > 1])
        self._render = lru_cache(maxsize=4096)(self._drawn)

    @staticmethod
    @lru_cache
    def named(name: str) -> FaceStyle:
        """Return a style of ``dicebear-styles``; it is kept for the next call."""
        return FaceStyle(definition(name))

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables; each stands behind the ones that it differs from.

        What has one value only, such as the colour of the ink, is none of them.
        """
        return self._variables

    def choice(self, seed: str) -> dict[str, str]:
        """Return the values that DiceBear draws from a seed.

        Parameters
        ----------
        seed : str
            Any text; the id of an image is its seed.

        Returns
        -------
        dict[str, str]
            The value of every variable, also of one that nothing shows, such as the colour of
            glasses that are absent.
        """
        from dicebear.options import Options
        from dicebear.resolver import Resolver

        options = Options({"seed": seed, "backgroundColor": list(self._backgrounds)})
        resolver = Resolver(self._style, options)
        values = {}
        for variable in self.variables:
            if variable.name in self._components:
                values[variable.name] = resolver.variant(variable.name) or NONE
            else:
                values[variable.name] = resolver.color(variable.name.removesuffix("Color"))[0]
        return values

    def probability(self, choice: Choice) -> float:
        """Return the probability of a choice of all variables."""
        chances = (v.probabilities(choice).get(choice[v.name], 0.0) for v in self.variables)
        return float(np.prod(list(chances)))

    def render(self, choice: Choice) -> NDArray[np.uint8]:
        """Draw a choice.

        Parameters
        ----------
        choice : Mapping[str, str]
            Values of variables. A component that it leaves out is not drawn; a colour that it
            leaves out is the first of its palette.

        Returns
        -------
        NDArray[uint8]
            The image ``(3, 64, 64)``, 0 to 255, equal bit by bit to the one of a seed with these
            values. It cannot be written to.
        """
        return self._render(frozenset((self._constants | dict(choice)).items()))

    def support(self, name: str, given: Choice) -> int:
        """Return the pixels that may depend on a variable; see :meth:`Law.support`."""
        return self._supports.of(name, self._constants | dict(given))

    def context(self, name: str) -> tuple[str, ...]:
        """Return the variables whose value changes the support of a variable."""
        names = {variable.name for variable in self.variables}
        return tuple(other for other in self._supports.context(name) if other in names)

    @cached_property
    def _supports(self) -> Supports:
        values = {v.name: v.values for v in self._component_variables()}
        return Supports(self.content, values)

    def _drawn(self, values: frozenset[tuple[str, str]]) -> NDArray[np.uint8]:
        choice = dict(values)
        options: dict[str, Any] = {}
        for name in self._components:
            value = choice.get(name, NONE)
            options[f"{name}Probability"] = 0 if value == NONE else 100
            if value != NONE:
                options[f"{name}Variant"] = value
        colors = {name: v for name, v in choice.items() if name not in self._components}
        options |= {"backgroundColor": self._backgrounds[0]} | colors
        image = averaged(drawn(self._style, options))
        image.flags.writeable = False
        return image

    def _component_variables(self) -> list[Variable]:
        found = []
        for name, component in self._components.items():
            chance = component.get("probability", 100) / 100
            variants = component["variants"]
            weights = np.array([v.get("weight", 1) for v in variants.values()], float)
            weights = weights if weights.any() else np.ones(len(weights))
            values = dict(zip(variants, chance * weights / weights.sum(), strict=True))
            if chance < 1:
                values[NONE] = 1 - chance
            found.append(Variable(name, tuple(values), tuple(values.values())))
        return found

    def _color_variables(self) -> list[Variable]:
        palettes = {
            name: [v.lower() for v in color["values"]]
            for name, color in self.content["colors"].items()
        }
        palettes["background"] = list(self._backgrounds)
        found = []
        for name, palette in palettes.items():
            values = tuple(dict.fromkeys(palette))
            even = (1 / len(values),) * len(values)
            others = self.content["colors"].get(name, {}).get("notEqualTo", [])
            # a colour that no value of this one can equal excludes nothing
            excluding = tuple(f"{o}Color" for o in others if set(palettes[o]) & set(values))
            found.append(Variable(f"{name}Color", values, even, excluding))
        return found


def _demand_discrete(content: Mapping[str, Any]) -> None:
    for name, component in content["components"].items():
        drawn_otherwise = {"rotate", "scale", "translate", "extends"} & component.keys()
        if drawn_otherwise:
            raise ValueError(
                f"component '{name}' has '{min(drawn_otherwise)}'; only choices from lists can be "
                "enumerated"
            )
    for name, color in content["colors"].items():
        if color.get("contrastTo"):
            raise ValueError(f"colour '{name}' depends on '{color['contrastTo']}' by contrast")


def _behind_others(variables: Sequence[Variable]) -> tuple[Variable, ...]:
    """Order variables so that each stands behind the ones that it differs from."""
    ordered: list[Variable] = []
    left = list(variables)
    while left:
        names = {variable.name for variable in left}
        free = [v for v in left if not names & set(v.differs_from)]
        ordered += free
        left = [v for v in left if v not in free]
    return tuple(ordered)
