"""Measure what settings save memory, and compare estimates of memory with the memory of runs.

    python tests/benchmarks/memory.py                         # every part, on the CPU
    python tests/benchmarks/memory.py --device cuda --json memory.json --budget 240
    python tests/benchmarks/memory.py --part estimate "dps / pixel"

``settings``: one call of a network or decoder and its gradient, with each setting that saves
memory. It prints what autograd keeps between the two without the weights, the peak of both, the
seconds over those of the same call without the setting, and the largest difference of output and
gradient, over the largest value of each. Large networks have random weights.

``tiles``: the same for encoders and decoders on tiles.

``offload``: weights that wait in the memory of the host. ``batch``: what ``batch=auto`` chooses,
and how well its line through three small batches predicts 64 rows. Both need a GPU.

``estimate``: for pairs of solver and prior, with a few steps each, the most memory that networks,
states and scores of one chunk take, without the weights: as ``doctor`` estimates it without weights
or data, as it was measured, and their ratio.

The peak on the CPU is that of live tensor bytes (:class:`bench.estimate.live_tensors.Live`): every
storage that an operation makes, for as long as it lives, counted below autograd. That is not the
memory of the process: temporary memory of a kernel, the reserve of the allocator, Python and
libraries are left out. On a GPU it is torch's ``max_memory_allocated``, above what was allocated
before. Times are medians of repeats. It asserts nothing. After ``--budget`` seconds no
new line is begun; the JSON file is complete after every line.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.engine.batches import BatchSize
from posterior_bench.bench.engine.device import device_name, repeatable
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.serial import Serial
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.engine.solving import solve
from posterior_bench.bench.estimate import auto_batch
from posterior_bench.bench.estimate.live_tensors import Live
from posterior_bench.bench.estimate.memory import Estimate, Linear, estimate
from posterior_bench.bench.estimate.network_memory import NetworkMemory
from posterior_bench.priors.base import Prior
from posterior_bench.priors.convert.adm import LAYOUTS, adm_layout
from posterior_bench.priors.execution import Execution
from posterior_bench.priors.latents import KL
from posterior_bench.priors.load import load, verify
from posterior_bench.priors.nets import UNet2D
from posterior_bench.priors.offload import HostCopy
from posterior_bench.priors.process import VP

LATENT = ("prior=fashion_latent", "data=fashion32")
FIT = ("solver.iterations=6", "solver.refine_steps=6")
PAIRS: dict[str, tuple[str, ...]] = {
    "dps / pixel": ("solver=dps", "solver.steps=6"),
    "dps, guidance 2 / pixel": ("solver=dps", "solver.steps=6", "solver.guidance=2"),
    "dps, bf16 / pixel": ("solver=dps", "solver.steps=6", "precision=bf16"),
    "dps, perceptual / pixel": (
        "solver=dps",
        "solver.steps=6",
        "solver.loss=l1",
        "solver.perceptual=stlpips",
    ),
    "ddnm / pixel": ("solver=ddnm", "solver.steps=6"),
    "mmps / pixel": ("solver=mmps", "solver.steps=6"),
    "vipaint2 / pixel": ("solver=vipaint2", *FIT),
    "vipaint2, checkpointing / pixel": ("solver=vipaint2", *FIT, "checkpointing=call"),
    "psld / latent": ("solver=psld", *LATENT, "solver.steps=6"),
    "resample / latent": (
        *("solver=resample", *LATENT, "solver.steps=6", "solver.every=2"),
        *("solver.pixel_iterations=6", "solver.latent_iterations=6"),
    ),
    "latentpaint / latent": ("solver=latentpaint", *LATENT, "solver.steps=6"),
    "vipaint4 / latent": ("solver=vipaint4", *LATENT, *FIT),
    "vipaint4, checkpointing / latent": ("solver=vipaint4", *LATENT, *FIT, "checkpointing=call"),
}
ROWS = ("draws=2", "batch=8", "metrics=[psnr]", "quiet=true")


@dataclass(frozen=True)
class Compared:
    """Bytes beside the weights of one pair, estimated and measured, and the seconds of both."""

    estimated: int
    measured: int
    weights: int
    seconds: tuple[float, float]

    @property
    def ratio(self) -> float:
        """Estimated over measured."""
        return self.estimated / self.measured


def compared(overrides: Sequence[str]) -> Compared:
    """One pair; the estimate never sees the prior that is measured, nor the data."""
    config = job_of(compose(check([*ROWS, *overrides]))[0])
    start = time.monotonic()
    found = estimate(config, NetworkMemory(verify(config.prior["path"])))
    middle = time.monotonic()
    measured = peak(config, found)
    return Compared(
        found.activations(), measured, found.weights, (middle - start, time.monotonic() - middle)
    )


def peak(config: JobConfig, found: Estimate) -> int:
    """Memory, at most, while a worker solves and scores the first chunk."""
    session = Session(config, DEVICE)
    _ = session.modules
    images = list(session.images.ids)[: found.size.images]
    draws, at_once = found.draws, found.size.draws
    return peak_of(lambda: solve(session, session.measure(images), draws, at_once))


# -- one call and its gradient ---------------------------------------------------------------------

DEVICE = "cpu"
END = math.inf
LINES: list[dict[str, Any]] = []


def peak_of(work: Callable[[], object]) -> int:
    """Bytes of tensors that the work takes at most, above what there was before."""
    gc.collect()
    if DEVICE == "cpu":
        with Live() as live:
            work()
        return live.peak
    torch.cuda.empty_cache()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def kept_by(call: Callable[[Tensor], Tensor], z: Tensor, weights: set[int]) -> int:
    """Bytes that autograd keeps after a call, weights left out."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _ = call(z)
    return sum(sizes.values())


