"""ImageNet in every layout: the same few images, written by the tests."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision.datasets.imagenet as reference
from PIL import Image
from scipy.io import savemat
from torchvision.models import ResNet18_Weights

from posterior_bench.datasets.imagenet import ImageNet

WNIDS = (
    (Path(__file__).parents[2] / "datasets" / "assets" / "imagenet-wnids.txt").read_text().split()
)

# number of the validation image -> wnid; the classes of these are known from the 1000 names every
# classifier prints
IMAGES = {
    3: "n02099601",
    1: "n02119789",
    12: "n01440764",
    7: "n02100735",
    9: "n15075141",
    20: "n02099601",
}
CLASSES = {"n01440764": 0, "n02099601": 207, "n02100735": 212, "n02119789": 278, "n15075141": 999}
IDS = [f"ILSVRC2012_val_{n:08d}" for n in sorted(IMAGES)]
LABELS = [CLASSES[IMAGES[n]] for n in sorted(IMAGES)]
MODES = {3: "L", 7: "CMYK"}


@pytest.fixture
def files(encode: Callable[..., bytes]) -> dict[int, bytes]:
    """JPEG files, one grey and one CMYK among them, and one that a viewer would turn."""
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        n: encode(n, MODES.get(n, "RGB"), **({"exif": turned} if n == 9 else {})) for n in IMAGES
    }


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def _folders(root: Path, files: dict[int, bytes], below: str = "val") -> None:
    for n, content in files.items():
        _write(root / below / IMAGES[n] / _name(n), content)


def _flat(root: Path, files: dict[int, bytes], below: str = "") -> None:
    for n, content in files.items():
        _write(root / below / _name(n), content)


def _kaggle(root: Path, files: dict[int, bytes]) -> None:
    _flat(root, files, "ILSVRC/Data/CLS-LOC/val")
    with (root / "LOC_val_solution.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["ImageId", "PredictionString"])
        table.writerows([_name(n)[:-5], f"{IMAGES[n]} 1 2 3 4 {IMAGES[n]} 5 6 7 8"] for n in files)


# ILSVRC ids: kit fox and English setter are 1 and 2 in the real kit; the others here are sorted
# backwards
ILSVRC = [
    "n02119789",
    "n02100735",
    *(w for w in reversed(WNIDS) if w not in ("n02119789", "n02100735")),
]


def _devkit(root: Path, wnids: list[str] = ILSVRC, images: int = 30) -> Path:
    """A development kit with the structure of the real one: inner nodes of the hierarchy follow the
    classes."""
    nodes = [(i, w, 0) for i, w in enumerate(wnids, 1)] + [
        (1001, "n00001740", 3),
        (1002, "n00001930", 2),
    ]
    kinds = [
        (name, "O")
        for name in ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children")
    ]
    table = np.empty((len(nodes), 1), dtype=kinds)
    for row, (number, wnid, children) in zip(table[:, 0], nodes, strict=True):
        row["ILSVRC2012_ID"], row["WNID"], row["num_children"] = (
            float(number),
            wnid,
            float(children),
        )
        row["words"], row["gloss"], row["children"] = (
            f"word {wnid}, other",
            "text",
            np.arange(children, dtype=float),
        )
    folder = root / "ILSVRC2012_devkit_t12" / "data"
    folder.mkdir(parents=True)
    savemat(folder / "meta.mat", {"synsets": table})
    wanted = [IMAGES.get(n, "n15075141") for n in range(1, images + 1)]
    truth = [wnids.index(wnid) + 1 if wnid in wnids else 1 for wnid in wanted]
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{t}\n" for t in truth))
    return folder.parent


def _raw(root: Path, files: dict[int, bytes]) -> None:
    _flat(root, files, "val")
    _devkit(root)


def _parquet(root: Path, files: dict[int, bytes]) -> None:
    for shard, chosen in enumerate(([3, 12, 7], [20, 1, 9])):
        rows = [
            {"image": {"bytes": files[n], "path": _name(n)}, "label": CLASSES[IMAGES[n]]}
            for n in chosen
        ]
        (root / "data").mkdir(parents=True, exist_ok=True)
        path = root / "data" / f"validation-{shard:05d}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    decoy = [{"image": {"bytes": files[1], "path": "n01440764_1.JPEG"}, "label": 5}]
    pq.write_table(pa.Table.from_pylist(decoy), root / "data" / "train-00000-of-00001.parquet")


def _tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def _webdataset(root: Path, files: dict[int, bytes]) -> None:
    root.mkdir(exist_ok=True)
    for shard, chosen in enumerate(([3, 12, 7], [20, 1, 9])):
        members: dict[str, bytes] = {}
        for n in chosen:
            key, label = _name(n)[:-5], CLASSES[IMAGES[n]]
            members[f"{key}.jpg"] = files[n]
            number = (
                {f"{key}.cls": str(label).encode()}
                if shard
                else {f"{key}.json": b'{"label": %d}' % label}
            )
            members.update(number)
        _tar(root / f"imagenet-val-{shard:06d}.tar", members)
    _tar(root / "imagenet-train-000000.tar", {"x.jpg": files[1]})


LAYOUTS = {
    "folders": _folders,
    "kaggle": _kaggle,
    "devkit": _raw,
    "parquet": _parquet,
    "webdataset": _webdataset,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_data_set_in_every_layout(layout: str, files: dict[int, bytes], tmp_path: Path) -> None:
    """Ids, name, labels and pixels are those of the files, wherever and however they lie; found and
    named alike."""
    LAYOUTS[layout](tmp_path / "somewhere", files)
    found = ImageNet(str(tmp_path / "somewhere"), size=8)
    named = ImageNet(str(tmp_path / "somewhere"), layout=layout, size=8)
    _folders(tmp_path / "other", files)
    for data in (found, named):
        assert list(data.ids) == IDS and data.num_classes == 1000 and data.shape == (3, 8, 8)
        assert data.name == ImageNet(str(tmp_path / "other"), size=8).name
        labels = data.labels(data.ids)
        assert labels is not None and labels.dtype == torch.int64 and labels.tolist() == LABELS
        for n, pixels in zip(sorted(IMAGES), data.images(data.ids), strict=True):
            expected = np.asarray(Image.open(io.BytesIO(files[n])).convert("RGB")).transpose(
                2, 0, 1
            )
            torch.testing.assert_close(
                pixels, torch.from_numpy(expected / 127.5 - 1).float(), atol=1e-6, rtol=0
            )
        assert data.check(data.ids) == []


@pytest.mark.parametrize("below", ["", "ILSVRC/Data/CLS-LOC/val"])
def test_class_folders_elsewhere(below: str, files: dict[int, bytes], tmp_path: Path) -> None:
    _folders(tmp_path, files, below)
    assert list(ImageNet(str(tmp_path), size=8).ids) == IDS


@pytest.mark.parametrize("packed", [False, True])
def test_devkit_beside_the_images_packed_or_named(
    packed: bool, files: dict[int, bytes], tmp_path: Path
) -> None:
    _flat(tmp_path, files, "images")
    kit = _devkit(tmp_path)
    if packed:
        with tarfile.open(tmp_path / f"{kit.name}.tar.gz", "w:gz") as tar:
            tar.add(kit, arcname=kit.name)
        kit.rename(tmp_path / "gone")
    labels = ImageNet(str(tmp_path / "images"), size=8).labels(IDS)
    named = tmp_path / (f"{kit.name}.tar.gz" if packed else kit.name)
    named.rename(tmp_path / "kit")
    again = ImageNet(str(tmp_path / "images"), size=8, devkit=str(tmp_path / "kit")).labels(IDS)
    assert labels is not None and again is not None and labels.tolist() == again.tolist() == LABELS


def test_devkit_against_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[int, bytes]
) -> None:
    """torchvision reads the same kit, archive and all, but for its checksum."""
    kit = _devkit(tmp_path)
    with tarfile.open(tmp_path / "kit.tar.gz", "w:gz") as tar:
        tar.add(kit, arcname="ILSVRC2012_devkit_t12")
    monkeypatch.setattr(reference, "_verify_archive", lambda *_: None)
    reference.parse_devkit_archive(str(tmp_path), "kit.tar.gz")
    wnid_to_classes, wnids = reference.load_meta_file(str(tmp_path))
    index = {wnid: i for i, wnid in enumerate(sorted(wnid_to_classes))}
    _flat(tmp_path, files, "val")
    data = ImageNet(str(tmp_path), size=8)
    assert len(index) == 1000
    assert data.labels(IDS).tolist() == [index[wnids[n - 1]] for n in sorted(IMAGES)]


def _zip(path: Path, files: dict[int, bytes], labels: object) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for i, n in enumerate(sorted(files)):
            file.writestr(f"00000/img{i:08d}.png", files[n])
        if labels != "none":
            file.writestr("dataset.json", json.dumps({"labels": labels}))


def test_zip_of_edm(encode: Callable[..., bytes], tmp_path: Path) -> None:
    png = {n: encode(n, form="PNG") for n in IMAGES}
    labels = [[f"00000/img{i:08d}.png", label] for i, label in enumerate(LABELS)]
    _zip(tmp_path / "imagenet-64x64.zip", png, labels)
    for root in (tmp_path, tmp_path / "imagenet-64x64.zip"):
        data = ImageNet(str(root), size=8, crop="edm")
        assert (
            list(data.ids) == [f"img{i:08d}" for i in range(6)]
            and data.labels(data.ids).tolist() == LABELS
        )
        found = ((data.images(data.ids) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        assert all(
            np.array_equal(f, np.asarray(Image.open(io.BytesIO(png[n]))))
            for f, n in zip(found, sorted(png), strict=True)
        )
    for nothing in (None, "none"):
        _zip(tmp_path / "imagenet-64x64.zip", png, nothing)
        assert ImageNet(str(tmp_path), size=8).labels(["img00000000"]) is None


@pytest.mark.parametrize("kind", ["images", "floats", "arr_0", "data"])
def test_npz(kind: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    planar, labels = pixels.transpose(0, 3, 1, 2), np.array(LABELS)
    if kind == "arr_0":
        np.savez(tmp_path / "a.npz", pixels, labels)
    elif kind == "data":  # planes one after the other, ILSVRC ids from 1
        _devkit(tmp_path)
        ids = np.array([ILSVRC.index(IMAGES[n]) + 1 for n in sorted(IMAGES)])
        np.savez(tmp_path / "a.npz", data=planar.reshape(6, -1), labels=ids)
    else:
        np.savez_compressed(
            tmp_path / "a.npz",
            images=planar if kind == "images" else planar.astype(np.float32),
            labels=labels,
        )
    data = ImageNet(str(tmp_path / "a.npz"), size=8)
    assert (
        list(data.ids) == [f"{i:08d}" for i in range(6)]
        and data.labels(data.ids).tolist() == LABELS
    )
    assert np.array_equal(((data.images(data.ids) + 1) * 127.5).round().byte().numpy(), planar)
    assert ImageNet(str(tmp_path), size=8).name == data.name


def test_parquet_without_names_counts_rows(files: dict[int, bytes], tmp_path: Path) -> None:
    rows = [
        {"image": {"bytes": files[n], "path": None}, "label": CLASSES[IMAGES[n]]} for n in (9, 3)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "0000.parquet")
    data = ImageNet(str(tmp_path), size=8)
    assert list(data.ids) == ["00000000", "00000001"] and data.labels(data.ids).tolist() == [
        999,
        207,
    ]


# --- what is damaged, missing or wrong
# ----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_images_are_named(layout: str, files: dict[int, bytes], tmp_path: Path) -> None:
    """Cut short, as by an interrupted copy, or with no image in it at all."""
    large = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(large, "JPEG")
    damaged = {
        **files,
        3: large.getvalue()[: len(large.getvalue()) // 2],
        12: b"<html>not found</html>",
        20: b"",
    }
    LAYOUTS[layout](tmp_path, damaged)
    data = ImageNet(str(tmp_path), size=8)
    lines = data.check(data.ids)
    assert len(lines) == 3 and all("\n" not in line for line in lines)
    for line, n in zip(lines, (3, 12, 20), strict=True):
        assert (
            f"ILSVRC2012_val_{n:08d}" in line
            and "cannot read image" in line
            and "object at" not in line
        )
        with pytest.raises(
            ValueError, match=rf"cannot read image '.*ILSVRC2012_val_{n:08d}.*repair or remove it"
        ):
            data.images([f"ILSVRC2012_val_{n:08d}"])
    assert data.check([IDS[0]]) == []


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"there is no folder '.*none'; set data\.root to the ImageNet images",
    ):
        ImageNet(str(tmp_path / "none"))
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(
        ValueError,
        match=r"holds no ImageNet images; looked for folders: val/<wnid>.*; kaggle: .*npz: ",
    ):
        ImageNet(str(tmp_path))
    with pytest.raises(
        ValueError, match="unknown layout 'wds'; valid: auto, folders, kaggle, devkit, parquet"
    ):
        ImageNet(str(tmp_path), layout="wds")


def test_a_layout_that_is_named_is_the_only_one(files: dict[int, bytes], tmp_path: Path) -> None:
    _folders(tmp_path, files)
    with pytest.raises(
        ValueError, match=r"holds no ImageNet images; looked for parquet: \*\.parquet"
    ):
        ImageNet(str(tmp_path), layout="parquet")


def test_a_folder_of_another_class(files: dict[int, bytes], tmp_path: Path) -> None:
    _folders(tmp_path, files)
    _write(tmp_path / "val" / "n00004475" / "x.JPEG", files[1])
    with pytest.raises(
        ValueError, match=r"n00004475' is not one of the 1000 classes of ILSVRC 2012; remove it"
    ):
        ImageNet(str(tmp_path))


def test_one_image_twice(files: dict[int, bytes], tmp_path: Path) -> None:
    _folders(tmp_path, files)
    _write(tmp_path / "val" / "n01440764" / _name(3), files[3])
    with pytest.raises(
        ValueError,
        match=r"'n01440764/.*3\.JPEG' and 'n02099601/.*' would both be the image 'ILSVRC",
    ):
        ImageNet(str(tmp_path))


def test_labels_may_stay_unread(files: dict[int, bytes], tmp_path: Path) -> None:
    """A flat folder then needs no devkit, and the null class, which stands for no label, makes
    another cell."""
    _flat(tmp_path / "flat", files)
    flat = ImageNet(str(tmp_path / "flat"), size=8, labelled=False)
    _folders(tmp_path / "sorted", files)
    own = ImageNet(str(tmp_path / "sorted"), size=8)
    without = ImageNet(str(tmp_path / "sorted"), size=8, labelled=False)
    assert (own.num_classes, without.num_classes, flat.num_classes) == (1000, 0, 0)
    assert own.labels(IDS) is not None and without.labels(IDS) is None
    assert without.content(IDS) == flat.content(IDS) != own.content(IDS)
    assert torch.equal(without.images(IDS), own.images(IDS))


def test_wrong_devkits(files: dict[int, bytes], tmp_path: Path) -> None:
    _flat(tmp_path, files)
    with pytest.raises(
        ValueError,
        match=r"labels of these images are in the ILSVRC 2012 devkit; looked for .*set data\.d",
    ):
        ImageNet(str(tmp_path))
    with pytest.raises(ValueError, match=r"looked for .*nowhere; set data\.devkit"):
        ImageNet(str(tmp_path), devkit=str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.tar.gz").write_bytes(b"no archive")
    for wrong in ("empty", "file.tar.gz"):
        with pytest.raises(
            ValueError,
            match=rf"{wrong} is not ILSVRC2012_devkit_t12: cannot read data/meta\.mat in it",
        ):
            ImageNet(str(tmp_path), devkit=str(tmp_path / wrong))
    short = _devkit(tmp_path / "short", images=15)
    with pytest.raises(ValueError, match="has labels of 15 images, but there is number 20"):
        ImageNet(str(tmp_path), devkit=str(short))
    other = _devkit(tmp_path / "other", wnids=[f"n9{i:07d}" for i in range(1000)])
    with pytest.raises(
        ValueError, match=r"are not those of ILSVRC 2012; give ILSVRC2012_devkit_t12"
    ):
        ImageNet(str(tmp_path), devkit=str(other))
    fewer = _devkit(tmp_path / "fewer", wnids=ILSVRC[:200])
    with pytest.raises(ValueError, match=r"meta\.mat in .* does not name the 1000 classes"):
        ImageNet(str(tmp_path), devkit=str(fewer))
    truth = short / "data" / "ILSVRC2012_validation_ground_truth.txt"
    for content, message in (
        ("1\n1001\n", "ILSVRC ids from 1 to 1000"),
        ("1\nfox\n", "something other than numbers"),
    ):
        truth.write_text(content)
        with pytest.raises(ValueError, match=message):
            ImageNet(str(tmp_path), devkit=str(short))


@pytest.mark.parametrize("wnid", ["n99999999 1 2 3 4", ""])
def test_wrong_kaggle_table(wnid: str, files: dict[int, bytes], tmp_path: Path) -> None:
    _kaggle(tmp_path, files)
    (tmp_path / "LOC_val_solution.csv").write_text(f"ImageId,PredictionString\n{IDS[0]},{wnid}\n")
    data = ImageNet(str(tmp_path))
    with pytest.raises(
        ValueError, match=r"LOC_val_solution\.csv needs the columns ImageId and PredictionString"
    ):
        data.labels(IDS)
    (tmp_path / "LOC_val_solution.csv").write_text(
        f"ImageId,PredictionString\n{IDS[0]},n02119789 1 2 3 4\n"
    )
    assert [line[-12:] for line in ImageNet(str(tmp_path)).check(IDS[:2])] == ["has no label"]


def test_wrong_parquet(files: dict[int, bytes], tmp_path: Path) -> None:
    _parquet(tmp_path, files)
    (tmp_path / "data" / "validation-00000-of-00002.parquet").unlink()
    with pytest.raises(
        ValueError, match=r"validation-00000-of-00002\.parquet is missing \(1 of 2 files are\)"
    ):
        ImageNet(str(tmp_path))
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"img": [b""], "label": [0]}), path)
    with pytest.raises(
        ValueError,
        match=r"needs a column 'image' with bytes and path, as on the hub; it has img, label",
    ):
        ImageNet(str(path))
    path.write_bytes(b"PAR1 cut short")
    with pytest.raises(ValueError, match=r"cannot read .*x\.parquet as Parquet"):
        ImageNet(str(path))


def test_labels_out_of_range(files: dict[int, bytes], tmp_path: Path) -> None:
    rows = [{"image": {"bytes": files[1], "path": "a.jpg"}, "label": -1}]  # the hub's test split
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    with pytest.raises(
        ValueError,
        match=r"'.*x\.parquet, group 0, row 0 \(a\)' has the label -1; classes are 0 to 999",
    ):
        ImageNet(str(tmp_path)).labels(["a"])


def test_wrong_archives(files: dict[int, bytes], tmp_path: Path) -> None:
    for name, message in (
        ("a.zip", "cannot read .*a.zip as a ZIP file of EDM or StyleGAN"),
        ("b.npz", "cannot read .*b.npz as NPZ"),
        ("c.tar", "cannot read the shard .*c.tar"),
    ):
        (tmp_path / name).write_bytes(b"cut short")
        with pytest.raises(ValueError, match=message):
            ImageNet(str(tmp_path / name))
    for name in ("d.zip", "e.zip"):
        _zip(tmp_path / name, files, "none")
    with pytest.raises(
        ValueError, match=r"holds a\.zip, d\.zip, e\.zip; set data\.root to one of these files"
    ):
        ImageNet(str(tmp_path), layout="zip")


def test_a_shard_cut_short(files: dict[int, bytes], tmp_path: Path) -> None:
    _webdataset(tmp_path, files)
    data = ImageNet(str(tmp_path), size=8)
    shard = tmp_path / "imagenet-val-000000.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(
        ValueError,
        match=r"imagenet-val-000000\.tar/ILSVRC2012_val_00000003\.jpg': the shard is cut short",
    ):
        data.images([IDS[1]])


def test_wrong_npz(tmp_path: Path) -> None:
    grey = np.zeros((2, 8, 8, 1), dtype=np.uint8)
    for arrays, message in (
        ({"x": grey}, "holds the arrays x; needed: images, arr_0, data"),
        (
            {"images": grey},
            r"'images' in .* has the shape \(2, 8, 8, 1\); give images \(N, 3, H, W\)",
        ),
        ({"data": np.zeros((2, 100), dtype=np.uint8)}, r"'data' in .* has the shape \(2, 100\)"),
        (
            {"arr_0": np.zeros((2, 8, 8, 3), dtype=np.uint8), "arr_1": np.zeros(3)},
            r"the shape \(3,\) for 2 images",
        ),
    ):
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(ValueError, match=message):
            ImageNet(str(tmp_path))
    np.savez(tmp_path / "a.npz", images=np.random.default_rng(0).uniform(-1, 1, (2, 3, 8, 8)))
    with pytest.raises(ValueError, match="must be grey levels from 0 to 255"):
        ImageNet(str(tmp_path)).images(["00000000"])


def test_class_names() -> None:
    """The sorted wnids of ILSVRC 2012: ends and landmarks that torchvision's list of names confirms
    by position."""
    categories = ResNet18_Weights.DEFAULT.meta["categories"]
    assert len(WNIDS) == len(set(WNIDS)) == 1000 == len(categories) and sorted(WNIDS) == WNIDS
    landmarks = {
        "n01440764": "tench",
        "n02099601": "golden retriever",
        "n02119789": "kit fox",
        "n15075141": "toilet tissue",
    }
    assert all(categories[WNIDS.index(wnid)] == name for wnid, name in landmarks.items())
