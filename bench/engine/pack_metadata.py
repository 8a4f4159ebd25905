"""The two descriptions of a reference pack: Croissant for machines, a README for people."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from posterior_bench.bench.external.pack import COLUMNS, OPERATOR, POSTERIORS, PRIOR

LICENCE = "https://spdx.org/licenses/MIT"
CONFORMS = "http://mlcommons.org/croissant/1.0"

_TERMS = (
    *("citeAs", "column", "conformsTo", "data", "dataType", "examples", "extract", "field"),
    *("fileObject", "fileProperty", "fileSet", "format", "includes", "isLiveDataset", "jsonPath"),
    *("key", "md5", "parentField", "path", "recordSet", "references", "regex", "repeated"),
    *("replace", "separator", "source", "subField", "transform", "equivalentProperty"),
    "samplingRate",
)
_TYPED = {"data": "@json", "examples": "@json", "dataType": "@vocab"}
_OUTSIDE = {"conformsTo": "dct:conformsTo"}


def croissant(
    problem: Mapping[str, Any], tables: Mapping[str, pa.Table], files: Mapping[str, bytes]
) -> dict[str, Any]:
    """Return the description of a pack in JSON-LD, after Croissant 1.0.

    Parameters
    ----------
    problem : Mapping
        The content of ``problem.json``.
    tables : Mapping
        The tables by file name.
    files : Mapping
        The bytes of tables and ``problem.json`` by file name.

    Notes
    -----
    Akhtar et al., "Croissant: a metadata format for ML-ready datasets", 2024; the specification is
    http://mlcommons.org/croissant/1.0. No date is in it: a pack that is written again has the same
    bytes.
    """
    drawn = problem["truths_are_drawn_from_the_prior"]
    return {
        "@context": context(),
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS,
        "name": problem["name"],
        "description": _summary(problem),
        "version": f"{problem['format']}.0.0",
        "license": LICENCE if drawn else "that of the images from which the truths were read",
        "citeAs": f"posterior-bench {problem['versions']['posterior-bench']}, {problem['name']}",
        "distribution": [file_object(name, data) for name, data in sorted(files.items())],
        "recordSet": [_records(name, table) for name, table in tables.items()],
    }


def context() -> dict[str, Any]:
    """Return the context of JSON-LD in which Croissant's terms are read."""
    terms: dict[str, Any] = {
        term: {"@id": f"cr:{term}", "@type": _TYPED[term]} if term in _TYPED else f"cr:{term}"
        for term in _TERMS
    }
    return {
        "@language": "en",
        "@vocab": "https://schema.org/",
        "cr": "http://mlcommons.org/croissant/",
        "dct": "http://purl.org/dc/terms/",
        "rai": "http://mlcommons.org/croissant/RAI/",
        "sc": "https://schema.org/",
        **terms,
        **_OUTSIDE,
    }


_ENCODINGS = {
    "gz": "application/gzip",
    "json": "application/json",
    "parquet": "application/x-parquet",
    "png": "image/png",
}


def file_object(name: str, data: bytes) -> dict[str, Any]:
    """Return the description of a file: its name, size, format and hash."""
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{len(data)} B",
        "encodingFormat": _ENCODINGS[name.rpartition(".")[2]],
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _records(name: str, table: pa.Table) -> dict[str, Any]:
    record = name.removesuffix(".parquet")
    return {
        "@type": "cr:RecordSet",
        "@id": record,
        "name": record,
        "field": [_field(name, column) for column in table.schema],
    }


def _field(name: str, column: pa.Field) -> dict[str, Any]:
    many = pa.types.is_list(column.type)
    one = column.type.value_type if many else column.type
    field = f"{name.removesuffix('.parquet')}/{column.name}"
    return {
        "@type": "cr:Field",
        "@id": field,
        "name": column.name,
        "description": _about(name, column.name),
        "dataType": _type(one),
        **({"repeated": True} if many else {}),
        "source": {"fileObject": {"@id": name}, "extract": {"column": column.name}},
    }


def _type(kind: pa.DataType) -> str:
    """Return the type of Croissant for a type of Arrow."""
    if pa.types.is_floating(kind):
        return "sc:Float"
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    return "sc:Integer" if pa.types.is_integer(kind) else "sc:Text"


def _about(name: str, column: str) -> str:
    return COLUMNS[name].get(column, "a diagnostic of the reference sampler for this truth")


def _summary(problem: Mapping[str, Any]) -> str:
    return (
        f"An inverse problem with known posteriors: {problem['truths']} truths "
        f"of {problem['dimension']} values, their measurements, and "
        f"{problem['reference_samples']} reference samples of every posterior."
    )