def seconds_of(*works: tuple[Callable[[], object], Callable[[], object]]) -> list[float]:
    """Median seconds of functions, after one call of each that is not timed.

    Each comes with a function that prepares it, whose time does not count. On the CPU they take
    turns; on a GPU, whose times are steady, one follows the other, because preparing may move
    gigabytes.
    """
    times: list[list[float]] = [[] for _ in works]
    order = [i for _ in range(REPEATS + 1) for i in range(len(works))]
    last = None
    for i in order if DEVICE == "cpu" else sorted(order):
        prepare, work = works[i]
        if i != last:
            prepare()
        last, start = i, now()
        work()
        times[i].append(now() - start)
    return [statistics.median(taken[1:]) for taken in times]


def now() -> float:
    """Seconds of the processor, or of the clock once the GPU has done its work."""
    if DEVICE == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def apart(a: Tensor, b: Tensor) -> float:
    """Largest difference, over the largest value."""
    return float((a - b).abs().max() / b.abs().max())


Call = Callable[[Tensor], Tensor]


def with_gradient(call: Call, z: Tensor) -> tuple[Tensor, Tensor]:
    z = z.detach().requires_grad_()
    out = call(z)
    (gradient,) = torch.autograd.grad(out.square().sum(), z)
    return out.detach(), gradient


def compared_calls(
    part: str, name: str, prior: Prior, call: Call, z: Tensor, settings: Sequence[Execution]
) -> None:
    """Print one line per setting; each is compared with the call without what saves memory."""
    for execution in settings:
        if time.monotonic() > END:
            print(f"{name}, {execution.label}: left out, the budget is spent", file=sys.stderr)
            continue
        record(compared_call(prior, call, z, execution) | {"part": part, "network": name})
        show(LINES[-1])
    prior.run_as(Execution())


