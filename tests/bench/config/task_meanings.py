"""What the names of tasks, studies and metrics mean, as numbers and hashes that can be compared.

    python -m tests.bench.config.task_meanings

stores the meanings of options that are new or have a new version in
``tests/golden/task_meanings.json``. It refuses an option whose meaning differs while its version is
the stored one: that needs a line in ``conf/versions.yaml``.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from posterior_bench.bench.config.build import build, target
from posterior_bench.bench.config.catalog import Option, options
from posterior_bench.bench.config.masks import build_masks
from posterior_bench.bench.config.option_files import whole_file
from posterior_bench.bench.config.prompts import NOT_OF_THE_IMAGES
from posterior_bench.bench.config.task_versions import GROUPS, version_of
from posterior_bench.bench.core.environment import ROOT
from posterior_bench.bench.engine.arena import PriorDraws
from posterior_bench.datasets.celeba import CelebA
from posterior_bench.datasets.faces import Faces
from posterior_bench.datasets.imagenet import ImageNet
from posterior_bench.datasets.lsun import LSUN
from posterior_bench.masks.daps_table1 import DAPSTable1
from posterior_bench.operators.fourier import Fourier
from posterior_bench.operators.nonlinear_blur import NonlinearBlur
from posterior_bench.operators.projection import Projection
from posterior_bench.operators.squared_projection import SquaredProjection
from posterior_bench.operators.xray import XRay

PINS = ROOT / "tests" / "golden" / "task_meanings.json"
Meaning = list[str] | list[float]
"""Texts must be equal, numbers agree up to rounding on other machines."""

_SIDE = 64


def meaning(group: str, name: str, folder: Path) -> Meaning:
    """Return the meaning of an option; ``folder`` is an empty one for files that it may read."""
    option = options(group)[name]
    return _MEANINGS[group](option, folder)


def _mask(option: Option, folder: Path) -> Meaning:
    """Hash the masks of a few seeds and sizes; of read masks, those of one file of labels."""
    node = dict(option.content)
    labels = np.add.outer(np.arange(_SIDE) // 16, np.arange(_SIDE) // 32) % 4 * 5
    if node.get("part") == "???":
        return _parts({**node, "part": "mouth"})
    if "path" in node:
        read = "labels" in node or "white" in node
        assert read, "a mask from files of a new kind: teach this function to feed it"
        planes = labels if "labels" in node else labels % 2 * 255
        file = folder / "plane.npy"
        np.save(file, planes.astype(np.uint8))
        node["path"] = str(file)
        given = {"labels": [5], "white": "observed"}
        node |= {k: v for k, v in given.items() if k in node and node[k] in ("???", None)}
        if node.get("labels") == ["hair"]:
            np.save(file, np.where(labels == 5, 13, labels).astype(np.uint8))
    masks = build_masks(node)
    sides = (256,) if isinstance(masks, DAPSTable1) else (_SIDE,) if "path" in node else (64, 256)
    drawn = [
        masks.for_image("0", 0).generate(np.random.Generator(np.random.PCG64(seed)), side, side)
        for side in sides
        for seed in range(3)
    ]
    return [hashlib.sha256(b"".join(np.packbits(mask).tobytes() for mask in drawn)).hexdigest()]


def _parts(node: dict[str, Any]) -> Meaning:
    """Hash the masks of a part of the first cartoon faces."""
    faces = Faces()
    masks = build_masks(node).beside(faces)
    rng = np.random.Generator(np.random.PCG64(0))
    drawn = [masks.for_image(image, 0).generate(rng, _SIDE, _SIDE) for image in faces.ids[:8]]
    return [hashlib.sha256(b"".join(np.packbits(mask).tobytes() for mask in drawn)).hexdigest()]


def _image() -> Tensor:
    """Return a smooth picture with an edge, ``(1, 3, 64, 64)`` in [-1, 1], in closed form."""
    rows, columns = np.mgrid[:_SIDE, :_SIDE] / _SIDE
    waves = [np.sin(5 * rows + 3 * c) * np.cos(7 * columns - c) for c in range(3)]
    edge = np.where(rows + 2 * columns > 1.4, 0.6, -0.4)
    return torch.from_numpy(0.5 * np.stack(waves)[None] + 0.5 * edge).float()


def _operator(option: Option, folder: Path) -> Meaning:
    """Measure a picture with a fixed mask, without noise."""
    node, kind, more = dict(option.content), target(option.content), {}
    if kind is NonlinearBlur:  # the network is the user's: the settings are all that is ours
        return [_digest({k: v for k, v in node.items() if k != "path"})]
    x = _image()
    if kind in (Projection, Fourier):  # they hold a dense matrix
        x = x[:, :1, ::8, ::8]
    if kind in (XRay, SquaredProjection):  # of ten values
        x = x[:, :1, ::32, ::13]
    if kind.takes_mask:
        more["mask"] = (torch.arange(_SIDE) % 3 > 0).expand(1, 1, _SIDE, _SIDE)
    if kind.takes_shape:
        more["shape"] = tuple(x.shape[1:])
    operator = build(node, **more)
    return [float(operator.sigma), *_summary(operator.A(x).flatten().double())]


def _data(option: Option, folder: Path) -> Meaning:
    """Read photographs that are made here, or the embedded images, or draw them from the prior."""
    unused = ("train", "defaults", *NOT_OF_THE_IMAGES)
    node = {k: v for k, v in option.content.items() if k not in unused}
    if target(node) is PriorDraws:
        prior = {**options("prior")[option.brings["prior"]].content}
        prior |= whole_file(option.path).get("prior") or {}
        images = build(node, prior=build(prior), seed=0)
    else:
        if node.get("root") == "???":
            _photographs(folder, target(node))
            node |= {"root": str(folder)}
            node |= {k: v for k, v in {"size": 32, "mode": "rgb"}.items() if node[k] is None}
        images = build(node)
    shown = images.images(images.ids[:3]).double()
    return [v for image in shown for v in _summary(image.flatten())]


def _photographs(folder: Path, kind: type) -> None:
    """Write three photographs, wider and higher than square, in the layout of a data set."""
    # the decoders look at the bytes, not at the ending
    layouts = {ImageNet: "val/n01440764/{}.JPEG", LSUN: "{:040x}.webp", CelebA: "18264{}.jpg"}
    for i, (width, height) in enumerate([(96, 70), (70, 96), (300, 280)]):
        rows, columns = np.mgrid[:height, :width]
        planes = [(rows * (c + 2) + columns * (i + 1) * 3) % 256 for c in range(3)]
        path = folder / layouts.get(kind, "{}.png").format(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.stack(planes, -1).astype(np.uint8)).save(path, format="PNG")


def _study(option: Option, folder: Path) -> Meaning:
    """Hash the cells of a study and all their settings, and no wording."""
    silent = ("title", "question", "note", "notes", "report", "sheet", "figure", "quiet")
    return [_digest(_without(whole_file(option.path), silent))]


def _without(value: Any, keys: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return {k: _without(v, keys) for k, v in value.items() if k not in keys}
    return [_without(v, keys) for v in value] if isinstance(value, list) else value


def _metrics(option: Option, folder: Path) -> Meaning:
    """Hash the values on known images that every class states, and tests of metrics check."""
    nodes = [node for node in option.parameters.values() if isinstance(node, Mapping)]
    classes = {target(node) for node in nodes}
    values = {
        cls.__name__: [getattr(cls, name, None) for name in ("reference", "references")]
        for cls in classes
    }
    return [_digest(values)]


_MEANINGS = {
    "data": _data,
    "mask": _mask,
    "operator": _operator,
    "study": _study,
    "metrics": _metrics,
}


def _summary(values: Tensor) -> list[float]:
    """Return mean, deviation and some single values."""
    places = torch.linspace(0, len(values) - 1, 6).long()
    return [round(float(v), 6) for v in (values.mean(), values.std(), *values[places])]


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def names() -> Iterator[tuple[str, str]]:
    """Yield group and name of every option of ours that has a version."""
    for group in GROUPS:
        for name, option in options(group).items():
            if not option.plugin:
                yield group, name


def stored() -> dict[str, Any]:
    """Return version and meaning of every stored option, by ``group/name``."""
    return dict(json.loads(PINS.read_text(encoding="utf-8"))) if PINS.exists() else {}


def alike(one: Meaning, other: Meaning) -> bool:
    """Return whether two meanings are the same."""
    if len(one) != len(other) or any(isinstance(v, str) for v in (*one, *other)):
        return one == other
    return bool(np.allclose(one, other, rtol=1e-4, atol=1e-4))


def main() -> int:
    """Store new meanings; name the options whose meaning changed without a new version."""
    kept, pins, changed = stored(), {}, []
    for group, name in names():
        key = f"{group}/{name}"
        with tempfile.TemporaryDirectory() as folder:
            found = {
                "version": version_of(group, name),
                "meaning": meaning(group, name, Path(folder)),
            }
        old = kept.get(key)
        same = old is not None and old["version"] == found["version"]
        if same and not alike(old["meaning"], found["meaning"]):
            changed.append(f"{group}={name}")
        pins[key] = old if same else found
    lines = [f"{json.dumps(key)}: {json.dumps(pins[key])}" for key in sorted(pins)]
    PINS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    if changed:
        print(
            f"{', '.join(changed)}: another meaning under the stored version; "
            "add a line to conf/versions.yaml and run this again"
        )
    return len(changed) > 0


if __name__ == "__main__":
    sys.exit(main())
