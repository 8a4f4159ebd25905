"""Measure what the noise of a solver costs a device, drawn at the request and drawn ahead.

    python tests/benchmarks/noise.py --device cuda --json noise.json
    python tests/benchmarks/noise.py --model

It runs RePaint, DAPS and MGDM with a stand-in for the network: as many launches and as much time
as the U-Net of ADM at 256 pixels (EDM at 64), forward and backward. Each runs with noise that is
already on the device, with noise drawn at the request, and with noise drawn ahead. The first is
what the others would be if noise cost nothing, so the share of noise is what they take longer,
over that. Before, the script compares numbers drawn ahead with plain ones while the device is busy,
and times one tensor. On an H100 it takes about two minutes. On a CPU it only shows that the
script works.

``--model`` needs no device. It computes the same shares from counts: launches of the network,
tensors of noise and their bytes, with 10 us a launch, 300 TFLOP/s and 1 ms to draw a row of 3 x 256
x 256. It asserts no time.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from posterior_bench.bench.core.drawn_ahead import HELD, MOST_THREADS
from posterior_bench.bench.core.streams import Key
from posterior_bench.bench.core.streams import Noise as SeededNoise
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import VP
from posterior_bench.solvers.base import Noise, Observation, Sampler
from posterior_bench.solvers.daps import DAPS
from posterior_bench.solvers.mgdm import MGDM
from posterior_bench.solvers.repaint import RePaint


@dataclass(frozen=True)
class Network:
    """Launches and TFLOP of one row of a network, forward and with its gradient."""

    size: int
    launches: tuple[int, int]
    tflop: tuple[float, float]


NETWORKS = {
    "ADM-256": Network(256, (987, 2243), (2.24, 4.49)),
    "EDM-64": Network(64, (972, 2205), (0.219, 0.451)),
}
TFLOPS = 300.0  # of the network in bfloat16

SOLVERS: dict[str, Sampler] = {
    "RePaint": RePaint(steps=8, jump_length=2, resamples=2, variance="fixed"),
    "DAPS": DAPS(steps=3, ode_steps=5, inner_steps=100),
    "MGDM": MGDM(levels=4, inner_steps=9),
}


# -- the stand-in for a network --------------------------------------------------------------------


class Work:
    """A number of launches that take some time on a device."""

    def __init__(self, device: str, launches: int, seconds: float):
        self.launches = launches if device != "cpu" else 20
        size = 64 if device == "cpu" else self._size(device, seconds / launches)
        self.x = torch.randn(size, size, device=device).to(torch.bfloat16)
        self.out = torch.empty_like(self.x)

    def __call__(self) -> None:
        for _ in range(self.launches):
            torch.mm(self.x, self.x, out=self.out)

    @staticmethod
    def _size(device: str, seconds: float) -> int:
        """Return the size of the square matrices whose product takes nearest to ``seconds``."""

        def away(size: int) -> float:
            x = torch.randn(size, size, device=device).to(torch.bfloat16)
            out = torch.empty_like(x)
            torch.mm(x, x, out=out)
            taken = timed(lambda: [torch.mm(x, x, out=out) for _ in range(300)], device) / 300
            return abs(math.log(taken / seconds))

        return min(range(512, 4609, 256), key=away)


class Passes(torch.autograd.Function):
    """Half of the input, after the work of a forward pass; its gradient does that of a backward."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, forward: Work, backward: Work) -> Tensor:
        ctx.work = backward
        forward()
        return 0.5 * z

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        ctx.work()
        return 0.5 * grad, None, None


class StandIn(nn.Module):
    """A network of the prior that works as long as a real one."""

    def __init__(self, device: str, network: Network, batch: int):
        super().__init__()
        (few, many), (less, more) = network.launches, network.tflop
        each = batch / TFLOPS
        self.work = (
            Work(device, few, less * each),
            Work(device, many - few, (more - less) * each),
        )

    def forward(self, z: Tensor, t: Tensor, values: object) -> Tensor:
        return Passes.apply(z, *self.work)


class Held:
    """Noise that costs nothing: one tensor on the device for every shape."""

    def __init__(self, rows: int, device: str):
        self.rows, self.device, self.of = rows, device, dict[tuple[int, ...], Tensor]()

    def normal(self, shape: Sequence[int]) -> Tensor:
        shape = (self.rows, *shape)
        if shape not in self.of:
            self.of[shape] = torch.randn(shape, device=self.device)
        return self.of[shape].clone()  # a solver may write to it

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return self.normal(shape).abs().remainder(1.0)

    def host_uniform(self, shape: Sequence[int]) -> Tensor:
        return torch.rand(self.rows, *shape)

    def draws(self, draws: Sequence[int]) -> Held:
        return Held(self.rows * len(draws), self.device)


