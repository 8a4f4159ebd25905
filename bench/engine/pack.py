"""Write reference packs: problems with known posteriors, for programs that know nothing of ours.

Everything is measured and drawn as in a run with the same settings, so a pack holds the very
reference samples that the metrics of this run compare with.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from posterior_bench.bench.config.build import arguments, operator_caps, target
from posterior_bench.bench.config.cell import is_path
from posterior_bench.bench.config.image_folders import demand_count
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.core.environment import environment
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.core.isolation import isolated
from posterior_bench.bench.engine.arena import are_drawn
from posterior_bench.bench.engine.batches import padded
from posterior_bench.bench.engine.complete_folder import complete_folder
from posterior_bench.bench.engine.exact_draws import (
    DRAWS,
    SIGMA_FLOOR,
    Reference,
    exact_reference,
)
from posterior_bench.bench.engine.measurement import Measurement, build_operator
from posterior_bench.bench.engine.pack_metadata import croissant, readme
from posterior_bench.bench.engine.plan import slices
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.external.content import mask_content
from posterior_bench.bench.external.pack import (
    FORMAT,
    MEASUREMENTS,
    METADATA,
    OPERATOR,
    POSTERIORS,
    PRIOR,
    PROBLEM,
    README,
    REFERENCES,
    SUMS,
    TRUTHS,
    checked,
)
from posterior_bench.bench.store.atomic import write_atomic
from posterior_bench.operators.base import Operator
from posterior_bench.priors.base import Prior
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.solvers.exact import matrices

FEWEST = 16
"""Reference samples that a pack has at least: the errors of scores need several groups of them."""

_VERSIONS = ("torch", "numpy", "pyarrow")
"""Packages on whose versions the bytes of a pack depend."""


@dataclass(frozen=True)
class Written:
    """A pack that is on disk.

    ``new`` is False if it was there before. ``size`` are the bytes of all files, ``checksum`` is
    the sha256 of the list of checksums.
    """

    folder: Path
    new: bool
    size: int
    checksum: str


@dataclass(frozen=True)
class _Part:
    """One chunk of a pack: what was measured, and the reference samples; without padding.

    ``matrix`` ``(n, M, d)`` is None for an operator that has a mask or is not linear.
    """

    measured: Measurement
    reference: Reference
    matrix: Tensor | None
    n: int


def write_pack(config: JobConfig, name: str, folder: Path, samples: int = DRAWS) -> Written:
    """Write the pack of one problem, all files or none.

    Parameters
    ----------
    config : JobConfig
        A run on this problem; its solver and its metrics play no role.
    name : str
        Name of the problem.
    folder : Path
        A new or empty folder. A folder that holds the pack already is verified and kept.
    samples : int, default 512
        Reference samples of every truth: the first of those that metrics compare with.

    Raises
    ------
    UserError
        If the folder holds something else, a file in it was changed, or the problem has no
        reference samples.
    """
    if not FEWEST <= samples <= DRAWS:
        raise UserError(f"samples={samples}: give {FEWEST} to {DRAWS} reference samples")
    folder = folder.resolve()
    with isolated(numbers=True):
        torch.set_num_threads(1)  # the last bits of sums depend on the number of threads
        session = _session(config)
        problem = _problem(session, name, samples)
        if _is_there(folder, problem):
            return _written(folder, new=False)
        tables = _tables(session, samples)
    files = {PROBLEM: _json(problem)} | {key: _parquet(table) for key, table in tables.items()}
    files[METADATA] = _json(croissant(problem, tables, files))
    files[README] = readme(problem, tables).encode()
    sums = [f"{hashlib.sha256(data).hexdigest()}  {key}\n" for key, data in sorted(files.items())]
    if folder.exists():
        folder.rmdir()  # it is empty, and the whole pack takes its place at once
    with complete_folder(folder) as part:
        for key, data in files.items():
            write_atomic(part / key, data)
        write_atomic(part / SUMS, "".join(sums).encode())
    return _written(folder, new=True)


def _session(config: JobConfig) -> Session:
    """Return prior, images, masks and operator; the solver stands in for any that would run."""
    solver = {"_target_": "solvers.unconditional.PriorSamples"}
    session = Session(replace(config, solver=solver, metrics={}), "cpu")
    demand_count(config.images, len(session.images))
    mask_content(config, session.mask, session.images)
    return session


def _problem(session: Session, name: str, samples: int) -> dict[str, Any]:
    """Return what ``problem.json`` says: everything that the tables depend on."""
    config, shape = session.config, session.prior.image_shape
    groups = {group: node for group, node in config.nodes.items() if group != "solver"}
    whole = torch.ones(1, 1, *shape[1:], dtype=torch.bool)
    operator = build_operator(config.operator, whole, shape[0])
    sigma, kind = float(operator.sigma), _kind(config)
    own_noise = kind == "nonlinear" and type(operator).observe is not Operator.observe
    packages = environment()["packages"]
    problem = {
        "format": FORMAT,
        "name": name,
        "truths": config.images,
        "reference_samples": samples,
        "shape": shape,
        "dimension": int(np.prod(shape)),
        "sigma": sigma,
        "sigma_of_the_reference": max(sigma, SIGMA_FLOOR),
        "noise": "of the operator" if own_noise else "normal",
        "operator": kind,
        "operator_definition": _definition(config.operator),
        "prior_definition": _definition(config.prior),
        "truths_are_drawn_from_the_prior": are_drawn(config.data),
        "seed": config.seed,
        "settings": {group: _settings(node) for group, node in groups.items()},
        "versions": {
            "posterior-bench": environment()["version"],
            **{package: packages[package] for package in _VERSIONS},
        },
    }
    plain: dict[str, Any] = json.loads(json.dumps(problem))
    return plain


def _kind(config: JobConfig) -> str:
    """Return how a pack describes the operator: ``mask``, ``matrix`` or ``nonlinear``."""
    caps = operator_caps(config.operator)
    return "mask" if "mask" in caps else "matrix" if "linear" in caps else "nonlinear"


def _definition(node: Mapping[str, Any]) -> str:
    """Return what the documentation of a class or function says, up to its parameters."""
    text = inspect.getdoc(target(node)) or ""
    return re.sub(r":\w+:`", "`", " ".join(text.partition("\n\nParameters\n---")[0].split()))


def _settings(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the class and the settings of a node; the place of a file is none of them."""
    kept = {key: value for key, value in arguments(node).items() if not is_path(key, value)}
    return {"class": node["_target_"], **kept}


