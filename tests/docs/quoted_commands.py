"""The commands that pages, configuration files and help texts quote."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from posterior_bench.bench.cli.verbs import VERBS
from posterior_bench.bench.core.environment import ROOT

_START = re.compile(r"(?:^|(?<=[\s`(]))(?:python -m bench|bench)(?=\s|$)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^ {4}.*\n?)+", re.MULTILINE)
_SPAN = re.compile(r"`([^`]+)`")
_NO_SHELL = {"bibtex", "python", "text"}
_ENDS = {"|", "||", "&&", ";", ">", "&"}


@dataclass(frozen=True)
class Quoted:
    """A command and where it stands.

    ``words`` are what follows ``bench``; ``text`` is the command as it is written.
    """

    source: str
    text: str
    words: tuple[str, ...]


def page_commands(text: str, source: str) -> Iterator[Quoted]:
    """Yield the commands in code blocks and code spans of a Markdown page."""
    blocks = [match[2] for match in _FENCE.finditer(text) if match[1] not in _NO_SHELL]
    rest = _FENCE.sub("", text)
    blocks += _INDENTED.findall(rest)
    rest = _INDENTED.sub("\n", rest)
    for block in blocks:
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            yield from _of_line(line, source)
    for match in _SPAN.finditer(rest):
        yield from _of_span(match[1], source)


def comment_commands(text: str, source: str) -> Iterator[Quoted]:
    """Yield the commands in the comments of a YAML file; a comment may go over several lines."""
    comments = [re.sub(r"^[^#]*#", "#", line) if "#" in line else "" for line in text.splitlines()]
    for block in re.findall(r"(?:^#.*\n?)+", "\n".join(comments), re.MULTILINE):
        words = " ".join(line.lstrip("# ") for line in block.splitlines())
        for match in _SPAN.finditer(words):
            yield from _of_span(match[1], source)
        for line in _SPAN.sub("", block).splitlines():
            if found := re.search(r"python -m bench .*", line):
                yield from _of_line(found[0], source)


def _of_span(span: str, source: str) -> Iterator[Quoted]:
    if _START.match(span):
        yield from _of_line(" ".join(span.split()), source)


def _of_line(line: str, source: str) -> Iterator[Quoted]:
    """Yield every command of a shell line; text of a program, such as ``bench: ...``, is none."""
    for found in _START.finditer(line):
        try:
            words = shlex.split(line[found.end() :], comments=True)
        except ValueError:
            words = line[found.end() :].split()
        end = next((i for i, word in enumerate(words) if word in _ENDS), len(words))
        kept = tuple(word.rstrip(")") if "(" not in word else word for word in words[:end])
        yield Quoted(source, line.strip(), kept)


def quoted_commands() -> list[Quoted]:
    """Return every command once: of README, CONTRIBUTING, docs, conf and the help of the verbs."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    options = sorted((ROOT / "conf").rglob("*.yaml"))
    found = [c for path in pages for c in page_commands(_read(path), _name(path))]
    found += [c for path in options for c in comment_commands(_read(path), _name(path))]
    for verb in VERBS.values():
        found += _of_line(verb.example, f"bench {verb.name} --help")
    return list({command.words: command for command in found}.values())


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