# -- measurements ----------------------------------------------------------------------------------


def wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], object], device: str) -> float:
    """Return the seconds of a call, work of the device included."""
    wait(device)
    start = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - start


def keys(rows: int) -> list[Key]:
    return [Key(0, "noise", str(row)) for row in range(rows)]


def same_bits(device: str, requests: int = 60) -> int:
    """Compare numbers drawn ahead with plain ones while the device works; return how many."""
    busy = Work(device, 2000, 2000 * 1e-4)
    plain, ahead = (SeededNoise(keys(16), "solver", device, ahead=how) for how in (False, True))
    asked = [("uniform", ()) if i % 9 == 4 else ("normal", (3, 256, 256)) for i in range(requests)]
    asked += [("normal", (4, 64, 64))] * requests

    def total(noise: Noise, kind: str, shape: Sequence[int]) -> Tensor:
        return getattr(noise, kind)(shape).view(torch.int32).long().sum()  # of the bits

    totals = []
    for place, request in enumerate(asked):
        if place % 20 == 0:
            busy()  # copies must wait, and buffers must not be drawn into meanwhile
        totals.append(total(ahead, *request))
    wrong = sum(
        not torch.equal(total(plain, *request), found)
        for request, found in zip(asked, totals, strict=True)
    )
    if wrong:
        raise SystemExit(f"{wrong} of {len(asked)} tensors differ from plain noise")
    return len(asked)


def one_tensor(device: str, size: int, batch: int) -> dict[str, Any]:
    """Time the parts of one tensor, in ms: drawn, and copied from ordinary and pinned memory."""
    noise, shape = SeededNoise(keys(batch), "solver"), (3, size, size)
    block = noise.normal(shape)
    pinned = block if device == "cpu" else block.pin_memory()
    functions = {
        "draw": lambda: noise.normal(shape),
        "copy": lambda: block.to(device),
        "pinned": lambda: pinned.to(device, non_blocking=True),
    }
    found = {
        name: 1e3 * min(timed(function, device) for _ in range(7))
        for name, function in functions.items()
    }
    return {"size": size, "batch": batch, "mb": block.nbytes / 1e6, **found}


@dataclass(frozen=True)
class Share:
    """Seconds of a solver's run with three kinds of noise, and the counts of its calls."""

    network: str
    solver: str
    batch: int
    calls: int
    free: float
    plain: float
    ahead: float
    call_ms: float

    @property
    def shares(self) -> tuple[float, float]:
        """Share of noise of the run without: drawn at the request, and ahead."""
        return self.plain / self.free - 1, self.ahead / self.free - 1


