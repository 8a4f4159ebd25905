"""``bench figure``: pictures of a study side by side, for a paper."""

from __future__ import annotations

from pathlib import Path

from posterior_bench.bench.cli.output_file import writing
from posterior_bench.bench.cli.paper_settings import add_page, add_where, chosen, some_names
from posterior_bench.bench.cli.parser import Parser, whole_number
from posterior_bench.bench.cli.report import add_trust
from posterior_bench.bench.cli.verb import Verb


def add_arguments(parser: Parser) -> None:
    """Declare the study, and what the figure shows."""
    parser.add_argument("study", type=Path, metavar="STUDY", help="the folder of a study")
    parser.add_setting(
        "images", "N|[ID,...]", "the first N images of every measurement, or which", _images, 3
    )
    parser.add_setting(
        "solvers",
        "[SOLVER,...]",
        "solvers in their order (default: all, best first)",
        some_names,
        (),
    )
    parser.add_setting("draw", "N", "which draw, from 0 on", _draw, 0)
    parser.add_setting("metric", "NAME", "the metric whose value stands below every draw")
    parser.add_setting(
        "crop",
        "auto|none|X,Y,SIDE",
        "the window that is enlarged, in pixels; auto: where most detail is hidden",
        _crop,
        "auto",
    )
    add_page(parser)
    add_where(parser, but=("images", "draws"))
    parser.add_setting(
        "out", "FILE", "the files, .pdf and .png added (default: pictures in the study)"
    )
    add_trust(parser, "run the TorchScript operator that the study names, to show its measurements")


def run(
    study: Path,
    images: int | list[str],
    solvers: list[str],
    draw: int,
    metric: str | None,
    crop: str | tuple[int, int, int],
    style: str,
    width: str | None,
    out: str | None,
    plugins: list[str],
    trust_file: bool,
    **where: str | None,
) -> int:
    """Write the figure, and print its caption and where it is.

    Parameters
    ----------
    study : Path
        The folder of the study.
    images : int or list of str
        How many of the first images, or which.
    solvers : list of str
        The solvers; empty for all.
    draw : int
        Which draw.
    metric : str or None
        The metric whose value stands below every draw.
    crop : str or tuple of int
        ``auto``, ``none``, or corner and side of the window.
    style : str
        The page that it must fit.
    width : str or None
        ``column`` or ``page``; None for a column if its pictures are large enough.
    out : str or None
        The files without their ending.
    plugins : list of str
        Packages and files whose code may be imported.
    trust_file : bool
        Whether TorchScript programs that the study names may run.
    **where : str or None
        Columns of the leaderboard and the values that cells must have there.

    Raises
    ------
    UserError
        If the folder is no study, a name does not exist, or the pictures do not fit.
    """
    # torch, pandas and matplotlib take seconds to load, and help does not need them
    from posterior_bench.bench.analysis.paper_styles import paper_style
    from posterior_bench.bench.config.plugins import admit
    from posterior_bench.bench.core import terminal
    from posterior_bench.bench.pages import paper_figure, paper_grid
    from posterior_bench.bench.pages.crops import Crop
    from posterior_bench.bench.store.study_files import check_study, planned_cells

    check_study(study)
    planned_cells(study)
    page = paper_style(style)
    admit(plugins, trust_file)
    window = crop if isinstance(crop, str) else Crop(*crop)
    wish = paper_grid.FigureWish(images, solvers, draw, metric, window, chosen(where))
    found = paper_grid.grid(study, wish)
    path = Path(out) if out else study / "pictures"
    path = path.with_suffix("") if path.suffix in (".pdf", ".png") else path
    with writing(f"out={path}"):
        paths, kind = paper_figure.write(found, page, width, path)
    said = f"{found.caption} Width: a {kind} of style={style}."
    terminal.out.print(said, markup=False, highlight=False)
    for each in paths:
        terminal.out.print(f"{each}", style="dim")
    return 0


def _images(text: str) -> int | list[str]:
    return whole_number(text) if text.isdigit() else some_names(text)


def _draw(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError("takes a whole number from 0 on")
    return int(text)


def _crop(text: str) -> str | tuple[int, int, int]:
    if text in ("auto", "none"):
        return text
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError("takes auto, none, or three whole numbers X,Y,SIDE")
    x, y, side = map(int, parts)
    if not side:
        raise ValueError("takes a side of at least 1 pixel")
    return x, y, side


VERB = Verb(
    name="figure",
    does="write pictures of a study side by side as PDF and PNG for a paper, windows enlarged",
    example="bench figure runs/default images=2 style=icml",
    more="Images and draws are not chosen by how they look: images=N takes the first ones, and "
    "draw=0 the first draw. crop=auto takes the window where most detail of the truth is "
    "hidden, whatever the solvers made of it. The fonts of the PDF are embedded.",
    add_arguments=add_arguments,
    run=run,
    prints_only=True,
)
