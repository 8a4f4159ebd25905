"""Measure every way to run a network: its speed over float32, and how far its images move.

    python tests/benchmarks/execution.py                              # the CPU, one thread
    python tests/benchmarks/execution.py --device cuda --json FILE    # a GPU
    python tests/benchmarks/execution.py --budget 240                 # most important first

Needs no network connection: the embedded priors, and networks of published sizes with random
weights. ``adm64`` has the layers of ADM at 64 pixels; behind it, as in latent diffusion at 256
pixels, stands a VQ decoder with 8192 codes. On the CPU it has a quarter of the width.

Every option is timed in turns with plain float32 on the same inputs: ``ratio`` is the time of
float32 over that of the option, the median of the repeats. Kinds of call: ``forward`` without a
gradient, ``gradient`` with one, and the same two for the decoder. ``first_s`` are the seconds of
the first call, compilation included. ``difference`` is the largest difference of outputs, relative
to the largest output. ``image`` is the largest difference of images in [-1, 1] after a chain of ten
steps without noise. On the CPU times are seconds of the processor. It asserts no time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

# before the first product on a GPU, as a worker does
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.compiled import CudaGraphs
from posterior_bench.priors.execution import Execution
from posterior_bench.priors.latents import VQ
from posterior_bench.priors.load import load
from posterior_bench.priors.low_precision import restore_weights, tf32
from posterior_bench.priors.nets import UNet2D
from posterior_bench.priors.process import VP

ASSETS = Path(__file__).resolve().parents[2] / "priors" / "assets"
REPEATS, SECONDS = 9, 0.6
"""The most repeats of a call, and about the most seconds for all of them."""


@dataclass(frozen=True)
class Option:
    """A way to run a network; ``special`` names what :class:`Execution` cannot say."""

    name: str
    execution: Execution
    special: str = ""
    on: tuple[str, ...] = ("cpu", "cuda")

    @property
    def compiled(self) -> bool:
        """Whether the first call takes long."""
        return self.execution.compile or "whole" in self.special


GPU = ("cuda",)
OPTIONS = (
    Option("tf32", Execution("tf32"), on=GPU),
    Option("bf16", Execution("bf16")),
    Option("bf16+tf32", Execution("bf16+tf32"), on=GPU),
    Option("bf16, weights cast in every call", Execution("bf16"), "cast"),
    Option("channels_last", Execution(channels_last=True)),
    Option("bf16 channels_last", Execution("bf16", channels_last=True)),
    Option("fp32, CUDA graphs alone", Execution(), "graphs", GPU),
    Option("bf16, CUDA graphs alone", Execution("bf16"), "graphs", GPU),
    Option("fp32, kernels as they come", Execution(), "free", GPU),
    Option("compile", Execution(compile=True)),
    Option("bf16 compile", Execution("bf16", compile=True)),
    Option("compile, without CUDA graphs", Execution(compile=True), "blocks", GPU),
    Option("fp32, whole network compiled", Execution(), "whole"),
    Option("bf16, whole network compiled", Execution("bf16"), "whole", GPU),
)


def adm64(width: int) -> Prior:
    """Return a prior of the layers of ADM-64 in front of a VQ decoder to 256 pixels."""
    blocks = ["ResnetDownsampleBlock2D", *["AttnDownBlock2D"] * 3]
    unet: dict[str, Any] = {
        **dict(sample_size=64, in_channels=3, out_channels=3, layers_per_block=3),
        "block_out_channels": [width, 2 * width, 3 * width, 4 * width],
        "down_block_types": blocks,
        "up_block_types": [
            name.replace("Down", "Up").replace("down", "up") for name in blocks[::-1]
        ],
        **dict(attention_head_dim=width // 3, downsample_type="resnet", upsample_type="resnet"),
        **dict(resnet_time_scale_shift="scale_shift", norm_num_groups=16),
    }
    coder = {
        **dict(in_channels=3, out_channels=3, latent_channels=3, num_vq_embeddings=8192),
        **dict(vq_embed_dim=3, layers_per_block=2, norm_num_groups=16),
        "block_out_channels": [2 * width // 3, 4 * width // 3, 8 * width // 3],
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
    }
    torch.manual_seed(0)
    net, latent = UNet2D(unet, 1), VQ(coder)
    latent.autoencoder.quantize.embedding.weight.data.normal_()
    # weights at their start give an output of 0 where a last layer starts at 0
    return Prior(VP.scheduled("linear", 1e-4, 0.02), net, (3, 256, 256), "eps", latent=latent)


def network(name: str, device: str) -> Prior:
    """Return a network on a device, in float32."""
    if name == "adm64":
        return adm64(192 if device == "cuda" else 48).to(device)
    return load(ASSETS / name).to(device)


# -- one call --------------------------------------------------------------------------------------


class Setup:
    """A prior that runs as an option says, from :meth:`start` to :meth:`end`."""

    def __init__(self, prior: Prior, option: Option) -> None:
        self.prior, self.option = prior, option

    def start(self) -> None:
        """Set the prior up."""
        prior, special = self.prior.run_as(self.option.execution), self.option.special
        assert prior.net is not None
        if special == "cast":
            restore_weights(prior._float32)
        elif special == "graphs":
            prior.network_call = CudaGraphs(prior.net, prior.net)
        elif special == "blocks":
            prior.network_call = prior._blocks
        elif special == "whole":
            prior.network_call = torch.compile(prior.net, dynamic=False)

    def end(self) -> None:
        """Put the prior back."""
        self.prior.network_call = None
        self.prior.run_as(Execution(checkpointing="call")).run_as(Execution())
        torch._dynamo.reset()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run with the switches of the process that the option asks for."""
        free = self.option.special == "free"
        torch.use_deterministic_algorithms(not free)
        torch.backends.cudnn.deterministic = not free
        with tf32(self.option.execution.tf32):
            yield
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.deterministic = True

    def call(self, kind: str, z: Tensor) -> Tensor:
        """Return the output of a call, or the gradient that it takes."""
        prior, part = self.prior, kind.removesuffix("gradient").strip()
        cond = prior.condition(torch.zeros(len(z), dtype=torch.long, device=z.device))
        function: Callable[[Tensor], Tensor] = (
            prior.decode if part == "decode" else partial(prior.denoise, level=LEVEL, cond=cond)
        )
        with self.running():
            if "gradient" not in kind:
                with torch.no_grad():
                    return function(z)
            z = z.detach().requires_grad_()
            return torch.autograd.grad(function(z).square().sum(), z)[0]

    @torch.no_grad()
    def chain(self, z: Tensor, steps: int = 10) -> Tensor:
        """Return the images of a chain without noise (Song et al. 2021, DDIM)."""
        prior, levels = self.prior, self.prior.grid(steps)
        cond = prior.condition(torch.zeros(len(z), dtype=torch.long, device=z.device))
        z = z * levels[0].sigma
        with self.running():
            for level, after in pairwise(levels):
                x0 = prior.denoise(z, level, cond)
                z = after.alpha * x0 + after.sigma / level.sigma * (z - level.alpha * x0)
            return prior.decode(z)


