"""What a cell was measured on, image by image, short enough to be compared anywhere.

A line has the hash of the truth, the hash of the mask, the hash of the measurement ``y``, and two
numbers of ``y``: its mean, and its mean after multiplication with a fixed wave. Truths and masks
must agree bit for bit. So must ``y`` where it has no noise and needs no arithmetic; on another
processor its last bits may differ, and then the two numbers must agree within :data:`TOLERANCE`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b

import torch
from torch import Tensor

from posterior_bench.bench.analysis.tables import GROUP
from posterior_bench.bench.config.cell import digest
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.engine.batches import padded
from posterior_bench.bench.engine.measurement import Measurement, measure
from posterior_bench.bench.submission.members import Refusal
from posterior_bench.datasets.base import ImageSet
from posterior_bench.masks.base import MaskGenerator

TOLERANCE = 1e-4
"""In units of the images, which span 2."""

_COLUMNS = ["image_id", "truth", "mask", "y", "mean", "wave"]

Line = Mapping[str, str]


def measured_name(identity: Mapping[str, object]) -> str:
    """Return the name of the file of measurements; cells measured alike share it."""
    return f"measurements/{digest([str(identity[key]) for key in GROUP])}.csv"


def measurement_lines(
    config: JobConfig, images: ImageSet, mask: MaskGenerator, ids: Sequence[str], size: int
) -> Iterator[Line]:
    """Yield a line per image, measured on the CPU in batches of ``size`` images."""
    for start in range(0, len(ids), size):
        part = [*ids[start : start + size]]
        measured = measure(config, images, mask, padded(part, size))
        for i, image in enumerate(part):
            yield _line(image, measured, i)


def _line(image: str, measured: Measurement, i: int) -> Line:
    y = measured.y[i].detach().float().cpu().flatten()
    mask = measured.operator.mask
    wave = torch.cos(torch.arange(len(y), dtype=torch.float64))
    return {
        "image_id": image,
        "truth": measured.truths[i],
        "mask": "" if mask is None else _hash(mask[i].to(torch.uint8)),
        "y": _hash(y),
        "mean": repr(float(y.double().mean())),
        "wave": repr(float((y.double() * wave).mean())),
    }


def _hash(values: Tensor) -> str:
    data = values.detach().cpu().contiguous().numpy()
    return blake2b(f"{data.shape}".encode() + data.tobytes(), digest_size=8).hexdigest()


def measurement_text(lines: Sequence[Line]) -> bytes:
    """Return lines as CSV."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return sink.getvalue().encode()


def read_measurements(data: bytes, name: str) -> dict[str, Line]:
    """Return the lines of a file by image.

    Raises
    ------
    Refusal
        If it is no file of measurements, or has an image twice.
    """
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8"), newline=""), strict=True)
        lines: list[dict[str, str]] = [dict(line) for line in reader]
        whole = all(float(line[key]) == float(line[key]) for line in lines for key in _COLUMNS[4:])
    except (csv.Error, ValueError, TypeError, KeyError):
        whole, lines = False, []
    found: dict[str, Line] = {line["image_id"]: line for line in lines if {*line} == {*_COLUMNS}}
    if not whole or len(found) != len(lines):
        raise Refusal(f"{name} is no file of measurements")
    return found


def compare_lines(told: Mapping[str, Line], here: Sequence[Line]) -> tuple[list[str], bool]:
    """Compare measurements that a bundle tells with those made here.

    Returns
    -------
    list of str, bool
        What differs, and whether all measurements agree bit for bit.
    """
    wrong, exact = [], True
    for line in here:
        image = line["image_id"]
        other = told.get(image)
        if other is None:
            wrong.append(f"the image {image} was not measured")
            continue
        for key, words in (("truth", "is another picture"), ("mask", "has another mask")):
            if other[key] != line[key]:
                wrong.append(f"{image} {words} here")
        off = max(abs(float(other[key]) - float(line[key])) for key in ("mean", "wave"))
        exact &= other["y"] == line["y"]
        if other["y"] != line["y"] and off > TOLERANCE:
            wrong.append(f"{image} has another measurement here (seed, noise or operator)")
    return wrong, exact
