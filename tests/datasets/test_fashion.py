"""Fashion-MNIST: the embedded test images and the splits of the training files."""

from __future__ import annotations

import gzip
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

from posterior_bench.datasets.fashion import Fashion

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
ASSETS = Path(__file__).parents[2] / "datasets" / "assets"
CONF = Path(__file__).parents[2] / "conf" / "data" / "fashion.yaml"
TRAINING = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
needs_files = pytest.mark.skipif(
    not (DEBIAN / "train-images-idx3-ubyte.gz").is_file(),
    reason="the Debian package dataset-fashion-mnist is missing",
)


def _debian(name: str, header: int) -> NDArray[np.uint8]:
    """The values of an original file."""
    return np.frombuffer(
        gzip.decompress((DEBIAN / f"{name}.gz").read_bytes())[header:], dtype=np.uint8
    )


def _grey(data: Fashion, ids: list[str]) -> NDArray[np.uint8]:
    """The original grey levels, back from [-1, 1]."""
    return ((data.images(ids) + 1) * 127.5).round().numpy().astype(np.uint8).reshape(len(ids), -1)


def test_embedded_files() -> None:
    for name, size, digest in [
        (
            "images-idx3",
            16 + 512 * 784,
            "d2223cd325784a5e01e09112cd7f626cfc3c78e2f26b81e1c3ac5152ced7be9f",
        ),
        (
            "labels-idx1",
            8 + 512,
            "673e491a4e3bc9ee3e19141f2f57173a1a1707a7d15ffac6adbbe7f985e2264e",
        ),
    ]:
        path = ASSETS / f"fashion-test512-{name}-ubyte.gz"
        content = gzip.decompress(path.read_bytes())
        assert len(content) == size and hashlib.sha256(content).hexdigest() == digest
        assert digest in (ASSETS / "README.md").read_text()
    assert sum(path.stat().st_size for path in ASSETS.glob("fashion-*.gz")) < 250_000
    assert "Zalando SE" in (ASSETS / "LICENSE-fashion-mnist").read_text()


def test_test_split() -> None:
    data = Fashion()
    assert (
        data.name == "fashion"
        and data.shape == (1, 28, 28)
        and data.num_classes == len(data.class_names) == 10
    )
    assert len(data) == 512 and data.ids[0] == "test-00000" and data.ids[-1] == "test-00511"
    images, labels = data.images(data.ids), data.labels(data.ids)
    assert images.shape == (512, 1, 28, 28) and images.dtype == torch.float32
    assert images.min() == -1 and images.max() == 1
    assert labels.dtype == torch.int64
    # the first test images of the published set: ankle boot, pullover, trouser, trouser, shirt
    assert [data.class_names[k] for k in labels[:5]] == [
        "Ankle boot",
        "Pullover",
        "Trouser",
        "Trouser",
        "Shirt",
    ]
    assert torch.bincount(labels).tolist() == [56, 53, 71, 46, 58, 40, 47, 48, 45, 48]


def test_any_order() -> None:
    data = Fashion()
    ids = ["test-00007", "test-00000", "test-00007"]
    images, labels = data.images(ids), data.labels(ids)
    assert torch.equal(images[0], images[2]) and torch.equal(
        images[1:2], data.images(["test-00000"])
    )
    assert labels[1] == 9


@needs_files
def test_test_split_is_the_start_of_the_original() -> None:
    data = Fashion()
    pixels = _debian("t10k-images-idx3-ubyte", 16).reshape(-1, 784)[:512]
    assert np.array_equal(_grey(data, list(data.ids)), pixels)
    assert np.array_equal(data.labels(data.ids).numpy(), _debian("t10k-labels-idx1-ubyte", 8)[:512])


