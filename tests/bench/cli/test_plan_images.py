"""``bench plan pilot=STUDY``: what is asked, what is answered, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.bench.analysis.test_compare import cell
from tests.bench.harness import verb

from posterior_bench.bench.analysis.power import images_needed
from posterior_bench.bench.core.errors import UserError


@pytest.fixture
def pilot(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """Three solvers with 20 images and two draws, and their values."""
    shifts = {"dps": 0.0, "repaint": 0.01, "ddnm": 0.1}
    return tmp_path, {name: cell(tmp_path, name, shift) for name, shift in shifts.items()}


def test_a_table_and_a_sentence(
    pilot: tuple[Path, dict[str, np.ndarray]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, values = pilot
    words = [f"pilot={folder}", "metric=lpips_vgg", "resolve=0.005", "margin=0.01"]
    assert verb("plan", *words, "images=70", "draws=2") == 0
    text = capsys.readouterr().out
    assert "imagenet64 · comod · inpainting · prior imagenet64_edm · seed 0 · 3 pairs" in text
    spreads = [np.std(values[a] - values[b], ddof=1) for a, b in (("dps", "repaint"),)]
    needed = int(images_needed(0.005, spreads[0], pairs=3))
    line = next(line.split() for line in text.splitlines() if line.startswith("dps"))
    assert line[1] == "repaint" and int(line[4]) == needed
    assert "70 images resolve a difference of 0.005 by lpips_vgg in" in text
    assert "70 images show equal solvers equal within 0.01 in" in text and "4 draws" in text


def test_the_study_narrows_the_pilot(
    pilot: tuple[Path, dict[str, np.ndarray]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"pilot={pilot[0]}", "metric=lpips_vgg", "resolve=0.005"]
    assert verb("plan", "-m", "solver=dps,ddnm", *words) == 0
    text = capsys.readouterr().out
    assert "· 1 pairs in the table" in text and "repaint" not in text
    with pytest.raises(UserError, match="no cells with mask=rotated as the study has"):
        verb("plan", "mask=rotated", *words)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["metric=psnr", "resolve=1"], "metric= resolve= asks how many images.* give pilot=STUDY"),
        (["pilot={0}"], "pilot= needs metric=NAME"),
        (["pilot={0}/none", "metric=psnr"], "not a study folder"),
        (["pilot={0}", "metric=psn"], "unknown metric 'psn'"),
        (["pilot={0}", "metric=psnr", "resolve=0"], "resolve takes a number above 0"),
        (["pilot={0}", "metric=psnr", "power=1"], "power takes a number between 0 and 1"),
    ],
)
def test_a_question_without_an_answer_is_one_line(
    pilot: tuple[Path, dict[str, np.ndarray]], words: list[str], text: str
) -> None:
    with pytest.raises(UserError, match=text) as refusal:
        verb("plan", *(word.format(pilot[0]) for word in words))
    assert "\n" not in str(refusal.value)
