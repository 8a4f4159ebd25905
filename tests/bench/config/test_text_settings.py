"""Settings that are text keep the characters that were typed; Hydra's parser says what it reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.config.text_settings import (
    OTHER,
    TEXT,
    TEXTS,
    kind_of,
    quote,
    quote_texts,
)
from posterior_bench.bench.core.errors import UserError

ODD = [
    "2024_01_15",
    "1e5",
    "007",
    "1_0",
    "12",
    "-3",
    "true",
    "no",
    "nan",
    "inf",
    "0x10",
    "/tmp/Fotos (2024)/Jürgen's",
    "写真/画像",
    "~/a b",
    "a#b",
    "x&y;z|w",
    "it's",
    'say "hi"',
    'it\'s "both"',
    "(open",
    "close)",
    "[a",
    "{b",
    "a=b",
    "a,b",
    "a:b",
    " blanks ",
    "back\\slash",
    "ends\\",
    "\\'",
    "100 %",
    "a@b",
    "!important*?",
    "e\u0301",
]


def read(line: str) -> object:
    """What Hydra makes of one override; the values of a sweep as a list."""
    item = OverridesParser.create().parse_override(line)
    value = item.value()
    return (
        [getattr(part, "text", part) for part in value.list] if item.is_sweep_override() else value
    )


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize(
    "key",
    [
        "out",
        "study.name",
        "study.question",
        "study.title",
        "data.root",
        "prior.path",
        "++mask.path",
    ],
)
def test_hydra_reads_what_was_typed(text: str, key: str) -> None:
    (line,) = quote_texts([f"{key}={text}"])
    assert str(read(line)) == text


@pytest.mark.parametrize("text", ODD)
def test_it_reaches_the_configuration(text: str) -> None:
    cfg, _ = compose(
        check([f"out={text}", "data=folder", f"data.root={text}", f"study.name={text}"])
    )
    assert (cfg.out, cfg.data.root, cfg.study.name) == (text, text, text)


@given(st.text().filter(lambda text: "${" not in text.replace("\\", "")))
def test_any_text_survives(text: str) -> None:
    assert str(read(f"x={quote(text)}")) == text


@given(st.text(max_size=20).filter(lambda text: "${" not in text.replace("\\", "")))
def test_twice_is_once(text: str) -> None:
    once = quote_texts([f"out={text}"])
    assert quote_texts(once) == once


def test_a_sweep_has_commas_between_its_texts(tmp_path: Path) -> None:
    (line,) = quote_texts(["out=2024_01,1e5,'a,b',(2)"], sweep=True)
    assert [str(value) for value in read(line)] == ["2024_01", "1e5", "a,b", "(2)"]  # type: ignore[union-attr]
    (line,) = quote_texts(["study.name=choice(007,1e5)"], sweep=True)
    assert [str(value) for value in read(line)] == ["007", "1e5"]  # type: ignore[union-attr]
    there = tmp_path / "a,b"
    there.mkdir()
    assert read(quote_texts([f"data.root={there}"], sweep=True)[0]) == str(there)


@pytest.mark.parametrize(
    "line",
    ["out=null", "seed=3", "draws=2,4", "solver.zeta=0.3,1", "out=somewhere/else",
     "metrics=[psnr,ssim]", "-m", "out=", "solver=dps", "timeout=1e5", "data.images=1_0",
     'out="1e5"', "out='a b'", "${seed}", "out=${study.name}", "~mask"],
)  # fmt: skip
def test_everything_else_is_left_as_it_is(line: str) -> None:
    assert quote_texts([line], sweep=True) == [line]


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("out", TEXT),
        ("budget", TEXT),
        ("logger", TEXT),
        ("accept", TEXTS),
        ("plugins", TEXTS),
        ("seed", OTHER),
        ("timeout", OTHER),
        ("study.name", TEXT),
        ("data.root", TEXT),
        ("data.part", TEXT),  # null in the yaml: the class says it
        ("data.size", OTHER),
        ("mask.path", TEXT),
        ("prior.path", TEXT),
        ("solver.preset", TEXT),
        ("solver.steps", OTHER),
        ("metrics.kid_torchscript.path", TEXT),
        ("metrics.kid_torchscript.trust_file", OTHER),
        ("nonsense", OTHER),
        ("data.nonsense", OTHER),
    ],
)
def test_the_schema_says_what_is_text(key: str, kind: str) -> None:
    assert kind_of(key, {}) == kind


def test_a_comma_in_a_word_to_choose_is_a_sweep_and_in_a_path_a_letter() -> None:
    assert read(quote_texts(["out=a,b"])[0]) == "a,b"
    with pytest.raises(UserError, match="is a sweep: add -m"):
        check(["budget=nfe:10,nfe:20"])


def test_statuses_that_read_as_numbers_stay_words() -> None:
    assert read(quote_texts(["accept=[nan,oom]"])[0]) == ["nan", "oom"]


def test_a_solver_in_a_file_with_an_odd_name(tmp_path: Path) -> None:
    folder = tmp_path / "Jürgen's (old) #1"
    folder.mkdir()
    (folder / "mine.py").write_text(
        "class Mine:\n    steps: int = 3\n    note: str = 'a'\n    free: str\n"
    )
    lines = check(
        [f"solver={folder}/mine.py:Mine", "solver.note=007", "solver.free=1e5", "solver.steps=4"]
    )
    cfg, choices = compose(lines)
    assert str(choices["solver"]).startswith("Mine_")
    assert (cfg.solver.note, cfg.solver.free, cfg.solver.steps) == ("007", "1e5", 4)


def test_what_cannot_be_read_is_answered_with_the_quoting_that_works() -> None:
    import shlex

    with pytest.raises(UserError, match="give it in quotes of its own: ") as refusal:
        check(["data.labels=(a b", "data=folder"])
    advice = str(refusal.value).partition("quotes of its own: ")[2]
    (word,) = shlex.split(advice)
    assert read(word) == "(a b"
