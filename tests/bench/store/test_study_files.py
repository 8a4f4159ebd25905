"""A recorded plan: YAML for every reader, quick for ours, and as old studies wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from posterior_bench.bench.store.study_files import plan_text, read_yaml

RECORD = {
    "cell": "0aeedc27cb2fa41d",
    "identity": {"solver": "ddnm", "variant": "", "seed": 0},
    "chunks": {"00000-00": ["a", "00001", "no", "ä b.png"], "00001-00": ["1e3", "null", "~"]},
    "metrics": {"psnr": {"title": "PSNR", "low": None}},
    "config": {"chunks": [1, 2], "note": "two\nchunks: {\n lines"},
}


def test_a_plan_is_yaml_that_comes_back(tmp_path: Path) -> None:
    (path := tmp_path / "config.yaml").write_text(text := plan_text(RECORD), encoding="utf-8")
    assert read_yaml(path) == RECORD == yaml.safe_load(text)
    assert text.endswith(
        'chunks: {\n  "00000-00": ["a", "00001", "no", "ä b.png"],\n  "00001-00": ["1e3", "null", '
        '"~"]\n}\n'
    )


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.from_regex(r"[0-9]{5}-[0-9a-f]{4}", fullmatch=True), st.lists(st.text())))
def test_any_ids_come_back(
    tmp_path_factory: pytest.TempPathFactory, chunks: dict[str, list[str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "plan.yaml"
    path.write_text(plan_text({**RECORD, "chunks": chunks}), encoding="utf-8")
    assert read_yaml(path) == {**RECORD, "chunks": chunks}


@pytest.mark.parametrize(
    "image",
    ["\x7f", "\x85", "\u2028", "\ufeff", "\u00a0", "\U0001f600", 'a"b\\c', "'", "# x", "\t"],
)
def test_other_yaml_readers_see_the_same_ids(image: str) -> None:
    assert yaml.safe_load(plan_text({"cell": "c", "chunks": {"k": [image]}}))["chunks"] == {
        "k": [image]
    }


def test_older_and_edited_plans_are_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for text in (
        yaml.safe_dump(RECORD, sort_keys=False, allow_unicode=True),
        plan_text(RECORD).replace("}\n", "}  # a remark\n").replace('"a"', "a"),
        plan_text(RECORD) + "more: 1\n",
    ):
        path.write_text(text, encoding="utf-8")
        assert read_yaml(path) == yaml.safe_load(text)
        assert read_yaml(path)["chunks"] == RECORD["chunks"]


def test_a_damaged_plan_is_a_yaml_error(tmp_path: Path) -> None:
    (path := tmp_path / "config.yaml").write_text(plan_text(RECORD)[:-20], encoding="utf-8")
    with pytest.raises(yaml.YAMLError):
        read_yaml(path)
