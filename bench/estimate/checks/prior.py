"""The check of a prior's files, without loading its weights."""

from __future__ import annotations

import re

from posterior_bench.bench.config.build import build, target
from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.estimate.attempt import attempt
from posterior_bench.bench.estimate.finding import Finding
from posterior_bench.priors.base import Prior
from posterior_bench.priors.load import load, verify
from posterior_bench.priors.memory import weight_bytes


def check_prior(config: JobConfig, name: str) -> tuple[Prior | None, list[Finding]]:
    """Return the prior, None if it is missing, and the findings.

    A prior with networks lies on the meta device; the hashes, tensor names and shapes of its files
    were compared. A prior in closed form is the prior itself.

    Parameters
    ----------
    config : JobConfig
        The configuration of the cell.
    name : str
        The name of the prior's option.
    """
    node, check = config.prior, f"prior {name}"
    if target(node) is not load:
        prior, problem = attempt(lambda: build(node))
        state = Finding(check, "missing", problem) if problem else None
        return prior, [state or Finding(check, "ok", "needs no files")]
    prior, problem = attempt(lambda: verify(node["path"]))
    if problem:
        why = problem.partition("; make")[0]
        return None, [Finding(check, "missing", why, _remedy(config, name))]
    size, shape = weight_bytes(prior) / 2**20, " x ".join(map(str, prior.image_shape))
    found = (
        f"{node['path']}: hashes, tensor names and shapes are right; {size:.0f} MiB of weights, "
        f"images {shape}"
    )
    return prior, [Finding(check, "ok", found)]


def _remedy(config: JobConfig, name: str) -> str:
    """Return the files that are wanted, and the command that makes them where one is known."""
    node, option = config.prior, options("prior").get(name)
    if option is None:
        return "prior=PATH, a folder with prior.json or a folder of diffusers"
    summary = option.summary.replace(str(option.content.get("path")), node["path"])
    commands = re.findall(r"`(bench [^`]*)`", summary)
    if "train" in node:
        commands = [f"bench train prior={name}"]
    files = f"{node['path']}/prior.json and the .safetensors files it names"
    return ": ".join([files, *(f"python -m {line}" for line in commands[:1])])
