"""``python -m bench embed-prompts``: tables as the pipelines make them, in a file that ``convert``
reads."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tests.bench.encoders import LENGTH, letters, pipeline, transformers

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.external.prompt_cache import encoder_hash
from posterior_bench.bench.external.text_encoders import (
    CLIP,
    FLUX_TOKENS,
    T5_TOKENS,
    _encoded,
    longer_than_read,
    stable_diffusion,
    stable_diffusion_3,
    stable_diffusion_xl,
)
from posterior_bench.priors.convert.hub import _prompts

__all__ = ["transformers"]  # a fixture


def prompts(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["embed-prompts", *map(str, arguments)])
    return int(stop.value.code or 0)


def test_one_clip_gives_its_last_state_and_the_empty_prompt_is_added(transformers, tmp_path):
    target = tmp_path / "out" / "p.safetensors"
    file = prompts(tmp_path / "prompts.txt", "a dog", "ünder an umbrella")
    assert run(pipeline(tmp_path / "sd", 1), "--prompts", file, "--to", target) == 0
    tables = load_file(target)
    wanted = torch.stack([letters(text, LENGTH) for text in ("a dog", "ünder an umbrella", "")])
    assert set(tables) == {"context"} and tables["context"].dtype == torch.float32
    assert torch.equal(tables["context"], wanted[..., None] * torch.arange(1, 7))
    with safe_open(target, "pt") as opened:
        assert json.loads(opened.metadata()["prompts"]) == ["a dog", "ünder an umbrella", ""]
    names, read = _prompts(target, ("context",))
    assert names == ["a dog", "ünder an umbrella"] and torch.equal(
        read["context"], tables["context"]
    )
    for asked in (*transformers.CLIPTokenizer.asked, *transformers.CLIPTextModel.asked):
        assert asked["local_files_only"] and not asked["trust_remote_code"]
    assert all(asked["use_safetensors"] for asked in transformers.CLIPTextModel.asked)


@pytest.mark.parametrize("t5", [True, False])
def test_version_3_puts_two_clips_side_by_side_and_t5_behind_them(transformers, tmp_path, t5):
    target = tmp_path / "p.safetensors"
    lines = [
        "",
        *(f"prompt {i}" for i in range(20)),
    ]  # more than one batch; the empty one stays where it is
    folder = pipeline(tmp_path / "sd", 3, t5)
    assert run(folder, "--prompts", prompts(tmp_path / "prompts.txt", *lines), "--to", target) == 0
    tables = load_file(target)
    assert tables["context"].shape == (21, LENGTH + T5_TOKENS, 8) and tables["pooled"].shape == (
        21,
        6,
    )
    for row in (0, 20):
        clip = letters(lines[row], LENGTH)[:, None] * torch.arange(1, 4)
        expected = torch.cat([clip - 1, 10 * clip - 1, torch.zeros(LENGTH, 2)], 1)
        assert torch.equal(tables["context"][row, :LENGTH], expected)
        words = (
            100 * letters(lines[row], T5_TOKENS)[:, None] * torch.arange(1, 9)
            if t5
            else torch.zeros(T5_TOKENS, 8)
        )
        assert torch.equal(tables["context"][row, LENGTH:], words)
        assert torch.equal(tables["pooled"][row], torch.cat([clip[0] + 0.5, 10 * clip[0] + 0.5]))


@pytest.mark.parametrize("zeros", [True, False])
def test_version_xl_puts_the_states_before_the_last_side_by_side(transformers, tmp_path, zeros):
    folder, target = pipeline(tmp_path / "sd", "xl"), tmp_path / "p.safetensors"
    index = {} if zeros else {"force_zeros_for_empty_prompt": False}
    (folder / "model_index.json").write_text(json.dumps(index))
    file = prompts(tmp_path / "prompts.txt", "a dog")
    assert run(folder, "--prompts", file, "--to", target) == 0
    tables = load_file(target)
    for row, text in enumerate(("a dog", "")):
        signs = letters(text, LENGTH)[:, None]
        # the first encoder is six wide here, the second, ten times as large, three
        context = torch.cat(
            [signs * torch.arange(1, 7) - 1, 10 * signs * torch.arange(1, 4) - 1], 1
        )
        pooled = 10 * signs[0] * torch.arange(1, 4) + 0.5
        seen = 0 if zeros and not text else 1
        assert torch.equal(tables["context"][row], seen * context)
        assert torch.equal(tables["pooled"][row], seen * pooled)
    before = encoder_hash(folder)
    (folder / "model_index.json").write_text(json.dumps({"force_zeros_for_empty_prompt": zeros}))
    assert encoder_hash(folder) == before
    (folder / "model_index.json").write_text(
        json.dumps({"force_zeros_for_empty_prompt": not zeros})
    )
    assert encoder_hash(folder) != before


def test_flux_reads_t5_and_the_pooled_state_of_clip(transformers, tmp_path):
    folder, target = pipeline(tmp_path / "flux", "flux"), tmp_path / "p.safetensors"
    file = prompts(tmp_path / "prompts.txt", "a dog")
    assert run(folder, "--prompts", file, "--to", target) == 0
    tables = load_file(target)
    for row, text in enumerate(("a dog", "")):
        words = 10 * letters(text, FLUX_TOKENS)[:, None] * torch.arange(1, 9)
        assert torch.equal(tables["context"][row], words)
        first = letters(text, LENGTH)[0]
        assert torch.equal(tables["pooled"][row], first * torch.arange(1, 7) + 0.25)
    assert tables["context"].shape == (2, 512, 8)
    long = "x" * 20
    assert longer_than_read(folder, [long, "a", "x" * 600]) == ["x" * 600]
    assert longer_than_read(pipeline(tmp_path / "xl", "xl"), [long, "a"]) == [long]


def test_what_cannot_be_embedded_is_refused_in_one_line(transformers, tmp_path, capsys):
    folder, target = pipeline(tmp_path / "sd", 1), tmp_path / "p.safetensors"
    file = prompts(tmp_path / "prompts.txt", "a dog")

    def refusal(*arguments: object) -> str:
        assert run(*arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("bench: ") and error.count("\n") == 1
        return error

    assert "--prompts" in refusal(folder, "--to", target)
    assert "must end in .safetensors" in refusal(
        folder, "--prompts", file, "--to", tmp_path / "p.pt"
    )
    assert "cannot be read" in refusal(folder, "--prompts", tmp_path / "none.txt", "--to", target)
    assert "has 2 empty lines" in refusal(
        folder, "--prompts", prompts(tmp_path / "two.txt", "", "a", ""), "--to", target
    )
    assert "holds no Stable Diffusion pipeline" in refusal(
        tmp_path, "--prompts", file, "--to", target
    )
    (folder / "unet").rename(folder / "transformer")
    assert "holds a pipeline that is not supported" in refusal(
        folder, "--prompts", file, "--to", target
    )
    (folder / "transformer").rename(folder / "unet")
    (folder / "tokenizer").rmdir()
    assert "tokenizer does not exist" in refusal(folder, "--prompts", file, "--to", target)
    assert not target.exists()
    target.write_bytes(b"")
    assert "is there already" in refusal(folder, "--prompts", file, "--to", target)


def test_without_transformers_one_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    file = prompts(tmp_path / "prompts.txt", "a dog")
    assert (
        run(pipeline(tmp_path / "sd", 1), "--prompts", file, "--to", tmp_path / "p.safetensors")
        == 2
    )
    assert (
        'need the package transformers: pip install "posterior-bench[text]"'
        in capsys.readouterr().err
    )


def _tiny_clip(folder: Path, end: str, projected: bool, seed: int) -> None:
    """A CLIP text encoder of one layer and a tokenizer of letters."""
    import transformers

    place = folder / f"tokenizer{end}"
    place.mkdir(parents=True)
    signs = [
        *"abcdefgh",
        *(f"{sign}</w>" for sign in "abcdefgh"),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    (place / "vocab.json").write_text(json.dumps({sign: i for i, sign in enumerate(signs)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    (place / "tokenizer_config.json").write_text(
        json.dumps({"model_max_length": 12, "pad_token": "<|endoftext|>"})
    )
    sizes = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    ids = {"bos_token_id": 16, "eos_token_id": 17, "pad_token_id": 17}
    config = transformers.CLIPTextConfig(
        vocab_size=18, projection_dim=6, max_position_embeddings=12, **sizes, **ids
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
        kind(config).eval().save_pretrained(folder / f"text_encoder{end}")


def test_the_embeddings_are_those_of_the_pipelines(tmp_path):
    """The pipelines' own ``encode_prompt``; version 3 without T5, as they run it too."""
    real = pytest.importorskip("transformers")
    from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline

    texts = ["abc", "head cab", ""]
    one, three = tmp_path / "one", tmp_path / "three"
    _tiny_clip(one, "", False, 0)
    stand_in = SimpleNamespace(
        tokenizer=real.CLIPTokenizer.from_pretrained(one / "tokenizer"),
        text_encoder=real.CLIPTextModel.from_pretrained(one / "text_encoder"),
    )
    with torch.no_grad():
        expected = StableDiffusionPipeline.encode_prompt(stand_in, texts, "cpu", 1, False)[0]
    torch.testing.assert_close(stable_diffusion(one, texts)["context"], expected)

    for seed, end in enumerate(("", "_2")):
        _tiny_clip(three, end, True, seed)
    (three / "transformer").mkdir()
    (three / "transformer" / "config.json").write_text(json.dumps({"joint_attention_dim": 20}))
    loaded = {
        f"{name}{end}": cls.from_pretrained(three / f"{name}{end}")
        for end in ("", "_2")
        for name, cls in (
            ("tokenizer", real.CLIPTokenizer),
            ("text_encoder", real.CLIPTextModelWithProjection),
        )
    }
    shape = SimpleNamespace(config=SimpleNamespace(joint_attention_dim=20))
    stand_in = SimpleNamespace(
        **loaded, tokenizer_3=None, text_encoder_3=None, transformer=shape, tokenizer_max_length=12
    )
    for name in ("_get_clip_prompt_embeds", "_get_t5_prompt_embeds"):
        setattr(stand_in, name, getattr(StableDiffusion3Pipeline, name).__get__(stand_in))
    with torch.no_grad():
        found = StableDiffusion3Pipeline.encode_prompt(
            stand_in, texts, texts, texts, "cpu", 1, False
        )
    ours = stable_diffusion_3(three, texts)
    torch.testing.assert_close(ours["context"], found[0])
    torch.testing.assert_close(ours["pooled"], found[2])