@needs_files
def test_splits_are_disjoint_and_complete() -> None:
    pixels, labels = _debian(TRAINING[0], 16).reshape(-1, 784), _debian(TRAINING[1], 8)
    seen: dict[bytes, str] = {}
    for split, first, count in [
        ("train", 0, 58_000),
        ("validation", 58_000, 1000),
        ("tune", 59_000, 1000),
    ]:
        data = Fashion(split)
        assert data.name == f"fashion-{split}" and len(data) == count
        assert data.ids[0] == f"{split}-00000" and data.ids[-1] == f"{split}-{count - 1:05d}"
        ids = [data.ids[0], data.ids[17], data.ids[-1]]
        rows = [first, first + 17, first + count - 1]
        assert (
            np.array_equal(_grey(data, ids), pixels[rows])
            and data.labels(ids).tolist() == labels[rows].tolist()
        )
        for image in pixels[first : first + count]:
            assert (
                seen.setdefault(hashlib.sha256(image.tobytes()).hexdigest().encode(), split)
                == split
            )
    test = Fashion()
    hashes = {
        hashlib.sha256(image.tobytes()).hexdigest().encode()
        for image in _grey(test, list(test.ids))
    }
    assert len(hashes) == 512 and not hashes & seen.keys()


@needs_files
@pytest.mark.parametrize("below", ["", "raw", "FashionMNIST/raw"])
def test_root_takes_torchvision_folders(below: str, tmp_path: Path) -> None:
    folder = tmp_path / below
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{TRAINING[0]}.gz").symlink_to(DEBIAN / f"{TRAINING[0]}.gz")
    (folder / TRAINING[1]).write_bytes(gzip.decompress((DEBIAN / f"{TRAINING[1]}.gz").read_bytes()))
    found, expected = Fashion("tune", str(tmp_path)), Fashion("tune")
    assert torch.equal(found.labels(found.ids), expected.labels(expected.ids))
    assert torch.equal(found.images(found.ids[:3]), expected.images(expected.ids[:3]))


@pytest.mark.parametrize("split", ["tune", "validation", "train"])
def test_missing_files(split: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        Fashion(split, str(tmp_path))
    for part in (
        "train-images-idx3-ubyte.gz",
        str(tmp_path),
        "dataset-fashion-mnist",
        "torchvision",
        "data.root=",
    ):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_other_files_of_that_name(tmp_path: Path) -> None:
    for name in TRAINING:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x01\x05"))
    with pytest.raises(
        ValueError, match=r"train-images-idx3-ubyte\.gz is not the Fashion-MNIST file"
    ):
        Fashion("tune", str(tmp_path)).images(["tune-00000"])


@needs_files
@pytest.mark.parametrize("damage", ["truncated", "changed", "no gzip"])
def test_damaged_files(damage: str, tmp_path: Path) -> None:
    shutil.copy(DEBIAN / f"{TRAINING[0]}.gz", tmp_path)
    content = (DEBIAN / f"{TRAINING[1]}.gz").read_bytes()
    damaged = {
        "truncated": content[:-100],
        "changed": content[:200] + b"\xff" * 50 + content[250:],
        "no gzip": b"<html>",
    }
    (tmp_path / f"{TRAINING[1]}.gz").write_bytes(damaged[damage])
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte\.gz.*fetch it again"):
        Fashion("tune", str(tmp_path)).labels(["tune-00000"])


def test_unknown_names() -> None:
    with pytest.raises(
        ValueError, match="unknown split 'val'; valid: test, tune, validation, train"
    ):
        Fashion("val")
    with pytest.raises(
        ValueError, match="no image 'test-00512'; ids run from test-00000 to test-00511"
    ):
        Fashion().images(["test-00512"])


def test_yaml_spells_out_the_defaults() -> None:
    node = yaml.safe_load(CONF.read_text())
    assert node.pop("_target_") == "datasets.fashion.Fashion"
    assert node.pop("images") == 8 and node.pop("defaults")[-1] == "_self_"
    assert Fashion(**node) == Fashion() and node.keys() == {"split", "root", "pad"}
    larger = yaml.safe_load(CONF.with_name("fashion32.yaml").read_text())
    assert larger.keys() == node.keys() | {"_target_", "images", "defaults"} and larger["pad"] == 2


def test_padding_is_black_and_another_data_set() -> None:
    plain, padded = Fashion(), Fashion(pad=2)
    assert (padded.name, padded.shape, padded.ids) == ("fashion32", (1, 32, 32), plain.ids)
    x = padded.images(["test-00003"])
    assert torch.equal(x[:, :, 2:-2, 2:-2], plain.images(["test-00003"]))
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[2:-2, 2:-2] = True
    assert (x[0, 0][~inside] == -1).all()
    with pytest.raises(ValueError, match="pad=-1: give the number of black pixels"):
        Fashion(pad=-1)
