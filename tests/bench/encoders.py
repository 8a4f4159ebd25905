"""Stand-ins for the package transformers, small enough to compute by hand what they give."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

LENGTH = 7


class Words:
    """A tokenizer of letters: the number of each, then 1 for the end, then zeros."""

    model_max_length = LENGTH
    asked: ClassVar[list[dict[str, Any]]] = []

    @classmethod
    def from_pretrained(cls, place: Path, **settings: Any) -> Words:
        cls.asked.append(settings)
        return cls()

    def tokenize(self, text: str) -> list[str]:
        return list(text)

    def num_special_tokens_to_add(self) -> int:
        return 1

    def __call__(
        self, texts: list[str], padding: str, max_length: int, truncation: bool, return_tensors: str
    ) -> Any:
        assert (padding, truncation, return_tensors) == ("max_length", True, "pt")
        rows = [[*map(ord, text[: max_length - 1]), 1] for text in texts]
        ids = torch.tensor([row + [0] * (max_length - len(row)) for row in rows])
        return SimpleNamespace(input_ids=ids, attention_mask=(ids > 0).long())


class Output(tuple):
    hidden_states: tuple[Tensor, ...]
    pooler_output: Tensor


def text_model(width: int, kind: str) -> type:
    """A text encoder whose states are multiples of the letters; ``kind``: last, pooled, or words
    (T5)."""

    class Model(nn.Module):
        asked: ClassVar[list[dict[str, Any]]] = []
        config = SimpleNamespace(use_attention_mask=False)

        @classmethod
        def from_pretrained(cls, place: Path, **settings: Any) -> Model:
            cls.asked.append(settings)
            made = cls()
            made.scale = json.loads((place / "config.json").read_text())["scale"]
            return made

        def forward(
            self, ids: Tensor, attention_mask: Tensor | None, output_hidden_states: bool
        ) -> Output:
            assert attention_mask is None
            state = self.scale * ids[..., None].double() * torch.arange(1, width + 1)
            out = Output([state[:, 0] + 0.5 if kind == "pooled" else state])
            out.pooler_output = state[:, 0] + 0.25
            out.hidden_states = (state - 2, state - 1, state)
            return out

    return Model


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("transformers")
    for name in ("CLIPTokenizer", "T5TokenizerFast"):
        setattr(module, name, type(name, (Words,), {"asked": []}))
    module.CLIPTextModel = text_model(6, "last")
    module.CLIPTextModelWithProjection = text_model(3, "pooled")
    module.T5EncoderModel = text_model(8, "words")
    monkeypatch.setitem(sys.modules, "transformers", module)
    return module


def pipeline(folder: Path, version: int | str, t5: bool = True) -> Path:
    """The folders of a pipeline, with what the stand-ins above read of them.

    Versions are 1, ``xl``, 3 and ``flux``.
    """
    two = ["", "_2"]
    ends = {1: [""], "xl": two, 3: [*two, *(["_3"] if t5 else [])], "flux": two}[version]
    for i, end in enumerate(ends):
        (folder / f"tokenizer{end}").mkdir(parents=True)
        (folder / f"text_encoder{end}").mkdir()
        (folder / f"text_encoder{end}" / "config.json").write_text(json.dumps({"scale": 10.0**i}))
    network = folder / ("unet" if version in (1, "xl") else "transformer")
    network.mkdir()
    config = {"joint_attention_dim": 8}
    if version == "flux":
        config = {"_class_name": "FluxTransformer2DModel"}
    (network / "config.json").write_text(json.dumps(config))
    return folder


def letters(text: str, length: int) -> Tensor:
    return torch.tensor([*map(ord, text[: length - 1]), 1] + [0] * length)[:length].float()
