"""``bench convert``: a published checkpoint to the folder of a prior, without executing it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posterior_bench.bench.cli.parser import Parser
from posterior_bench.bench.cli.verb import Verb


def add_arguments(parser: Parser) -> None:
    """Declare source, target, the options of the layouts, and the description of the prior."""
    parser.add_argument(
        "source",
        type=Path,
        metavar="FILE",
        help="the published file, or the folder of a diffusers pipeline",
    )
    parser.add_argument(
        "--as",
        dest="family",
        choices=("edm", "adm", "compvis", "pnpflow", "diffusers", "hub"),
        help="whose layout the file has (hub: the same as diffusers); a folder needs none",
    )
    parser.add_argument(
        "--to", dest="target", type=Path, required=True, metavar="DIR", help="the new folder"
    )
    _add_layout_options(parser)
    parser.add_argument(
        "--dtype",
        choices=("fp32", "fp16"),
        default="fp32",
        help="how the weights are stored (default: %(default)s)",
    )
    parser.add_argument(
        "--name", metavar="NAME", help="what tables call the prior (default: the folder's name)"
    )
    parser.add_argument(
        "--licence", metavar="TEXT", help="the licence of the weights, recorded with them"
    )
    parser.add_argument("--sha256", metavar="HASH", help="refuse a file with another hash")


def _add_layout_options(parser: Parser) -> None:
    parser.add_argument(
        "--layout",
        metavar="NAME",
        help="adm, compvis, pnpflow: which of the known networks, where the file does not say",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="adm, compvis, pnpflow: the settings of the network, where they are in a file of "
        "their own",
    )
    parser.add_argument(
        "--weights",
        choices=("ema", "raw"),
        help="compvis: averaged or raw weights, where the file holds both",
    )
    parser.add_argument(
        "--autoencoder",
        type=Path,
        metavar="PATH",
        help="compvis: the autoencoder, where it is published apart",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="hub: embedded prompts, from `bench embed-prompts`",
    )
    parser.add_argument(
        "--controlnet", type=Path, metavar="PATH", help="hub: a ControlNet beside a transformer"
    )
    parser.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help="hub: another size of the images, where the model reads text",
    )


def run(source: Path, target: Path, **options: Any) -> int:
    """Convert the checkpoint, and print what to do next.

    Parameters
    ----------
    source : Path
        The published file or folder.
    target : Path
        The folder of the prior.
    **options : object
        The other options; see :class:`~bench.external.conversion.Conversion`.
    """
    # this loads torch, which help does not need
    from posterior_bench.bench.core.terminal import out
    from posterior_bench.bench.external.conversion import Conversion, convert, next_command

    folder = convert(Conversion(source, target, **options))
    out.print(f"{folder / 'prior.json'}", style="dim")
    out.print(f"next: {next_command(folder)}", markup=False, highlight=False, soft_wrap=True)
    return 0


VERB = Verb(
    name="convert",
    does="convert published weights to a prior; `bench show prior=NAME` has the command",
    example="bench convert ffhq_10m.pt --as adm --layout ffhq --to checkpoints/ffhq_adm",
    add_arguments=add_arguments,
    run=run,
)
