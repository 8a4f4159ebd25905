"""Stored reference samples: written once, read back bit for bit, checked, listed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.store.references import ReferenceStore

ABOUT = {"image_id": "draw-00001", "data": "arena-a", "operator": "XRay", "solver": "LongRun"}
TENSORS = {
    "x": torch.linspace(0, 1, 6).view(2, 1, 1, 3),
    "mean": torch.ones(1, 1, 3, dtype=torch.float64) / 3,
    "rhat": torch.tensor(1.003, dtype=torch.float64),
}


@pytest.fixture
def store(tmp_path: Path) -> ReferenceStore:
    return ReferenceStore(tmp_path)


def test_a_reference_comes_back_as_it_was(store: ReferenceStore) -> None:
    assert store.read("abc") is None
    store.write("abc", TENSORS, ABOUT)
    found = store.read("abc")
    assert found is not None and found.keys() == TENSORS.keys()
    assert all(torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in TENSORS.items())


def test_the_first_one_stays(store: ReferenceStore) -> None:
    store.write("abc", TENSORS, ABOUT)
    store.write("abc", {"x": torch.zeros(1)}, ABOUT)
    assert store.read("abc").keys() == TENSORS.keys()  # type: ignore[union-attr]
    assert [path.name for path in store.folder.iterdir()] == ["abc.safetensors"]


@pytest.mark.parametrize("place", [20, -3])
def test_a_damaged_file_is_named(store: ReferenceStore, place: int) -> None:
    store.write("abc", TENSORS, ABOUT)
    path = store.folder / "abc.safetensors"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"abc\.safetensors is damaged; delete it"):
        store.read("abc")


def test_the_table_lists_all_in_order(store: ReferenceStore, tmp_path: Path) -> None:
    for name, image in (("b", "draw-00002"), ("a", "draw-00010")):
        store.write(name, TENSORS, {**ABOUT, "image_id": image, "rhat": "1.003", "ess": "99"})
    store.write_table()
    assert (tmp_path / "references.csv").read_text() == (
        "image_id,data,operator,solver,rhat,ess,error,file\n"
        "draw-00002,arena-a,XRay,LongRun,1.003,99,,b.safetensors\n"
        "draw-00010,arena-a,XRay,LongRun,1.003,99,,a.safetensors\n"
    )


def test_one_at_a_time_makes_the_same_references(store: ReferenceStore) -> None:
    inside, most = [0], [0]

    def work() -> None:
        with store.locked(["b", "a"]):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            threading.Event().wait(0.05)
            inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] and not list(store.folder.iterdir())