def _is_there(folder: Path, problem: Mapping[str, Any]) -> bool:
    """Return whether a folder holds this pack; UserError if it holds anything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / SUMS).is_file():
        raise UserError(f"{folder} is there already and is no reference pack; choose another DIR")
    checked(folder)
    found = json.loads((folder / PROBLEM).read_text("utf-8"))
    differing = [key for key in problem if found.get(key) != problem[key]]
    if differing:
        raise UserError(
            f"{folder} holds another pack, which differs in {', '.join(differing)}; choose another "
            "DIR, or remove it"
        )
    return True


def _written(folder: Path, new: bool) -> Written:
    size = sum(path.stat().st_size for path in folder.iterdir())
    return Written(folder, new, size, hashlib.sha256((folder / SUMS).read_bytes()).hexdigest())


def _parts(session: Session) -> Iterator[_Part]:
    """Measure chunk by chunk, as a run with these ``draws`` and this ``batch`` does."""
    config = session.config
    ids = session.images.ids[: config.images]
    chunks, size = slices(ids, config.draws, config.batch)
    for chunk in chunks:
        measured = session.measure(padded(list(chunk.images), size))
        try:
            reference = exact_reference(config, session.prior, measured)
        except ValueError as error:
            raise UserError(f"this problem has no reference samples: {error}") from None
        matrix = None
        if _kind(config) == "matrix":
            matrix = matrices(measured.operator, size, session.prior)
        yield _Part(measured, reference, matrix, len(chunk.images))


def _tables(session: Session, samples: int) -> dict[str, pa.Table]:
    """Return the tables of a pack by file name."""
    parts = list(_parts(session))
    ids = [key.image for part in parts for key in part.measured.keys[: part.n]]
    truth = torch.cat([part.measured.truth[: part.n] for part in parts])
    x = torch.cat([part.reference.x[: part.n, :samples] for part in parts])
    tables = {
        TRUTHS: pa.table({"image_id": ids, "values": _lists(truth)}),
        MEASUREMENTS: _measurements(parts, ids),
        OPERATOR: _operator(parts, ids),
        PRIOR: _prior(session.prior),
        POSTERIORS: _posteriors(session.prior, parts, ids),
        REFERENCES: pa.table(
            {
                "image_id": [image for image in ids for _ in range(samples)],
                "draw": [*range(samples)] * len(ids),
                "values": _lists(x.flatten(0, 1)),
            }
        ),
    }
    return {name: table for name, table in tables.items() if table is not None}


def _measurements(parts: list[_Part], ids: list[str]) -> pa.Table:
    y = torch.cat([part.measured.y[: part.n].flatten(1) for part in parts])
    columns: dict[str, Any] = {"image_id": ids, "y": _lists(y)}
    masks = [part.measured.operator.mask for part in parts]
    if masks[0] is not None:
        seen = [
            mask[: part.n].expand_as(part.measured.truth[: part.n])
            for mask, part in zip(masks, parts, strict=True)
            if mask is not None
        ]
        columns["observed"] = _lists(torch.cat(seen))
    return pa.table(columns)


def _operator(parts: list[_Part], ids: list[str]) -> pa.Table | None:
    """Return the rows of the matrix; of the matrix of every truth, if they differ."""
    matrix = [part.matrix[: part.n] for part in parts if part.matrix is not None]
    if not matrix:
        return None
    every = torch.cat(matrix)
    if (every == every[0]).all():
        return pa.table({"row": [*range(every.shape[1])], "weights": _lists(every[0])})
    return pa.table(
        {
            "image_id": [image for image in ids for _ in range(every.shape[1])],
            "row": [*range(every.shape[1])] * len(ids),
            "weights": _lists(every.flatten(0, 1)),
        }
    )


def _prior(prior: Prior) -> pa.Table | None:
    """Return the components of a Gaussian mixture; None for another prior."""
    if not isinstance(prior, MixturePrior):
        return None
    spectrum = prior.spectrum
    return pa.table(
        {
            "component": [*range(len(prior.weights))],
            "weight": prior.weights.tolist(),
            "mean": _lists(prior.means),
            "floor": spectrum.floor.tolist(),
            "variances": _lists(spectrum.values),
            "directions": _lists(spectrum.basis),
        }
    )


def _posteriors(prior: Prior, parts: list[_Part], ids: list[str]) -> pa.Table | None:
    """Return mode weights, and whatever else the reference says of every truth."""
    left_out = {"x", "assign", *(() if _modes_of_the_prior(prior, parts[0]) else ["mode_weights"])}
    columns: dict[str, list[Any]] = {}
    for part in parts:
        for name, value in vars(part.reference).items():
            if name not in left_out and value is not None and not callable(value):
                columns.setdefault(name, []).extend(_per_truth(value, part.n))
    return pa.table({"image_id": ids, **columns}) if columns else None


def _modes_of_the_prior(prior: Prior, part: _Part) -> bool:
    """Whether modes are the components of the prior, by which a pack assigns samples to them."""
    assign, few = part.reference.assign, part.reference.x[0, :FEWEST]
    if assign is None or not isinstance(prior, MixturePrior):
        return False
    return torch.equal(assign(few), prior.responsibilities(few))


def _per_truth(value: Any, n: int) -> list[Any]:
    """Return a value for each of the first ``n`` truths of a chunk."""
    if isinstance(value, Tensor) and value.ndim:
        rows = value[:n]
        return (rows.flatten(1) if rows.ndim > 1 else rows).tolist()
    return [value.item() if isinstance(value, Tensor) else value] * n


def _lists(rows: Tensor) -> pa.ListArray:
    """Return the rows of a tensor as lists."""
    flat = rows.flatten(1)
    offsets = np.arange(len(flat) + 1, dtype=np.int32) * flat.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat.flatten().numpy())


def _parquet(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd", use_dictionary=["image_id"])
    data: bytes = buffer.getvalue().to_pybytes()
    return data


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