def compared_call(prior: Prior, call: Call, z: Tensor, execution: Execution) -> dict[str, Any]:
    """Compare one setting with the call without what saves memory."""
    plain = replace(execution, frozen_convolutions=False, checkpointing="none", tile=0)
    prior.run_as(plain)
    try:
        usual = with_gradient(call, z)
    except torch.OutOfMemoryError:
        usual = None
    prior.run_as(execution)
    weights = {p.untyped_storage().data_ptr() for p in weights_of(prior)}
    line: dict[str, Any] = {
        "settings": execution.label,
        "rows": len(z),
        "kept": kept_by(call, z.detach().requires_grad_(), weights),
        "idle_peak": peak_of(lambda: without_gradient(call, z)),
        "peak": peak_of(lambda: with_gradient(call, z)),
    }
    if usual is None:
        return line
    out, gradient = with_gradient(call, z)
    line |= {"output": apart(out, usual[0]), "gradient": apart(gradient, usual[1])}
    del usual, out, gradient
    seconds, without = seconds_of(
        (lambda: prior.run_as(execution), lambda: with_gradient(call, z)),
        (lambda: prior.run_as(plain), lambda: with_gradient(call, z)),
    )
    return line | {"seconds": seconds, "ratio": seconds / without}


REPEATS = 5


@torch.no_grad()
def without_gradient(call: Call, z: Tensor) -> Tensor:
    return call(z)


def weights_of(prior: Prior) -> Iterator[Tensor]:
    for module in (prior.net, prior.latent):
        if module is not None:
            yield from module.parameters()
            yield from module.buffers()


def show(line: dict[str, Any]) -> None:
    """Print a line of the table, and write all lines so far."""
    words = [f"{line['network']}, {line['rows']} rows", line["settings"]]
    words += [f"{line[key] / 2**20:.1f}" for key in ("kept", "peak", "idle_peak")]
    words += [f"{line['ratio']:.2f}"] if "ratio" in line else ["out of memory without"]
    words += [f"{line[key]:.1e}" if line.get(key) else "0" for key in ("output", "gradient")]
    print(f"| {' | '.join(words)} |", flush=True)


def record(line: dict[str, Any]) -> None:
    LINES.append({"device": device_name(DEVICE), "torch": torch.__version__, **line})
    if JSON is not None:
        JSON.write_text(json.dumps(LINES, indent=1) + "\n")


JSON: Path | None = None
HEAD = (
    "| network | setting | kept (MiB) | peak with gradient (MiB) | peak without (MiB) "
    "| seconds, ratio | output differs | gradient differs |\n"
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)


def adm(layout: str, **flags: object) -> Prior:
    """Guided-diffusion's U-Net with random weights."""
    known = adm_layout({**LAYOUTS[layout], "class_cond": False, **flags})
    torch.manual_seed(0)
    with torch.device(DEVICE):
        net = UNet2D(known.config, heads=known.constant_heads)
    side = known.image_size
    learned = known.out_channels > known.in_channels
    prior = Prior(VP.scheduled("linear", 1e-4, 0.02), net, (3, side, side), "eps")
    prior.learned_var = learned
    return prior.to(DEVICE)


def autoencoder(widths: Sequence[int], side: int) -> Prior:
    """Stable Diffusion's autoencoder with random weights, or a narrower one."""
    n = len(widths)
    config = {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "block_out_channels": list(widths),
        "down_block_types": ["DownEncoderBlock2D"] * n,
        "up_block_types": ["UpDecoderBlock2D"] * n,
    }
    torch.manual_seed(0)
    net = UNet2D(
        {
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": [32],
            "norm_num_groups": 8,
            "down_block_types": ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"],
        }
    )
    with torch.device(DEVICE):
        latent = KL(config, 0.0, 0.18215)
    process = VP.scheduled("linear", 1e-4, 0.02)
    return Prior(process, net, (3, side, side), "eps", latent=latent).to(DEVICE)


def embedded(name: str) -> Prior:
    return load(f"priors/assets/{name}").to(DEVICE)


SAVING = (
    Execution(),
    Execution(frozen_convolutions=True),
    Execution(checkpointing="block"),
    Execution(frozen_convolutions=True, checkpointing="block"),
    Execution(checkpointing="call"),
)
BF16 = (
    Execution("bf16"),
    Execution("bf16", frozen_convolutions=True),
    Execution("bf16", channels_last=True, frozen_convolutions=True),
    Execution("bf16", frozen_convolutions=True, checkpointing="block"),
)


