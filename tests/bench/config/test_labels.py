"""Classes in place of the labels of the data: ``label=``, ``data.label`` and ``data.labels``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.bench.harness import planned, run

from posterior_bench.bench.analysis import leaderboard
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.core.errors import Inapplicable, UserError
from posterior_bench.bench.engine.conditioning import Conditioning
from posterior_bench.datasets.base import ImageSet
from posterior_bench.priors.base import Prior
from posterior_bench.priors.load import load

IDS = ("a/one.png", "a/two.png", "three.png")


class Named(ImageSet):
    """Images of which only the names count; the data has no labels."""

    def __init__(self, *ids: str):
        self.name, self.ids, self.shape = "named", ids, (1, 28, 28)


@pytest.fixture(scope="module")
def prior() -> Prior:
    return load("priors/assets/fashion")


def told(prior: Prior, images: int = 3, **node: Any) -> Conditioning:
    return Conditioning({"images": images, **node}, Named(*IDS), prior)


def classes(conditioning: Conditioning, *ids: str) -> list[int]:
    condition = conditioning.of(None, ids)
    assert condition is not None
    labels = condition.values["label"]
    assert labels.dtype == torch.int64
    return labels.tolist()


def test_one_class_for_all_images(prior: Prior) -> None:
    assert classes(told(prior, label=7), "three.png", "a/one.png") == [7, 7]
    assert classes(told(prior, label="sneaker"), "a/two.png") == [7]
    assert told(prior).of(None, IDS) is None  # without a class: the null class
    assert told(prior, label=7).unasked == "" != told(prior).unasked
    assert told(prior, label=7).guidable and told(prior, label=7).labels_fit


def test_a_file_of_classes(prior: Prior, tmp_path: Path) -> None:
    path = tmp_path / "classes.csv"
    path.write_text("image_id,label\na/two.png,Bag\nthree,0\na/one.png,9\n", encoding="utf-8")
    found = told(prior, labels=str(path))
    assert classes(found, *IDS) == [9, 8, 0]
    assert classes(told(prior, 2, labels=str(path)), "a/one.png") == [9]
    # the same classes are the same cell, however they are given
    path.write_text("id,class\n" + "".join(f"{i},3\n" for i in IDS), encoding="utf-8")
    by_file = told(prior, labels=str(path)).content()
    assert by_file["label_map"] == told(prior, label=3).content()["label_map"]
    assert by_file["labels"] == str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_id,label\na/one.png,1\n", "has no class for 2 of the 3 images in use: a/two.png"),
        ("image_id,label\na/one.png,10\n", "line 2: class 10 is not one of 0 to 9"),
        ("image_id,label\na/one.png,boat\n", "boat"),
        ("image_id,label\nfour.png,1\n", "line 2: 'four.png' is no image"),
        ("image_id,label\nthree,1\nthree.png,1\n", "line 3: 'three.png' has a class already"),
        ("image_id,label\nthree,\n", "line 2: an image or a class is missing"),
        ("a,b\n1,2\n", "the first line names no such columns"),
    ],
)
def test_faults_of_a_file(prior: Prior, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "classes.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        told(prior, labels=str(path))


def test_what_cannot_be_given(prior: Prior, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.label: class 10 is not one of 0 to 9"):
        told(prior, label=10)
    with pytest.raises(UserError, match=r"data\.label and data\.labels are both set"):
        told(prior, label=1, labels="x.csv")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        told(prior, labels=str(tmp_path / "none.csv"))
    without = load("priors/assets/fashion")
    without.num_classes = 0
    with pytest.raises(Inapplicable, match=r"this prior knows no classes, so data\.label"):
        told(without, label=1)


def test_the_command_line() -> None:
    assert check(["label=3", "data=fashion"])[0].lstrip("+") == "data.label=3"
    assert check(["data=fashion", "label=0,1"], sweep=True)[1].lstrip("+") == "data.label=0,1"


def test_a_class_is_a_cell_of_its_own_on_the_same_measurement(tmp_path: Path) -> None:
    words = [
        *("solver=blended", "solver.steps=2", "data=fashion", "data.images=1", "draws=1"),
        *("metrics=[psnr]", "quiet=true", "sheet=false", "report=false", f"out={tmp_path}"),
    ]
    outcomes = [run(check([*words, *more])) for more in ([], ["data.label=3"], ["data.label=8"])]
    names = {outcome.plan.cell.name for outcome in outcomes}
    assert len(names) == 3
    assert planned(check([*words, "data.label=bag"])).cell.name == outcomes[2].plan.cell.name
    board = leaderboard.build(tmp_path)
    assert {*board.data} == {"fashion", "fashion label=3", "fashion label=8"}
    assert board.content.nunique() == 1 and board.psnr.nunique() == 3