def test_the_embeddings_of_version_xl_and_flux_are_those_of_the_pipelines(tmp_path):
    """The pipelines' own ``encode_prompt``; of FLUX the part of CLIP."""
    real = pytest.importorskip("transformers")
    from diffusers import FluxPipeline, StableDiffusionXLPipeline

    texts = ["abc", "head cab", ""]
    _tiny_clip(tmp_path, "", False, 0)
    _tiny_clip(tmp_path, "_2", True, 1)
    stand_in = SimpleNamespace(
        tokenizer=real.CLIPTokenizer.from_pretrained(tmp_path / "tokenizer"),
        tokenizer_2=real.CLIPTokenizer.from_pretrained(tmp_path / "tokenizer_2"),
        text_encoder=real.CLIPTextModel.from_pretrained(tmp_path / "text_encoder"),
        text_encoder_2=real.CLIPTextModelWithProjection.from_pretrained(
            tmp_path / "text_encoder_2"
        ),
        config=SimpleNamespace(force_zeros_for_empty_prompt=True),
        tokenizer_max_length=12,
    )
    with torch.no_grad():
        context, null, pooled, null_pooled = StableDiffusionXLPipeline.encode_prompt(
            stand_in, texts[:2], device="cpu"
        )
        first = FluxPipeline._get_clip_prompt_embeds(stand_in, texts, device="cpu")
    ours = stable_diffusion_xl(tmp_path, texts)
    torch.testing.assert_close(ours["context"], torch.cat([context, null[:1]]))
    torch.testing.assert_close(ours["pooled"], torch.cat([pooled, null_pooled[:1]]))
    found = _encoded(tmp_path, "", CLIP, texts, lambda out: [out.pooler_output])[0]
    torch.testing.assert_close(found, first)
