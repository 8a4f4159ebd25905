"""Check the interpolations in a user's settings, read by OmegaConf's own grammar.

A reference to another setting (``${seed}``) is fine. A call of a resolver (``${oc.env:NAME}``) is
not: settings are recorded as they were resolved, and the environment holds secrets. A text search
for ``${oc.`` misses ``${ oc.env:A}``, ``${oc.decode:...}`` and every resolver that a library
registers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from posterior_bench.bench.core.errors import UserError


def refuse(text: str, where: str) -> None:
    """Raise UserError if ``text`` calls a resolver, reads Hydra's settings or cannot be read.

    ``where`` names the setting. Backslashes are ignored: a call could lose its escape when a
    launcher writes the text again.
    """
    if "${" not in (bare := text.replace("\\", "")):
        return
    reason = _reason(bare)
    if reason:
        raise UserError(f"{where} {reason}")


def refuse_resolvers(config: Any) -> None:
    """Check every key and value of a composed configuration, before it is resolved.

    Hydra's own node is left out: its interpolations are ours, and a user's settings there are
    checked as they are given.
    """
    # only here: OmegaConf loads slowly, and overrides are checked without it
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config, resolve=False, throw_on_missing=False)
    if not isinstance(plain, Mapping):
        return
    for place, text in nested_texts({key: value for key, value in plain.items() if key != "hydra"}):
        refuse(text, f"the setting {place}")


def nested_texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in nested values, keys included, with its place (``data.root``)."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            inner = f"{place}.{key}" if place else str(key)
            yield inner, str(key)
            yield from nested_texts(part, inner)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for i, part in enumerate(value):
            yield from nested_texts(part, f"{place}[{i}]")
    elif isinstance(value, str):
        yield place, str(value)


def _reason(text: str) -> str:
    """Return why a text is refused; empty for plain references to other settings."""
    # only here: most settings have no interpolation
    from omegaconf.errors import OmegaConfBaseException
    from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser as Grammar
    from omegaconf.grammar_parser import parse

    try:
        tree = parse(text)
    except (OmegaConfBaseException, RecursionError):
        return (
            "has a '${' that cannot be read as a reference to another setting; write the value "
            "itself"
        )
    nodes = list(_nodes(tree))
    if any(isinstance(node, Grammar.InterpolationResolverContext) for node in nodes):
        return (
            "calls a resolver, which can read the environment, and settings are recorded as they "
            "were resolved; let the shell put the value in"
        )
    references = [node for node in nodes if isinstance(node, Grammar.InterpolationNodeContext)]
    if any("${" in node.getText()[2:] for node in references):
        return "has an interpolation in an interpolation; write the value itself"
    if any(
        node.getText().removeprefix("${").strip(" .[").startswith("hydra") for node in references
    ):
        return (
            "refers to Hydra's own settings, which hold paths of this machine; write the value "
            "itself"
        )
    return ""


def _nodes(tree: Any) -> Iterator[Any]:
    """Yield a parse tree's nodes without recursion: a text can nest as deep as it likes."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(getattr(node, "children", None) or ())
