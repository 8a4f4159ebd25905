"""The ``README.md`` of a bundle: the same facts in words."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from posterior_bench.bench.analysis.tables import escape_markdown

_SEEN = {
    "no": "No test image was among the training data of a prior, says the submitter.",
    "yes": "Test images were among the training data of a prior, says the submitter.",
    "unknown": "The submitter does not know whether test images were among the training data.",
}


def readme(about: Mapping[str, Any], table: str) -> str:
    """Return the text.

    Parameters
    ----------
    about : mapping
        The content of ``bundle.json``.
    table : str
        The content of ``table.csv``.
    """
    return "\n".join([*_head(about), *_methods(about), *_data(about), *_numbers(about, table), ""])


def _head(about: Mapping[str, Any]) -> Iterator[str]:
    yield "# Submission"
    yield ""
    yield (
        f"By {escape_markdown(about['by'])}, {about['date']}, with posterior-bench "
        f"{about['version']}. `bench verify` checks this bundle: rows, masks, measurements and "
        "tables, and it computes rows again."
    )


def _methods(about: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "## Methods", "")
    for card in about["methods"]:
        words = [card["title"], card["paper"], card["equations"], card["settings"]]
        text = ". ".join(escape_markdown(word).rstrip(".") for word in words if word)
        yield f"- **{escape_markdown(card['solver'])}**: {text or 'code of the submitter'}."
        yield from (f"  - {escape_markdown(line)}" for line in card["deviations"])


def _data(about: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "## Training data", "", _SEEN[about["contamination"]["seen"]], "")
    for prior in about["contamination"]["priors"]:
        yield (
            f"- {escape_markdown(prior['prior'])}, scored on {escape_markdown(prior['data'])}: "
            f"{escape_markdown(prior['trained_on'])}"
        )


def _numbers(about: Mapping[str, Any], table: str) -> Iterator[str]:
    yield from ("", "## Cells", "")
    for line in csv.DictReader(io.StringIO(table)):
        words = [line[key] for key in ("solver", "data", "mask", "operator", "prior")]
        yield (
            f"- {escape_markdown(' · '.join(words))}: {line['images']} images, {line['draws']} "
            f"draws, {line['failed']} rows failed"
        )
    if about["reported"]:
        yield from (
            "",
            "## Reported numbers",
            "",
            "| solver | metric | reported | measured | source |",
        )
        yield "| --- | --- | --- | --- | --- |"
    for entry in about["reported"]:
        words = [entry[key] for key in ("solver", "metric", "printed", "measured", "source")]
        yield f"| {' | '.join(map(escape_markdown, words))} |"
