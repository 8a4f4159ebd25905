"""The measurements of a run as files, for methods that run elsewhere.

Masks and noise come from the random streams of a run with the same seed, data, mask and operator.
So ``solver=folder`` can score the images that another program made of these files beside the images
of that run. The whole images are written only on request.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from torch import Tensor

from posterior_bench.bench.config.build import arguments, build, operator_caps, target
from posterior_bench.bench.config.image_folders import demand_count
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.masks import build_masks
from posterior_bench.bench.config.prompts import NOT_OF_THE_IMAGES
from posterior_bench.bench.core import terminal
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.arena import PriorDraws, build_images
from posterior_bench.bench.engine.cache import shared
from posterior_bench.bench.engine.complete_folder import complete_folder
from posterior_bench.bench.engine.measurement import Measurement, measure
from posterior_bench.bench.engine.scoring import png
from posterior_bench.bench.external.content import mask_content
from posterior_bench.bench.external.image_files import answer_names
from posterior_bench.bench.store.atomic import write_atomic
from posterior_bench.datasets.base import ImageSet
from posterior_bench.metrics.base import to_uint8

BATCH = 16
"""Images in memory at a time."""

LONGEST = 255
"""Bytes of a file's name on the usual file systems."""

POLARITY = "white (255) = observed, black (0) = hole"
VALUES = "[-1, 1]; the 8-bit value v stands for v / 127.5 - 1"
LEGEND = {
    "mask": f"PNG, grey: {POLARITY}",
    "observed": "PNG, the image where it was observed, 128 in the hole",
    "measurement": "NumPy float32 (C, H, W) in [-1, 1] units, unclipped, 0 in the hole; only where "
    "noise was added",
    "truth": "PNG, the whole image; only with truth=true",
    "answer": "name below solver.path for one draw; for draw D of several write _D before .png",
    "label": "class of the image, which class-conditional solvers are given too",
    "mask_seed": "seed of NumPy's PCG64 that drew the mask",
    "noise_seed": "seed of the torch generator that drew the measurement noise",
}


def export_masks(config: JobConfig, truth: bool = False) -> Path:
    """Write masks, observed images, ``index.json`` and ``index.csv``.

    Parameters
    ----------
    config : JobConfig
        A run with these measurements; ``config.out`` is the folder for the files.
    truth : bool, default False
        Whether to write the whole images too.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    UserError
        If ``config.out`` is None or holds files already, if the operator has no mask, or if a file
        name would be too long.
    """
    folder = _demand_empty_folder(config)
    data = _build_images(config)
    count = config.images
    demand_count(count, len(data))
    names = {image: stems[0] for image, stems in answer_names(data.ids[:count]).items()}
    mask = build_masks(config.mask)
    mask_content(config, mask, data)
    _demand_short_names(names.values())
    with complete_folder(folder) as part:
        entries: list[dict[str, object]] = []
        for start in range(0, count, BATCH):
            measured = measure(config, data, mask, data.ids[start : min(start + BATCH, count)])
            for i, files in enumerate(_image_files(measured, truth)):
                entries.append(
                    _write_image(part, names[measured.keys[i].image], files, measured, i)
                )
        _write_index(part, config, data.name, data.shape, entries)
    if not config.quiet:
        terminal.out.print(
            f"{count} masks and observed images in {folder}; what is what: {folder / 'index.json'}"
        )
    return folder


def _demand_empty_folder(config: JobConfig) -> Path:
    """Return the folder for the files; UserError if it is unset or not empty, or without a mask."""
    if config.out is None:
        raise UserError("'export-masks' needs a folder for its files: give out=DIR")
    if "mask" not in operator_caps(config.operator):
        raise UserError(
            "'export-masks' writes masks, and this operator has none; use operator=inpainting"
        )
    folder = Path(config.out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already; choose another out=DIR, or remove it")
    return folder


def _demand_short_names(names: Iterable[str]) -> None:
    """Raise UserError if a file name would be longer than file systems allow."""
    for name in names:
        longest = PurePosixPath(name).name + ".npy"
        if len(longest.encode()) > LONGEST:
            raise UserError(
                f"the files of the image {name} would be called {longest}, which is "
                f"{len(longest.encode())} bytes long and file systems take {LONGEST}; give the "
                "image a shorter name"
            )


def _build_images(config: JobConfig) -> ImageSet:
    """Return the image set; only ``PriorDraws`` loads a prior."""
    if target(config.data) is PriorDraws:
        return build_images(config.data, shared("prior", config.prior, "cpu"), config.seed)
    images: ImageSet = build(config.data, skip=NOT_OF_THE_IMAGES)
    return images


def _image_files(measured: Measurement, truth: bool) -> Iterator[dict[str, bytes]]:
    """Yield the files of every image of a batch, by column of the index."""
    operator, y = measured.operator, measured.y
    assert operator.mask is not None
    for i, mask in enumerate(operator.mask):
        files = {"mask": png(mask.byte() * 255), "observed": png(to_uint8(y[i]))}
        if operator.sigma > 0:
            files["measurement"] = _npy(y[i])
        if truth:
            files["truth"] = png(to_uint8(measured.truth[i]))
        yield files


def _write_image(
    folder: Path, name: str, files: Mapping[str, bytes], measured: Measurement, i: int
) -> dict[str, object]:
    """Write the files of image ``i`` of a batch, and return its line of the index."""
    key, mask = measured.keys[i], measured.operator.mask
    assert mask is not None
    line: dict[str, object] = {"image_id": key.image, "answer": f"{name}.png"}
    for column, content in files.items():
        path = folder / column / f"{name}{'.npy' if column == 'measurement' else '.png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)  # need not be atomic: the folder gets its name when complete
        line[column] = path.relative_to(folder).as_posix()
    seeds = {f"{stream}_seed": key.seed(stream) for stream in ("mask", "noise")}
    if measured.labels is not None:
        line["label"] = int(measured.labels[i])
    return {**line, "observed_share": round(mask[i].double().mean().item(), 6), **seeds}


def _write_index(
    folder: Path,
    config: JobConfig,
    name: str,
    shape: tuple[int, ...],
    entries: list[dict[str, object]],
) -> None:
    """Write ``index.json`` with settings and a legend, and its lines alone as ``index.csv``."""
    settings = {
        "format": 1,
        "seed": config.seed,
        "data": name,
        "shape": list(shape),
        "mask_polarity": POLARITY,
        "value_range": VALUES,
        **{
            group: {"class": node["_target_"], **arguments(node)}
            for group, node in (("mask", config.mask), ("operator", config.operator))
        },
        "columns": {column: text for column, text in LEGEND.items() if column in entries[0]},
        "images": entries,
    }
    write_atomic(
        folder / "index.csv",
        pd.DataFrame(entries).to_csv(index=False, lineterminator="\n").encode(),
    )
    write_atomic(folder / "index.json", (json.dumps(settings, indent=1) + "\n").encode())


def _npy(y: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, y.cpu().numpy())
    return buffer.getvalue()
