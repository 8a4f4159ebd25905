"""``solver=exact`` with images whose data set enumerates their posterior."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.bench.harness import rows, run
from torch import Tensor
from typing_extensions import override

from posterior_bench.bench.core.errors import Inapplicable, UserError
from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.bench.engine.enumerated import demand_posterior, enumerated
from posterior_bench.bench.engine.measurement import Measurement
from posterior_bench.datasets.base import ImageSet
from posterior_bench.datasets.faces import Faces
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.operators.projection import Projection
from posterior_bench.priors.mixtures import g2
from posterior_bench.solvers.exact import ENUMERATED, Exact


class _Coins:
    """Two images of one pixel, 1 with the probability ``heads``."""

    def __init__(self, heads: float):
        self.heads = heads

    def sample(self, uniform: NDArray[np.floating]) -> NDArray[np.float32]:
        values = np.where(uniform[:, 0] < self.heads, 1, -1)
        return values.astype(np.float32).reshape(-1, 1, 1, 1)


class _Coin(ImageSet):
    """A coin whose posterior depends on the measurement and the class."""

    caps = frozenset({ENUMERATED})
    name, ids, shape, num_classes = "coin", ("a", "b"), (1, 1, 1), 0

    def __init__(self) -> None:
        self.asked: list[tuple[float, bool, float, int | None]] = []

    @override
    def posterior(
        self, y: NDArray[np.floating], mask: NDArray[np.bool_], sigma: float, label: int | None
    ) -> _Coins:
        self.asked.append((float(y[0, 0, 0]), bool(mask[0, 0]), sigma, label))
        if y[0, 0, 0] > 5:
            raise ValueError("no coin has these pixels")
        return _Coins(1.0 if mask[0, 0] else 0.25)


def _measured(y: Tensor, mask: list[bool]) -> Measurement:
    operator = Inpainting(torch.tensor(mask).view(-1, 1, 1, 1), sigma=0.1)
    keys = [Key(0, "coin", name) for name in ("a", "b")]
    return Measurement(keys, y, torch.tensor([3, 4]), operator, y)


def _noise() -> Noise:
    return Noise([Key(0, "coin", name) for name in ("a", "b")], "solver")


def test_draws_have_the_probabilities_of_the_data_set() -> None:
    coin = _Coin()
    made = enumerated(coin, g2(), _measured(torch.ones(2, 1, 1, 1), [True, False]), _noise())
    x = made.sample(range(1000)).x
    assert x.shape == (2, 1000, 1, 1, 1) and x.dtype == torch.float32
    assert (x[0] == 1).all() and 200 < int((x[1] == 1).sum()) < 300
    # the mixture has no classes, so nobody is told one
    assert coin.asked == [(1.0, True, 0.1, None), (1.0, False, 0.1, None)]
    # a draw depends on its image and its number alone
    assert torch.equal(made.sample([7]).x[:, 0], x[:, 7])


def test_the_class_is_told_if_the_prior_is_told_it() -> None:
    coin, prior = _Coin(), g2()
    coin.num_classes = prior.num_classes = 8
    enumerated(coin, prior, _measured(torch.ones(2, 1, 1, 1), [True, True]), _noise())
    assert [label for *_, label in coin.asked] == [3, 4]


def test_what_cannot_be_enumerated() -> None:
    far = _measured(torch.full((2, 1, 1, 1), 9.0), [True, True])
    with pytest.raises(UserError, match="image a: no coin has these pixels"):
        enumerated(_Coin(), g2(), far, _noise())
    matrix = replace(far, operator=Projection((1, 1, 1)))
    with pytest.raises(Inapplicable, match="enumerated for masks alone"):
        enumerated(_Coin(), g2(), matrix, _noise())
    assert Exact().lacks(frozenset({ENUMERATED, "linear"}), 0.0) == {"mask"}
    assert Exact().lacks(frozenset({ENUMERATED, "mask"}), 0.0) == frozenset()
    assert Exact().lacks(frozenset({"linear", "mask"}), 0.0) == {"exact"}


def test_an_image_that_cannot_be_enumerated_fails_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Grey:
        def sample(self, uniform: NDArray[np.floating]) -> NDArray[np.float32]:
            return np.zeros((len(uniform), 3, 64, 64), np.float32)

    def posterior(self: Faces, y, mask, sigma, label) -> Grey:
        asked.append(y)
        if len(asked) == 2:
            raise ValueError("too many faces")
        return Grey()

    asked: list[object] = []
    monkeypatch.setattr(Faces, "posterior", posterior)
    monkeypatch.setattr(Faces, "demand_posterior", lambda self: None)
    words = ["solver=exact", "data=faces", "mask=half", "data.images=3", "draws=2", "batch=8"]
    words += ["metrics=[psnr]", "threads=1", "quiet=true", "sheet=false", "report=false"]
    found = rows(run([*words, f"out={tmp_path}"]).plan)
    assert found["status"].tolist() == ["ok", "ok", "error", "error", "ok", "ok"]
    assert found["message"][2].startswith(
        f"UserError: image {found['image_id'][2]}: too many faces"
    )


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dicebear", None)
    with pytest.raises(UserError, match=r'not available: .*pip install "posterior-bench\[faces\]"'):
        demand_posterior(Faces())
    with pytest.raises(UserError, match="distribution of the images of coin is not known"):
        demand_posterior(_Coin())
