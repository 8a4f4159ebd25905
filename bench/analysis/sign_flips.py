"""The sign-flip permutation test of one pair of solvers, and the signs it flips.

Where two solvers are equally good, each difference of an image is as likely to have the other sign.
So the signs of all images are flipped, to see the differences that chance alone makes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from posterior_bench.bench.analysis.statistics import Array, generator

EXACT, FLIPS = 16, 9999
"""Up to so many images every combination of signs is tried, with more images that many random ones.
"""


TIE = 1e-9
"""Statistics, which are at most 1, that differ by less are equal: sums differ by their rounding."""


_BLOCK = 4_000_000


def sign_blocks(n: int, key: str) -> Iterator[Array]:
    """Yield blocks ``(B, n)`` of signs, +1 and -1; the first row is all +1, as observed.

    Up to :data:`EXACT` images these are all combinations, up to the sign of the whole, which no
    statistic sees.
    """
    size = max(1, _BLOCK // n)
    if n <= EXACT:
        for start in range(0, 2 ** (n - 1), size):
            numbers = np.arange(start, min(start + size, 2 ** (n - 1)))
            yield _as_signs(numbers[:, None] >> np.arange(n) & 1)
        return
    yield np.ones((1, n))
    rng = generator(f"{key}\x1fsigns\x1f{n}")
    for start in range(0, FLIPS, size):
        rows = min(size, FLIPS - start)
        # a bit a sign, and whole words a row: so the signs do not depend on the size of a block
        drawn = np.frombuffer(rng.bytes(rows * 4 * -(-n // 32)), dtype=np.uint8).reshape(rows, -1)
        yield _as_signs(np.unpackbits(drawn, axis=1, count=n))


def _as_signs(bits: NDArray[np.integer]) -> Array:
    return np.where(bits == 0, 1.0, -1.0)


def sign_flip(differences: Array, key: str) -> Array:
    """Return two-sided p values of the sign-flip test of one pair alone, ``(..., n)`` to ``(...)``.

    ``n`` may be any number, but below 6 images no p value is below 0.05.
    """
    n = differences.shape[-1]
    flat = differences.reshape(-1, n)
    scale = np.abs(flat).max(axis=1)
    shares = np.divide(flat, scale[:, None], out=np.zeros_like(flat), where=scale[:, None] > 0)
    observed = np.abs(shares.sum(axis=1)) - TIE
    count, total = np.zeros(len(flat)), 0
    for signs in sign_blocks(n, key):
        count += (np.abs(signs @ shares.T) >= observed).sum(axis=0)
        total += len(signs)
    return np.asarray((count / total).reshape(differences.shape[:-1]))