def shares(device: str, network: str, batch: int, repeats: int) -> Iterator[Share]:
    """Run every solver with the three kinds of noise in turn, after one run that is not timed."""
    of = NETWORKS[network]
    process = VP.scheduled("scaled_linear", 0.0015, 0.0195)
    net = StandIn(device, of, batch)
    prior = Prior(process, net, (3, of.size, of.size), parameterization="eps").to(device)
    mask = torch.arange(of.size, device=device).lt(of.size // 2)
    operator = Inpainting(mask.expand(batch, 1, of.size, of.size))
    x = torch.rand(batch, 3, of.size, of.size, device=device) * 2 - 1
    obs = Observation(operator.A(x), operator)
    call = timed(lambda: [net(x, x, None) for _ in range(3)], device) / 3
    for name, solver in SOLVERS.items():
        kinds: list[Noise] = [
            Held(batch, device),
            SeededNoise(keys(batch), "solver", device, ahead=False),
            SeededNoise(keys(batch), "solver", device, ahead=True),
        ]
        with prior.metered() as meter:
            times = [
                [timed(partial(solver.draw, obs, prior, noise), device) for noise in kinds]
                for _ in range(repeats + 1)
            ]
        calls = meter.nfe // batch // len(kinds) // (repeats + 1)
        columns = zip(*times[1:], strict=True)
        yield Share(network, name, batch, calls, *map(statistics.median, columns), 1e3 * call)


# -- the model -------------------------------------------------------------------------------------

LAUNCH, TAKE = 10e-6, 50e-6  # seconds of the host: a launch, and a request drawn ahead
ROW, PAGEABLE, PINNED = 1e-3 / (3 * 256 * 256), 6e9, 25e9  # seconds a number, bytes a second
INNER = 32  # launches of one inner step of DAPS
TRAFFIC = 3e12  # bytes a second of the memory of a GPU


def cycle(solver: str, network: Network) -> Iterator[tuple[str, int, float]]:
    """Yield one round of a solver: requests for noise, and launches with their TFLOP a row."""
    noise, call = ("noise", 0, 0.0), ("work", network.launches[0], network.tflop[0])
    both = ("work", network.launches[1], network.tflop[1])
    if solver == "RePaint":  # ten steps down, and one jump up
        yield from [noise, call, noise] * 10
        yield noise
    elif solver == "DAPS":
        yield from [call] * 5
        yield from [noise, ("work", INNER, 0.0)] * 100
        yield noise
    else:  # MGDM; the uniform numbers cost nothing
        yield noise
        yield from [noise, both] * 5
        yield noise
        yield from [call, noise] * 19
        yield noise


def modelled(solver: str, network: Network, batch: int, threads: int, rounds: int = 12) -> float:
    """Return the seconds of a round; 0 threads draw at the request, -1 needs no noise at all."""
    numbers = batch * 3 * network.size**2
    size = 4 * numbers
    host = device = 0.0
    asked, ready = 0, [0.0]  # when each tensor is drawn; the threads draw one after the other
    taken: list[float] = []
    held = max(1, HELD // size)
    start = 0.0
    for turn in range(rounds):
        if turn == rounds // 2:
            start = max(host, device)
        for what, launches, tflop in cycle(solver, network):
            if what == "work":
                host += launches * LAUNCH
                own = batch * tflop / TFLOPS if tflop else launches * 3 * size / TRAFFIC
                device = max(max(device, host - launches * LAUNCH) + own, host)
            elif threads == 0:
                host = max(host + numbers * ROW, device) + size / PAGEABLE
                device = host
            elif threads > 0:
                # A tensor is begun when the one before is drawn and there is room for it.
                room = taken[asked - held] if asked >= held else 0.0
                ready.append(max(ready[-1], room) + numbers * ROW / min(threads, batch))
                host = max(host, ready[-1]) + TAKE
                taken.append(host)
                device = max(device, ready[-1] + size / PINNED)
                asked += 1
    return (max(host, device) - start) / (rounds - rounds // 2)


def model(batches: Sequence[int]) -> list[dict[str, Any]]:
    """Return the shares of noise by the model."""
    rows = []
    for name, network in NETWORKS.items():
        for solver in SOLVERS:
            for batch in batches:
                free = modelled(solver, network, batch, -1)
                part = {
                    f"threads_{threads}": modelled(solver, network, batch, threads) / free - 1
                    for threads in (0, 1, 4, 8)
                }
                rows.append({"network": name, "solver": solver, "batch": batch, **part})
    return rows


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", action="store_true")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=MOST_THREADS)
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds; then it stops")
    asked, begin = parser.parse_args(given), time.monotonic()
    device, found = asked.device, dict[str, Any]()

    def keep() -> None:
        if asked.json is not None:
            asked.json.write_text(json.dumps(found, indent=1))

    print("| network | solver | batch | at the request | 1 thread | 4 | 8 |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    found["model"] = model(asked.batches)
    for row in found["model"]:
        print(
            "| " + " | ".join(f"{v:.1%}" if isinstance(v, float) else f"{v}" for v in row.values()),
            "|",
        )
    if not asked.model:
        torch.set_num_threads(asked.threads)
        name = torch.cuda.get_device_name(device) if device != "cpu" else "CPU"
        found |= {"device": name, "torch": torch.__version__, "threads": asked.threads}
        found["same_bits"] = same_bits(device)
        print(f"\n{name}: {found['same_bits']} tensors drawn ahead have the bits of plain noise\n")
        print("| one tensor | batch | MB | draw (ms) | copy | pinned copy |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        found["tensors"] = [
            one_tensor(device, NETWORKS[n].size, b) for n in asked.networks for b in asked.batches
        ]
        for t in found["tensors"]:
            print(f"| 3 x {t['size']} x {t['size']} | {t['batch']} | {t['mb']:.1f} ", end="")
            print(f"| {t['draw']:.2f} | {t['copy']:.2f} | {t['pinned']:.2f} |")
        print("\n| network | solver | batch | one call (ms) | run (s) | at the request | ahead |")
        print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
        found["shares"] = []
        keep()
        for batch in sorted(asked.batches, reverse=True):  # the goal is about large ones
            for network in asked.networks:
                for one in shares(device, network, batch, asked.repeats):
                    plain, ahead = one.shares
                    found["shares"].append({**asdict(one), "plain": plain, "ahead": ahead})
                    print(
                        f"| {network} | {one.solver} | {batch} | {one.call_ms:.1f} "
                        f"| {one.free:.2f} | {plain:+.1%} | {ahead:+.1%} |",
                        flush=True,
                    )
                    keep()
                    if time.monotonic() - begin > asked.budget:
                        return
    keep()


if __name__ == "__main__":
    main(sys.argv[1:])