# -- for people ------------------------------------------------------------------------------------

_README = """\
# {name}

{summary}

## The problem

    {formula}

- An image `x` has the shape (C, H, W) = {shape}. It is stored as {dimension} numbers, by channel,
  then row, then column.
- The operator: {definition} {operator}
- The prior: {prior_definition} {prior}
- {truths}
- A method may use `y`, the operator, the noise level and the prior. It must not use
  `truths.parquet` and `references.parquet`.

All settings are in `problem.json`.

## The files

{files}

- `problem.json`: settings and versions.
- `metadata.json`: a description of all tables in the format Croissant 1.0.
- `SHA256SUMS`: checksums. `sha256sum -c SHA256SUMS` compares them.

## Draw samples and score them

```python
import json
import numpy as np
import pandas as pd

problem = json.load(open("problem.json"))
measured = pd.read_parquet("measurements.parquet")
y = np.stack(measured["y"])  # ({count}, M)
{read}
samples = ...  # your method: ({count}, draws, {dimension}), in the order of measurements.parquet
np.save("samples.npy", samples)
```

    bench score-samples PACK samples.npy

prints the energy distance, the sliced Wasserstein distance, a classifier two-sample test, errors of
mean and covariance, and calibration. It runs no sampler. Instead of an array you may give a table:
Parquet with the columns `image_id`, `draw` and `values`, or CSV with `image_id`, `draw`, `v0`, ...

## The reference samples

Every posterior has {samples} samples, which no method has seen.{reference}{chains}

## The same bytes again

The same command writes the same bytes, if these versions are the same: {versions}.
A processor of another kind may change last digits.
"""

_FORMULA = {
    "normal": "y = A(x) + sigma n,   n ~ N(0, I),   sigma = {sigma:g}",
    "of the operator": "y ~ p(y | x), a law that the operator defines (see below)",
}
_OPERATOR = {
    "mask": "`measurements.parquet` says which values were observed: y = observed * (x + sigma n).",
    "matrix": "`operator.parquet` holds it as a matrix: y = A x + sigma n.",
    "nonlinear": "It is not linear, so there is no matrix of it; its settings are in "
    "`problem.json`.",
}
_READ = {
    "mask": 'observed = np.stack(measured["observed"])  # ({count}, {dimension}), bool',
    "matrix": 'A = np.stack(pd.read_parquet("operator.parquet")["weights"])  # (M, {dimension})',
    "nonlinear": "",
}
_CHAINS = (
    " They come from Markov chains, so they are not quite independent: `posteriors.parquet` has "
    "their effective sample sizes."
)
_MIXTURE = (
    "`prior.parquet` holds it as a Gaussian mixture: component k has the covariance "
    "floor I + B^T diag(variances - floor) B, where the rows of B are its directions."
)


def readme(problem: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> str:
    """Return the README of a pack.

    Parameters
    ----------
    problem : Mapping
        The content of ``problem.json``.
    tables : Mapping
        The tables by file name.
    """
    drawn = problem["truths_are_drawn_from_the_prior"]
    sizes = {"count": problem["truths"], "dimension": problem["dimension"]}
    own = OPERATOR in tables and "image_id" in tables[OPERATOR].column_names
    return _README.format(
        **sizes,
        name=problem["name"],
        summary=_summary(problem),
        formula=_FORMULA[problem["noise"]].format(sigma=problem["sigma"]),
        shape=tuple(problem["shape"]),
        definition=problem["operator_definition"],
        operator=_OPERATOR[problem["operator"]] + (" Every truth has its own." if own else ""),
        prior_definition=problem["prior_definition"],
        prior=_MIXTURE if PRIOR in tables else "Its settings are in `problem.json`.",
        truths="The truths are draws from the prior."
        if drawn
        else "The truths are images from elsewhere, not draws from the prior.",
        files=_files(tables),
        read=_READ[problem["operator"]].format(**sizes),
        samples=problem["reference_samples"],
        reference=""
        if problem["noise"] != "normal"
        else f" They are drawn for the noise level {problem['sigma_of_the_reference']:g}.",
        chains=_CHAINS if POSTERIORS in tables and "ess" in tables[POSTERIORS].column_names else "",
        versions=", ".join(f"{name} {text}" for name, text in problem["versions"].items()),
    )


def _files(tables: Mapping[str, pa.Table]) -> str:
    """Return a line per column of every table."""
    lines = ["| file | column | content |", "| --- | --- | --- |"]
    for name, table in tables.items():
        for column in table.column_names:
            lines.append(f"| `{name}` | `{column}` | {_about(name, column)} |")
    return "\n".join(lines)
