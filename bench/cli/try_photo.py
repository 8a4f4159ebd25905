"""``bench try``: some solvers on one photograph; a table and a picture, no study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from posterior_bench.bench.cli.parser import Parser
from posterior_bench.bench.cli.verb import Verb

WHITE = ("hole", "observed")


def add_arguments(parser: Parser) -> None:
    """Declare the photograph, the mask, the options, and settings of a run."""
    parser.add_argument(
        "photo",
        type=Path,
        metavar="PHOTO",
        help="an image file of any size; its centre square is resized to the size of the model's "
        "images",
    )
    parser.add_argument(
        "mask",
        metavar="MASK",
        help="a black and white picture as large as the photograph or the model's images, or a "
        "generator: comod",
    )
    parser.add_argument(
        "--white",
        choices=WHITE,
        default=WHITE[0],
        help="what white means in the picture MASK (default: %(default)s)",
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="a folder with prior.json, a folder of diffusers, or a name of `bench ls prior` "
        "(default: the prior of this product that fits best)",
    )
    parser.add_argument(
        "--solvers",
        default="",
        metavar="a,b,c",
        help="default: the first three of repaint, dps, vipaint2, psld, resample that fit the "
        "model",
    )
    parser.add_argument(
        "--draws",
        type=int,
        default=4,
        metavar="N",
        help="draws of every solver (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="fixes the mask of a generator, the measurement and every draw (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.png",
        help="the picture (default: try_PHOTO.png in the current folder)",
    )
    parser.add_run_settings()


def run(
    photo: Path,
    mask: str,
    white: str,
    model: str | None,
    solvers: str,
    draws: int,
    seed: int,
    out: Path | None,
    overrides: Sequence[str],
) -> int:
    """Let solvers fill in a part of the photograph; 1 if a draw failed.

    Parameters
    ----------
    photo : Path
        The photograph.
    mask : str
        A mask picture, or the name of a generator.
    white : str
        What white means in a mask picture: ``hole`` or ``observed``.
    model : str or None
        A prior.
    solvers : str
        Names of solvers between commas; empty for those that fit.
    draws : int
        Draws of every solver.
    seed : int
        Fixes mask, measurement and draws.
    out : Path or None
        The file for the picture.
    overrides : sequence of str
        Further settings of a run.
    """
    # numpy and torch take seconds to load. The request is checked and announced before torch.
    from posterior_bench.bench.cli.try_request import make_request

    request = make_request(photo, mask, white, model, solvers, draws, seed, out, overrides)
    print(request.announcement, flush=True)
    from posterior_bench.bench.cli.try_run import try_solvers

    return try_solvers(request)


VERB = Verb(
    name="try",
    does="hide a part of one photograph and let several solvers fill it in: a table and a "
    "picture, no study",
    example="bench try photo.jpg mask.png --solvers repaint,dps --draws 8",
    more="The numbers are those of a run of this photograph alone with the same mask, seed and "
    "draws, and batch= as large as draws=. Exit code 1 where some draws failed.",
    add_arguments=add_arguments,
    run=run,
)
