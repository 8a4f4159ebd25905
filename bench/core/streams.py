"""Random numbers that depend on their purpose alone.

A seed is a hash of (study seed, data id, image id, draw, stream). So a measurement is the same for
every solver, batch size, order, subset and number of workers, and one more draw changes no other
draw. Numbers are drawn on the CPU and then moved, because generators of different devices give
different numbers; threads do that before a solver asks, so that a GPU never waits for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from posterior_bench.bench.core.drawn_ahead import DrawnAhead, drawn, request_of

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
    ahead : bool, optional
        Whether threads draw the next numbers before they are asked for
        (:mod:`bench.core.drawn_ahead`); the numbers are the same. None: on any device but the CPU,
        where threads would only take the time of the solver.
    """

    def __init__(
        self,
        keys: Sequence[Key],
        stream: str,
        device: torch.device | str = "cpu",
        draw: int | None = None,
        ahead: bool | None = None,
    ):
        self._keys, self._stream, self._ahead = list(keys), stream, ahead
        self._device = torch.device(device)
        self._start([key.seed(stream, draw) for key in keys])

    def _start(self, seeds: Sequence[int]) -> None:
        """Give every row a generator of its own."""
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        ahead = self._device.type not in ("cpu", "meta") if self._ahead is None else self._ahead
        threads = torch.get_num_threads()  # the share of this worker
        self._source = DrawnAhead(self._generators, self._device, threads) if ahead else None

    def __len__(self) -> int:
        return len(self._generators)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Return standard normals, float32 ``(rows, *shape)``."""
        return self._drawn("normal", shape)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Return uniforms on [0, 1), float32 ``(rows, *shape)``."""
        return self._drawn("uniform", shape)

    def host_uniform(self, shape: Sequence[int]) -> Tensor:
        """Return the numbers of :meth:`uniform` on the CPU, whatever the device."""
        return self._drawn("uniform", shape, on_host=True)

    def _drawn(self, kind: str, shape: Sequence[int], on_host: bool = False) -> Tensor:
        request = request_of(kind, shape)
        if self._source is not None:
            return self._source.take(request, on_host)
        block = drawn(request, self._generators)
        return block if on_host else block.to(self._device)

    def draws(self, draws: Sequence[int]) -> Noise:
        """Return fresh noise for every (row, draw), rows of one image together."""
        child = Noise([], self._stream, self._device, ahead=self._ahead)
        child._keys = [key for key in self._keys for _ in draws]
        child._start([key.seed(self._stream, draw) for key in self._keys for draw in draws])
        return child
