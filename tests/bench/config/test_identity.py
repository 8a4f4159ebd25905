"""What a number is of: its pictures, network, code and cell are part of it, and where they lie is
not."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from tests.bench.harness import planned, run

from posterior_bench.bench.analysis import leaderboard
from posterior_bench.bench.analysis.compare import compare
from posterior_bench.bench.cli import study_status as status
from posterior_bench.bench.config import cell as cells
from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.cell import cell_of, label
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.core import environment
from posterior_bench.bench.core.errors import UserError, WrongCell
from posterior_bench.bench.engine import score as scoring
from posterior_bench.bench.engine import source_code
from posterior_bench.bench.engine.cache import shared
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.score import score
from posterior_bench.bench.pages.report import report
from posterior_bench.bench.pages.thumbnails import Scene
from posterior_bench.bench.store import compaction, schema, shards
from posterior_bench.bench.store.read_study import read_study
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.datasets import contents
from posterior_bench.datasets.folder import Folder

ROOT = Path(__file__).resolve().parents[3]
FEW = ("data.images=2", "draws=1", "batch=1")


def folder_of(
    root: Path, seed: int, side: int = 8, names: tuple[str, ...] = ("0.png", "1.png")
) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (side, side), dtype=np.uint8)).save(root / name)
    return root


@pytest.fixture
def roots(tmp_path: Path) -> tuple[str, str]:
    """Two folders of different pictures under the same names, as overrides."""
    return tuple(f"data.root={folder_of(tmp_path / name, i)}" for i, name in enumerate("AB"))  # type: ignore[return-value]


def pixels(root: str, name: str) -> np.ndarray:
    return np.asarray(Image.open(Path(root.partition("=")[2]) / name)) / 127.5 - 1


# -- I1: pictures ----------------------------------------------------------------------------------


def test_other_pictures_under_the_same_names_are_another_cell(command, roots) -> None:
    """One ``out``, first A, then B: every line has the numbers of its own pictures, and they stand
    apart."""
    outcomes = [run(command("blended", *FEW, root)) for root in roots]
    assert (
        outcomes[0].study == outcomes[1].study
        and outcomes[0].plan.cell.name != outcomes[1].plan.cell.name
    )
    board = leaderboard.build(outcomes[0].study).set_index("cell")
    for outcome, root in zip(outcomes, roots, strict=True):
        rows = outcome.plan.store.read(["png", "psnr", "truth"]).set_index("image_id")
        for name, row in rows.iterrows():
            drawn = np.asarray(Image.open(io.BytesIO(row["png"]))) / 127.5 - 1
            # PSNR of a range of 2, from the PNG and the user's own file
            assert row["psnr"] == pytest.approx(
                10 * np.log10(4 / np.mean((drawn - pixels(root, name)) ** 2)), abs=1e-4
            )
        assert board.loc[outcome.plan.cell.name, "psnr"] == pytest.approx(rows["psnr"].mean())
    assert (
        board["data"].nunique() == 2 and board["data"].str.match(r"folder .*\[[0-9a-f]{6}\]$").all()
    )
    assert board["content"].nunique() == 2


def test_a_picture_edited_between_a_kill_and_its_resume_is_another_cell(
    command, roots, tmp_path: Path
) -> None:
    before = run(command("blended", *FEW, roots[0]))
    next(iter(before.plan.store.shards())).unlink()
    folder_of(tmp_path / "A", 5, names=("1.png",))
    after = run(command("blended", *FEW, roots[0]))
    assert after.plan.cell.name != before.plan.cell.name
    assert len(before.plan.store.read()) == 1 and len(after.plan.store.read()) == 2


def test_the_same_pictures_elsewhere_are_the_same_cell(command, roots, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "A", tmp_path / "deep" / "copy")
    moved = f"data.root={tmp_path / 'deep' / 'copy'}"
    assert (
        planned(command("blended", *FEW, roots[0])).cell.name
        == planned(command("blended", *FEW, moved)).cell.name
    )


def test_only_the_images_in_use_count(command, roots, tmp_path: Path) -> None:
    first = planned(command("blended", *FEW, roots[0], "data.images=1")).cell.name
    folder_of(tmp_path / "A", 5, names=("1.png",))
    assert planned(command("blended", *FEW, roots[0], "data.images=1")).cell.name == first


def metric_nodes(text: str) -> dict:
    return yaml.safe_load(
        yaml.safe_dump({k: dict(v) for k, v in compose([text])[0]["metrics"].items()})
    )


def test_score_refuses_other_pictures_and_writes_nothing(command, roots, tmp_path: Path) -> None:
    outcome = run(command("blended", *FEW, roots[0], "metrics=[psnr]"))
    folder_of(tmp_path / "A", 5, names=("1.png",))
    files = {p: p.read_bytes() for p in outcome.study.rglob("*") if p.is_file()}
    with pytest.raises(
        UserError, match=r"the image '1.png' is not the picture that its rows were measured on"
    ):
        score(outcome.study, metric_nodes("metrics=[seam]"))
    assert {p: p.read_bytes() for p in outcome.study.rglob("*") if p.is_file()} == files
    folder_of(tmp_path / "A", 0)
    assert score(outcome.study, metric_nodes("metrics=[seam]")).written == 2


def test_the_report_shows_no_other_pictures(command, roots, tmp_path: Path) -> None:
    outcome = run(command("blended", *FEW, roots[0]))
    truths = outcome.plan.store.read(["truth"]).set_index("image_id")["truth"].to_dict()
    scene = Scene(outcome.plan.cell.config)
    assert np.array_equal(
        scene.pictures(["1.png"], truths)["1.png"][0], np.asarray(Image.open(tmp_path / "A/1.png"))
    )
    folder_of(tmp_path / "A", 5, names=("1.png",))
    assert scene.pictures(["0.png"], truths).keys() == {"0.png"}
    page = report(outcome.study)[0].read_text()
    assert "The originals cannot be read here" in page and "1.png\\u0027 is not the picture" in page


def test_compare_pairs_no_different_pictures(command, roots, tmp_path: Path) -> None:
    study = run(command("blended", *FEW, roots[0])).study
    run(command("dps", *FEW, roots[1]))
    arguments = (study, "blended", "dps", "psnr")
    with pytest.raises(UserError, match=r"measured on different pictures called '0\.png'"):
        compare(*arguments)
    run(command("dps", *FEW, roots[0]))  # now dps has both, and blended A alone
    assert len(compare(*arguments)[0].matches) == 1


def test_a_file_is_hashed_again_where_it_may_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "_SETTLED_NS", -(10**10))  # new files count as old ones
    images = Folder(str(folder_of(tmp_path / "A", 0)), size=8, mode="grey")
    first = images.content(images.ids)
    read: list[str] = []
    stored = type(images._source).stored
    monkeypatch.setattr(
        type(images._source), "stored", lambda self, name: read.append(name) or stored(self, name)
    )
    assert images.content(images.ids) == first and read == []
    path, old = tmp_path / "A" / "0.png", os.stat(tmp_path / "A" / "0.png")
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))  # same size, same time
    changed = images.content(images.ids)
    assert read == ["0.png"] and changed[0] != first[0] and changed[1] == first[1]
    (cache,) = (tmp_path / "cache").rglob("*.json")
    for text in (
        "",
        "[]",
        "{]",
        json.dumps({"x": 3}),
        json.dumps({k: [1] for k in json.loads(cache.read_text())}),
    ):
        cache.write_text(text)
        assert images.content(images.ids) == changed
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert images.content(images.ids) == changed


def test_a_new_file_is_not_kept_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may change again within the resolution of its file system's clock."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images = Folder(str(folder_of(tmp_path / "A", 0)), size=8, mode="grey")
    images.content(images.ids)
    assert not list((tmp_path / "cache").rglob("*.json"))


# -- I2: code and machine --------------------------------------------------------------------------


def edited(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Files of the product with another byte, as if somebody had edited them."""
    source = source_code._source
    monkeypatch.setattr(
        source_code, "_source", lambda path: source(path) + b"# edited\n" * (path.name in names)
    )


