"""Methods of one object replaced for a while, for runs that must not run a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(holder: object, **methods: Callable[..., Any]) -> Iterator[None]:
    """Replace methods of one object within the block, and put them back at its end.

    A dry run counts calls and memory with it: it replaces :meth:`priors.base.Prior.run_network`
    and the autoencoder by something that computes nothing.

    Parameters
    ----------
    holder : object
        The prior or the autoencoder. Other objects of its class stay as they are.
    **methods : Callable
        The new methods by name; they are called without ``self``.

    Raises
    ------
    AttributeError
        If the object has no method of such a name.
    """
    before = {name: getattr(holder, name) for name in methods}
    own = {name for name in methods if name in vars(holder)}
    try:
        for name, method in methods.items():
            setattr(holder, name, method)
        yield
    finally:
        for name, method in before.items():
            setattr(holder, name, method) if name in own else delattr(holder, name)