def settings() -> None:
    """Networks and decoders with each setting that saves memory."""
    print(HEAD)
    gpu = DEVICE != "cpu"
    small = {"num_channels": 64, "num_res_blocks": 2, "image_size": 64}
    networks: list[tuple[str, Callable[[], Prior], int, Sequence[Execution]]] = [
        ("embedded pixel prior", lambda: embedded("fashion"), 2, SAVING + BF16),
        ("ADM-like U-Net, 64 px", lambda: adm("ffhq", **small), 1, SAVING),
    ]
    if gpu:
        networks = [
            ("ADM, 256 px", lambda: adm("imagenet256_uncond"), 4, SAVING + BF16),
            ("ADM, 64 px", lambda: adm("imagenet64"), 16, SAVING[:4]),
            *networks[:1],
        ]
    for name, build, rows, chosen in networks:
        if time.monotonic() > END:
            break
        prior = build()
        call = partial(prior.denoise, level=prior.level(1.0))
        compared_calls("settings", name, prior, call, randn(rows, *prior.latent_shape), chosen)
        del prior, call
    decoders: list[tuple[str, Callable[[], Prior], int]] = [
        ("embedded decoder", lambda: embedded("fashion_latent"), 8)
    ]
    if gpu:
        decoders += [("decoder of SD, 512 px", lambda: autoencoder((128, 256, 512, 512), 512), 2)]
    for name, build, rows in decoders:
        if time.monotonic() > END:
            break
        prior = build()
        compared_calls(
            "settings", name, prior, prior.decode, randn(rows, *prior.latent_shape), SAVING
        )
        del prior


def tiles() -> None:
    """Encoders and decoders on tiles."""
    print(HEAD)
    gpu = DEVICE != "cpu"
    some = [Execution(), *(Execution(tile=n) for n in ((64, 32) if gpu else (32, 16)))]
    prior = embedded("fashion_latent")
    x = mosaic(8 if gpu else 4)
    with torch.no_grad():
        z = prior.latent.encode(x) if prior.latent is not None else x
    name = f"trained, {x.shape[-1]} px of small pictures"
    compared_calls("tiles", f"decoder, {name}", prior, prior.decode, z, some)
    compared_calls("tiles", f"encoder, {name}", prior, prior.encode, x, some)
    widths = (128, 256, 512, 512) if gpu else (32, 32, 32, 32)
    side = 1024 if gpu else 512
    prior = autoencoder(widths, side)
    some = [Execution(), *(Execution(tile=n) for n in ((64, 32) if gpu else (32,)))]
    z, x = randn(1, *prior.latent_shape), randn(1, 3, side, side) / 3
    random = f"{'SD, ' if gpu else 'as SD, narrow, '}random weights, {side} px"
    compared_calls("tiles", f"decoder, {random}", prior, prior.decode, z, some)
    compared_calls("tiles", f"encoder, {random}", prior, prior.encode, x, some)


def mosaic(n: int) -> Tensor:
    """One large image of n x n small ones, which the small autoencoder was trained on."""
    config = job_of(
        compose(check(["data=fashion32", "prior=fashion_latent", f"data.images={n * n}"]))[0]
    )
    session = Session(config, "cpu")
    truth = session.measure(list(session.images.ids)[: n * n]).truth
    rows = truth.unflatten(0, (n, n))
    return rows.permute(2, 0, 3, 1, 4).reshape(1, truth.shape[1], n * 32, n * 32).to(DEVICE)