def test_the_hash_of_a_solver_is_that_of_its_own_files(monkeypatch: pytest.MonkeyPatch) -> None:
    node = {"_target_": "solvers.ddnm.DDNM"}
    before = source_code.code_of(node)
    assert before == source_code.code_of(node) and before != source_code.code_of(
        {"_target_": "solvers.dps.DPS"}
    )
    for names, same in ((("dps.py",), True), (("ddnm.py",), False), (("base.py",), False)):
        with monkeypatch.context() as patch:
            edited(patch, *names)
            assert (source_code.code_of(node) == before) is same, names


@pytest.mark.parametrize("folder", ["vipaint", "latentpaint"])
def test_every_file_of_a_solvers_folder_counts(folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the package's ``__init__.py``, and modules that the class does not import."""
    node = options("solver")[{"vipaint": "vipaint2"}.get(folder, folder)].content
    before = source_code.code_of(node)
    paths = sorted((ROOT / "solvers" / folder).glob("*.py"))
    assert len(paths) > 3
    source = source_code._source
    for path in [*paths, ROOT / "solvers" / "base.py"]:
        with monkeypatch.context() as patch:
            changed = path.resolve()
            patch.setattr(
                source_code, "_source", lambda p, c=changed: source(p) + b"#" * (p.resolve() == c)
            )
            assert source_code.code_of(node) != before, path.name
    edited(monkeypatch, "walk.py", "dps.py")
    assert source_code.code_of(node) == before


def test_shared_pieces_count_where_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"_target_": name} for name in ("solvers.repaint.RePaint", "solvers.ddrm.DDRM")]
    before = [source_code.code_of(node) for node in nodes]
    edited(monkeypatch, "walk.py")
    after = [source_code.code_of(node) for node in nodes]
    assert [a == b for a, b in zip(after, before, strict=True)] == [False, True]


