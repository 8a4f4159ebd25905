"""Prompts and labels: which image gets which, what is embedded and when, and what would not be used
is said."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import diffusers.models.unets.unet_2d_condition  # noqa: F401  # before the stand-in for transformers is there
import pandas as pd
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from tests.bench.encoders import LENGTH, letters, pipeline, transformers
from tests.bench.harness import planned, rows, run
from torch import Tensor

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.analysis.leaderboard import build
from posterior_bench.bench.config import captions
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.config.prompts import quote_prompts
from posterior_bench.bench.conformance.small_priors import small_prior
from posterior_bench.bench.core.errors import Inapplicable, UserError
from posterior_bench.bench.engine.conditioning import Conditioning
from posterior_bench.bench.external import prompt_cache
from posterior_bench.datasets.base import ImageSet
from posterior_bench.datasets.fashion import Fashion
from posterior_bench.priors.base import Prior
from posterior_bench.priors.load import save
from posterior_bench.priors.nets import UNet2DCondition
from posterior_bench.priors.process import VP

__all__ = ["transformers"]  # a fixture

META: dict[str, object] = {"name": "tiny", "training": {}, "source": "this test", "licence": "MIT"}
WIDTH = 6


class Named(ImageSet):
    """Images of which only the names count."""

    def __init__(self, *ids: str, classes: int = 0):
        self.name, self.ids, self.shape, self.num_classes = "named", ids, (1, 8, 8), classes


def expected(text: str) -> Tensor:
    """What the stand-in for CLIP makes of a text, by hand."""
    return letters(text, LENGTH)[:, None] * torch.arange(1.0, WIDTH + 1)


def text_prior(*prompts: str) -> Prior:
    """An untrained text-conditional U-Net over 8 x 8 images that has the embeddings of these
    prompts."""
    config = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "norm_num_groups": 4,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = UNet2DCondition(config, (len(prompts) + 1, LENGTH, WIDTH))
    net.contexts.data = torch.stack([expected(text) for text in (*prompts, "")])
    process, classes = VP.scheduled("scaled_linear", 0.00085, 0.012), len(prompts)
    prior = Prior(process, net, (1, 8, 8), "eps", num_classes=classes, null_label=classes or None)
    prior.class_names = prompts
    return prior


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


# -- which image gets which text -------------------------------------------------------------------

ACCENT, DECOMPOSED = "caf\u00e9.png", "cafe\u0301.png"


@pytest.mark.parametrize(
    "content",
    [
        b"image_id,caption\na/1.png,a dog\n" + DECOMPOSED.encode() + b',"a car, at night"\n',
        b'\xef\xbb\xbfcaption,image_id\r\na dog,a/1.png\r\n"a car, at night",'
        + ACCENT.encode()
        + b"\r\n",
        b"File_Name;Text\n./a/1;a dog\ncaf\xc3\xa9;a car, at night\n\n",
        b"file_name\ttext\na\\1.png\ta dog\ncaf\xc3\xa9.jpg\ta car, at night",
        b'\xef\xbb\xbf{"id": "a/1.png", "prompt": "a dog"}\r\n\r\n{"text": "a car, at  night", '
        b'"id":"cafe\\u0301.png"}',
        b'image_id,width,caption\na/1.png,8,a dog\ncaf\xc3\xa9.png,8,"a car,\nat '
        b'night"\nb.png,8,not in use\n',
    ],
    ids=[
        "csv",
        "mark-and-crlf",
        "semicolons-no-ending",
        "tabs-other-ending",
        "json-lines",
        "three-columns",
    ],
)
def test_captions_go_to_the_image_that_a_person_means(tmp_path, content):
    file = tmp_path / "captions"
    file.write_bytes(content)
    for spelt in (ACCENT, DECOMPOSED):
        images = Named("a/1.png", spelt, "b.png")
        found = captions.prompts_of({"captions": str(file)}, images, images.ids[:2])
        assert found == {"a/1.png": "a dog", spelt: "a car, at night"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"id,text\n1.png,a\n",
            "has no caption for 2 of the 3 images in use: 2.png, 3.png; add them",
        ),
        (
            b"id,text\n1.png,a\n9.png,b\n",
            "line 3: '9.png' is no image of this data, whose ids are such as '1.png'",
        ),
        (b"id,text\n1.png,a\n2.png,c\n1,b\n", "line 4: '1' has a caption in line 2 already"),
        (b"id,text\n1.png,\n", "line 2: '1.png' has an empty caption"),
        (
            b"id,text\n1.png,a, b\n",
            "line 2: 3 fields, but the header has 2; a caption with ',' in it stands in double",
        ),
        (
            b"1.png,a\n2.png,b\n",
            "the first line, '1.png, a', names no such columns; give CSV with a header",
        ),
        (b'id,text\n1.png,"a\n', "line 2: "),
        (b"", "is empty"),
        (b"id,text\n1.png,\xff\n", "it is not UTF-8 text"),
        (b'{"id": "1.png", "text": "a"}\nid: 2\n', "line 2: no JSON object"),
        (b'{"id": "1.png", "text": 3}\n', "line 1: the id and the caption must be texts"),
    ],
)
def test_a_file_of_captions_that_does_not_fit_is_refused_with_its_line(tmp_path, content, said):
    file, images = tmp_path / "captions.csv", Named("1.png", "2.png", "3.png")
    file.write_bytes(content)
    with pytest.raises(UserError) as refusal:
        captions.captions_of(file, images, images.ids)
    assert said in str(refusal.value) and str(file) in str(refusal.value)


def test_a_name_that_may_mean_two_images_is_refused(tmp_path):
    file = tmp_path / "captions.csv"
    file.write_text("id,text\n1,a dog\n")
    with pytest.raises(UserError, match=r"'1' may mean '1\.jpg' or '1\.png'; write the whole name"):
        captions.captions_of(file, Named("1.jpg", "1.png"), ["1.jpg"])
    with pytest.raises(UserError, match="cannot be read: No such file"):
        captions.captions_of(tmp_path / "none.csv", Named("1.jpg"), ["1.jpg"])


def test_class_names_fill_a_template():
    """Labels of the first test images of Fashion-MNIST as its authors publish them: 9 2 1 1 6."""
    images = Fashion()
    found = captions.prompts_of({"class_prompt": "a photo of a {}"}, images, images.ids[:5])
    named = ["Ankle boot", "Pullover", "Trouser", "Trouser", "Shirt"]
    assert list(found.values()) == [f"a photo of a {name}" for name in named]
    with pytest.raises(UserError, match=r"put \{\} where the name of the class belongs"):
        captions.prompts_of({"class_prompt": "a photo"}, images, images.ids[:1])
    with pytest.raises(UserError, match=r"this data has no labels; give data\.captions=FILE"):
        captions.prompts_of({"class_prompt": "a {}"}, Named("1.png"), ["1.png"])
    with pytest.raises(UserError, match=r"data\.prompt and data\.class_prompt are both set"):
        captions.prompts_of({"class_prompt": "a {}", "prompt": "a"}, images, images.ids[:1])


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("a car, at night", "a car, at night"),
        ("2024", "2024"),
        ("1e5", "1e5"),
        ("true", "true"),
        ("", ""),
        ("a dog's ball \\", "a dog's ball \\"),
        ("größe (50 %) [1] {a: b} #~&", "größe (50 %) [1] {a: b} #~&"),
        ("'in quotes, too'", "in quotes, too"),
        ("null", None),
    ],
)
def test_a_prompt_is_the_text_that_was_typed(typed, text):
    """As Hydra's own parser reads it."""
    for key in ("prompt", "data.prompt"):
        (line,) = quote_prompts([f"{key}={typed}"])
        (parsed,) = OverridesParser.create().parse_overrides([line])
        assert parsed.key_or_group == "data.prompt"
        assert parsed.value() is None if text is None else str(parsed.value()) == text
        assert not parsed.is_sweep_override() and quote_prompts([line]) == [line]


