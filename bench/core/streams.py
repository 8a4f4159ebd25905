"""Random numbers that depend on their purpose alone.

A seed is a hash of (study seed, data id, image id, draw, stream). So a measurement is the same for
every solver, batch size, order, subset and number of workers, and one more draw changes no other
draw. Numbers are drawn on the CPU and then moved, because generators of different devices give
different numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

STREAMS = ("mask", "noise", "solver", "metric", "truth")


def seed_of(study: int, data: str, image: str, stream: str, draw: int | None = None) -> int:
    """Return 63 bits of blake2b over the key.

    Parameters
    ----------
    study : int
        The seed of the study.
    data, image : str
        Ids of the data set and the image.
    stream : str
        One of :data:`STREAMS`.
    draw : int, optional
        The draw; None for numbers that all draws of an image share.

    Raises
    ------
    ValueError
        For an unknown stream.
    """
    if stream not in STREAMS:
        raise ValueError(f"unknown stream '{stream}'; valid: {', '.join(STREAMS)}")
    key = "\x1f".join((str(study), data, image, stream, "" if draw is None else str(draw)))
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class Key:
    """The image whose random numbers are drawn: study seed, data id, image id."""

    study: int
    data: str
    image: str

    def seed(self, stream: str, draw: int | None = None) -> int:
        """Return the seed of a stream, for a draw or for all draws of the image."""
        return seed_of(self.study, self.data, self.image, stream, draw)

    def rng(self, stream: str, draw: int | None = None) -> np.random.Generator:
        """Return a NumPy generator for mask geometry."""
        return np.random.Generator(np.random.PCG64(self.seed(stream, draw)))


class Noise:
    """Random numbers with one CPU generator per row: row ``i`` does not depend on the other rows.

    Parameters
    ----------
    keys : sequence of Key
        One key per row.
    stream : str
        One of :data:`STREAMS`.
    device : torch.device or str, default 'cpu'
        Where the numbers are moved to.
    draw : int, optional
        The draw; None for numbers that all draws of an image share.
    """

    def __init__(
        self,
        keys: Sequence[Key],
        stream: str,
        device: torch.device | str = "cpu",
        draw: int | None = None,
    ):
        self._keys, self._stream, self._device = list(keys), stream, device
        self._generators = [torch.Generator().manual_seed(key.seed(stream, draw)) for key in keys]

    def __len__(self) -> int:
        return len(self._generators)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Return standard normals, float32 ``(rows, *shape)``."""
        return torch.stack([torch.randn(tuple(shape), generator=g) for g in self._generators]).to(
            self._device
        )

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Return uniforms on [0, 1), float32 ``(rows, *shape)``."""
        return torch.stack([torch.rand(tuple(shape), generator=g) for g in self._generators]).to(
            self._device
        )

    def draws(self, draws: Sequence[int]) -> Noise:
        """Return fresh noise for every (row, draw), rows of one image together."""
        child = Noise([], self._stream, self._device)
        child._keys = [key for key in self._keys for _ in draws]
        seeds = [key.seed(self._stream, draw) for key in self._keys for draw in draws]
        child._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return child
