"""Noise drawn ahead: the same bits as a plain loop, no thread that outlives it, no lost error."""

from __future__ import annotations

import gc
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from posterior_bench.bench.core import drawn_ahead
from posterior_bench.bench.core.drawn_ahead import DrawnAhead, Forecast, Runs, extended, request_of
from posterior_bench.bench.core.streams import Key, Noise

KEYS = [Key(0, "fashion", image) for image in "abc"]


@pytest.fixture(autouse=True, scope="module")
def small_requests_too() -> Iterator[None]:
    """Let threads draw the few numbers of a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawn_ahead, "SMALL", 100)
        yield


def numbers(seeds: Sequence[int]) -> Callable[[str, tuple[int, ...]], Tensor]:
    """Return the plain loop: torch's own functions, one generator per row."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    functions = {"normal": torch.randn, "uniform": torch.rand}
    return lambda kind, shape: torch.stack(
        [functions[kind](shape, generator=generator) for generator in generators]
    )


def source(seeds: Sequence[int], threads: int = 2, held: int = 2**20) -> DrawnAhead:
    return DrawnAhead([torch.Generator().manual_seed(s) for s in seeds], "cpu", threads, held)


def threads_of_noise() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "noise"]


SHAPES = st.sampled_from(
    [(200,), (), (1,), (5,), (15,), (16,), (17,), (3, 2), (3, 8, 8), (0,), (129, 129)]
)
REQUESTS = st.lists(
    st.tuples(st.sampled_from(["normal", "uniform"]), SHAPES, st.integers(1, 4)), max_size=8
)


@settings(deadline=None, max_examples=60)
@given(requests=REQUESTS, rows=st.integers(1, 5), threads=st.integers(1, 4), pause=st.booleans())
def test_any_requests_give_the_bits_of_a_plain_loop(
    requests: list[tuple[str, tuple[int, ...], int]], rows: int, threads: int, pause: bool
) -> None:
    seeds = list(range(rows))
    plain, ahead = numbers(seeds), source(seeds, threads)
    for kind, shape, times in requests:
        for _ in range(times):
            got = ahead.take(request_of(kind, shape))
            assert torch.equal(got, plain(kind, shape)) and got.dtype == torch.float32
            if pause:  # the threads come to the end of what is planned
                time.sleep(0.001)


@settings(deadline=None, max_examples=30)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["normal", "uniform", "host_uniform", "draws"]),
            SHAPES,
            st.integers(0, 3),
        ),
        max_size=12,
    )
)
def test_noise_and_its_children_give_the_same_bits_drawn_ahead(
    steps: list[tuple[str, tuple[int, ...], int]],
) -> None:
    pairs = [(Noise(KEYS, "solver", ahead=False), Noise(KEYS, "solver", ahead=True))]
    for what, shape, which in steps:
        plain, ahead = pairs[which % len(pairs)]
        if what == "draws":
            pairs.append((plain.draws([which, 7]), ahead.draws([which, 7])))
            assert len(pairs[-1][1]) == len(pairs[-1][0]) == 2 * len(plain)
        else:
            assert torch.equal(getattr(plain, what)(shape), getattr(ahead, what)(shape))


def test_numbers_of_another_default_type_are_those_of_a_plain_loop() -> None:
    plain, ahead = numbers([1, 2]), source([1, 2])
    for dtype in (torch.float32, torch.float64, torch.float32):
        torch.set_default_dtype(dtype)
        try:
            pairs = [(plain("normal", (20,)), ahead.take(request_of("normal", (20,))))] * 3
        finally:
            torch.set_default_dtype(torch.float32)
        assert all(a.dtype == dtype and torch.equal(a, b) for a, b in pairs)


def test_a_tensor_that_was_handed_out_is_never_written_again() -> None:
    ahead = source([1, 2], held=1)
    first = [ahead.take(request_of("normal", (3, 64, 64))) for _ in range(5)]
    before = [tensor.clone() for tensor in first]
    for _ in range(10):
        ahead.take(request_of("normal", (3, 64, 64)))
    assert all(torch.equal(a, b) for a, b in zip(first, before, strict=True))
    assert len({tensor.data_ptr() for tensor in first}) == 5


def test_one_request_and_small_ones_start_no_thread_and_none_outlives_its_noise() -> None:
    gc.collect()
    noise = Noise(KEYS, "solver", ahead=True)
    noise.normal((200,))
    for _ in range(3):
        noise.uniform(())
    assert not threads_of_noise()
    child = noise.draws([0, 1])
    for _ in range(3):
        noise.normal((200,))
        child.normal((200,))
    assert len(threads_of_noise()) == 2
    del child
    assert len(threads_of_noise()) == 1
    del noise
    assert not threads_of_noise()


def test_plain_noise_on_the_cpu_has_no_thread() -> None:
    noise = Noise(KEYS, "solver")
    for _ in range(3):
        noise.normal((3, 200, 200))
    assert not threads_of_noise()


def test_memory_is_bounded_and_only_the_next_tensor_may_exceed_it() -> None:
    size = 2 * 200 * 4
    for held, most in ((1, 1), (3 * size, 3)):
        ahead = source([1, 2], held=held)
        for _ in range(40):
            ahead.take(request_of("normal", (200,)))
            assert ahead._shelf is None or len(ahead._shelf.queue) <= most