def test_in_a_sweep_commas_part_prompts_unless_they_are_in_quotes():
    (line,) = quote_prompts(["prompt=a dog's ball,'x, y',2024"], sweep=True)
    (parsed,) = OverridesParser.create().parse_overrides([line])
    assert [value.text.replace("\\'", "'") for value in parsed.value().list] == [
        "a dog's ball",
        "x, y",
        "2024",
    ]
    assert quote_prompts(["seed=1,2", "promptly=3"], sweep=True) == ["seed=1,2", "promptly=3"]


# -- what the network is told ----------------------------------------------------------------------


def test_a_prompt_of_the_prior_is_the_same_as_its_label():
    """By label, as before, and by its text: the same output to the last bit, guidance included."""
    prior, images = text_prior("a dog", "a cat"), Named("1", "2")
    z, level = torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8), prior.level(1.0)
    told = Conditioning({"images": 2, "prompt": "a cat"}, images, prior).of(None, images.ids)
    label = prior.condition(torch.tensor([1, 1]))
    for guidance in (1.0, 3.0):
        by_label = prior.denoise(z, level, label, guidance)
        assert torch.equal(prior.denoise(z, level, told, guidance), by_label)
    assert not torch.equal(prior.denoise(z, level, told), prior.denoise(z, level))


