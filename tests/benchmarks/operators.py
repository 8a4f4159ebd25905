"""How long operators take to build and to use, and how much memory.

    python tests/benchmarks/operators.py [--size 256]

For every operator and a batch of one image of ``size x size x 3``, it prints the seconds until the
first measurement and, where there is one, the first spectrum; then the milliseconds of one ``A``,
one ``At``, one ``pinv`` and one ``prox`` at ``rho`` 0.1; and the peak of live tensors in MiB. It
asserts nothing. ``tests/operators/test_scale.py`` holds the memory.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.engine.measurement import build_operator
from posterior_bench.bench.estimate.live_tensors import Live


def _milliseconds(call: Callable[[], object]) -> str:
    call()
    start = time.perf_counter()
    call()
    return f"{1000 * (time.perf_counter() - start):8.1f}"


def main() -> None:
    """Print one line per operator."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=256)
    size = parser.parse_args().size
    mask = torch.ones(1, 1, size, size, dtype=torch.bool)
    x = torch.rand(1, 3, size, size)
    heads = ("build s", "A ms", "At ms", "pinv ms", "prox ms", "MiB")
    print(f"{'operator':22}" + "".join(f"{head:>8}" for head in heads))
    for name, option in options("operator").items():
        # a network of the user; dense matrices
        if name in ("nonlinear_blur", "projection", "squared_projection", "xray"):
            continue
        with Live() as live:
            start = time.perf_counter()
            operator = build_operator(option.content, mask, 3)
            y = operator.A(x)
            if "svd" in operator.caps:
                operator.spectrum(y)
            seconds = time.perf_counter() - start
            if "prox" in operator.caps:
                operator.prox(x, y, 0.1)
        cells = [_milliseconds(lambda o=operator: o.A(x))]
        for need, call in {
            "linear": lambda o=operator, y=y: o.At(y),
            "pinv": lambda o=operator, y=y: o.pinv(y),
            "prox": lambda o=operator, y=y: o.prox(x, y, 0.1),
        }.items():
            cells.append(_milliseconds(call) if need in operator.caps else f"{'-':>8}")
        print(f"{name:22}{seconds:8.2f}{''.join(cells)}{live.peak / 2**20:8.1f}", flush=True)


if __name__ == "__main__":
    main()
