"""What the network of a cell is told of every image: a class, a prompt, or nothing.

Prompts are read and checked when a cell is planned. Embeddings that the prior does not have are
computed before the run, once for each prompt (:mod:`bench.external.text_encoders`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from posterior_bench.bench.config.captions import prompts_of
from posterior_bench.bench.config.labels import labels_of
from posterior_bench.bench.config.prompts import GIVE, LABEL_MAP, LABELS, Node, absolute_paths
from posterior_bench.bench.core.errors import Inapplicable, UserError
from posterior_bench.bench.external import prompt_cache, text_encoders
from posterior_bench.datasets.base import ImageSet
from posterior_bench.priors.base import Condition, Prior

ALIKE = 0.05
"""How far, of its norm, the empty prompt of a text encoder may lie from that of the prior: half
precision is 0.001."""

Rows = Mapping[str, Tensor]


class Conditioning:
    """The labels or prompts of one cell.

    ``node``: its data node. ``prompts``: the prompt of every image in use; None where none are
    given. Raises UserError for prompts that cannot be read, and Inapplicable for a prior that reads
    none.
    """

    def __init__(self, node: Node, images: ImageSet, prior: Prior, prior_path: object = None):
        self.node, self.images, self.prior = node, images, prior
        self._path = Path(str(prior_path)).expanduser() if isinstance(prior_path, str) else None
        self._rows: dict[str, Rows] = {}
        self.cut: list[str] = []
        """Prompts whose end the text encoder does not read; known once :meth:`ready` was called."""
        count = int(node.get("images", 0))
        self.prompts = prompts_of(node, images, list(images.ids)[:count]) if count else None
        if self.prompts is not None and not prior.reads_text:
            raise Inapplicable(
                "this prior reads no prompts, so those that are given would not be used; leave "
                "them out, or choose a "
                "text-conditional prior such as prior=sd15"
            )
        self.classes = self._classes(count)
        known = node.get(LABEL_MAP)
        if self.classes is not None and known is not None and known != _digest(self.classes):
            raise UserError(
                "the classes of this cell are no longer those of its plan; give the same command "
                "again"
            )
        known = node.get("prompts")
        if self.prompts is not None and known is not None and known != _digest(self.prompts):
            raise UserError(
                "the prompts of this cell are no longer those of its plan; give the same command "
                "again"
            )

    def _classes(self, count: int) -> dict[str, int] | None:
        """Return the class of every image in use; None where none are given."""
        given = [f"data.{key}" for key in LABELS if self.node.get(key) is not None]
        if not given:
            return None
        if self.prompts is not None:
            raise UserError(f"{given[0]} and prompts are both given; give one of them")
        if not self.prior.num_classes:
            raise Inapplicable(
                f"this prior knows no classes, so {given[0]} would not be used; leave it out, or "
                "choose a class-conditional prior"
            )
        ids = list(self.images.ids)[:count]
        prior = self.prior
        return labels_of(self.node, self.images, ids, prior.num_classes, prior.class_names)

    def demand_same_classes(self) -> None:
        """Inapplicable where labels of the data would mean other classes than the prior's."""
        prior, images = self.prior, self.images
        if (
            self.classes is None
            and not prior.reads_text
            and prior.num_classes
            and images.num_classes not in (0, prior.num_classes)
        ):
            raise Inapplicable(
                f"the labels of the data are of {images.num_classes} classes, those of the prior "
                f"of "
                f"{prior.num_classes}, so they mean other things; choose prior= and data= that "
                f"fit, or the same images "
                "without labels (data=folder)"
            )

    @property
    def labels_fit(self) -> bool:
        """Whether labels of the data are labels of the prior.

        They are classes of both, or numbers of the prior's prompts. Given classes always are.
        """
        if self.classes is not None:
            return True
        return self.prompts is None and self.images.num_classes == self.prior.num_classes

    @property
    def guidable(self) -> bool:
        """Whether the network is told something that it can also do without, as guidance needs."""
        if self.prompts is not None:
            return any(self.prompts.values())
        return self.labels_fit and self.prior.null_label is not None

    @property
    def unasked(self) -> str:
        """The input that stands in for a class or prompt, in words.

        Empty if the network is told a class or prompt, or reads none.
        """
        labelled = self.classes is not None or bool(self.images.num_classes)
        told = (self.labels_fit and labelled) or (self.prompts is not None and self.guidable)
        if told or not (self.prior.num_classes or self.prior.reads_text):
            return ""
        return "the empty prompt" if self.prior.reads_text else "the null class"

    @property
    def why_unasked(self) -> str:
        """The reason for :attr:`unasked`, and the setting that mends it."""
        if not self.unasked:
            return ""
        known = ", ".join(self.prior.class_names[:3]) + (
            ", ..." if len(self.prior.class_names) > 3 else ""
        )
        classes = f"{self.images.num_classes or 'no'} classes"
        if not self.prior.reads_text:
            names = f" ({known})" if known else ""
            return f"it knows {self.prior.num_classes} classes{names}, and the data has no labels"
        if self.prompts is not None:
            return "no other prompt is given"
        own = (
            f"; of its own it has {self.prior.num_classes} prompts ({known}), and the data has "
            f"{classes}"
        )
        return f"no prompt is given (set {GIVE})" + (own if known else "")

    def guidance_problem(self) -> str:
        """Return why guidance other than 1 is impossible in this cell.

        The text says how to change that; it is empty where guidance is possible.
        """
        if self.guidable:
            return ""
        if self.prior.reads_text:
            return (
                f"guidance other than 1 leads away from the empty prompt, and no prompt is given: "
                f"set {GIVE}, or the "
                "solver's guidance to 1"
            )
        labels = f" (the labels of the data, {self.images.num_classes} classes, are not used)"
        return (
            "guidance other than 1 needs a prior with a null condition, and images with its labels "
            "or prompts"
            f"{labels if self.images.num_classes and not self.prior.num_classes else ''}; set the "
            f"solver's guidance to "
            "1, or choose prior= and data= that have them"
        )

    # -- the condition -----------------------------------------------------------------------------

    def of(self, labels: Tensor | None, ids: Sequence[str]) -> Condition | None:
        """Return the condition for images ``ids`` with these labels.

        None stands for the null condition of the network.
        """
        if self.classes is not None:
            given = [self.classes[image] for image in ids]
            return self.prior.condition(torch.tensor(given, device=self.prior.device))
        if self.prompts is None:
            return self.prior.condition(None if labels is None or not self.labels_fit else labels)
        prompts = [self.prompts[image] for image in ids]
        self.ready(prompts)
        return self.prior.prompted([self._rows[prompt] for prompt in prompts])

    def ready(self, prompts: Sequence[str] | None = None) -> None:
        """Embed some prompts, or all prompts of the cell.

        Raises
        ------
        UserError
            If the text encoder is missing or belongs to another model.
        """
        asked = list(
            dict.fromkeys([*(self.prompts or {}).values()] if prompts is None else prompts)
        )
        missing = [prompt for prompt in asked if prompt not in self._rows]
        own = {prompt: i for i, prompt in enumerate(self.prior.class_names)} | {"": -1}
        self._rows |= {
            prompt: self.prior.prompt_rows(own[prompt]) for prompt in missing if prompt in own
        }
        foreign = [prompt for prompt in missing if prompt not in own]
        if not foreign:
            return
        folder, witness = self._folder(), self._witness()
        found = prompt_cache.embeddings_of(
            [*foreign, witness],
            self.node.get("encoder") or prompt_cache.encoder_hash(self._found()),
            folder,
        )
        rows = {prompt: _renamed(tables) for prompt, tables in found.items()}
        try:
            self.prior.prompted([rows[witness]])
        except ValueError as error:
            raise UserError(
                f"the text encoder in {folder} belongs to another model: {error}"
            ) from None
        self._demand_same_encoder(rows[witness], self.prior.prompt_rows(own[witness]), folder)
        self._rows |= {prompt: rows[prompt] for prompt in foreign}
        with suppress(UserError):  # without the package or the folder, embeddings that are kept do
            self.cut += [] if folder is None else text_encoders.longer_than_read(folder, foreign)

    def _witness(self) -> str:
        """Return a prompt of the prior by whose embedding text encoders are told apart.

        It is the empty one, unless the prior reads zeros there and has another prompt.
        """
        own = [("", -1), *((prompt, i) for i, prompt in enumerate(self.prior.class_names))]
        told = (
            prompt
            for prompt, i in own
            if any(bool(table.any()) for table in self.prior.prompt_rows(i).values())
        )
        return next(told, "")

    def _demand_same_encoder(self, found: Rows, own: Rows, folder: Path | None) -> None:
        apart = max(
            float((found[k] - own[k].cpu()).norm() / own[k].norm().cpu().clamp_min(1e-12))
            for k in own
        )
        if not apart <= ALIKE:
            witness = self._witness()
            what = f"'{witness[:60]}'" if witness else "the empty prompt"
            raise UserError(
                f"the text encoder in {folder} belongs to another model: it embeds {what} "
                f"differently than the prior has it (by {apart:.0%}); set data.text_encoder to the "
                "folder that the prior was made from"
            )

    # -- what a plan records -----------------------------------------------------------------------

    def content(self) -> Node:
        """Return what to record of the prompts and, if one is needed, of the text encoder.

        These are their absolute paths and hashes of what they hold; the same of given classes.
        Empty without prompts and classes.
        """
        if self.classes is not None:
            recorded = {**absolute_paths(self.node), LABEL_MAP: _digest(self.classes)}
            self.node = {**self.node, **recorded}
            return recorded
        if self.prompts is None:
            return {}
        own = {*self.prior.class_names, ""}
        needed = any(prompt not in own for prompt in self.prompts.values())
        encoder = {"encoder": prompt_cache.encoder_hash(self._found())} if needed else {}
        settings = {**absolute_paths(self.node), "prompts": _digest(self.prompts), **encoder}
        self.node = {**self.node, **settings}
        return settings

    @property
    def recorded(self) -> dict[str, str]:
        """Entries of the cell's identity: the stand-in for a class or prompt, and cut prompts."""
        asked = {"asked": self.unasked} if self.unasked else {}
        return {**asked, **({"cut": f"{len(self.cut)} prompts"} if self.cut else {})}

    @property
    def said(self) -> list[str]:
        """The same as lines for the terminal."""
        lines = [f"is asked with {self.unasked}: {self.why_unasked}"] if self.unasked else []
        if self.cut:
            lines.append(
                f"has {len(self.cut)} prompts that are longer than it reads, such as "
                f"'{self.cut[0][:60]}'"
            )
        return lines

    def _folder(self) -> Path | None:
        """Return the folder of the text encoder: the named one, else that of the prior."""
        if named := self.node.get("text_encoder"):
            return Path(named).expanduser()
        beside = self._path is not None and (self._path / "text_encoder" / "config.json").is_file()
        return self._path if beside else None

    def _found(self) -> Path:
        folder = self._folder()
        if folder is None:
            raise UserError(
                "the prior has no embeddings of these prompts; set data.text_encoder=FOLDER to the "
                "diffusers folder it "
                f"was made from, and install transformers (pip install "
                f'"posterior-bench[{text_encoders.EXTRA}]")'
            )
        return folder


def _digest(by_image: Mapping[str, object]) -> str:
    """Return a hash of what every image is given."""
    text = json.dumps(sorted(by_image.items()))
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _renamed(tables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tables of a prompt from their names in a file to those in a network.

    A file calls the rows of one prompt ``context``, a network its whole table ``contexts``.
    """
    return {"contexts" if name == "context" else name: table for name, table in tables.items()}