def test_embeddings_are_computed_once_and_kept(transformers, cache, tmp_path, monkeypatch):
    folder, images = pipeline(tmp_path / "sd", 1), Named("1", "2", "3")
    file = tmp_path / "captions.csv"
    file.write_text("id,text\n1,a dog\n2,owls\n3,a dog\n")
    node = {"images": 3, "captions": str(file), "text_encoder": str(folder)}
    calls: list[int] = []
    forward = transformers.CLIPTextModel.forward

    def counted(self, ids: Tensor, **more: object) -> object:
        calls.append(len(ids))
        return forward(self, ids, **more)

    monkeypatch.setattr(transformers.CLIPTextModel, "forward", counted)

    def contexts() -> Tensor:
        told = Conditioning(node, images, text_prior("owls"))
        told.content()
        cond = told.of(None, images.ids)
        assert torch.equal(cond.null["contexts"], expected("").expand(3, LENGTH, WIDTH))
        return cond.values["contexts"]

    wanted = torch.stack([expected("a dog"), expected("owls"), expected("a dog")])
    assert torch.equal(contexts(), wanted)
    assert sum(calls) == 2, "'a dog' and the empty prompt; the prior has the owls"
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert torch.equal(contexts(), wanted) and sum(calls) == 2, "kept, so no encoder is needed"
    (folder / "text_encoder" / "config.json").write_text(json.dumps({"scale": 1.0, "other": True}))
    with pytest.raises(UserError, match=r'pip install "posterior-bench\[text\]"'):
        contexts()


def test_the_encoder_of_another_model_is_refused(transformers, cache, tmp_path):
    prior, images = text_prior(), Named("1")
    folder = pipeline(tmp_path / "sd", 1)
    (folder / "text_encoder" / "config.json").write_text(json.dumps({"scale": 1.5}))
    node = {"images": 1, "prompt": "a dog", "text_encoder": str(folder)}
    with pytest.raises(
        UserError, match="belongs to another model: it embeds the empty prompt differently"
    ):
        Conditioning(node, images, prior).ready()
    prior.net.contexts.data = torch.zeros(1, LENGTH, WIDTH + 1)
    with pytest.raises(UserError, match=r"belongs to another model: .* contexts \(1, 7, 7\)"):
        Conditioning(node, images, prior).ready()
    with pytest.raises(
        UserError, match=r"set data\.text_encoder=FOLDER .*pip install \"posterior-bench\[text\]\""
    ):
        Conditioning({"images": 1, "prompt": "a dog"}, images, prior).ready()
    with pytest.raises(UserError, match="holds no Stable Diffusion pipeline"):
        Conditioning({**node, "text_encoder": str(tmp_path)}, images, prior).content()


def test_an_encoder_is_told_by_another_prompt_where_the_empty_one_is_zeros(
    transformers, cache, tmp_path
):
    """As for Stable Diffusion XL."""
    prior, folder = text_prior("a cat"), pipeline(tmp_path / "sd", 1)
    prior.net.contexts.data[-1] = 0
    node = {"images": 1, "prompt": "a dog", "text_encoder": str(folder)}
    told = Conditioning(node, Named("1"), prior)
    cond = told.of(None, ["1"])
    assert torch.equal(cond.values["contexts"][0], expected("a dog"))
    assert not cond.null["contexts"].any()
    (folder / "text_encoder" / "config.json").write_text(json.dumps({"scale": 1.5}))
    with pytest.raises(UserError, match="another model: it embeds 'a cat' differently"):
        Conditioning(node, Named("1"), prior).ready()


def test_prompts_that_the_encoder_cuts_are_known(transformers, cache, tmp_path):
    """The stand-in reads seven tokens, the end among them."""
    node = {"images": 1, "text_encoder": str(pipeline(tmp_path / "sd", 1))}
    for text, cut in (("abcdef", []), ("abcdefg", ["abcdefg"])):
        told = Conditioning({**node, "prompt": text}, Named("1"), text_prior())
        told.ready()
        assert (
            told.cut == cut and len(told.said) == len(cut) and ("cut" in told.recorded) == bool(cut)
        )


def test_an_encoder_is_known_by_its_files_and_not_by_its_place(transformers, tmp_path):
    one, two = pipeline(tmp_path / "one", 1), pipeline(tmp_path / "two", 1)
    assert prompt_cache.encoder_hash(one) == prompt_cache.encoder_hash(two)
    (two / "tokenizer" / "vocab.json").write_text("{}")
    assert prompt_cache.encoder_hash(one) != prompt_cache.encoder_hash(two)


# -- what would not be used ------------------------------------------------------------------------