def test_a_run_with_another_source_is_refused_or_done_again(
    command, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run(command("blended", *FEW))
    next(iter(before.plan.store.shards())).unlink()
    edited(monkeypatch, "blended.py")
    with pytest.raises(
        UserError, match=r"1 of 1 rows in .* another source of this solver; retry=true"
    ):
        run(command("blended", *FEW))
    assert len(before.plan.store.read()) == 1
    run(command("blended", *FEW, "retry=true"))
    rows = before.plan.store.read(["code", "version"])
    assert rows["code"].tolist() == [source_code.code_of(before.plan.cell.config.solver)] * 2
    assert rows["version"].unique().tolist() == [environment.version()]


def test_a_finished_cell_of_another_source_says_so(
    command, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    run(command("blended", *FEW))
    edited(monkeypatch, "blended.py")
    run(command("blended", *FEW))
    assert "2 rows of" in (
        said := capsys.readouterr().err
    ) and "another source of this solver" in " ".join(said.split())


IDENTITY = {
    **{
        "solver": "dps",
        "data": "folder",
        "mask": "box",
        "operator": "inpainting",
        "prior": "edm",
        "seed": 0,
    },
    **{"images": 12, "draws": 1, "variant": "", "content": "c" * 16, "fingerprint": "f" * 16},
}
MADE = {
    "code": "1" * 16,
    "version": "0.2.0",
    "build": "2.5",
    "device": "cpu",
    "threads": 1,
    "precision": "float32",
}
CARD = {"title": "PSNR", "direction": "up", "unit": "dB"}


def made(
    study: Path,
    solver: str,
    shift: float,
    other: dict[str, object] | None = None,
    **changes: object,
) -> str:
    """A cell of twelve images; ``other``: what half of its rows differ in. The best one has clearly
    the best mean."""
    name = f"{len(list(study.glob('cells/*'))):016x}"
    card = changes.pop("card", CARD)
    identity = {
        key: v for key, v in {**IDENTITY, "solver": solver, **changes}.items() if v is not None
    }
    ids = [f"{i:02d}" for i in range(12)]
    record = {
        "cell": name,
        "identity": identity,
        "padded": 1,
        "chunks": {"one": ids},
        "metrics": {"psnr": card},
    }
    folder = study / "cells" / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**record, "config": {}}))
    noise = np.random.default_rng(0).normal(size=(2, 12))
    rows = [
        {
            **{
                "cell": name,
                "image_id": image,
                "draw": 0,
                "status": "ok",
                "truth": image,
                "commit": "abc",
                **MADE,
            },
            **(other if other and i % 2 else {}),
            "psnr": 20 + shift + noise[0, i] + 0.1 * noise[1, (i + len(solver)) % 12],
        }
        for i, image in enumerate(ids)
    ]
    RowStore(folder).write("one", rows)
    return name


