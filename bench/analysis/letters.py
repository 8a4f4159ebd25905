"""Rank letters: two solvers share a letter if and only if they cannot be told apart."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # it loads scipy, and tables of results ask for letters alone
    from posterior_bench.bench.analysis.families import Family


def ranks(family: Family, direction: str) -> list[str]:
    """Return the rank letters of the solvers of a family; ``a`` has the best mean.

    ``direction`` is ``up`` or ``down``.
    """
    means = family.values.mean(axis=1)
    order = np.argsort(-means if direction == "up" else means, kind="stable")
    named = dict(zip(order.tolist(), letters(family.differ[np.ix_(order, order)]), strict=True))
    return [named[i] for i in range(len(means))]


def letters(differ: NDArray[np.bool_]) -> list[str]:
    """Return a compact letter display: ``i < j`` share a letter unless ``differ[i, j]``.

    Items come best first, and letters are named in their order; numbers where letters run out. A
    letter is a group of items none of which differ. There may be exponentially many such groups
    (Moon and Moser 1965), but one per pair suffices: each pair that has none yet gets one, grown
    item by item as long as no two differ, and groups whose pairs all have another one are dropped.
    So the time is polynomial, ``O(n^4)`` at most.

    References
    ----------
    Gramm et al., "Algorithms for compact letter displays", 2007, which calls this a clique cover.
    """
    count = len(differ)
    upper = np.triu(~np.asarray(differ, dtype=bool), 1)
    alike = upper | upper.T | np.eye(count, dtype=bool)
    covered = np.zeros((count, count), dtype=np.int64)
    groups: list[NDArray[np.intp]] = []
    for i in range(count):
        for j in np.flatnonzero(alike[i]).tolist():
            if j >= i and not covered[i, j] and not (i == j and alike[i].sum() > 1):
                group = _grown(alike, covered, i, j)
                covered[np.ix_(group, group)] += 1
                groups.append(group)
    groups.sort(key=lambda group: group.tolist())
    for k in range(len(groups) - 1, -1, -1):
        block = np.ix_(groups[k], groups[k])
        if (covered[block] > 1).all():
            covered[block] -= 1
            del groups[k]
    symbols = string.ascii_letters if len(groups) <= len(string.ascii_letters) else None
    names = [symbols[k] if symbols else str(k + 1) for k in range(len(groups))]
    join = "".join if symbols else ",".join
    return [
        join(name for name, group in zip(names, groups, strict=True) if i in group)
        for i in range(count)
    ]


def _grown(
    alike: NDArray[np.bool_], covered: NDArray[np.int64], i: int, j: int
) -> NDArray[np.intp]:
    """Return a largest group around ``i`` and ``j``, adding first the item with most new pairs."""
    members = np.zeros(len(alike), dtype=bool)
    members[[i, j]] = True
    while (free := np.flatnonzero(alike[members].all(axis=0) & ~members)).size:
        fresh = (covered[np.ix_(free, np.flatnonzero(members))] == 0).sum(axis=1)
        members[free[np.argmax(fresh)]] = True
    return np.flatnonzero(members)


def share(a: str, b: str) -> bool:
    """Return whether two names of :func:`letters` have a letter, or a number, in common."""
    if a[:1].isdigit():
        return not {*a.split(",")}.isdisjoint(b.split(","))
    return not {*a}.isdisjoint(b)
