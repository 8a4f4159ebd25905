"""``python -m bench try``: what it refuses, what it prints and draws, and that its numbers are
those of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.bench.harness import run as run_study
from tests.bench.pages.test_contact_sheet import places

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.cli.stored_image import stored_image
from posterior_bench.bench.cli.try_request import make_request
from posterior_bench.bench.pages.sheet_colours import HOLE, STRIPE

HATCH = np.array([tuple(bytes.fromhex(colour[1:])) for colour in (HOLE, STRIPE)])
METRICS = "metrics=[psnr,ssim,consistency]"
SMALL = ("--model", "smooth", "prior.shape=[1,8,8]", "threads=1", "--draws", "2")


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A landscape of 640 x 320 pixels; the current folder is an empty one."""
    rows, columns = np.mgrid[:320, :640]
    colours = np.stack([columns / 640, rows / 320, (columns + rows) % 97 / 97], -1)
    (tmp_path / "own").mkdir()
    path = tmp_path / "own" / "beach.jpg"
    Image.fromarray((255 * colours).astype(np.uint8)).save(path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return path


@pytest.fixture
def mask(photo: Path) -> Path:
    """Drawn on the photograph, whose centre becomes 8 x 8 pixels of 40 x 40: white in rows 1 to 4,
    columns 2 to 4."""
    pixels = np.zeros((320, 640), np.uint8)
    pixels[40:200, 160 + 80 : 160 + 200] = 255
    path = photo.with_name("hole.png")
    Image.fromarray(pixels).save(path)
    return path


def ended(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main(["try", *map(str, arguments)])
    return int(end.value.code or 0)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert ended(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("bench: ") and error.count("\n") == 1
    return error


# -- what is refused, before anything is loaded ----------------------------------------------------


def files_that_are_no_input(photo: Path) -> None:
    photo.with_name("notes.jpg").write_text("no image")
    photo.with_name("cut.jpg").write_bytes(photo.read_bytes()[:900])
    photo.with_name("model").mkdir()
    grey = np.broadcast_to(np.arange(640) % 256, (320, 640)).astype(np.uint8)
    for name, pixels in {
        "grey.png": grey,
        "black.png": np.zeros((320, 640), np.uint8),
        "white.png": np.full((320, 640), 255, np.uint8),
        "small.png": np.eye(50, dtype=np.uint8) * 255,
    }.items():
        Image.fromarray(pixels).save(photo.with_name(name))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.jpg", "comod"], ["no file nothing.jpg"]),
        ([".", "comod"], ["PHOTO . is a folder"]),
        (["OWN/notes.jpg", "comod"], ["notes.jpg", "no image"]),
        (["OWN/cut.jpg", "comod"], ["cut.jpg", "truncated"]),
        (["OWN/beach.jpg"], ["MASK", "bench try photo.jpg mask.png"]),
        (["OWN/beach.jpg", "hole.png"], ["no file hole.png"]),
        (["OWN/beach.jpg", "OWN"], ["MASK", "is a folder"]),
        (["OWN/beach.jpg", "comodo"], ["no file comodo", "Did you mean 'comod'?"]),
        (["OWN/beach.jpg", "OWN/notes.jpg"], ["cannot read", "notes.jpg"]),
        (["OWN/beach.jpg", "OWN/black.png"], ["black.png", "hides everything or nothing"]),
        (["OWN/beach.jpg", "OWN/white.png"], ["white.png", "hides everything or nothing"]),
        (["OWN/beach.jpg", "OWN/grey.png"], ["grey.png", "neither black nor white"]),
        (["OWN/beach.jpg", "OWN/small.png"], ["50 x 50", "640 x 320", "64 x 64"]),
        (
            ["OWN/beach.jpg", "comod", "--solvers", "dps,repant"],
            ["repant", "Did you mean 'repaint'?"],
        ),
        (["OWN/beach.jpg", "comod", "--model", "nowhere/model"], ["nowhere/model does not exist"]),
        (["OWN/beach.jpg", "comod", "--model", "fashon"], ["Did you mean 'fashion'?"]),
        (["OWN/beach.jpg", "comod", "--model", "OWN/beach.jpg"], ["is a file", "convert"]),
        (["OWN/beach.jpg", "comod", "--model", "OWN/model"], ["model", "prior.json"]),
        (["OWN/beach.jpg", "comod", "--draws", "0"], ["--draws 0"]),
        (["OWN/beach.jpg", "comod", "--draws", "many"], ["many"]),
        (["OWN/beach.jpg", "comod", "--speed", "3"], ["--speed"]),
        (["OWN/beach.jpg", "comod", "--out", "picture.jpg"], [".png"]),
        (["OWN/beach.jpg", "comod", "--out", "no/such/picture.png"], ["there is no folder"]),
        (["OWN/beach.jpg", "comod", "solver=dps"], ["solver=dps", "--solvers"]),
        (["OWN/beach.jpg", "comod", "batch=2"], ["batch=2", "leave it out"]),
        (["OWN/beach.jpg", "comod", "repaint"], ["'repaint' is one argument too many"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it(
    photo: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    files_that_are_no_input(photo)
    error = refusal(capsys, *[argument.replace("OWN", str(photo.parent)) for argument in arguments])
    for word in words:
        assert word in error
    assert not list(Path.cwd().iterdir())


def test_the_picture_never_replaces_what_is_there(
    photo: Path, mask: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "would replace" in refusal(capsys, photo, mask, "--out", mask)
    assert make_request(photo, str(mask)).out == Path("try_beach.png")
    Path("try_beach.png").touch()
    Path("try_beach_2.png").touch()
    assert make_request(photo, str(mask)).out == Path("try_beach_3.png")


@pytest.mark.parametrize(
    ("side", "prior"), [(28, "fashion"), (32, "fashion_latent"), (64, "faces"), (320, "faces")]
)
def test_the_embedded_prior_follows_the_size_of_the_mask_then_the_colours(
    photo: Path, side: int, prior: str
) -> None:
    square = photo.with_name("square.png")
    Image.open(photo).crop((0, 0, 320, 320)).save(square)
    pixels = np.zeros((side, side), np.uint8)
    pixels[: side // 2] = 255
    drawn = photo.with_name("drawn.png")
    Image.fromarray(pixels).save(drawn)
    assert make_request(square, str(drawn)).prior == prior


def test_it_has_its_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("--help") == 0
    text = capsys.readouterr().out
    for word in (
        "PHOTO",
        "MASK",
        "--model",
        "--solvers",
        "--draws",
        "--out",
        "--seed",
        "photo.jpg mask.png",
    ):
        assert word in text
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "try " in capsys.readouterr().out


# -- what it does ----------------------------------------------------------------------------------


def test_numbers_and_pictures_are_those_of_a_run(
    photo: Path, mask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(photo, mask, *SMALL, "--solvers", "ddnm,dps", "--seed", "3", METRICS) == 0
    said = capsys.readouterr().out
    assert "hole.png hides 19% of that" in said, "twelve of 64 pixels"
    assert str(Path.cwd() / "try_beach.png") in said
    sheet = np.asarray(Image.open("try_beach.png").convert("RGB"))
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "beach.jpg").write_bytes(photo.read_bytes())
    pixels = np.zeros((8, 8), np.uint8)
    pixels[1:5, 2:5] = 255
    Image.fromarray(pixels).save(tmp_path / "eight.png")
    for solver in ("ddnm", "dps"):
        outcome = run_study(
            [
                *(
                    f"solver={solver}",
                    "prior=smooth",
                    "prior.shape=[1,8,8]",
                    "draws=2",
                    "batch=2",
                    "seed=3",
                ),
                *(
                    "data=folder",
                    f"data.root={alone}",
                    "data.size=8",
                    "data.mode=grey",
                    "data.images=1",
                ),
                *(
                    "mask=files",
                    f"mask.path={tmp_path / 'eight.png'}",
                    "mask.white=hole",
                    "threads=1",
                    "quiet=true",
                ),
                *("sheet=false", "report=false", f"out={tmp_path / 'study'}", METRICS),
            ]
        )
        rows = outcome.plan.store.read(
            ["psnr_hole", "ssim_hole", "consistency", "nfe", "nge", "png"]
        )
        table = said.partition("psnr_hole (dB)")[2]
        line = next(line for line in table.splitlines() if line.split()[:1] == [solver])
        passes = rows["nfe"].mean() + rows["nge"].mean()
        expected = [*rows[["psnr_hole", "ssim_hole", "consistency"]].mean(), passes]
        shown = [float(word) for word in line.split()[1:-1]]
        assert shown == pytest.approx(expected, rel=0.006), "three digits are shown"
        left = [place[1] for png in rows["png"] for place in places(sheet, stored_image(png), 28)]
        assert len(left) == 2 and left[0] < left[1], "each draw once, the first on the left"


def test_the_hole_is_hatched_where_it_was_drawn(photo: Path, mask: Path) -> None:
    assert ended(photo, mask, *SMALL, "--solvers", "ddnm", "solver.steps=2") == 0
    sheet = np.asarray(Image.open("try_beach.png").convert("RGB"))
    rows, columns = np.nonzero(
        (sheet[:, :250, None] == HATCH).all(-1).any(-1)[: sheet.shape[0] - 45]
    )
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (4 * 28, 3 * 28)


def test_three_solvers_that_fit_run_if_none_is_named(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(photo, "rotated", *SMALL, "--draws", "1", "metrics=[psnr]") == 0
    said = capsys.readouterr().out
    started = [
        line.split(":")[0] for line in said.splitlines() if line.endswith("network passes ...")
    ]
    assert started == ["repaint", "dps", "vipaint2"]


def test_a_solver_that_does_not_fit_is_refused_by_name(
    photo: Path, mask: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refusal(capsys, photo, mask, *SMALL, "--solvers", "ddnm,psld")
    assert "psld" in error and "latent" in error
    error = refusal(capsys, photo, mask, *SMALL, "operator=gaussian_blur")
    assert "operator=gaussian_blur" in error and "mask" in error
    pixels = np.zeros((320, 640), np.uint8)
    pixels[:, :100] = 255
    Image.fromarray(pixels).save(mask)
    error = refusal(capsys, photo, mask, *SMALL)
    assert "hole.png" in error and "centre" in error and "/tmp/bench-try" not in error


def test_a_solver_that_fails_leaves_its_reason_and_exit_code_1(
    photo: Path, mask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "broken.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom posterior_bench.solvers.base import Card, "
        "Sampler\n\n\n@dataclass(frozen=True)\n"
        "class Broken(Sampler):\n    '''Fails.'''\n\n    card = Card('Broken', 'none', 'none')\n\n"
        "    def draw(self, obs, prior, noise):\n        raise RuntimeError('no idea')\n"
    )
    assert ended(photo, mask, *SMALL, "--solvers", f"ddnm,{file}:Broken") == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "2 of 2 draws failed: RuntimeError: no idea" in said
    assert Path("try_beach.png").is_file()
