"""The page of downloads: every published prior and data set has an entry, and estimates follow from
the counts."""

from __future__ import annotations

from urllib.parse import urlparse

import pytest
import yaml

from posterior_bench.bench.config.catalog import CONF, option, options
from posterior_bench.bench.conformance.reference_pages import downloads, preset_passes, prior_kinds
from posterior_bench.bench.core.environment import ROOT
from posterior_bench.datasets.celebahq import CelebAHQ
from posterior_bench.metrics import (
    clip_iqa,
    dreamsim_metric,
    feature_networks,
    features,
    lpips_metric,
    lpips_piq,
    musiq,
)
from posterior_bench.priors.fingerprint import resolve


def _yamls(group: str) -> dict[str, dict[str, object]]:
    return {
        path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in (CONF / group).glob("*.yaml")
    }


def test_every_published_option_has_an_entry_and_no_entry_is_an_orphan():
    """Read from the yamls themselves: a prior below checkpoints/, data with a root that the user
    must name."""
    known = yaml.safe_load(downloads.FILE.read_text(encoding="utf-8"))
    priors = {
        name
        for name, node in _yamls("prior").items()
        if str(node.get("path")).startswith("checkpoints/")
    }
    data = {name for name, node in _yamls("data").items() if node.get("root") == "???"} - {"folder"}
    assert known["priors"].keys() == priors and known["data"].keys() == data
    text = (ROOT / "docs" / "downloads.md").read_text(encoding="utf-8")
    for choice in [*(f"prior={name}" for name in priors), *(f"data={name}" for name in data)]:
        assert f"| `{choice}` |" in text
    for entry in (*known["priors"].values(), *known["data"].values()):
        assert {"published", "files", "gb", "sha256"} <= entry.keys()
        assert not any(
            urlparse(word.strip("`,;")).netloc for word in str(entry["published"]).split()
        ), "names alone"


def test_every_weight_file_of_a_metric_stands_on_the_page_as_its_refusal_names_it():
    files = [
        *(backbone.weights for backbone in lpips_metric.BACKBONES.values()),
        lpips_piq.LINEAR,
        features.INCEPTION,
        feature_networks.TORCHVISION_INCEPTION,
        feature_networks.CLIP_LARGE_336,
        feature_networks.DINOV2_LARGE,
        *dreamsim_metric.FILES,
        musiq.KONIQ,
        clip_iqa.RESNET,
    ]
    known = yaml.safe_load(downloads.FILE.read_text(encoding="utf-8"))["weights"]
    listed = set()
    for file in files:
        name = "dreamsim/" if file.name.startswith("dreamsim/") else file.name
        entry = known[name]
        assert (entry["url"], entry["size"] or "", entry["sha256"] or "") == (
            file.url,
            file.size,
            file.sha256,
        )
        listed.add(name)
    assert listed == known.keys()
    assert all(set(entry["metrics"]) <= options("metrics").keys() for entry in known.values())
    assert downloads._weights("a.pt", {**known["dreamsim/"], "url": "x"})[2:4] == [
        "not recorded",
        "not published",
    ]


def test_what_is_not_known_is_said():
    entry = {
        "published": "x",
        "files": "a.pt",
        "gb": None,
        "sha256": None,
        "convert_gb": None,
        "parameters": None,
    }
    row = downloads._prior(option("prior", "sd15"), entry)
    assert row[3:7] == ["not recorded", "not recorded", "not measured", "not measured"]
    assert "convert FOLDER --as hub" in row[7]
    row = downloads._prior(
        option("prior", "sd15"), {**entry, "parameters": {"network": 500, "autoencoder": 100}}
    )
    assert row[6] == "2.4", "600 million numbers of 4 bytes"


def test_minutes_are_passes_times_seconds_a_pass():
    """100 forward and 50 backward passes of 2e12 operations and 3 decodings of 1e12, at 1e13 a
    second: 30.3 s."""
    counted = [{"nfe": 40, "nge": 50}, {"nfe": 60, "decode": 2, "decode_grad": 1}]
    operations = downloads.operations(counted, {"network": 2000.0, "decoder": 1000.0})
    assert operations == 303_000
    assert downloads._significant(operations / (60e3 * 10)) == "0.51"


def test_the_counts_are_of_the_settings_of_today():
    """The module ``preset_passes`` counts again; until then the page says 'not counted'."""
    wanted = {
        preset_passes.key(*each): preset_passes.settings_hash(*each[:2])
        for each in preset_passes.wanted()
    }
    found = {name: entry["settings"] for name, entry in preset_passes.read().items()}
    assert found.items() <= wanted.items()


@pytest.mark.parametrize(
    ("name", "preset", "kind", "fit", "draw"),
    [
        # one network call a step, 1000 steps
        ("blended", "authors", prior_kinds.VP, {}, {"nfe": 1000}),
        # one call and its gradient a step, 1000 steps
        ("dps", "authors", prior_kinds.VP, {}, {"nfe": 1000, "nge": 1000}),
        # 20 steps
        ("ddrm", "authors", prior_kinds.VP, {}, {"nfe": 20}),
    ],
)
def test_counts_are_those_of_the_papers(name, preset, kind, fit, draw):
    entry = preset_passes.read()[preset_passes.key(options("solver")[name], preset, kind)]
    assert (entry["fit"], entry["draw"]) == (fit, draw)
    assert name == "dps" or preset_passes.count(options("solver")[name], preset, kind) == entry


def test_errors_about_what_is_missing_name_the_page(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"docs/downloads\.md where it is published"):
        resolve("checkpoints/nothing_of_this_name")
    with pytest.raises(FileNotFoundError, match=r"downloads\.md says where they are published"):
        CelebAHQ(root=str(tmp_path / "none"))