@pytest.mark.parametrize(
    "column, value",
    [
        *(("code", "2" * 16), ("code", None), ("version", "0.3"), ("build", "2.6")),
        *(("device", "H100"), ("threads", 8), ("precision", "bf16")),
    ],
)
def test_a_cell_of_mixed_rows_is_named_and_ranked_nowhere(
    tmp_path: Path, column: str, value: object
) -> None:
    made(tmp_path, "good", 5.0, {column: value})
    made(tmp_path, "middle", 2.0)
    made(tmp_path, "low", 0.0)
    frame = leaderboard.write(tmp_path).set_index("solver")
    assert frame["psnr_rank"].to_dict() == {"good": "", "middle": "a", "low": "b"}
    text = (tmp_path / "leaderboard.md").read_text()
    assert "MIXED rows in one cell, which is ranked nowhere: good" in text
    assert (
        f"{column} " in frame.loc["good", "mixed"]
        and (str(value) if value else "not recorded") in text
    )
    assert "**25" not in text and "**22.0" in text, "bold is the best of the others"


def test_two_commits_of_one_source_are_noted_and_ranked(tmp_path: Path) -> None:
    made(tmp_path, "good", 5.0, {"commit": "def"})
    made(tmp_path, "low", 0.0)
    frame = leaderboard.build(tmp_path)
    assert frame.set_index("solver")["psnr_rank"].to_dict() == {"good": "a", "low": "b"}
    assert any("several commits" in note and "abc, def" in note for note in frame.attrs["notes"])
    old = tmp_path / "old"
    made(old, "good", 5.0, {"commit": "def"})
    for path in old.rglob(
        "one.parquet"
    ):  # rows that do not say their code: the commits are all there is
        kept = RowStore(path.parents[1])
        rows = kept.read(["status", "commit", "psnr"]).to_dict("records")
        kept.write("one", [dict(row) for row in rows])
    assert "commit abc, def" in leaderboard.build(old)["mixed"][0]


# -- I3: shards and cell folders -------------------------------------------------------------------

READERS: dict[str, Callable[[Path], object]] = {
    "leaderboard": leaderboard.build,
    "rows": read_study,
    "status": status.read,
    "compact": compaction.compact,
    "report": lambda study: report(study),
    "score": lambda study: score(study, metric_nodes("metrics=[seam]")),
    "compare": lambda study: compare(study, "blended", "dps", "psnr"),
}


def unbound(path: Path) -> None:
    """Write a shard as version 0.1.0 did, without the name of its cell in the footer."""
    table = shards.decode_shard(path, schema.every_column, path.parents[1].name)
    path.write_bytes(shards.encode_shard(path.stem, table, ""))


@pytest.mark.parametrize("old", [False, True])
def test_a_shard_of_another_cell_is_refused_by_every_reader(command, old: bool) -> None:
    mine, other = run(command("blended", *FEW)), run(command("dps", *FEW))
    source = next(iter(other.plan.store.shards()))
    if old:
        unbound(source)
    place = mine.plan.store.folder / source.name
    assert place.exists(), "chunks are named alike in every cell"
    shutil.copy(source, place)
    content = place.read_bytes()
    said = (
        f"holds rows of the cell {other.plan.cell.name}, but lies in the folder of "
        f"{mine.plan.cell.name}"
    )
    for read in READERS.values():
        with pytest.raises(UserError, match=said):
            read(mine.study)
    for more in ("retry=false", "retry=true"):
        with pytest.raises(WrongCell, match=said):
            run(command("blended", *FEW, more))
    assert place.read_bytes() == content, "it is neither set aside nor written over"


