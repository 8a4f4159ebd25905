"""Find the pixels that a component or a colour of a style can change.

A component is drawn alone, on nothing. Whatever lies below it or above it, it changes no pixel that
stays transparent then. Sets of pixels are whole numbers: bit ``i`` stands for pixel ``i`` of the
image, row by row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from posterior_bench.datasets.face_drawing import SIDE, drawn

Elements = list[dict[str, Any]]

ALL = 2 ** (SIDE * SIDE) - 1
"""All pixels of an image."""


def bits_of(pixels: NDArray[np.bool_]) -> int:
    """Return a set of pixels ``(H, W)`` as a whole number."""
    return int.from_bytes(np.packbits(pixels, bitorder="little").tobytes(), "little")


def pixels_of(bits: int, height: int, width: int) -> NDArray[np.bool_]:
    """Return the set of pixels of a whole number as bool ``(height, width)``."""
    count = height * width
    content = np.frombuffer(bits.to_bytes((count + 7) // 8, "little"), np.uint8)
    return np.unpackbits(content, count=count, bitorder="little").view(bool).reshape(height, width)


class Supports:
    """The pixels that every component and colour of a style can change.

    Parameters
    ----------
    content : Mapping[str, Any]
        Definition of the style.
    values : Mapping[str, tuple[str, ...]]
        The possible values of every component.
    """

    def __init__(self, content: Mapping[str, Any], values: Mapping[str, tuple[str, ...]]):
        self.content, self._values = content, values
        self._variants = {name: c["variants"] for name, c in content["components"].items()}
        self._colors = {
            name: {value: _colors(content["elements"]) for value, content in variants.items()}
            for name, variants in self._variants.items()
        }
        self._hosts = {
            name: frozenset(
                (host, value)
                for host, variants in self._variants.items()
                for value, variant in variants.items()
                if name in _references(variant["elements"])
            )
            for name in values
        }
        self._top = _references(content["canvas"]["elements"])
        self._frame = {k: v for k, v in content.items() if k not in ("canvas", "components")}
        self._touched = lru_cache(maxsize=None)(self._touched_by)
        self._alone = lru_cache(maxsize=None)(self._drawn_alone)
        self._canvas = lru_cache(maxsize=None)(self._on_canvas_in)

    def context(self, name: str) -> tuple[str, ...]:
        """Return the components whose value changes which pixels a variable may change.

        Parameters
        ----------
        name : str
            Name of the component; of a colour with the ending ``Color``.

        Returns
        -------
        tuple[str, ...]
            The components that are drawn within it, within which it is drawn, or that it colours.
        """
        if name in self._values:
            inner = [n for n, hosts in self._hosts.items() if name in {host for host, _ in hosts}]
            found = [*inner, *(host for host, _ in self._hosts[name])]
        else:
            own = [c for c, values in self._users(name.removesuffix("Color")).items() if values]
            found = [n for component in own for n in (component, *self.context(component))]
        return tuple(dict.fromkeys(found))

    def of(self, name: str, given: Mapping[str, str]) -> int:
        """Return the pixels that may depend on a component or a colour.

        Parameters
        ----------
        name : str
            Name of the component; of a colour with the ending ``Color``.
        given : Mapping[str, str]
            Values of some variables. The others may have any value.

        Returns
        -------
        int
            The set of pixels.
        """
        if name == "backgroundColor":
            return ALL
        if name not in self._values:
            color = name.removesuffix("Color")
            found = self._canvas(color)
            for component, values in self._users(color).items():
                found |= self._of_values(component, values, given)
            return found
        found = self._of_values(name, self._variants[name], given)
        for inner, hosts in self._hosts.items():
            for host, value in hosts:  # without it, the component within it is not drawn either
                if host == name and given.get(name, value) == value:
                    found |= self._of_values(inner, self._variants[inner], given)
        return found

    def _of_values(self, name: str, values: Iterable[str], given: Mapping[str, str]) -> int:
        places = [("", "")] if name in self._top else []
        # a component that lies within variants of others is drawn only with these
        places += [(host, v) for host, v in self._hosts[name] if given.get(host, v) == v]
        found = 0
        for value in values:
            if given.get(name, value) == value:
                for host, variant in places:
                    found |= self._alone(name, value, host, variant)
        return found

    def _users(self, color: str) -> dict[str, tuple[str, ...]]:
        """Return the variants of every component that use a colour."""
        return {
            name: tuple(v for v, content in variants.items() if color in content)
            for name, variants in self._colors.items()
        }

    def _on_canvas_in(self, color: str) -> int:
        """Return the pixels of what is always drawn, if it has this colour."""
        own = _without_components(self.content["canvas"]["elements"])
        return self._opaque(own, {}) if color in _colors(own) else 0

    def _drawn_alone(self, name: str, value: str, host: str, variant: str) -> int:
        """Return the pixels that a variant changes, on the canvas or within a variant of a host."""
        canvas = _only(self.content["canvas"]["elements"], host or name)
        variants = {(name, value): _without_components(self._variants[name][value]["elements"])}
        if host:
            variants[host, variant] = _only(self._variants[host][variant]["elements"], name)
        return self._opaque(canvas, variants)

    def _opaque(self, canvas: Elements, variants: Mapping[tuple[str, str], Elements]) -> int:
        components = {}
        for (name, value), elements in variants.items():
            size = {k: self.content["components"][name][k] for k in ("width", "height")}
            components[name] = {**size, "variants": {value: {"elements": elements}}}
        whole = {**self.content["canvas"], "elements": canvas}
        # many variants hold another component at the same place
        return self._touched(json.dumps({**self._frame, "canvas": whole, "components": components}))

    def _touched_by(self, content: str) -> int:
        from dicebear import Style  # an optional package

        touched = drawn(Style(json.loads(content)), {})[..., 3] > 0
        # faint edges may be rounded away on a transparent ground
        touched = binary_dilation(touched, np.ones((3, 3), bool))
        return bits_of(touched.reshape(SIDE, 2, SIDE, 2).any((1, 3)))


def _walk(elements: Elements) -> Iterator[dict[str, Any]]:
    for element in elements:
        yield element
        yield from _walk(element.get("children", []))


def _references(elements: Elements) -> set[str]:
    """Return the components that elements contain."""
    return {e["name"] for e in _walk(elements) if e["type"] == "component"}


def _colors(elements: Elements) -> set[str]:
    """Return the colours that elements use."""
    values = (v for e in _walk(elements) for v in (e.get("attributes") or {}).values())
    return {v["name"] for v in values if isinstance(v, dict) and v["type"] == "color"}


def _only(elements: Elements, name: str) -> Elements:
    """Return elements with nothing drawn but one component, wherever it lies."""
    kept: Elements = []
    for element in elements:
        if element["type"] == "component" and element["name"] == name:
            kept.append(element)
        elif inner := _only(element.get("children", []), name):
            # as a plain group: a component in a mask then counts where it lies
            place = {k: v for k, v in (element.get("attributes") or {}).items() if k == "transform"}
            kept.append({"type": "element", "name": "g", "attributes": place, "children": inner})
    return kept


def _without_components(elements: Elements) -> Elements:
    """Return elements without the components in them; what a component masks is all there."""
    masks = {
        e["attributes"]["id"]
        for e in _walk(elements)
        if e.get("name") == "mask" and _references(e.get("children", []))
    }

    def stripped(element: dict[str, Any]) -> dict[str, Any]:
        attributes = dict(element.get("attributes") or {})
        if attributes.get("mask") in {f"url(#{mask})" for mask in masks}:
            del attributes["mask"]
        inner = [stripped(e) for e in element.get("children", []) if e["type"] != "component"]
        return {**element, "attributes": attributes, **({"children": inner} if inner else {})}

    return [stripped(e) for e in elements if e["type"] != "component"]