def estimates(names: Sequence[str]) -> None:
    """The estimate of ``doctor`` and the memory of runs."""
    print("| solver and prior | weights (MiB) | estimated (MiB) | measured (MiB) | ratio |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in names or PAIRS:
        if time.monotonic() > END:
            break
        one, size = compared(PAIRS[name]), 2**20
        print(f"| {name} | {one.weights / size:.1f} | {one.estimated / size:.2f} ", end="")
        print(f"| {one.measured / size:.2f} | {one.ratio:.3f} |", flush=True)
        print(
            f"{name}: {one.seconds[0]:.1f} s estimated, {one.seconds[1]:.1f} s measured",
            file=sys.stderr,
        )
        record({"part": "estimate", "pair": name, "ratio": one.ratio, **asdict(one)})


def offload() -> None:
    """Weights that wait on the host: bytes on the device, and seconds of the way there and back."""
    if DEVICE == "cpu":
        print("nothing to measure without a GPU")
        return
    print(
        "| weights | on the device (MiB) | waiting (MiB) | first way | back | again | same bits |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for name, build in (
        ("ADM, 256 px", lambda: adm("imagenet256_uncond").net),
        ("autoencoder of SD", lambda: autoencoder((128, 256, 512, 512), 512).latent),
    ):
        if time.monotonic() > END:
            break
        module = build()
        assert module is not None
        gc.collect()
        copy, before = HostCopy([module]), torch.cuda.memory_allocated()
        values = [p.cpu() for p in module.parameters()]
        start = now()
        copy.park()
        first, waiting = now() - start, torch.cuda.memory_allocated()
        start = now()
        copy.fetch()
        back = now() - start
        start = now()
        copy.park()
        again = now() - start
        copy.fetch()
        same = all(
            torch.equal(a.cpu(), b) for a, b in zip(module.parameters(), values, strict=True)
        )
        line = {"part": "offload", "network": name, "before": before, "waiting": waiting}
        record(line | {"first": first, "back": back, "again": again, "same": same})
        print(f"| {name} | {before / 2**20:.0f} | {waiting / 2**20:.0f} ", end="")
        print(f"| {first:.3f} s | {back:.3f} s | {again:.4f} s | {same} |", flush=True)
        del module, copy, values


def batches() -> None:
    """What ``batch=auto`` chooses, and the memory of larger batches beside its line."""
    if DEVICE == "cpu":
        print("nothing to measure without a GPU; there the estimate is used")
        return
    print("| solver and prior | chosen | 64 rows: predicted (MiB) | measured (MiB) | ratio |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in ("dps / pixel", "ddnm / pixel", "vipaint2 / pixel", "psld / latent"):
        if time.monotonic() > END:
            break
        overrides = [*PAIRS[name], "draws=4", "data.images=16", "metrics=[psnr]", "quiet=true"]
        config = job_of(compose(check(overrides))[0])
        one, images, draws = (
            auto_batch.peak_on(DEVICE, config, BatchSize(*size))
            for size in ((1, 1), (2, 1), (1, 2))
        )
        predicted = Linear.through(one, images, draws).at(BatchSize(16, 4))
        measured = auto_batch.peak_on(DEVICE, config, BatchSize(16, 4))
        many = replace(config, data={**config.data, "images": 10**6})
        chosen = auto_batch.measured_batch(many, Session(config, "cpu"), Serial(DEVICE))
        line = {"part": "batch", "pair": name, "predicted": predicted, "measured": measured}
        record(line | {"chosen": chosen.batch, "words": chosen.words, "one": one, "draws": draws})
        print(
            f"| {name} | {chosen.batch} | {predicted / 2**20:.1f} | {measured / 2**20:.1f} ", end=""
        )
        print(f"| {predicted / measured:.3f} |", flush=True)


PARTS: dict[str, Callable[..., None]] = {
    "settings": settings,
    "tiles": tiles,
    "offload": offload,
    "batch": batches,
    "estimate": estimates,
}


def main(arguments: Sequence[str]) -> None:
    global DEVICE, END, JSON, REPEATS
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="pairs of solver and prior, for the estimates")
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    given = parser.parse_args(arguments)
    DEVICE, JSON, REPEATS = given.device, given.json, given.repeats
    last = time.monotonic() + given.budget
    repeatable(DEVICE)
    parts = list(given.part or PARTS)
    for i, part in enumerate(parts):
        # every part gets its share of what is left
        END = time.monotonic() + (last - time.monotonic()) / (len(parts) - i)
        print(f"\n{part}, on {device_name(DEVICE)}, torch {torch.__version__}\n")
        PARTS[part](given.names) if part == "estimate" else PARTS[part]()


if __name__ == "__main__":
    main(sys.argv[1:])