def test_old_shards_in_their_own_cell_are_read(command) -> None:
    plan = run(command("blended", *FEW)).plan
    before = plan.store.read()
    for path in plan.store.shards():
        unbound(path)
    pd.testing.assert_frame_equal(plan.store.read(), before)
    assert len(plan.store.done()) == 2 and plan.missing() == []


def test_a_copied_cell_folder_is_refused_by_every_reader(command) -> None:
    outcome = run(command("blended", *FEW))
    run(command("dps", *FEW))
    shutil.copytree(outcome.plan.folder, outcome.plan.folder.with_name("X.bak"))
    for read in READERS.values():
        with pytest.raises(UserError, match=r"X\.bak"):
            read(outcome.study)


def test_rows_of_another_cell_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rows of the cell d, but this folder is of c"):
        RowStore(tmp_path / "c").write(
            "x", [{"cell": "d", "image_id": "a", "draw": 0, "status": "ok"}]
        )


# -- I4: priors ------------------------------------------------------------------------------------


def network(folder: Path, **changes: object) -> Path:
    """A copy of the shipped prior with another description."""
    shutil.copytree(ROOT / "priors" / "assets" / "fashion", folder)
    spec = json.loads((folder / "prior.json").read_text())
    (folder / "prior.json").write_text(json.dumps({**spec, **changes}))
    return folder


def test_the_name_of_a_prior_is_the_one_its_files_record(tmp_path: Path) -> None:
    def named(path: Path | str, **more: object) -> str:
        return label(
            "prior", {"_target_": "priors.load.load", "path": str(path), **more}, "fashion"
        )

    mine, other = (
        network(tmp_path / "a", name="mynet"),
        network(tmp_path / "b", source="another training"),
    )
    assert named("priors/assets/fashion") == "fashion" == named(ROOT / "priors/assets/fashion")
    assert named(network(tmp_path / "same")) == "fashion", (
        "a copy of the shipped files is the shipped prior"
    )
    words = named(mine).split()
    assert words[0] == "mynet" and words[1].startswith("fingerprint=") and len(words) == 2
    assert named(other).startswith("fashion fingerprint=") and named(other).split()[1] != words[1]
    assert named(mine, vq_gradient="exact").endswith(" vq_gradient=exact")
    assert str(tmp_path) not in named(mine) + named(other)


def test_rows_of_two_networks_are_never_ranked_together(tmp_path: Path) -> None:
    made(tmp_path, "good", 5.0, fingerprint="a" * 16)
    made(tmp_path, "low", 0.0, fingerprint="b" * 16)
    frame = leaderboard.write(tmp_path)
    assert "psnr_rank" not in frame or set(frame["psnr_rank"]) == {""}
    assert "**" not in (tmp_path / "leaderboard.md").read_text()


def test_other_files_at_the_same_place_are_another_prior(tmp_path: Path) -> None:
    node = {"_target_": "priors.load.load", "path": str(network(tmp_path / "net"))}
    first = shared("prior", node, "cpu")
    assert shared("prior", node, "cpu") is first
    spec = json.loads((tmp_path / "net" / "prior.json").read_text())
    (tmp_path / "net" / "prior.json").write_text(json.dumps({**spec, "sigma_data": 0.7}))
    assert shared("prior", node, "cpu") is not first


def test_another_class_behind_an_option_is_named() -> None:
    assert label("mask", {"_target_": "masks.comod.CoMod"}, "box").startswith("box class=CoMod")


# -- I5: paths -------------------------------------------------------------------------------------

SECRET = "/home/somebody/private"
PATH_SETTINGS = {"root", "id_list", "devkit", "path", "modules"}
"""Every setting of a group that says where something lies, read from the yaml files by hand."""


def options_of(group: str) -> list[Path]:
    return sorted((ROOT / "conf" / group).rglob("*.yaml"))


