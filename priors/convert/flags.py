"""Settings of an upstream network, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Flags:
    """Settings of a network under upstream names; a value of another type raises ValueError.

    Parameters
    ----------
    values : Mapping[str, object]
        The settings by name.
    """

    values: Mapping[str, object]

    def number(self, key: str) -> int:
        """Return a whole number."""
        value = self.values[key]
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"the flag {key} must be a whole number, got {value!r}")
        return value

    def on(self, key: str) -> bool:
        """Return a truth value."""
        value = self.values[key]
        if not isinstance(value, bool):
            raise ValueError(f"the flag {key} must be true or false, got {value!r}")
        return value

    def numbers(self, key: str, text: object) -> tuple[int, ...]:
        """Return the whole numbers in ``text``, a list or numbers with commas between them."""
        parts = text if isinstance(text, list | tuple) else str(text).split(",")
        try:
            return tuple(int(str(part)) for part in parts)
        except ValueError:
            raise ValueError(f"the flag {key} must list whole numbers, got {text!r}") from None


def chosen_flags(
    layout: str | None,
    flags: Mapping[str, object] | None,
    layouts: Mapping[str, Mapping[str, object]],
    defaults: Mapping[str, object],
    without_effect: frozenset[str] = frozenset(),
) -> Flags:
    """Return the flags of a layout, or the given ones, over the defaults.

    Parameters
    ----------
    layout : str or None
        Name of a published checkpoint.
    flags : Mapping[str, object] or None
        Flags of another checkpoint. Give either ``layout`` or ``flags``.
    layouts : Mapping[str, Mapping[str, object]]
        The flags of the published checkpoints.
    defaults : Mapping[str, object]
        All flags that matter, with their defaults.
    without_effect : frozenset[str], optional
        Flags that are accepted and ignored.

    Returns
    -------
    Flags
        One value for every flag of ``defaults``.

    Raises
    ------
    ValueError
        If both or none are given, or a name is unknown.
    """
    if (layout is None) == (flags is None):
        raise ValueError(
            "this checkpoint does not say its layout; "
            f"give one of {', '.join(layouts)}, or its flags"
        )
    if layout is not None and layout not in layouts:
        raise ValueError(f"unknown layout '{layout}'; valid: {', '.join(layouts)}")
    values = layouts[layout] if layout is not None else flags or {}
    if unknown := values.keys() - defaults.keys() - without_effect:
        raise ValueError(f"unknown flag {', '.join(sorted(unknown))}; valid: {', '.join(defaults)}")
    return Flags({**defaults, **values})
