"""Hostile and broken input of every class ends in one clear line of ours, or in data that is whole;
in nothing else.

More examples: ``HYPOTHESIS_PROFILE=long python -m pytest tests/fuzz``.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.bench.harness import run
from tests.bench.store.test_row_store import row
from tests.priors.test_load import META, fresh

from posterior_bench.bench.cli.finish import finish
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.datasets.folder import Folder
from posterior_bench.masks.files import Files
from posterior_bench.priors.load import load, save, verify

NASTY = st.sampled_from(
    [
        "",
        " ",
        "..",
        "/",
        "\0",
        "${",
        "${oc.env:HOME}",
        "${oc.env:",
        "[",
        "{a:",
        "'",
        "\\",
        "=",
        "nan",
    ]
)
WORDS = st.one_of(NASTY, st.text(max_size=12), st.integers().map(str), st.floats().map(str))


def refused(call: Callable[[], Any], *kinds: type[BaseException]) -> Any:
    """The result of a call, or None where it is refused in one line."""
    try:
        return call()
    except kinds as error:
        assert type(error) is not ValueError or str(error), "an empty message helps nobody"
        # rooms raise ValueError, which the harness hands on as this
        assert len(str(UserError(error)).splitlines()) <= 1, error
        return None


# -- configurations --------------------------------------------------------------------------------

KEYS = st.sampled_from(
    [
        *(
            "solver",
            "data",
            "mask",
            "operator",
            "prior",
            "metrics",
            "executor",
            "study",
            "seed",
            "draws",
            "batch",
            "out",
        ),
        *(
            "timeout",
            "threads",
            "budget",
            "accept",
            "plugins",
            "retry",
            "precision",
            "solver.steps",
            "solver.preset",
        ),
        *(
            "data.images",
            "data.root",
            "mask.low",
            "operator.sigma",
            "prior.path",
            "hydra.run.dir",
            "study.name",
        ),
        *(
            "solver._target_",
            "data._target_",
            "metrics.psnr",
            "nonsense",
            "a.b.c",
            "+solver.steps",
            "~mask",
            "++seed",
        ),
    ]
)


@given(st.lists(st.builds("{}={}".format, KEYS, WORDS) | WORDS, min_size=1, max_size=4))
def test_overrides(overrides: list[str]) -> None:
    def resolved() -> dict[str, Any]:
        return job_of(compose(check(overrides))[0])

    refused(resolved, UserError)


# -- images ----------------------------------------------------------------------------------------


def encoded(kind: str, mode: str, size: tuple[int, int], frames: int = 1) -> bytes:
    buffer, image = io.BytesIO(), Image.new(mode, size, 1)
    more = {"save_all": True, "append_images": [image] * (frames - 1)} if frames > 1 else {}
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises so many pixels and which holds none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


WHOLE = st.sampled_from(
    [
        encoded("PNG", "L", (9, 7)),
        encoded("PNG", "RGB", (8, 8)),
        encoded("PNG", "RGBA", (8, 8)),
        encoded("PNG", "P", (8, 8)),
        encoded("PNG", "1", (8, 8)),
        encoded("PNG", "I;16", (8, 8)),
        encoded("PNG", "LA", (1, 1)),
        encoded("PNG", "RGB", (8, 8), frames=3),
        encoded("GIF", "P", (8, 8), frames=3),
        encoded("WEBP", "RGB", (8, 8), frames=2),
        encoded("JPEG", "L", (16, 8)),
        encoded("JPEG", "CMYK", (8, 8)),
        encoded("BMP", "RGB", (8, 8)),
        encoded("TIFF", "F", (8, 8)),
    ]
)
BOMBS = st.builds(
    bomb, st.sampled_from([0, 1, 20_000, 2**31 - 1]), st.sampled_from([0, 1, 20_000, 2**31 - 1])
)


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes] = WHOLE) -> bytes:
    """Bytes of a file that are whole, cut short, changed, or never were of its kind."""
    data = bytearray(draw(whole | st.binary(max_size=64)))
    if draw(st.booleans()):
        data = data[: draw(st.integers(0, len(data)))]
    for _ in range(draw(st.integers(0, 3)) if data else 0):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


@given(
    damaged() | BOMBS,
    st.sampled_from([".png", ".jpg", ".webp", ".bmp"]),
    st.sampled_from(["rgb", "grey"]),
)
def test_images(data: bytes, ending: str, mode: str) -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of metadata it cannot read
        (Path(folder) / f"a{ending}").write_bytes(data)
        images = Folder(root=folder, size=8, mode=mode)
        problems = images.check(images.ids)
        assert all(len(line.splitlines()) == 1 and f"a{ending}" in line for line in problems)
        read = refused(lambda: images.images(images.ids), ValueError)
        if read is not None:
            assert read.shape == (1, 3 if mode == "rgb" else 1, 8, 8) and bool(
                (read.abs() <= 1).all()
            )


# -- masks -----------------------------------------------------------------------------------------


def saved(array: np.ndarray, packed: bool = False) -> bytes:
    buffer = io.BytesIO()
    (np.savez if packed else np.save)(buffer, array)
    return buffer.getvalue()


ARRAYS = st.sampled_from(
    [
        saved(np.ones((8, 8), bool)),
        saved(np.zeros((3, 8, 8), np.uint8)),
        saved(np.full((2, 1, 8, 8), np.nan)),
        saved(np.ones((4, 64), np.int64) * -1),
        saved(np.ones((8, 8), np.complex64)),
        saved(np.array([["a", "b"]])),
        saved(np.ones((0, 8, 8))),
        saved(np.ones(()), packed=True),
        saved(np.ones((3, 8, 8), np.float16), packed=True),
    ]
)


@given(damaged(WHOLE | ARRAYS) | BOMBS, st.sampled_from(["m.png", "m.npy", "m.npz"]), st.booleans())
def test_masks(data: bytes, name: str, resize: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / name
        path.write_bytes(data)
        mask = refused(
            lambda: Files(str(path), "hole", resize=resize).read("a.png", 0, 8, 8), ValueError
        )
        assert mask is None or (mask.shape == (8, 8) and mask.dtype == bool)


# -- priors ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("prior"), fresh(), META)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**9) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
SPEC_KEYS = [
    *(
        "format",
        "name",
        "training",
        "source",
        "licence",
        "class_names",
        "net",
        "process",
        "parameterization",
    ),
    *("sigma_data", "shape", "num_classes", "null_label", "sha256", "latent", "learned_var"),
]
NESTED = st.tuples(
    st.sampled_from(["net", "process", "sha256"]),
    st.text(max_size=8) | st.sampled_from(["class", "kind"]),
)


@given(st.dictionaries(st.sampled_from(SPEC_KEYS) | NESTED, JSON, min_size=1, max_size=3))
def test_prior_json(prior: Path, changes: dict[Any, Any]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(prior, Path(place) / "prior"))
        spec = json.loads((folder / "prior.json").read_text())
        for key, value in changes.items():
            if isinstance(key, tuple) and isinstance(spec[key[0]], dict):
                spec[key[0]][key[1]] = value
            elif not isinstance(key, tuple):
                spec[key] = value
        (folder / "prior.json").write_text(json.dumps(spec))
        refused(lambda: verify(folder), ValueError, FileNotFoundError)


@given(st.data(), st.sampled_from(["prior.json", "net.safetensors"]), st.booleans())
def test_prior_files(prior: Path, data: st.DataObject, name: str, resealed: bool) -> None:
    """Also where somebody recorded the hash of the damaged file."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(prior, Path(place) / "prior"))
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(data.draw(damaged(st.just(whole))))
        if resealed and name != "prior.json":
            spec = json.loads((folder / "prior.json").read_text())
            spec["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            (folder / "prior.json").write_text(json.dumps(spec))
        refused(lambda: load(folder), ValueError, FileNotFoundError)


# -- shards ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two chunks in a pack and two by themselves."""
    folder = tmp_path_factory.mktemp("study") / "c"
    store = RowStore(folder)
    for name in "abcd":
        store.write(name, [row(f"{name}{i}", psnr=float(i)) for i in range(3)])
    store.pack(["a", "b"])
    for name in "ab":
        (folder / "rows" / f"{name}.parquet").unlink()
    return folder


@given(st.data())
def test_shards(shards: Path, data: st.DataObject) -> None:
    """Whatever bytes a file has: its rows are there as written or they are missing, and the others
    are untouched."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(shards, Path(place) / "c"))
        victim = data.draw(st.sampled_from(sorted((folder / "rows").iterdir())))
        victim.write_bytes(data.draw(damaged(st.just(victim.read_bytes()))))
        store = RowStore(folder)
        found, truth = store.read(), RowStore(shards).read()
        kept = truth[truth["image_id"].isin(found["image_id"])].reset_index(drop=True)
        pd.testing.assert_frame_equal(found[kept.columns], kept, check_exact=True)
        assert store.done() >= {image[0] for image in found["image_id"]}
        assert len(found) >= 6


# -- names and secrets -----------------------------------------------------------------------------

SECRETS = ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


@given(
    st.sampled_from(
        ["../x", "/etc/x", "a/b", "..", ".", ".hidden", "", "a\0b", "a\nb", "~", "packed-0"]
    )
    | st.text(max_size=20)
)
def test_chunk_names_never_leave_the_folder(name: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "study" / "cells" / "c"
        folder.mkdir(parents=True)
        refused(
            lambda: RowStore(folder).write(name, [row("../../../escaped", message=name)]),
            ValueError,
        )
        written = [path for path in Path(place).rglob("*") if path.is_file()]
        assert all(path.parent == folder / "rows" for path in written)


def test_ids_that_climb_are_texts_and_no_paths(
    photos: Path, tmp_path: Path, command: Callable[..., list[str]]
) -> None:
    """Images in folders below the root have a slash in their ids; nothing is written by that
    name."""
    root = tmp_path / "root" / "deep" / "x.."
    root.mkdir(parents=True)
    for i, photo in enumerate(sorted(photos.iterdir())[:2]):
        shutil.copy(photo, root / f"{i}..png")
    before = {path for path in tmp_path.rglob("*")}
    outcome = run(command("blended", f"data.root={tmp_path / 'root'}", "data.images=2"))
    assert outcome.good
    new = {path for path in tmp_path.rglob("*")} - before
    assert all(path.is_relative_to(tmp_path / "study") for path in new)


def test_secrets_of_the_environment_reach_nothing_that_is_stored_or_said(
    command: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for i, name in enumerate(SECRETS):
        monkeypatch.setenv(name, f"s3cr3t-{i}-do-not-tell")
    overrides = [o for o in command() if not o.startswith(("quiet", "sheet"))]
    finish([run([*overrides, "data.images=2", "budget=nfe:1"])])
    capfd_said = "".join(capfd.readouterr())
    files = [path for path in (tmp_path / "study").rglob("*") if path.is_file()]
    assert len(files) > 5
    assert "s3cr3t" not in capfd_said
    assert not any(b"s3cr3t" in path.read_bytes() for path in files)


@pytest.mark.parametrize("where", ["study.name", "out", "data.root", "budget"])
def test_no_override_reads_the_environment(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "s3cr3t")
    with pytest.raises(UserError, match="environment") as refusal:
        check([f"{where}=${{oc.env:HF_TOKEN}}"])
    assert "s3cr3t" not in str(refusal.value)
