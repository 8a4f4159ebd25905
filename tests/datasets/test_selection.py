"""Which images a study uses, and the options that say so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from importlib import import_module
from itertools import product
from pathlib import Path

import pytest
import yaml

from posterior_bench.datasets.folder import Folder
from posterior_bench.datasets.protocols import PROTOCOLS, choose
from posterior_bench.datasets.selection import belongs, shuffled

ROOT = Path(__file__).parents[2]
OPTIONS = ("imagenet64", "imagenet256", "lsun_church", "lsun_bedroom", "celebahq", "ffhq", "celeba")
IDS = [f"{i:05d}" for i in range(5000)]


@pytest.fixture
def folder(encode: Callable[..., bytes], tmp_path: Path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    for i in range(60):
        (root / f"a {i:02d}.png").write_bytes(encode(0, form="PNG"))
    return root


# --- parts
# --------------------------------------------------------------------------------------------------


def test_every_image_is_of_one_part() -> None:
    validation, test = ([i for i in IDS if belongs(i, part)] for part in ("validation", "test"))
    assert sorted(validation + test) == IDS and not set(validation) & set(test)
    # a tenth, within four deviations
    assert abs(len(validation) - 500) < 4 * (5000 * 0.1 * 0.9) ** 0.5
    assert [i for i in IDS if belongs(i, None)] == IDS


def test_parts_stay_apart_whatever_else_is_set(folder: Path, tmp_path: Path) -> None:
    """With any list, choice, seed, and copy of the data."""
    (tmp_path / "list.txt").write_text("\n".join(f"a {i:02d}.png" for i in reversed(range(50))))
    lists, seeds, subsets = (None, str(tmp_path / "list.txt")), (0, 1), (None, 3)
    found: dict[str, set[str]] = {"validation": set(), "test": set()}
    for part, id_list, seed, subset in product(found, lists, seeds, subsets):
        data = Folder(str(folder), part=part, id_list=id_list, subset=subset, subset_seed=seed)
        found[part] |= set(data.ids)
    for i in range(0, 60, 2):
        (folder / f"a {i:02d}.png").unlink()
    for part, ids in found.items():
        found[part] = ids | set(Folder(str(folder), part=part).ids)
    assert all(found.values()) and not found["validation"] & found["test"]


# --- seeded choices
# -----------------------------------------------------------------------------------------------


def test_choices_are_seeded_and_nested(folder: Path) -> None:
    def ids(**settings: int) -> list[str]:
        return list(Folder(str(folder), **settings).ids)

    assert len(ids(subset=20)) == len(set(ids(subset=20))) == 20 and ids(subset=20) == ids(
        subset=20
    )
    assert ids(subset=20)[:7] == ids(subset=7) != sorted(ids(subset=7))
    assert set(ids(subset=20)) != set(ids(subset=20, subset_seed=1))
    assert sorted(ids(subset=60)) == ids()


def test_choice_is_uniform() -> None:
    """Over seeds, every image comes first about equally often (chi square with 9 degrees, 99.99
    %)."""
    first = [shuffled(IDS[:10], seed)[0] for seed in range(2000)]
    counts = [first.count(i) for i in IDS[:10]]
    assert sum((n - 200) ** 2 / 200 for n in counts) < 33.7


def test_choice_does_not_depend_on_the_others() -> None:
    whole = shuffled(IDS, 3)
    assert shuffled(IDS[::7], 3) == [i for i in whole if i in set(IDS[::7])]


def test_other_images_have_another_name(folder: Path) -> None:
    """The name enters the hash of a cell, so that a changed list is another cell."""
    names = [
        Folder(str(folder), **s).name for s in ({}, {"subset": 5}, {"subset": 5, "subset_seed": 1})
    ]
    assert len(set(names)) == 3
    assert Folder(str(folder), subset=5).name == Folder(f"{folder}/../images", subset=5).name


@pytest.mark.parametrize("subset", [0, -1, 61])
def test_wrong_choices(subset: int, folder: Path) -> None:
    with pytest.raises(ValueError, match=f"subset={subset}: choose from 1 to 60 images"):
        Folder(str(folder), subset=subset)


# --- lists
# --------------------------------------------------------------------------------------------------


def test_lists_keep_their_order(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("# ours\n\na 31.png\n  a 02.png  \r\na 17.png\n")
    data = Folder(str(folder), id_list=str(path))
    assert list(data.ids) == ["a 31.png", "a 02.png", "a 17.png"]
    assert data.images(["a 02.png"]).shape == (1, 3, 64, 64)
    assert sorted(Folder(str(folder), id_list=str(path), subset=3).ids) == sorted(data.ids)


def test_wrong_lists(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    for content, message in (
        (
            "a 01.png\nb.png\n",
            r"list\.txt, line 2: there is no image 'b\.png'; give one id per line",
        ),
        (
            "a 01.png\n\na 01.png\n",
            r"list\.txt, line 3: the image 'a 01\.png' is in line 1 already",
        ),
        ("# nothing\n", r"no image of '.*images' is left; part=None, id_list=.*list\.txt"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            Folder(str(folder), id_list=str(path))
    with pytest.raises(ValueError, match=r"cannot read the list of ids '.*none\.txt'"):
        Folder(str(folder), id_list=str(tmp_path / "none.txt"))


# --- protocols
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["sr", "rotated", "box", "random"])
def test_test_slices_of_vipaint_hold_no_validation_image(task: str) -> None:
    ids = IDS[:500]
    validation, other = (
        choose("vipaint_validation", ids, None),
        choose(f"vipaint_{task}", ids, None),
    )
    assert not set(validation) & set(other)
    assert len(other) == (50 if task == "box" else 100)


def test_slices() -> None:
    """As printed in the released configurations."""
    slices = {
        "validation": (0, 50),
        "deblur": (0, 100),
        "sr": (100, 200),
        "rotated": (200, 300),
        "random": (400, 500),
    }
    for task, (first, last) in slices.items():
        assert choose(f"vipaint_{task}", IDS[:500], None) == IDS[first:last]


def test_one_image_per_class() -> None:
    """Of each class the lowest id, by class."""
    labels = {image: (7 * i) % 1000 for i, image in enumerate(IDS)}
    chosen = choose("dgp_top1k", IDS, labels.__getitem__)
    assert [labels[i] for i in chosen] == list(range(1000))
    assert chosen == [min(i for i in IDS if labels[i] == k) for k in range(1000)]
    with pytest.raises(
        ValueError,
        match="protocol=dgp_top1k takes one image per class, but these images have no labels",
    ):
        choose("dgp_top1k", IDS, None)


def test_protocols_refuse_too_few_images(folder: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"protocol=daps100 takes images 0 to 99 of a list, but there are only 60; known",
    ):
        Folder(str(folder), protocol="daps100")
    with pytest.raises(ValueError, match="unknown protocol 'vipaint_sr'; valid: daps100"):
        Folder(str(folder), protocol="vipaint_sr")


def test_protocols_are_documented() -> None:
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert [name for name in PROTOCOLS if f"`{name}`" not in page] == []


# --- options
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", OPTIONS)
def test_yaml_spells_out_every_setting(option: str) -> None:
    node = yaml.safe_load((ROOT / "conf" / "data" / f"{option}.yaml").read_text(encoding="utf-8"))
    module, _, name = node.pop("_target_").rpartition(".")
    known = {
        f.name: f.default for f in fields(getattr(import_module(f"posterior_bench.{module}"), name))
    }
    for override, named in (
        pair for d in node.pop("defaults", []) if isinstance(d, dict) for pair in d.items()
    ):
        group = override.removeprefix("override /").partition("@")[0]
        names = named if isinstance(named, list) else [named]
        assert all((ROOT / "conf" / group / f"{name}.yaml").is_file() for name in names), (
            group,
            names,
        )
    assert node.pop("images") == 8 and node["root"] == "???" and known["root"] is MISSING
    assert node.keys() == known.keys()
    own = {"root", "size", "crop", "category"}  # what tells the options of one class apart
    assert {k: v for k, v in node.items() if k not in own} == {
        k: v for k, v in known.items() if k not in own
    }
    assert node["size"] == {"imagenet64": 64, "celeba": 128}.get(option, 256)
    crops = {"imagenet64": "edm", "imagenet256": "guided", "celeba": "square_bilinear"}
    assert node["crop"] == crops.get(option, "bicubic")
