"""Random numbers that threads draw before they are asked for, bit for bit those of a plain loop.

A GPU computes a step while the host already prepares the next one. Noise that is drawn at its
request stops both: the host draws, and a copy from ordinary memory waits until the device is idle.
Here threads draw what will probably be asked for next (:class:`Forecast`), into memory from which a
GPU copies by itself, and the copy takes place while the device computes.

A wrong guess costs time and no bits. Every tensor carries the states of its generators after it, so
generators return to the last tensor that was handed out. Each row belongs to one thread, which
draws all numbers of its generator in their order.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

Request = tuple[str, tuple[int, ...], torch.dtype]
"""What is drawn: ``normal`` or ``uniform``, the shape of a row, and the type of the numbers."""

HELD = 2**30
"""Bytes that one source may have drawn ahead. DAPS asks for a hundred tensors between a few calls
of the network; at 16 rows of 3 x 256 x 256 they are 1.2 GB."""

MOST_THREADS = 8

SMALL = 2**14
"""Fewer numbers are drawn faster than a thread is woken: a source that is asked for no more has no
threads, and one with fewer in a row has one."""

UPLOADED = 2
"""Tensors that wait on the device; the others wait on the host."""

LARGE = 2**20
"""Bytes from which a tensor is copied beside the other work of the device: the events that this
takes cost the host as much time as a smaller copy costs the device."""


def request_of(kind: str, shape: Sequence[int]) -> Request:
    """Return the request for ``kind`` numbers of a row's ``shape``, of torch's default type."""
    return kind, tuple(shape), torch.get_default_dtype()


def empty(request: Request, rows: int, pinned: bool = False) -> Tensor:
    """Return memory for the numbers of a request, on the host."""
    _, shape, dtype = request
    return torch.empty((rows, *shape), dtype=dtype, device="cpu", pin_memory=pinned)


def bytes_of(request: Request, rows: int) -> int:
    """Return the size of the numbers of a request."""
    _, shape, dtype = request
    return rows * math.prod(shape) * dtype.itemsize


def fill(row: Tensor, kind: str, generator: torch.Generator) -> None:
    """Draw the numbers of one row, the same as ``torch.randn`` or ``torch.rand`` do."""
    if kind == "normal":
        row.normal_(generator=generator)
    else:
        row.uniform_(generator=generator)


def drawn(request: Request, generators: Sequence[torch.Generator], pinned: bool = False) -> Tensor:
    """Return the numbers of a request, one row per generator, on the host."""
    out = empty(request, len(generators), pinned)
    for row, generator in zip(out, generators, strict=True):
        fill(row, request[0], generator)
    return out


class Forecast:
    """Guess the next request from those before it.

    Solvers ask in a rhythm: many tensors of one shape, then perhaps one of another. So the guess is
    what last followed the same number of equal requests, after the same requests before those if
    that is known; else the same request again.
    """

    KNOWN = 4096  # a solver without a rhythm must not fill the memory

    def __init__(self) -> None:
        self._next: dict[Runs, Request] = {}

    def learn(self, runs: Runs, request: Request) -> None:
        """Note that ``request`` came after ``runs``, if that was not the guess."""
        if self.guess(runs) == request:
            return
        if len(self._next) > self.KNOWN:
            self._next.clear()
        for known in range(1, len(runs) + 1):
            self._next[runs[-known:]] = request

    def guess(self, runs: Runs) -> Request:
        """Return the request that probably comes after ``runs``."""
        for known in range(len(runs), 0, -1):
            if (found := self._next.get(runs[-known:])) is not None:
                return found
        return runs[-1][0]


Runs = tuple[tuple[Request, int], ...]
"""The last requests: each with the number of times that it came in succession."""


def extended(runs: Runs, request: Request) -> Runs:
    """Return ``runs`` with one request more; the last three runs are kept."""
    if runs and runs[-1][0] == request:
        return (*runs[:-1], (request, runs[-1][1] + 1))
    return (*runs, (request, 1))[-3:]


_NO_STATE = torch.empty(0)


class _Item:
    """A tensor that is drawn, or will be.

    ``number`` counts the items of a shelf. ``left`` is the number of threads that have not drawn
    their rows yet, and ``after`` holds the state of every generator after its row.
    """

    def __init__(self, number: int, request: Request, rows: int, threads: int, pinned: bool):
        self.number, self.request, self.pinned = number, request, pinned
        self.left, self.after = threads, [_NO_STATE] * rows
        self.size = bytes_of(request, rows)
        self.error: BaseException | None = None
        self.uploaded: tuple[Tensor, torch.cuda.Event] | None = None
        self._block: Tensor | None = None
        self._lock = threading.Lock()

    def block(self) -> Tensor:
        """Return the memory of the tensor; the first thread that comes reserves it."""
        with self._lock:
            if self._block is None:
                self._block = empty(self.request, len(self.after), self.pinned)
            return self._block


class _Shelf:
    """What the threads share with their source; it does not know the source, which may die."""

    def __init__(self, generators: Sequence[torch.Generator], threads: int):
        self.generators, self.process = generators, os.getpid()
        self.lock = threading.RLock()
        self.work, self.done = threading.Condition(self.lock), threading.Condition(self.lock)
        self.queue: deque[_Item] = deque()
        self.dropped, self.drawing, self.stopped = 0, 0, False
        parts = [range(first, len(generators), threads) for first in range(threads)]
        self.threads = [
            threading.Thread(target=_work, args=(self, part), name="noise", daemon=True)
            for part in parts
        ]
        for thread in self.threads:
            thread.start()

    def after(self, number: int) -> _Item | None:
        """Return the first item behind item ``number``; numbers in the queue have no gap."""
        if not self.queue:
            return None
        place = max(number + 1 - self.queue[0].number, 0)
        return self.queue[place] if place < len(self.queue) else None

    def clear(self) -> None:
        """Drop every item, and wait until no thread draws."""
        self.queue.clear()
        self.dropped += 1
        while self.drawing:
            self.wait()

    def wait(self) -> None:
        """Wait for the threads, which must be alive."""
        self.done.wait(1.0)
        if not all(thread.is_alive() for thread in self.threads):
            raise RuntimeError("a thread that draws noise has ended; run the cell again")

    def stop(self) -> None:
        """End the threads. A process that was forked has none, and its locks may be held."""
        if os.getpid() != self.process:
            return
        with self.lock:
            self.stopped = True
            self.dropped += 1
            self.queue.clear()
            self.work.notify_all()
        # The garbage collector may call this in a thread of ours.
        if threading.current_thread() not in self.threads:
            for thread in self.threads:
                thread.join(5.0)


_OWN_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}


def _work(shelf: _Shelf, rows: Sequence[int]) -> None:
    """Draw some rows of every item, until the shelf is stopped."""
    # Ctrl-C is for the main thread, also while that has it blocked.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _OWN_FAULTS)
    last = -1
    while True:
        with shelf.lock:
            while not shelf.stopped and (item := shelf.after(last)) is None:
                shelf.work.wait()
            if shelf.stopped or item is None:
                return
            shelf.drawing += 1
            dropped = shelf.dropped
        error = _draw(shelf, item, rows, dropped)
        with shelf.lock:
            last = item.number
            shelf.drawing -= 1
            item.left -= 1
            item.error = item.error or error
            if not item.left or item.error or not shelf.drawing:
                shelf.done.notify_all()
        del item  # a thread that waits keeps no tensor


def _draw(shelf: _Shelf, item: _Item, rows: Sequence[int], dropped: int) -> BaseException | None:
    """Draw some rows of an item, unless it is dropped meanwhile; return what went wrong."""
    try:
        block = item.block()
        for row in rows:
            if shelf.dropped != dropped:
                break
            fill(block[row], item.request[0], shelf.generators[row])
            item.after[row] = shelf.generators[row].get_state()
    except BaseException as error:  # raised again where the numbers are asked for
        return error
    return None


class DrawnAhead:
    """Numbers of some generators, one row each, drawn by threads before they are asked for.

    The first request is drawn at once. Threads start with the second one that is not small, and end
    with this object or with the process.

    Parameters
    ----------
    generators : sequence of torch.Generator
        One CPU generator per row; nobody else may use them.
    device : torch.device or str
        Where the numbers are handed out.
    threads : int, default :data:`MOST_THREADS`
        Most threads; there are no more than rows.
    held : int, default :data:`HELD`
        Bytes that may be drawn ahead, above 0. One tensor is drawn ahead however large it is.

    Notes
    -----
    How much is drawn ahead doubles whenever a tensor was foreseen and not ready in time.

    On a GPU the host never waits for a copy. Torch hands pinned memory out again only once the
    copies from it have ended (its host allocator records an event after each), and no tensor is
    written to after it was drawn.
    """

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        device: torch.device | str,
        threads: int = MOST_THREADS,
        held: int = HELD,
    ):
        self._generators, self._device = list(generators), torch.device(device)
        self._most, self._held = max(1, min(threads, len(generators))), held
        self._gpu = self._device.type.startswith("cuda")  # as workers tell a GPU, pretended or not
        self._copies: torch.cuda.Stream | None = None
        self._forecast, self._past, self._depth = Forecast(), Runs(), UPLOADED
        self._planned, self._count, self._bytes = self._past, 0, 0
        self._shelf: _Shelf | None = None
        self._states: list[Tensor] = []

    def take(self, request: Request, on_host: bool = False) -> Tensor:
        """Return the next numbers ``(rows, ...)`` on the device, or on the host.

        Raises
        ------
        RuntimeError
            What a thread met when it drew them.
        """
        if self._shelf is not None and self._shelf.process != os.getpid():
            self._resume()
        if self._shelf is None:
            first = not self._past
            if first or math.prod(request[1]) * len(self._generators) < SMALL:
                block = drawn(request, self._generators, pinned=self._gpu)
                self._note(request)
                return block if on_host else self._moved(block)
            self._states = [generator.get_state() for generator in self._generators]
            few = math.prod(request[1]) < SMALL
            self._shelf = _Shelf(self._generators, 1 if few else self._most)
            weakref.finalize(self, self._shelf.stop)
        item = self._next(self._shelf, request)
        if on_host:
            out = item.block()
        elif item.uploaded is None:
            out = self._moved(item.block())
        else:
            out, copied = item.uploaded
            here = torch.cuda.current_stream(self._device)
            here.wait_event(copied)
            out.record_stream(here)  # its memory belongs to the stream of the copies
        self._upload(self._shelf)
        return out

    def _next(self, shelf: _Shelf, request: Request) -> _Item:
        """Return the item of a request, once it is drawn, and plan those behind it."""
        with shelf.lock:
            if not shelf.queue or shelf.queue[0].request != request:
                self._return(shelf)
                self._plan(shelf, request)
            elif shelf.queue[0].left and len(shelf.queue) >= self._depth:
                self._depth *= 2
            item = shelf.queue[0]
            while item.left and item.error is None:
                shelf.wait()
            if item.error is not None:
                self._return(shelf)
                raise item.error
            shelf.queue.popleft()
            self._states = item.after
            self._note(request)
            rows = len(self._generators)
            self._bytes -= item.size
            while len(shelf.queue) < self._depth:
                guess = self._forecast.guess(self._planned)
                if shelf.queue and self._bytes + bytes_of(guess, rows) > self._held:
                    break
                self._plan(shelf, guess)
            return item

    def _note(self, request: Request) -> None:
        """Learn from a request that was met."""
        if self._past:
            self._forecast.learn(self._past, request)
        self._past = extended(self._past, request)

    def _plan(self, shelf: _Shelf, request: Request) -> None:
        """Let the threads draw a request behind those that are planned."""
        item = _Item(
            self._count, request, len(self._generators), len(shelf.threads), pinned=self._gpu
        )
        shelf.queue.append(item)
        shelf.work.notify_all()
        self._count += 1
        self._bytes += item.size
        self._planned = extended(self._planned, request)

    def _return(self, shelf: _Shelf) -> None:
        """Drop what is drawn ahead; generators go back to the last tensor that was handed out."""
        shelf.clear()
        self._planned, self._bytes = self._past, 0
        for generator, state in zip(self._generators, self._states, strict=True):
            generator.set_state(state)

    def _resume(self) -> None:
        """Go on in a process that was forked, which has the memory of the threads and not them."""
        self._generators = [torch.Generator().set_state(state) for state in self._states]
        self._shelf = None

    def _moved(self, block: Tensor) -> Tensor:
        return block.to(self._device, non_blocking=self._gpu)

    def _upload(self, shelf: _Shelf) -> None:
        """Copy the next tensors that are drawn to the GPU, beside its other work."""
        if self._device.type != "cuda":
            return
        if self._copies is None:
            self._copies = torch.cuda.Stream(self._device)
        for item in list(islice(shelf.queue, UPLOADED)):
            if item.left or item.error is not None:
                break
            if item.uploaded is None and item.size >= LARGE:
                with torch.cuda.stream(self._copies):
                    item.uploaded = self._moved(item.block()), self._copies.record_event()
