"""Reference packs: what they hold, by closed forms; their bytes; the scores of samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.bench.harness import run, verb

from posterior_bench.bench.cli.pack_names import problems
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine import pack as pack_module
from posterior_bench.bench.engine.batches import padded
from posterior_bench.bench.engine.exact_draws import Reference
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.pack import write_pack
from posterior_bench.bench.engine.pack_scores import MEAN, TRUTH, score_samples
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.engine.solving import draw
from posterior_bench.bench.external.pack import SUMS, Pack, read_pack

GAUSS8 = ["data=arena/gauss8", "data.images=2", "draws=4", "batch=8"]
MODES2 = ["data=arena/modes2", "data.images=3", "draws=8", "batch=16"]
"""Two images in a chunk, so the second chunk is filled up."""


@pytest.fixture(scope="module", params=["inpainting", "projection"])
def gauss8(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs") / request.param
    assert verb("pack", folder, *GAUSS8, f"operator={request.param}") == 0
    return folder


@pytest.fixture(scope="module")
def modes2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs") / "modes2"
    assert verb("pack", folder, *MODES2) == 0
    return folder


def frame(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(folder / f"{name}.parquet")


# -- what a pack holds -----------------------------------------------------------------------------


def test_a_third_party_finds_the_posterior_in_the_files_alone(gauss8: Path) -> None:
    """Conditioning of a Gaussian, from tables and ``problem.json``, gives mean and covariance."""
    problem = json.loads((gauss8 / "problem.json").read_text())
    truths, measured, prior = (frame(gauss8, n) for n in ("truths", "measurements", "prior"))
    d, sigma = problem["dimension"], problem["sigma"]
    basis, (floor,) = np.stack(prior["directions"])[0].reshape(-1, d), prior["floor"]
    S = floor * np.eye(d) + basis.T @ np.diag(prior["variances"][0] - floor) @ basis
    places = np.arange(d)
    assert np.allclose(S, 0.3**2 * 0.9 ** np.abs(places[:, None] - places))
    errors = []
    for i, image in enumerate(truths["image_id"]):
        y, x = np.array(measured["y"][i]), np.array(truths["values"][i])
        if problem["operator"] == "mask":
            A = np.eye(d)[measured["observed"][i]]
            y = y[measured["observed"][i]]
        else:
            A = np.stack(frame(gauss8, "operator")["weights"])
        assert 0 < len(A) < d
        errors += list(y - A @ x)
        gain = S @ A.T @ np.linalg.inv(A @ S @ A.T + sigma**2 * np.eye(len(A)))
        references = frame(gauss8, "references")
        x = np.stack(references["values"][references["image_id"] == image])
        assert x.shape == (512, d)
        C = S - gain @ A @ S
        away = x.mean(0) - gain @ y
        # Hotelling: 512 |mean - m|^2 in the metric of C is chi-squared with d degrees of freedom
        assert 512 * away @ np.linalg.solve(C, away) < 26.1, "one in a thousand"
        assert np.linalg.norm(np.cov(x.T) - C) < 0.25 * np.linalg.norm(C)
    assert 0.5 * sigma < np.std(errors) < 1.7 * sigma


def test_mode_weights_are_those_of_bayes(modes2: Path) -> None:
    prior, measured = frame(modes2, "prior"), frame(modes2, "measurements")
    weights = np.stack(frame(modes2, "posteriors")["mode_weights"])
    means = np.stack(prior["mean"])
    for i in range(3):
        seen = measured["observed"][i]
        distance = (means[:, seen] - measured["y"][i][seen])[:, 0] ** 2
        raw = prior["weight"] * np.exp(-distance / (2 * (0.05**2 + 0.05**2)))
        assert weights[i] == pytest.approx(raw / raw.sum(), rel=1e-4, abs=1e-12)


def test_the_order_of_ids_is_that_of_the_data(modes2: Path) -> None:
    ids = [f"draw-{i:05d}" for i in range(3)]
    for name in ("truths", "measurements", "posteriors"):
        assert list(frame(modes2, name)["image_id"]) == ids
    references = frame(modes2, "references")
    assert list(references["image_id"]) == list(np.repeat(ids, 512))
    assert list(references["draw"]) == [*range(512)] * 3


# -- bytes and files -------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_command_writes_the_same_bytes(modes2: Path, tmp_path: Path, capsys) -> None:
    assert verb("pack", tmp_path / "again", *MODES2, "threads=2", "solver=exact") == 0
    assert contents(tmp_path / "again") == contents(modes2)
    times = {path: path.stat().st_mtime_ns for path in modes2.iterdir()}
    capsys.readouterr()
    assert verb("pack", modes2, *MODES2) == 0
    assert "there already, and its checksums are right" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in modes2.iterdir()} == times


def test_fewer_samples_are_the_first_ones(modes2: Path, tmp_path: Path) -> None:
    tmp_path.joinpath("few").mkdir()
    assert verb("pack", tmp_path / "few", *MODES2, "samples=20") == 0
    all_of_them = frame(modes2, "references")
    few = all_of_them[all_of_them["draw"] < 20].reset_index(drop=True)
    pd.testing.assert_frame_equal(frame(tmp_path / "few", "references"), few)


def test_checksums_are_those_of_sha256sum(gauss8: Path) -> None:
    lines = (gauss8 / SUMS).read_text().splitlines()
    listed = dict(reversed(line.split("  ")) for line in lines)
    assert listed.keys() == {path.name for path in gauss8.iterdir()} - {SUMS}
    for name, digest in listed.items():
        assert hashlib.sha256((gauss8 / name).read_bytes()).hexdigest() == digest


@pytest.fixture
def copy(modes2: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    folder.mkdir()
    for name, data in contents(modes2).items():
        (folder / name).write_bytes(data)
    return folder


def test_a_changed_or_missing_file_is_named(copy: Path) -> None:
    path = copy / "references.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    for words in (["pack", copy, *MODES2], ["score-samples", copy, copy / "x.npy"]):
        with pytest.raises(UserError, match=r"references\.parquet was changed or damaged"):
            verb(*words)
    path.unlink()
    with pytest.raises(UserError, match=r"lacks references\.parquet"):
        read_pack(copy)


def test_a_folder_with_something_else_is_left_alone(copy: Path, tmp_path: Path) -> None:
    before = contents(copy)
    with pytest.raises(UserError, match=r"another pack, which differs in seed; choose another DIR"):
        verb("pack", copy, *MODES2, "seed=1")
    assert contents(copy) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    with pytest.raises(UserError, match="is no reference pack; choose another DIR"):
        verb("pack", tmp_path / "mine", *MODES2)
    assert contents(tmp_path / "mine") == {"notes.txt": b"kept"}
    with pytest.raises(UserError, match=r"it holds packs, such as .*copy; `bench pack DIR`"):
        read_pack(tmp_path)


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    write = pack_module.write_atomic

    def stop(path: Path, data: bytes) -> None:
        if path.name == SUMS:
            raise KeyboardInterrupt
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(pack_module, "write_atomic", stop)
        with pytest.raises(KeyboardInterrupt):
            verb("pack", tmp_path / "a", *MODES2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["samples=513"], "give 16 to 512 reference samples"),
        (["samples=15"], "give 16 to 512 reference samples"),
        (["out=x"], "leave out= out"),
        (["data.images=10001"], "there are only 10000 images"),
    ],
)
def test_what_cannot_be_packed_is_one_line(tmp_path: Path, words, message: str) -> None:
    with pytest.raises(UserError, match=message):
        verb("pack", tmp_path / "a", *MODES2[:1], *words)
    assert list(tmp_path.iterdir()) == []


def test_a_problem_without_reference_is_one_line(tmp_path: Path, monkeypatch) -> None:
    def none(*_: object) -> Reference:
        raise ValueError("exact draws need a mixture")

    monkeypatch.setattr(pack_module, "exact_reference", none)
    with pytest.raises(UserError, match="has no reference samples: exact draws need a mixture"):
        verb("pack", tmp_path / "a", *MODES2)
    assert list(tmp_path.iterdir()) == []


def test_a_nonlinear_problem_of_many_dimensions_has_no_reference(tmp_path: Path) -> None:
    words = ["data=arena/gauss64", "prior.shape=[1,12,12]", "operator=phase_retrieval"]
    with pytest.raises(UserError, match=r"no reference solver applies to .* a PhaseRetrieval"):
        verb("pack", tmp_path / "a", *words)
    assert list(tmp_path.iterdir()) == []


def test_diagnostics_of_the_reference_sampler_are_kept(tmp_path: Path, monkeypatch) -> None:
    def exact(config, prior, measured) -> Reference:
        found = exact_reference(config, prior, measured)
        object.__setattr__(found, "rhat", torch.arange(len(measured.truth)) + 0.5)
        object.__setattr__(found, "mean", found.x.double().mean(1))
        object.__setattr__(found, "log_density", torch.sum)
        object.__setattr__(found, "sampler", "Gibbs")
        return found

    exact_reference = pack_module.exact_reference
    monkeypatch.setattr(pack_module, "exact_reference", exact)
    assert verb("pack", tmp_path / "a", *MODES2, "seed=3") == 0
    table = frame(tmp_path / "a", "posteriors")
    assert table["rhat"].tolist() == [0.5, 1.5, 0.5] and table["sampler"].tolist() == ["Gibbs"] * 3
    assert [len(mean) for mean in table["mean"]] == [2] * 3 and "log_density" not in table


def test_a_study_is_a_pack_per_problem() -> None:
    cells = [
        [f"solver={solver}", f"data=arena/{data}", f"operator={operator}"]
        for solver in ("dps", "ddrm")
        for data, operator in (("g2", "inpainting"), ("modes2", "projection"))
    ]
    assert list(problems(cells)) == ["arena-g2-inpainting", "arena-modes2-projection"]
    named = problems([["data=arena/g2", f"seed={seed}"] for seed in (0, 1)])
    assert len(named) == 2 and all(name.startswith("arena-g2-inpainting-") for name in named)
    assert [config.seed for config in named.values()] == [0, 1]


# -- Croissant -------------------------------------------------------------------------------------

TYPES = {
    "sc:Text": pa.types.is_string,
    "sc:Integer": pa.types.is_integer,
    "sc:Float": pa.types.is_floating,
    "sc:Boolean": pa.types.is_boolean,
}


def test_the_description_is_croissant(gauss8: Path) -> None:
    """The fields that the specification 1.0 requires, each compared with the file it describes."""
    about = json.loads((gauss8 / "metadata.json").read_text())
    assert about["@type"] == "sc:Dataset"
    assert about["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    context = about["@context"]
    assert context["@vocab"] == context["sc"] == "https://schema.org/"
    assert context["cr"] == "http://mlcommons.org/croissant/"
    assert context["recordSet"] == "cr:recordSet" and context["conformsTo"] == "dct:conformsTo"
    assert context["dataType"] == {"@id": "cr:dataType", "@type": "@vocab"}
    assert all(about[key] for key in ("name", "description", "license", "citeAs", "version"))
    files = {}
    for file in about["distribution"]:
        assert file["@type"] == "cr:FileObject"
        data = (gauss8 / file["contentUrl"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(data).hexdigest()
        assert file["contentSize"] == f"{len(data)} B"
        files[file["@id"]] = file["encodingFormat"]
    tables = {path.name for path in gauss8.glob("*.parquet")}
    assert {n for n, f in files.items() if f == "application/x-parquet"} == tables
    described = set()
    for record in about["recordSet"]:
        assert record["@type"] == "cr:RecordSet"
        for field in record["field"]:
            assert field["@type"] == "cr:Field" and field["description"]
            assert field["@id"] == f"{record['@id']}/{field['name']}"
            source = field["source"]
            schema = pq.read_schema(gauss8 / source["fileObject"]["@id"])
            kind = schema.field(source["extract"]["column"]).type
            assert field.get("repeated", False) == pa.types.is_list(kind)
            inner = kind.value_type if pa.types.is_list(kind) else kind
            assert TYPES[field["dataType"]](inner)
            described.add((source["fileObject"]["@id"], source["extract"]["column"]))
    assert described == {
        (name, column) for name in tables for column in pq.read_schema(gauss8 / name).names
    }


def test_the_readme_names_what_is_there(gauss8: Path) -> None:
    text = (gauss8 / "README.md").read_text()
    assert all(f"`{path.name}`" in text for path in gauss8.iterdir() if path.name != "README.md")
    assert "{" not in text and "bench score-samples" in text


# -- scores ----------------------------------------------------------------------------------------


def raw_draws(words: Sequence[str]) -> np.ndarray:
    """What the solver of a cell returns, before it is rounded to 8 bits."""
    config = job_of(compose([*words])[0])
    session = Session(config, "cpu")
    ids = list(session.images.ids[: config.images])
    size = config.batch // config.draws
    parts = []
    for start in range(0, len(ids), size):
        measured = session.measure(padded(ids[start : start + size], size))
        parts.append(draw(session, measured, config.draws, config.batch).x)
    return torch.cat(parts).view(-1, config.draws, *parts[0].shape[1:])[: len(ids)].numpy()


@pytest.mark.parametrize(
    "words", [MODES2, [*GAUSS8, "operator=projection"]], ids=["mask", "matrix"]
)
def test_the_scores_are_those_of_our_own_run(words, tmp_path: Path) -> None:
    fixed = [*words, "solver=exact", "metrics=[arena,energy_score]", "threads=1", "quiet=true"]
    plan = run([*fixed, "sheet=false", "report=false", f"out={tmp_path / 'study'}"]).plan
    assert verb("pack", tmp_path / "pack", *words) == 0
    samples = raw_draws(fixed)
    np.save(tmp_path / "x.npy", samples.reshape(*samples.shape[:2], -1))
    out = tmp_path / "scores.csv"
    assert verb("score-samples", tmp_path / "pack", tmp_path / "x.npy", f"out={out}") == 0
    scores = pd.read_csv(out)
    names = sorted(scores["metric"].unique())
    assert len(names) == (11 if "modes2" in words[0] else 9)
    rows = plan.store.read([*names]).drop_duplicates("image_id").set_index("image_id")
    ours = scores[scores["level"] == TRUTH].pivot(
        index="image_id", columns="metric", values="value"
    )
    for name in names:
        assert ours[name].to_dict() == rows[name].to_dict(), name


def test_means_and_errors_over_truths(modes2: Path) -> None:
    known = read_pack(modes2)
    rng = np.random.default_rng(0)
    scores = score_samples(known, rng.normal(size=(3, 6, 2)).astype(np.float32) / 3)
    means = scores[scores["level"] == MEAN].set_index("metric")
    for name, some in scores[scores["level"] == TRUTH].groupby("metric"):
        line = means.loc[name]
        assert line["value"] == pytest.approx(some["value"].mean())
        assert line["se_truths"] == pytest.approx(some["value"].std() / np.sqrt(3))
        assert line["n"] == 3 and np.isnan(line["lo"]), "three truths have no interval"
        assert line["se_reference"] == pytest.approx(
            np.sqrt((some["se_reference"] ** 2).sum(skipna=False)) / 3, nan_ok=True
        )
        assert line["exact"] == pytest.approx(some["exact"].mean())
    assert means.loc["coverage_50":, "se_reference"].isna().all()
    assert means["value"]["energy_distance"] > 5 * means["exact"]["energy_distance"]


def gaussian(truths: int, size: int, rng: np.random.Generator) -> Pack:
    """The same two-dimensional normal posterior for every truth, with other reference samples."""
    reference = torch.tensor(rng.normal(size=(truths, size, 1, 1, 2)), dtype=torch.float32)
    zeros = torch.zeros(truths, 1, 1, 2)
    ids = tuple(map(str, range(truths)))
    return Pack("normal", "", ids, zeros, None, zeros.flatten(1), reference, None, None)


def test_the_error_of_the_reference_is_that_of_drawing_it_again() -> None:
    """Many references of one Gaussian: the stated error is the spread of the scores, on average."""
    rng, many = np.random.default_rng(1), 60
    pack = gaussian(many, 64, rng)
    x = np.repeat(rng.normal(size=(1, 8, 2)) + 0.5, many, axis=0).astype(np.float32)
    scores = score_samples(pack, x)
    for name in ("energy_distance", "sliced_w2", "mean_error"):
        some = scores[(scores["metric"] == name) & (scores["level"] == TRUTH)]
        stated = np.sqrt((some["se_reference"] ** 2).mean())
        assert stated == pytest.approx(some["value"].std(), rel=0.35), name


def test_too_many_samples_have_no_line_of_exact_ones() -> None:
    pack = gaussian(1, 16, np.random.default_rng(0))
    x = np.random.default_rng(1).normal(size=(1, 9, 2)).astype(np.float32)
    assert score_samples(pack, x)["exact"].isna().all()
    assert score_samples(pack, x[:, :8])["exact"].notna().any()


def test_a_pack_needs_a_folder_that_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = job_of(compose([*MODES2])[0])
    with pytest.raises(UserError, match="is no reference pack; choose another DIR"):
        write_pack(config, "name", tmp_path / "file")