@pytest.mark.parametrize("group", ["solver", "data", "mask", "operator", "prior"])
def test_no_setting_that_is_a_path_reaches_a_hash_or_a_label(
    group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[object] = []
    digest = cells.digest
    monkeypatch.setattr(cells, "digest", lambda value: hashed.append(value) or digest(value))
    cfg, choices = compose(["solver=dps"])
    config = job_of(cfg)
    seen = set()
    for path in options_of(group):
        whole = yaml.safe_load(path.read_text()) or {}
        node = whole.get(group, whole)
        node = {k: v for k, v in node.items() if k not in ("defaults", "train")}
        for name, value in node.items():
            assert (
                name in PATH_SETTINGS | {"_target_"}
                or "/" not in str(value)
                or isinstance(value, dict)
            ), (
                path,
                name,
            )
        names = [k for k in node if k in PATH_SETTINGS]
        seen |= {*names}
        if not names or group == "prior" or "modules" in names:
            # their files must be there: see the test of a prior's name, and
            # tests/bench/training/test_train_solver.py
            continue
        filled = {k: "box" if v == "???" else v for k, v in node.items()} | {
            k: SECRET for k in names
        }
        filled |= {"sha256": "0" * 64} if "sha256" in node else {}
        filled |= {"images": 8} if "images" in node else {}  # of a folder, the plan counts them
        cell = cell_of(
            replace(config, **{group: filled}), {**choices, group: path.stem}, "x:1", ["1"]
        )
        assert SECRET not in json.dumps(cell.identity), path
    assert SECRET not in json.dumps(hashed, default=str) and (hashed or group == "prior")
    assert seen


def test_the_same_list_elsewhere_is_the_same_cell(command, tmp_path: Path, photos: Path) -> None:
    places = [tmp_path / "l1.txt", tmp_path / "elsewhere" / "l1.txt"]
    places[1].parent.mkdir()
    for place in places:
        place.write_text("\n".join(f"{i}.png" for i in range(7)))
    found = [planned(command("blended", f"data.id_list={place}")).cell for place in places]
    assert found[0].name == found[1].name == planned(command("blended")).cell.name
    assert found[0].identity == found[1].identity and str(tmp_path) not in json.dumps(
        dict(found[0].identity)
    )
    places[0].write_text("\n".join(f"{6 - i}.png" for i in range(7)))
    assert planned(command("blended", f"data.id_list={places[0]}")).cell.name != found[1].name


def test_no_table_or_report_has_a_private_path(command, tmp_path: Path, photos: Path) -> None:
    (tmp_path / "ids.txt").write_text("0.png\n1.png")
    study = run(
        command("blended", *FEW, f"data.id_list={tmp_path / 'ids.txt'}", "report=true")
    ).study
    leaderboard.write(study)
    report(study)
    for path in study.glob("*"):
        if path.is_file() and path.name != "config.yaml":
            data = path.read_bytes()
            assert str(photos).encode() not in data and b"ids.txt" not in data, path


# -- I6: provenance --------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    done = subprocess.run(
        ["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_a_surrounding_repository_says_nothing_of_the_product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "-q")
    site = tmp_path / "venv" / "site-packages"
    (site / "bench").mkdir(parents=True)
    (tmp_path / "x").write_text("x")
    git(tmp_path, "add", "x")
    git(tmp_path, "commit", "-qm", "x")
    monkeypatch.setattr(environment, "ROOT", site)
    monkeypatch.setattr(environment, "BUILD", site / "bench" / "build.json")
    monkeypatch.setattr(environment.metadata, "distribution", lambda name: Nothing())
    assert environment.origin() == {"commit": "unknown", "dirty": None}, "and no false warning"
    environment.BUILD.write_text(json.dumps({"commit": "f" * 40, "dirty": True}))
    assert environment.origin() == {"commit": "f" * 40, "dirty": True}
    environment.BUILD.unlink()
    monkeypatch.setattr(environment.metadata, "distribution", lambda name: Vcs())
    assert environment.origin() == {"commit": "e" * 40, "dirty": False}
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    assert environment.origin() == {"commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "x").write_text("y")
    assert environment.origin()["dirty"] is True


class Nothing:
    def read_text(self, name: str) -> None:
        return None


class Vcs:
    def read_text(self, name: str) -> str:
        return json.dumps(
            {"url": "https://example.org", "vcs_info": {"vcs": "git", "commit_id": "e" * 40}}
        )


def test_the_version_is_recorded(command) -> None:
    outcome = run(command("blended", *FEW))
    version = [
        line
        for line in (ROOT / "pyproject.toml").read_text().splitlines()
        if line.startswith("version = ")
    ]
    wanted = version[0].split('"')[1]
    assert json.loads((outcome.study / "environment.json").read_text())["version"] == wanted
    assert outcome.plan.store.read(["version"])["version"].unique().tolist() == [wanted]
    assert (
        f"Version of posterior-bench: {wanted}." in leaderboard.build(outcome.study).attrs["notes"]
    )


# -- what version 0.1.0 wrote ----------------------------------------------------------------------


def test_cells_without_recorded_content_stand_apart(tmp_path: Path) -> None:
    for solver, shift in (("a", 0.0), ("b", 3.0)):
        made(tmp_path, solver, shift)
        made(tmp_path, f"old-{solver}", shift + 0.5, content=None, fingerprint=None)
    frame = leaderboard.write(tmp_path).set_index("solver")
    assert frame["psnr_rank"].to_dict() == {"a": "b", "b": "a", "old-a": "b", "old-b": "a"}
    assert (
        frame.loc["old-a", "data"] == "folder [not recorded]"
        and frame.loc["a", "data"] == "folder [cccccc]"
    )
    assert any(
        "2 of 4 cells are of a version before 0.2.0" in note for note in frame.attrs["notes"]
    )


def test_old_rows_are_read_and_scored_with_a_word(command) -> None:
    outcome = run(command("blended", *FEW, "metrics=[psnr]"))
    for path in outcome.plan.store.shards():
        table = shards.decode_shard(path, schema.every_column, path.parents[1].name).drop_columns(
            ["truth", "code", "version"]
        )
        path.write_bytes(shards.encode_shard(path.stem, table, ""))
    assert outcome.plan.store.read(["truth"])["truth"].isna().all()
    done = score(outcome.study, metric_nodes("metrics=[seam]"))
    assert (done.written, list(done.unchecked)) == (2, [outcome.plan.cell.name])


def test_a_metric_of_an_earlier_version_is_left_empty(tmp_path: Path) -> None:
    made(tmp_path, "old", 5.0)
    made(tmp_path, "new", 0.0, card={**CARD, "version": 2})
    frame = leaderboard.build(tmp_path).set_index("solver")
    assert np.isnan(frame.loc["old", "psnr"]) and frame.loc["new", "psnr"] == pytest.approx(
        20, abs=1
    )
    notes = [note for note in frame.attrs["notes"] if "psnr is left empty for old" in note]
    assert len(notes) == 1
    with pytest.raises(UserError, match="an earlier version computed 'psnr'"):
        compare(tmp_path, "old", "new", "psnr")


@pytest.mark.parametrize("sigma, kept", [(0.0, True), (0.05, False)])
def test_the_old_residual_of_noisy_data_is_left_empty(
    tmp_path: Path, sigma: float, kept: bool
) -> None:
    """Before 0.2.0 a smaller residual counted as better, also below the noise."""
    name = made(tmp_path, "old", 0.0)
    path = tmp_path / "cells" / name / "config.yaml"
    record = yaml.safe_load(path.read_text())
    card = {"title": "Consistency", "direction": "down", "unit": ""}
    record |= {
        "metrics": {**record["metrics"], "consistency": card},
        "config": {"operator": {"sigma": sigma}},
    }
    path.write_text(yaml.safe_dump(record))
    store = RowStore(path.parent)
    store.extend("one", [{"consistency": 0.03}] * 12)
    frame = leaderboard.build(tmp_path)
    assert frame["consistency"].notna().all() == kept
    assert any("consistency is left empty for old" in note for note in frame.attrs["notes"]) != kept


def test_score_refuses_a_metric_of_an_earlier_version(
    command, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = run(command("blended", *FEW, "metrics=[psnr]"))
    metric = shared("metric", metric_nodes("metrics=[psnr]")["psnr"], "cpu")
    metrics = {"psnr": metric}
    cell = scoring.StoredCell(outcome.plan.folder, "cpu")
    cell.load()
    cell.admit(metrics)
    monkeypatch.setattr(metric, "card", replace(metric.card, version=metric.card.version + 1))
    with pytest.raises(
        UserError, match=r"'psnr' as an earlier version computed it \(version 1, now 2\)"
    ):
        cell.admit(metrics)


# -- T.1: everything a number depends on changes its cell's name -----------------------------------

CHANGES = {
    "seed": "seed=1",
    "draws": "draws=3",
    "budget": "budget=nfe:50",
    "images": "data.images=6",
    "mask": "mask=box",
    "mask setting": "mask.side=3",
    "operator": "operator=super_resolution",
    "operator setting": "operator.sigma=0.1",
    "prior": "prior.process=vp",
    "data setting": "data.crop=edm",
    "solver": "solver=repaint",
    "solver setting": "solver.steps=13",
    "precision": "precision=bf16",
}


def named(
    overrides: list[str], data: str = "folder:1", images: tuple[str, ...] | None = ("1", "2")
) -> str:
    cfg, choices = compose(overrides)
    return cell_of(job_of(cfg), choices, data, images).name


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_number_depends_on_is_in_the_name(command, change: str) -> None:
    overrides = command("blended")
    more = {"mask setting": ["mask=box", "mask.side=3"]}.get(change, [CHANGES[change]])
    before = command("blended", *(["mask=box"] if change == "mask setting" else []))
    assert named([*overrides, *more]) != named(before)


def test_content_version_and_ids_are_in_the_name(command, monkeypatch: pytest.MonkeyPatch) -> None:
    from posterior_bench.solvers.blended import Blended

    overrides = command("blended")
    before = named(overrides)
    assert (
        named(overrides, data="folder:2") != before
        and named(overrides, images=("2", "1")) != before
    )
    for change in (
        "executor=ray",
        "batch=2",
        "metrics=[psnr]",
        "data.root=/nowhere",
        "threads=2",
        "out=x",
    ):
        assert named([*overrides, change]) == before, change
    monkeypatch.setattr(Blended, "version", Blended.version + 1)
    assert named(overrides) != before


def test_truth_is_the_hash_of_the_pixels(command, photos: Path) -> None:
    """Written out: shape and little-endian float32 of the picture in [-1, 1], each part after its
    length."""
    from hashlib import sha256

    rows = run(command("blended", *FEW)).plan.store.read(["truth"]).set_index("image_id")["truth"]
    picture = (
        np.asarray(Image.open(photos / "1.png")).astype(np.float32)[None] / np.float32(127.5) - 1
    )
    shape, data = str(picture.shape).encode(), picture.astype("<f4").tobytes()
    text = b"%d:%b%d:%b" % (len(shape), shape, len(data), data)
    assert rows["1.png"] == sha256(text).hexdigest()[:16]


def test_cards_are_recorded_as_they_are(command) -> None:
    """The version of a metric's card, once it has one, goes into the cell's file with the rest of
    the card."""
    outcome = run(command("blended", *FEW, "metrics=[psnr]"))
    record = yaml.safe_load((outcome.plan.folder / "config.yaml").read_text())
    metric = shared("metric", metric_nodes("metrics=[psnr]")["psnr"], "cpu")
    assert record["metrics"]["psnr"].keys() == asdict(metric.card).keys()


def test_tables_print_the_changed_settings_of_an_operator() -> None:
    node = {**options("operator")["gaussian_blur"].content, "border": "zero", "rcond": 0.01}
    assert label("operator", node, "gaussian_blur") == "gaussian_blur border=zero rcond=0.01"
    words = ["operator.reduction=average", "operator=super_resolution"]
    cells_of = [
        cell_of(job_of(cfg), choices, "fashion", ["a"])
        for cfg, choices in (compose(words), compose(words[1:]))
    ]
    assert cells_of[0].identity["operator"] == "super_resolution reduction=average"
    assert cells_of[0].name != cells_of[1].name