LEVEL: Any = None
"""The level of every call; set for each network."""


class Operations(TorchDispatchMode):
    """Count the operations of a block, and the casts among them."""

    def __init__(self) -> None:
        super().__init__()
        self.all = self.casts = 0

    @override
    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.all += 1
        self.casts += "_to_copy" in str(function)
        return function(*args, **kwargs or {})


def now(device: str) -> float:
    """Return seconds, once the device has done its work."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def timed(device: str, *calls: Callable[[], object]) -> list[list[float]]:
    """Return the seconds of calls that take turns."""
    seconds: list[list[float]] = [[] for _ in calls]
    begin = time.perf_counter()
    for repeat in range(REPEATS):
        for call, each in zip(calls, seconds, strict=True):
            start = now(device)
            call()
            each.append(now(device) - start)
        if repeat >= 2 and time.perf_counter() - begin > SECONDS:
            break
    return seconds


# -- the table -------------------------------------------------------------------------------------


def difference(a: Tensor, b: Tensor) -> float:
    """Return the largest difference of ``a`` from ``b``, relative to the largest ``b``."""
    return float((a - b).abs().max() / b.abs().max())


def measured(
    plain: Setup, other: Setup, kind: str, rows: int, device: str
) -> dict[str, float | int | str]:
    """Return the line of one option, kind of call and number of rows."""
    generator = torch.Generator().manual_seed(rows)
    z = torch.randn(rows, *plain.prior.latent_shape, generator=generator).to(device)
    first = time.perf_counter()
    other.call(kind, z)
    now(device)
    first = time.perf_counter() - first
    apart = difference(other.call(kind, z), plain.call(kind, z))
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        other.call(kind, z)
    base, seconds = timed(device, lambda: plain.call(kind, z), lambda: other.call(kind, z))
    line: dict[str, float | int | str] = {
        **dict(kind=kind, rows=rows, ms=statistics.median(seconds) * 1e3),
        "fp32_ms": statistics.median(base) * 1e3,
        "ratio": statistics.median(a / b for a, b in zip(base, seconds, strict=True)),
        **dict(difference=apart, first_s=first),
    }
    if device == "cuda":
        line["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    if not other.option.compiled and other.option.special != "graphs":
        with Operations() as operations:
            other.call(kind, z)
        line |= {"operations": operations.all, "casts": operations.casts}
    return line


def kinds_of(prior: Prior, option: Option) -> list[str]:
    """Return the kinds of call that an option changes."""
    if option.special == "graphs":
        return ["forward"]
    network_alone = option.special or option.compiled or option.execution.channels_last
    more = [] if network_alone or not prior.is_latent else ["decode", "decode gradient"]
    return ["forward", "gradient", *more]


def jobs(device: str, names: Sequence[str]) -> list[tuple[str, Option, list[int]]]:
    """Return networks, options and numbers of rows, the most important first."""
    gpu = device == "cuda"
    usable = [option for option in OPTIONS if device in option.on]
    # a processor without products in bf16 needs half a minute for a call of the larger network
    order = [
        (name, option, [1, 8, 16] if gpu else [1, 8])
        for name in names
        for option in usable
        if not option.compiled and (gpu or name != "adm64" or not option.execution.bf16)
    ]
    # every form of a call is compiled, for a minute or more in the larger network
    rows = {"fashion": [1, 8], "adm64": [1]} if gpu else {"fashion": [8]}
    order += [
        (name, option, rows[name])
        for name in rows
        for option in usable
        if option.compiled and name in names
    ]
    return order


def searched(prior: Prior, device: str) -> dict[str, float]:
    """Return the shares of codes that TensorFloat-32 changes: in a plain search, and in ours."""
    if not isinstance(prior.latent, VQ) or device != "cuda":
        return {}
    z = torch.randn(8, *prior.latent_shape, generator=torch.Generator().manual_seed(0)).to(device)
    exact = prior.latent.quantised(z)
    with torch.no_grad(), tf32(True):
        plain, ours = prior.latent.autoencoder.quantize(z)[0], prior.latent.quantised(z)
    return {
        name: float((codes != exact).any(1).float().mean())
        for name, codes in (("plain", plain), ("ours", ours))
    }


def described(device: str) -> dict[str, Any]:
    """Return what the numbers depend on."""
    about: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if device == "cuda":
        about |= {
            "device": torch.cuda.get_device_name(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return {"device": "cpu", **about}


def main() -> None:
    """Print a line for every measurement, and write all of them to a file."""
    global LEVEL
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="write the numbers here, after every option")
    parser.add_argument("--budget", type=float, default=480, help="begin no option after so many s")
    parser.add_argument("--networks", nargs="+", help="fashion, fashion_latent, adm64")
    parser.add_argument("--options", nargs="+", help="names of options; all if left out")
    parser.add_argument("--rows", nargs="+", type=int, help="numbers of rows; 1 8 16 if left out")
    settings = parser.parse_args()
    device, start = settings.device, time.perf_counter()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    found: dict[str, Any] = {**described(device), "lines": [], "skipped": [], "codes": {}}
    names = settings.networks or ["adm64", "fashion", "fashion_latent"]
    print(json.dumps({key: found[key] for key in ("device", "torch")}), flush=True)
    priors: dict[str, tuple[Prior, Prior]] = {}
    for name, option, rows in jobs(device, names):
        if settings.options and option.name not in settings.options:
            continue
        if time.perf_counter() - start > settings.budget:
            found["skipped"].append([name, option.name])
            continue
        if name not in priors:
            priors[name] = network(name, device), network(name, device)
            found["codes"][name] = searched(priors[name][0], device)
        plain = Setup(priors[name][0], Option("fp32", Execution()))
        other = Setup(priors[name][1], option)
        LEVEL = plain.prior.level(1.0)
        lines: list[dict[str, Any]] = []
        try:
            other.start()
            for count in settings.rows or rows:
                for kind in kinds_of(plain.prior, option):
                    line = measured(plain, other, kind, count, device)
                    lines.append({"network": name, "option": option.name, **line})
                    print(readable(lines[-1]), flush=True)
            if name != "adm64":
                seed = torch.Generator().manual_seed(0)
                z = torch.randn(count, *plain.prior.latent_shape, generator=seed).to(device)
                moved = float((other.chain(z) - plain.chain(z)).abs().max())
                lines = [{**line, "image": moved} for line in lines]
                print(f"  images after ten steps: {moved:.1e}", flush=True)
            found["lines"] += lines
        except Exception as error:  # an option that fails leaves the others their time
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"
            print(f"{name} | {option.name}: {reason}", flush=True)
            found["lines"] += [*lines, {"network": name, "option": option.name, "error": reason}]
        other.end()
        found["seconds"] = time.perf_counter() - start
        if settings.json:
            settings.json.write_text(json.dumps(found, indent=1) + "\n")


def readable(line: dict[str, Any]) -> str:
    """Return a measurement as one line."""
    counts = "{operations} operations, {casts} casts" if "operations" in line else ""
    return (
        f"{line['network']} | {line['option']} | {line['kind']} | {line['rows']} rows: "
        f"{line['ms']:.2f} ms, fp32 {line['fp32_ms']:.2f}, ratio {line['ratio']:.2f}, "
        f"difference {line['difference']:.1e}, first call {line['first_s']:.1f} s "
        + counts.format_map(line)
    )


if __name__ == "__main__":
    main()
