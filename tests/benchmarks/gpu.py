"""Measure and check everything that needs a GPU, with one command.

    python tests/benchmarks/gpu.py --json gpu.json                 # at most 8 minutes
    python tests/benchmarks/gpu.py --json gpu.json --budget 240 --parts bits,checks

Every part runs in a process of its own, so a part that fails, or breaks the device, leaves the
others alone. Its share of the budget is what the parts before it have left. A part writes its own
file as it goes, next to ``--json``, and a part that has used up its time is ended; what it wrote
counts. The parts are:

- ``machine``: card, driver, versions of torch, CUDA and cuDNN.
- ``bits``, ``bits_again``: samples of some solvers on an untrained network of 296 million
  parameters and on the embedded priors, in each precision. A second run, and the rows in reverse
  order, must give the same bits, and so must the second process. The largest difference is stored.
- ``checks``: of all promises of ``bench check`` those that a device could break (``repeat``,
  ``batch``, ``draws``, ``nan``, and those they rest on), for every solver on the small priors.
- ``overhead``, ``noise``, ``execution``, ``memory``: the scripts of these names in this folder.

``--device cpu`` shows that the script works; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))  # for the other scripts, also where this one is imported

SHARES = {
    "machine": 0.5,
    "bits": 1.0,
    "checks": 3.0,
    "overhead": 4.0,
    "noise": 2.5,
    "execution": 3.0,
    "memory": 2.0,
    "bits_again": 1.0,
}
"""The parts in their order; numbers are weights of the budget."""

SCRIPTS = ("overhead", "noise", "execution", "memory")

SPARE = 5.0
"""Seconds before the end of a part's time at which it should begin nothing new."""

STARTUP = 30.0
"""Seconds that a process may take to import everything; no part gets less."""

CHECKED = (
    *("runs", "output", "finite", "randomness", "measurement", "prior"),
    *("repeat", "batch", "draws", "nan"),
)
DIGESTED = (("dps", "adm64"), ("ddrm", "adm64"), ("vipaint2", "fashion"), ("psld", "ldm256"))


# -- the command -----------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=480.0, help="seconds")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(SHARES))
    parser.add_argument("--part", help=argparse.SUPPRESS)  # run this part in this process
    given = parser.parse_args(arguments)
    given.json = given.json.absolute()
    given.json.parent.mkdir(parents=True, exist_ok=True)
    if given.part:
        PARTS[given.part](given.device, given.json, time.monotonic() + given.budget)
        return 0
    if unknown := set(given.parts) - set(SHARES):
        raise SystemExit(f"unknown parts {', '.join(unknown)}; valid: {', '.join(SHARES)}")
    return run_all(given)


def run_all(given: argparse.Namespace) -> int:
    """Run the parts one after the other, and write what is known after each."""
    end = time.monotonic() + given.budget
    report: dict[str, Any] = {"device": given.device, "budget": given.budget, "parts": {}}
    left = sum(SHARES[part] for part in given.parts)
    for part in given.parts:
        seconds = max((end - time.monotonic()) * SHARES[part] / left, 0.0)
        left -= SHARES[part]
        seconds = min(max(seconds, STARTUP), end - time.monotonic())
        report["parts"][part] = run_part(part, given, seconds)
        if {"bits", "bits_again"} <= report["parts"].keys():
            report["same_bits_in_two_processes"] = same_digests(report["parts"])
        write(given.json, report)
        outcome = report["parts"][part]
        print(f"{part}: {outcome['status']}, {outcome['seconds']:.0f} s", flush=True)
    print(summary(report))
    return 0 if all(one["status"] == "ok" for one in report["parts"].values()) else 1