def test_what_the_prior_would_not_use_is_refused_or_said():
    text, classes, plain = text_prior(), small_prior("network"), small_prior("exact")
    bare, node = Named("1"), {"images": 1}
    for prior in (classes, plain):
        with pytest.raises(Inapplicable, match="this prior reads no prompts"):
            Conditioning({**node, "prompt": "a dog"}, bare, prior)
    with pytest.raises(
        Inapplicable, match=r"labels of the data are of 10 classes, those of the prior of 3"
    ):
        Conditioning(node, Named("1", classes=10), classes).demand_same_classes()

    asked = {
        (text, 0): "the empty prompt",
        (text, 10): "the empty prompt",
        (classes, 0): "the null class",
        (classes, 3): "",
        (plain, 0): "",
        (plain, 10): "",
    }
    for (prior, labels), words in asked.items():
        told = Conditioning(node, Named("1", classes=labels), prior)
        assert told.unasked == words and bool(told.why_unasked) == bool(words)
        assert bool(told.guidance_problem()) == ((prior, labels) != (classes, 3))
    assert (
        'set prompt="TEXT", data.captions=FILE' in Conditioning(node, bare, text).guidance_problem()
    )
    assert (
        "10 classes, are not used"
        in Conditioning(node, Named("1", classes=10), plain).guidance_problem()
    )
    given = Conditioning({**node, "prompt": "a dog"}, bare, text)
    assert not given.unasked and not given.guidance_problem()
    empty = Conditioning({**node, "prompt": ""}, bare, text)
    assert empty.unasked == "the empty prompt" and empty.guidance_problem()


# -- whole cells -----------------------------------------------------------------------------------


@pytest.fixture
def cell(
    command: Callable[..., list[str]], tmp_path: Path, cache: Path
) -> Callable[..., list[str]]:
    """A small cell on the text-conditional prior, which has embeddings of 'a dog' and the empty
    prompt."""
    save(tmp_path / "prior", text_prior("a dog"), {**META, "class_names": ["a dog"]}, torch.float32)

    def make(*more: str) -> list[str]:
        kept = [
            o
            for o in command("dps")
            if not o.startswith(("prior", "data.images", "draws", "solver.steps"))
        ]
        own = [
            "prior=sd15",
            f"prior.path={tmp_path / 'prior'}",
            "data.images=2",
            "draws=1",
            "solver.steps=2",
        ]
        return [*kept, *own, "mask=box", *more]

    return make


def captioned(path: Path, first: str, second: str) -> Path:
    path.write_text(f"id,text\n0.png,{first}\n1.png,{second}\n")
    return path


def test_prompts_change_the_rows_and_the_cell_and_paths_do_not(transformers, cell, tmp_path):
    folder = pipeline(tmp_path / "sd", 1)
    bare, dog, owl = (
        run(check(cell(*more))).plan
        for more in ([], ["prompt=a dog"], ["prompt=an owl", f"data.text_encoder={folder}"])
    )
    tables = [rows(plan)["png"].tolist() for plan in (bare, dog, owl)]
    assert all((rows(plan)["status"] == "ok").all() for plan in (bare, dog, owl))
    assert tables[0] != tables[1] != tables[2] != tables[0]
    assert len({plan.cell.name for plan in (bare, dog, owl)}) == 3

    board = build(bare.folder.parents[1])
    (note,) = [note for note in board.attrs["notes"] if "without a class or prompt" in note]
    assert "with the empty prompt (dps)" in note and note.count("dps") == 1
    assert sorted(label.partition("prompt=")[2] for label in board["data"]) == [
        "",
        "a dog",
        "an owl",
    ]
    assert pd.Series(board["solver"]).nunique() == 1

    moved, file = tmp_path / "moved", captioned(tmp_path / "captions.csv", "an owl", "an owl")
    folder.rename(moved)
    same = planned(check(cell(f"data.captions={file}", f"data.text_encoder={moved}")))
    assert same.cell.name == owl.cell.name, "the same prompts and encoder, given in another way"
    for text in ("data", "solver", "prior"):
        assert str(tmp_path) not in str(same.cell.identity[text])
    captioned(file, "an owl", "a dog")
    assert (
        planned(check(cell(f"data.captions={file}", f"data.text_encoder={moved}"))).cell.name
        != owl.cell.name
    )


def test_the_terminal_says_what_is_asked_and_refuses_guidance_without_prompts(cell, capsys):
    def plan(*more: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["plan", *cell("quiet=false", *more)])
        return int(stop.value.code or 0), *capsys.readouterr()

    code, out, err = plan()
    assert (code, err) == (0, "") and "asked with the empty prompt" in out
    planned(check(cell("quiet=false")))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "bench: prior sd15 is asked with the empty prompt: no prompt is given (set prompt="
    )
    code, out, err = plan("prompt=a dog", "solver.guidance=3")
    assert (code, err) == (0, "") and "prompts  1 for 2 images, such as 'a dog'" in out
    code, out, err = plan("solver.guidance=3")
    assert code == 2 and err.count("\n") == 1 and 'set prompt="TEXT", data.captions=FILE' in err