def test_the_depth_grows_where_threads_are_late(monkeypatch: pytest.MonkeyPatch) -> None:
    real = drawn_ahead.fill

    def slow(*args: object) -> None:
        time.sleep(0.002)
        real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(drawn_ahead, "fill", slow)
    plain, ahead = numbers([1, 2]), source([1, 2])
    for _ in range(6):
        got = ahead.take(request_of("normal", (200,)))
        assert torch.equal(got, plain("normal", (200,)))
    assert ahead._depth >= 16


def test_an_error_of_a_thread_reaches_the_caller_and_costs_no_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, fails = drawn_ahead.fill, threading.Event()

    def fill(row: Tensor, kind: str, generator: torch.Generator) -> None:
        real(row, kind, generator)
        if fails.is_set():
            raise MemoryError("no pinned memory")

    monkeypatch.setattr(drawn_ahead, "fill", fill)
    plain, ahead = numbers([1, 2]), source([1, 2], held=1)
    for _ in range(3):
        assert torch.equal(ahead.take(request_of("normal", (200,))), plain("normal", (200,)))
    fails.set()
    with pytest.raises(MemoryError, match="no pinned memory"):
        for _ in range(3):  # some were drawn before
            ahead.take(request_of("normal", (200,)))
            plain("normal", (200,))
    fails.clear()
    for shape in ((200,), (2, 9)):
        assert torch.equal(ahead.take(request_of("normal", shape)), plain("normal", shape))


def test_an_interrupted_wait_loses_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, ahead = numbers([1, 2]), source([1, 2])
    for _ in range(2):
        assert torch.equal(ahead.take(request_of("normal", (200,))), plain("normal", (200,)))
    shelf = ahead._shelf
    assert shelf is not None
    waits = iter([KeyboardInterrupt])

    def stopped() -> None:
        for error in waits:
            raise error
        type(shelf).wait(shelf)

    monkeypatch.setattr(shelf, "wait", stopped)
    with pytest.raises(KeyboardInterrupt):
        ahead.take(request_of("uniform", (129, 129)))  # another kind waits for the threads
    assert torch.equal(ahead.take(request_of("normal", (200,))), plain("normal", (200,)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_goes_on_with_the_same_numbers() -> None:
    plain, ahead = numbers([1, 2]), source([1, 2])
    for _ in range(4):
        ahead.take(request_of("normal", (129, 129)))
        plain("normal", (129, 129))
    assert ahead._shelf is not None
    while any(item.left for item in ahead._shelf.queue):  # generators are ahead of the caller
        time.sleep(0.001)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        block = ahead.take(request_of("normal", (17,)))
        os.write(writer, block.numpy().tobytes())
        del ahead
        os._exit(0)
    assert os.read(reader, 10_000) == plain("normal", (17,)).numpy().tobytes()
    assert os.waitpid(child, 0)[1] == 0
    assert ahead.take(request_of("uniform", ())).shape == (2,)


def guesses(requests: str) -> str:
    """Return what is guessed after each request; a letter is a shape."""
    forecast, runs, guessed = Forecast(), Runs(), ""
    for letter in requests:
        request = request_of(letter, ())
        if runs:
            forecast.learn(runs, request)
        runs = extended(runs, request)
        guessed += forecast.guess(runs)[0]
    return guessed


def test_the_forecast_knows_rhythms() -> None:
    assert guesses("nnnn") == "nnnn"
    # MGDM: one uniform number, then the normals of a fit and of a chain
    rhythm = "unnnnn"
    assert guesses(6 * rhythm)[2 * len(rhythm) - 1 :] == (4 * rhythm + "u")
    assert guesses(4 * "unnmn")[11:19] == "nmnunnmn"


def test_a_forecast_forgets_before_it_fills_the_memory() -> None:
    forecast, runs = Forecast(), Runs()
    for step in range(3 * Forecast.KNOWN):
        request = request_of("normal", (step,))
        if runs:
            forecast.learn(runs, request)
        runs = extended(runs, request)
    assert len(forecast._next) <= Forecast.KNOWN + 3
    assert math.prod(forecast.guess(runs)[1]) == 3 * Forecast.KNOWN - 1


def test_numbers_for_the_host_stay_there() -> None:
    """On a device without memory the others are gone."""
    noise, plain = Noise(KEYS, "solver", "meta", ahead=True), Noise(KEYS, "solver")
    for _ in range(4):
        assert noise.normal((200,)).is_meta
        plain.normal((200,))
        assert torch.equal(noise.host_uniform((200,)), plain.uniform((200,)))


@pytest.mark.slow
@pytest.mark.parametrize(("end", "code"), [("", 0), ("os.kill(os.getpid(), signal.SIGINT)", 130)])
def test_a_process_ends_while_threads_draw(end: str, code: int) -> None:
    """Also where the noise is never let go."""
    script = (
        "import os, signal\n"
        "from posterior_bench.bench.core.streams import Key, Noise\n"
        "kept = Noise([Key(0, 'd', str(i)) for i in range(4)], 'solver', ahead=True)\n"
        "for _ in range(4): kept.normal((3, 400, 400))\n"
        f"{end}\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=300)
    assert done.returncode in (code, -signal.SIGINT if code else 0), done.stderr


def test_signals_are_for_the_main_thread() -> None:
    ahead = source([1, 2])
    for _ in range(3):
        ahead.take(request_of("normal", (129, 129)))
    threads = [thread for thread in threading.enumerate() if thread.name == "noise"]
    assert threads
    for thread in threads:
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        blocked = int(status.partition("SigBlk:")[2].split()[0], 16)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            assert blocked >> (number - 1) & 1
