"""Forged bundles: each one changes what an honest bundle says, and must be refused."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.bench.submission.forging import Forgery, Pieces

from posterior_bench.bench.engine.plan import slices
from posterior_bench.bench.submission.members import zip_bytes
from posterior_bench.bench.submission.verdict import BITWISE, CLOSE, REFUSED, TABLES
from posterior_bench.bench.submission.verify import verify

FORGERIES: dict[str, tuple[Forgery, str, bool]] = {}
"""What is done, the check that must find it, and whether it takes rows that are computed again."""


def forgery(check: str, rerun: bool = False) -> Callable[[Forgery], Forgery]:
    """Note a forgery under the name of its function."""

    def note(forge: Forgery) -> Forgery:
        FORGERIES[forge.__name__] = (forge, check, rerun)
        return forge

    return note


@forgery("table")
def changed_score(pieces: Pieces) -> None:
    pieces.rows["ddrm"][3]["psnr"] = "99.0"


@forgery("rerun", rerun=True)
def changed_score_and_table(pieces: Pieces) -> None:
    pieces.rows["ddrm"][3]["psnr"] = "99.0"


@forgery("rerun", rerun=True)
def swapped_scores(pieces: Pieces) -> None:
    first, second = pieces.rows["ddrm"][0], pieces.rows["ddrm"][4]
    for name in ("psnr", "consistency_ratio"):
        first[name], second[name] = second[name], first[name]


@forgery("rerun", rerun=True)
def rows_of_the_other_solver(pieces: Pieces) -> None:
    costs = [name for name in pieces.rows["ddrm"][0] if name not in ("cell", "code", "message")]
    for mine, other in zip(pieces.rows["blended"], pieces.rows["ddrm"], strict=True):
        mine |= {name: other[name] for name in costs}


@forgery("measurements")
def swapped_rows(pieces: Pieces) -> None:
    rows = pieces.rows["ddrm"]
    for a, b in ((0, 4), (1, 5)):
        rows[a]["image_id"], rows[b]["image_id"] = rows[b]["image_id"], rows[a]["image_id"]
    for row in pieces.rows["blended"]:
        row["truth"] = next(r["truth"] for r in rows if r["image_id"] == row["image_id"])


@forgery("plan")
def missing_failure(pieces: Pieces) -> None:
    del pieces.rows["ddrm"][5]


@forgery("plan")
def duplicated_row(pieces: Pieces) -> None:
    pieces.rows["ddrm"][5] = dict(pieces.rows["ddrm"][4])


@forgery("rows")
def values_of_another_image(pieces: Pieces) -> None:
    for name in [name for name in pieces.rows["ddrm"][0] if name.startswith(("psnr", "cons"))]:
        pieces.rows["ddrm"][6][name] = pieces.rows["ddrm"][0][name]


@forgery("settings")
def dropped_image(pieces: Pieces) -> None:
    for solver, cell in pieces.cells.items():
        ids = [f"draw-{i:05d}" for i in range(8) if i != 2]
        cell["identity"]["images"] = 7
        cell["chunks"] = {chunk.name: [*chunk.images] for chunk in slices(ids, 2, 16)[0]}
        rows = pieces.rows[solver]
        pieces.rows[solver] = [row for row in rows if row["image_id"] in ids]
        cell["settings"] = [w.replace("images=8", "images=7") for w in cell["settings"]]


@forgery("settings")
def other_mask(pieces: Pieces) -> None:
    pieces.cells["ddrm"]["identity"]["mask"] = "rotated"


@forgery("measurements")
def other_mask_measured(pieces: Pieces) -> None:
    lines = pieces.files[pieces.measured].decode().splitlines()
    first, second = lines[1].split(","), lines[2].split(",")
    first[2] = second[2] if first[2] != second[2] else "0" * 16
    pieces.files[pieces.measured] = "\n".join([lines[0], ",".join(first), *lines[2:], ""]).encode()


@forgery("measurements")
def other_measurement(pieces: Pieces) -> None:
    lines = [line.split(",") for line in pieces.files[pieces.measured].decode().splitlines()]
    lines[1][3:5] = ["0" * 16, "0.25"]
    pieces.files[pieces.measured] = "".join(f"{','.join(line)}\n" for line in lines).encode()


@forgery("settings")
def other_seed(pieces: Pieces) -> None:
    for cell in pieces.cells.values():
        cell["settings"] = [w.replace("seed=0", "seed=1") for w in cell["settings"]]


@forgery("settings")
def settings_of_more_steps(pieces: Pieces) -> None:
    words = pieces.cells["ddrm"]["settings"]
    pieces.cells["ddrm"]["settings"] = [w.replace("steps=6", "steps=600") for w in words]


@forgery("settings")
def configuration_of_fewer_steps(pieces: Pieces) -> None:
    pieces.cells["ddrm"]["config"]["solver"]["steps"] = 2


@forgery("versions")
def newer_product(pieces: Pieces) -> None:
    for solver, cell in pieces.cells.items():
        cell["identity"]["version"] = "99.0.0"
        for row in pieces.rows[solver]:
            row["version"] = "99.0.0"


@forgery("versions")
def other_version_of_the_task(pieces: Pieces) -> None:
    for row in pieces.rows["ddrm"]:
        row["task_version"] = "data=1 mask=2 operator=1"


@forgery("rerun", rerun=True)
def fewer_passes(pieces: Pieces) -> None:
    for row in pieces.rows["blended"]:
        row["nfe"] = "1.0"


@forgery("rows")
def negative_seconds(pieces: Pieces) -> None:
    pieces.rows["ddrm"][0]["seconds_sample"] = "-1.0"


@forgery("rows")
def score_outside_its_range(pieces: Pieces) -> None:
    pieces.rows["ddrm"][0]["consistency_ratio"] = "-5.0"


@forgery("rows")
def two_values_of_one_set_of_draws(pieces: Pieces) -> None:
    pieces.rows["ddrm"][0]["energy_score"] = "0.001"


@forgery("rows")
def scored_failure(pieces: Pieces) -> None:
    pieces.rows["ddrm"][0]["status"] = "nan"


@forgery("metrics")
def turned_metric(pieces: Pieces) -> None:
    pieces.cells["ddrm"]["metrics"]["psnr"]["card"]["direction"] = "down"


@forgery("metrics")
def metric_of_its_own(pieces: Pieces) -> None:
    pieces.cells["ddrm"]["metrics"]["psnr"]["node"]["_target_"] = "os.system"


@forgery("settings")
def plugin(pieces: Pieces) -> None:
    pieces.cells["ddrm"]["settings"].append("plugins=[/tmp/mine.py]")


@forgery("settings")
def class_of_its_own(pieces: Pieces) -> None:
    pieces.cells["ddrm"]["settings"].append("solver._target_=os.system")


@forgery("settings")
def file_of_the_reader(pieces: Pieces) -> None:
    pieces.cells["ddrm"]["settings"].append("data.captions=/etc/passwd")


@forgery("settings")
def secret_of_the_reader(pieces: Pieces) -> None:
    pieces.cells["ddrm"]["settings"].append("solver.preset=${oc.env:HOME}")


@forgery("statement")
def no_word_on_training_data(pieces: Pieces) -> None:
    pieces.about["contamination"]["priors"] = []


@forgery("statement")
def better_than_reported(pieces: Pieces) -> None:
    cell = pieces.cells["ddrm"]["cell"]
    entry = {"cell": cell, "solver": "ddrm", "metric": "psnr", "measured": "60.0"}
    pieces.about["reported"] = [{**entry, "lo": "59.0", "hi": "61.0", "printed": "50", "flag": "",
                                 "source": "here"}]  # fmt: skip


@forgery("files")
def number_in_other_words(pieces: Pieces) -> None:
    pieces.rows["ddrm"][0]["psnr"] = "1_0.0"


@forgery("files")
def cell_without_a_key(pieces: Pieces) -> None:
    del pieces.cells["ddrm"]["chunks"]


_TABLED = {"changed_score_and_table", "rows_of_the_other_solver", "swapped_scores", "dropped_image",
           "fewer_passes", "swapped_rows", "other_mask"}  # fmt: skip


def test_the_honest_bundle_is_accepted_bit_for_bit(bundle: Path) -> None:
    verdict = verify(bundle, None)
    assert verdict.level == BITWISE, verdict.text()
    assert "16 rows, bit for bit" in verdict.text()
    assert bundle.stat().st_size < 60_000


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_refused_by_the_right_check(name: str, bundle: Path, tmp_path: Path) -> None:
    forge, check, rerun = FORGERIES[name]
    pieces = Pieces(bundle)
    forge(pieces)
    pieces.put()
    if name in _TABLED:
        pieces.tabulate(tmp_path / "study")
    pieces.sign()
    verdict = verify(pieces.save(tmp_path / "forged.zip"), None if rerun else 0)
    assert not verdict.accepted, verdict.text()
    assert verdict.reasons[0].partition(":")[0] == check, verdict.text()


def test_without_new_rows_a_changed_score_with_its_table_is_accepted_in_part(
    bundle: Path, tmp_path: Path
) -> None:
    """Said openly: only rows that are computed again show it, and the level tells that none was."""
    pieces = Pieces(bundle)
    changed_score_and_table(pieces)
    pieces.put()
    pieces.tabulate(tmp_path / "study")
    pieces.sign()
    verdict = verify(pieces.save(tmp_path / "forged.zip"), 0)
    assert verdict.level == TABLES and "no row was computed again" in verdict.text()


@pytest.mark.parametrize(("share", "level"), [(0.01, CLOSE), (0.5, REFUSED)])
def test_on_another_processor_a_value_may_be_off_by_a_twentieth_of_the_spread(
    share: float, level: str, bundle: Path, tmp_path: Path
) -> None:
    pieces = Pieces(bundle)
    pieces.files["environment.json"] = b'{"processor": "Another one"}'
    values = [float(row["psnr"]) for row in pieces.rows["ddrm"]]
    spread = sum((v - sum(values) / 16) ** 2 for v in values) ** 0.5 / 4
    far = max(spread, *map(abs, values))  # 5 % of the value itself are allowed too
    pieces.rows["ddrm"][0]["psnr"] = repr(values[0] + share * (spread if share < 0.05 else far))
    pieces.put()
    pieces.tabulate(tmp_path / "study")
    pieces.sign()
    verdict = verify(pieces.save(tmp_path / "other.zip"), None)
    assert verdict.level == level, verdict.text()
    assert "processor Another one" in verdict.text() or level == REFUSED


def test_a_changed_file_does_not_fit_its_checksum(bundle: Path, tmp_path: Path) -> None:
    pieces = Pieces(bundle)
    pieces.change("table.csv", "ddrm", "ddrn")
    verdict = verify(pieces.save(tmp_path / "forged.zip"), 0)
    assert verdict.reasons == ["files: table.csv is not what SHA256SUMS says"]


# -- containers ------------------------------------------------------------------------------------


def _entry(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


ENTRIES = {
    "../../etc/cron.d/x": "no file of a bundle",
    "/etc/passwd": "no file of a bundle",
    "cells/../bundle.json": "no file of a bundle",
    "cells/0123456789abcdef/rows.csv.pkl": "no file of a bundle",
    "bundle.json": "twice",
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_that_is_no_file_of_a_bundle_is_refused(
    name: str, bundle: Path, tmp_path: Path
) -> None:
    path = Pieces(bundle).save(tmp_path / "forged.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_entry(name), "x")
    assert ENTRIES[name] in verify(path, 0).reasons[0]
    assert [*tmp_path.iterdir()] == [path]


def test_links_are_refused_in_zips_and_folders(bundle: Path, tmp_path: Path) -> None:
    pieces, path = Pieces(bundle), tmp_path / "forged.zip"
    del pieces.files["README.md"]
    pieces.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_entry("README.md", stat.S_IFLNK | 0o777), "/etc/passwd")
    assert "is a link" in verify(path, 0).reasons[0]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "README.md").symlink_to("/etc/passwd")
    assert "is a link" in verify(tmp_path / "folder", 0).reasons[0]


def test_a_zip_that_grows_when_it_is_unpacked_is_refused(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.zip"
    bomb.write_bytes(zip_bytes({"README.md": bytes(100_000_001)}))
    assert bomb.stat().st_size < 200_000
    assert "bytes unpacked" in verify(bomb, 0).reasons[0]


def test_a_file_above_five_megabytes_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "large.zip").write_bytes(bytes(5_000_001))
    assert "at most 5000000" in verify(tmp_path / "large.zip", 0).reasons[0]


def test_a_header_that_understates_a_size_is_refused(bundle: Path, tmp_path: Path) -> None:
    path = Pieces(bundle).save(tmp_path / "forged.zip")
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("README.md").file_size
    data = path.read_bytes()
    place = data.rindex(b"PK\x01\x02", 0, data.rindex(b"README.md"))
    shorter = data[: place + 24] + (size - 5).to_bytes(4, "little") + data[place + 28 :]
    path.write_bytes(shorter)
    assert not verify(path, 0).accepted


BAD_JSON = {
    "nested": "[" * 100_000,
    "constant": '{"format": NaN}',
    "key twice": '{"format": 1, "format": 2}',
    "long text": json.dumps({"format": "x" * 5000}),
    "not printable": json.dumps({"format": "\x1b[2J"}),
    "bytes": "\udc80",
}


@pytest.mark.parametrize("kind", BAD_JSON)
def test_json_that_is_not_plain_is_refused(kind: str, bundle: Path, tmp_path: Path) -> None:
    pieces = Pieces(bundle)
    pieces.files["bundle.json"] = BAD_JSON[kind].encode("utf-8", "surrogateescape")
    pieces.sign()
    verdict = verify(pieces.save(tmp_path / "forged.zip"), 0)
    assert verdict.reasons[0].startswith("files: bundle.json") and verdict.text().isprintable() is (
        "\n" not in verdict.text()
    )


JUNK: list[tuple[str, object]] = [
    ("draws", 10**30),
    ("images", -1),
    ("mask", " "),
    ("study_version", "arena"),
    ("task_version", "data=x"),
    ("batch", 10**9),
    ("padded", -5),
    ("chunks", {"00000-0123456789abcdef-d0-99999999999": ["draw-00000"]}),
    ("metrics", {"psnr": None}),
    ("metrics", {"psnr": {"node": [], "card": 1}}),
    ("settings", [["seed=0"]]),
    ("measured", "../secret"),
]


@pytest.mark.parametrize(("key", "value"), JUNK)
def test_junk_is_refused_without_a_traceback(
    key: str, value: object, bundle: Path, tmp_path: Path
) -> None:
    pieces = Pieces(bundle)
    cell = pieces.cells["ddrm"]
    (cell if key in cell else cell["identity"])[key] = value
    pieces.put()
    pieces.sign()
    verdict = verify(pieces.save(tmp_path / "forged.zip"), 0)
    assert not verdict.accepted and "Traceback" not in verdict.text()
