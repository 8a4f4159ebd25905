"""Settings that tables and figures for papers share."""

from __future__ import annotations

from collections.abc import Mapping

from posterior_bench.bench.cli.parser import Parser, names
from posterior_bench.bench.config.prior_paths import PREFIX, with_prior_names

WHERE = ("data", "mask", "operator", "prior", "seed", "images", "draws")
"""Columns of the leaderboard by which cells may be chosen."""


def add_page(parser: Parser) -> None:
    """Declare the style of the page and the width."""
    parser.add_setting(
        "style",
        "NAME",
        "the page it must fit: neurips, iclr, icml, cvpr or article",
        str,
        "neurips",
    )
    parser.add_setting(
        "width", "column|page", "how wide it may be (default: a column if it fits)", column_or_page
    )


def add_where(parser: Parser, but: tuple[str, ...] = ()) -> None:
    """Declare the choice of cells."""
    for key in WHERE:
        if key not in but:
            parser.add_setting(key, "VALUE", f"show only cells with this {key}")


def chosen(where: Mapping[str, str | None]) -> dict[str, str]:
    """Return the values of :data:`WHERE` that were given, a prior's folder by its name."""
    given = {key: value for key, value in where.items() if value is not None}
    if "prior" in given:
        given["prior"] = with_prior_names([f"{PREFIX}{given['prior']}"])[0].removeprefix(PREFIX)
    return given


def column_or_page(text: str) -> str:
    """Return ``column`` or ``page``."""
    if text not in ("column", "page"):
        raise ValueError("takes column or page")
    return text


def some_names(text: str) -> list[str]:
    """Return the names of a list such as ``[a,b]``, at least one."""
    found = names(text)
    if not found:
        raise ValueError("takes names such as [a,b]")
    return found
