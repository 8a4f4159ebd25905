"""``bench embed-prompts``: the prompts of a Stable Diffusion prior."""

from __future__ import annotations

from pathlib import Path

from posterior_bench.bench.cli.parser import Parser
from posterior_bench.bench.cli.verb import Verb


def add_arguments(parser: Parser) -> None:
    """Declare the folder of the pipeline, the prompts and the target."""
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="the folder of the pipeline with its text encoders",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        required=True,
        metavar="FILE",
        help="a text file, one prompt a line",
    )
    parser.add_argument(
        "--to",
        dest="target",
        type=Path,
        required=True,
        metavar="FILE.safetensors",
        help="the file for the embeddings",
    )


def run(folder: Path, prompts: Path, target: Path) -> int:
    """Embed the prompts and print the path of the file."""
    # this loads safetensors and transformers, which help does not need
    from posterior_bench.bench.core.terminal import out
    from posterior_bench.bench.external.text_encoders import embed_prompts

    out.print(f"{embed_prompts(folder, prompts, target)}", style="dim")
    return 0


VERB = Verb(
    name="embed-prompts",
    does="embed the prompts of a Stable Diffusion prior, one a line",
    example="bench embed-prompts stable-diffusion-v1-5 --prompts prompts.txt "
    "--to prompts.safetensors",
    add_arguments=add_arguments,
    run=run,
)