def run_part(part: str, given: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Run one part in a process of its own, and return what came of it."""
    own = given.json.with_name(f"{given.json.stem}-{part}.json")
    own.unlink(missing_ok=True)
    if seconds <= SPARE:
        return {"status": "no time", "seconds": 0.0}
    budget = f"{max(seconds - SPARE, 1.0):.0f}"
    name = part.removesuffix("_again")
    if part in SCRIPTS:
        script = HERE / f"{part}.py"
        if not script.exists():
            return {"status": "absent", "seconds": 0.0}
        command = [sys.executable, str(script)]
    else:
        command = [sys.executable, __file__, "--part", name]
    command += ["--budget", budget, "--device", given.device, "--json", str(own)]
    begin = time.monotonic()
    log = own.with_suffix(".log")
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with log.open("wb") as stream:
        child = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
        try:
            code = child.wait(seconds)
            status = "ok" if code == 0 else f"exit {code}"
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            status = "ended when its time was over"
    outcome = {"status": status, "seconds": time.monotonic() - begin}
    if status != "ok":
        outcome["log"] = log.read_text(encoding="utf-8", errors="replace")[-4000:]
    try:
        outcome["result"] = json.loads(own.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        outcome["result"] = None
        outcome["status"] += f"; no result: {type(error).__name__}"
    return outcome


def write(path: Path, content: Any) -> None:
    """Write a file anew, whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def same_digests(parts: Mapping[str, Any]) -> dict[str, bool]:
    """Return for every case whether two processes gave the same bits."""
    first, second = (
        {case["case"]: case.get("digest") for case in (parts[name].get("result") or [])}
        for name in ("bits", "bits_again")
    )
    return {name: first[name] == second[name] for name in first.keys() & second.keys()}


def summary(report: Mapping[str, Any]) -> str:
    """Return the most important results in a few lines."""
    lines = []
    parts = report["parts"]
    for case in parts.get("bits", {}).get("result") or []:
        wrong = case.get("error") or ("" if case["repeat"] == case["order"] == 0 else "DIFFERS")
        lines.append(f"bits {case['case']}: {wrong or 'the same'}")
    for name, same in report.get("same_bits_in_two_processes", {}).items():
        lines.append(f"two processes, {name}: {'the same bits' if same else 'OTHER BITS'}")
    broken = (parts.get("checks", {}).get("result") or {}).get("broken", [])
    lines += [f"broken: {' '.join(map(str, one))}" for one in broken]
    return "\n".join(lines)


# -- parts -----------------------------------------------------------------------------------------


def machine(device: str, path: Path, end: float) -> None:
    """Write what the machine is."""
    import torch

    from posterior_bench.bench.core.environment import environment

    found: dict[str, Any] = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "environment": environment(),
    }
    query = "name,driver_version,memory.total,clocks.max.sm,power.limit,persistence_mode"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv"],
            capture_output=True,
            text=True,
            timeout=20,
        )
        found["nvidia-smi"] = done.stdout.splitlines()
    except (OSError, subprocess.SubprocessError) as error:
        found["nvidia-smi"] = str(error)
    if device != "cpu":
        found["cards"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        write(path, found)
        found["launch_us"] = launch_seconds(device) * 1e6
        found["synchronise_us"] = launch_seconds(device, each=True) * 1e6
    write(path, found)


def launch_seconds(device: str, each: bool = False, count: int = 2000) -> float:
    """Return the seconds of one small operation, or of one with a wait for the device."""
    import torch

    x = torch.zeros(8, device=device)
    for measured in (False, True):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(count if measured else 10):
            x = x + 1
            if each:
                torch.cuda.synchronize()
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def bits(device: str, path: Path, end: float) -> None:
    """Compare the bits of samples of large networks with those of a second run."""
    import overhead
    import torch

    from posterior_bench.bench.engine.worker import Worker
    from posterior_bench.priors.execution import PRECISIONS, Execution
    from posterior_bench.priors.low_precision import tf32

    Worker(device)  # it asks the device for the same kernels in every run
    found: list[dict[str, Any]] = []
    priors: dict[str, Any] = {}
    for name, problem in DIGESTED:
        for precision in PRECISIONS:
            if time.monotonic() > end:
                return
            case = {"case": f"{name} {problem} {precision}"}
            try:
                whole = overhead.case_of(name, problem, 8, 4, device, priors)
                whole.prior.run_as(Execution(precision=precision))
                with tf32(whole.prior.execution.tf32):
                    x = samples(whole)
                    case["repeat"] = difference(x, samples(whole))
                    turned = samples(whole, list(range(7, -1, -1)))
                    case["order"] = difference(x, turned.flip(0))
                case["finite"] = bool(x.isfinite().all())
                case["digest"] = hashlib.sha256(x.cpu().numpy().tobytes()).hexdigest()
            except Exception as error:
                case["error"] = f"{type(error).__name__}: {error}"
                if device != "cpu":
                    torch.cuda.empty_cache()
            found.append(case)
            write(path, found)


def samples(case: Any, order: Sequence[int] | None = None) -> Any:
    """Return the samples ``(rows, C, H, W)`` of a case, its rows in this order."""
    from posterior_bench.bench.core.streams import Noise

    obs, keys = case.obs, case.keys
    if order is not None:
        at = list(order)
        operator = replace(obs.operator, mask=obs.operator.mask[at])
        cond = None if obs.cond is None else obs.cond.map(lambda value: value[at])
        obs = replace(obs, y=obs.y[at], operator=operator, cond=cond)
        keys = [keys[i] for i in at]
    noise = Noise(keys, "solver", str(case.prior.device))
    return case.solver.fit(obs, case.prior, noise).sample([0]).x[:, 0].detach()


def difference(a: Any, b: Any) -> float:
    """Return the largest difference; 0 for equal bits, also where both are NaN."""
    import torch

    if torch.equal(a.view(torch.int32), b.view(torch.int32)):
        return 0.0
    return max(float((a - b).abs().nan_to_num(float("inf")).max()), 1e-30)


def checks(device: str, path: Path, end: float) -> None:
    """Check the promises that a device could break, for every solver on the small priors."""
    from posterior_bench.bench.conformance.promise import examine
    from posterior_bench.bench.conformance.run_promises import RUN_PROMISES
    from posterior_bench.bench.engine.worker import Worker

    Worker(device)
    promises = [promise for promise in RUN_PROMISES if promise.name in CHECKED]
    found: dict[str, Any] = {"results": {}, "broken": [], "not_reached": []}
    for name, label, checked in small_cases(device):
        key = f"{name} on {label}"
        if time.monotonic() > end:
            found["not_reached"].append(key)
            continue
        begin = time.monotonic()
        try:
            results = examine(promises, checked())
            found["results"][key] = {one.name: one.status for one in results}
            found["broken"] += [
                [key, one.name, one.reason] for one in results if one.status == "fail"
            ]
        except Exception as error:
            found["results"][key] = f"{type(error).__name__}: {error}"
            found["broken"].append([key, "error", found["results"][key]])
        print(f"{key}: {time.monotonic() - begin:.1f} s", flush=True)
        write(path, found)
    write(path, found)


def small_cases(device: str) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Yield solver, small prior and a function that returns what is checked on the device."""
    import overhead

    from posterior_bench.bench.config.build import build
    from posterior_bench.bench.config.catalog import options
    from posterior_bench.bench.config.compose import compose
    from posterior_bench.bench.config.overrides import check
    from posterior_bench.bench.config.presets import LATENT, default_preset, replacement
    from posterior_bench.bench.conformance.checked_solver import CheckedSolver
    from posterior_bench.bench.conformance.small_priors import PRIORS, small_prior
    from posterior_bench.bench.conformance.small_problem import (
        SmallProblem,
        absolute_distance,
        with_few_steps,
    )
    from posterior_bench.bench.engine.job import unchecked

    names = dict.fromkeys([*overhead.FIRST, *options("solver", plugins=())])
    configs = cache(lambda name: unchecked(compose(check([f"solver={name}"]))[0]))
    labels = dict.fromkeys(["network", "latent", "exact", *PRIORS])
    for label in labels:
        for name in names:
            if name in ("folder", "torchscript"):
                continue  # they read files
            config, prior = configs(name), small_prior(label).to(device)
            node = config.solver
            latent = replacement(node.get("presets", {}), default_preset(node), LATENT)
            if prior.is_latent and latent is not None:
                node = {**node, "preset": latent}
            try:
                solver = build(node)
            except Exception as error:  # an optional package, a file that is not given
                print(f"{name}: {error}", flush=True)
                continue
            short = with_few_steps(solver)
            distance = (
                absolute_distance if getattr(solver, "perceptual", "none") != "none" else None
            )
            if getattr(solver, "modules", None) is not None:
                continue  # its modules are made for one prior
            problem = SmallProblem(prior, config.operator, None, distance, device)
            checked = CheckedSolver(short, problem, solver)
            if not checked.lacking:
                yield name, label, lambda checked=checked: checked


PARTS: Mapping[str, Callable[[str, Path, float], None]] = {
    "machine": machine,
    "bits": bits,
    "checks": checks,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
