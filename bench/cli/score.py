"""``bench score``: metrics for finished rows, from their stored images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posterior_bench.bench.cli.parser import Parser
from posterior_bench.bench.cli.report import add_trust
from posterior_bench.bench.cli.verb import Verb
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.core.errors import FAILED, UserError


def add_arguments(parser: Parser) -> None:
    """Declare the study, the metrics with their settings, and which code may run."""
    parser.add_argument("study", type=Path, metavar="STUDY", help="the folder of a study")
    parser.add_setting(
        "metrics",
        "[NAME,...]",
        "the metrics to add; `bench ls metrics` lists them. metrics.NAME.KEY=VALUE sets a metric",
        required=True,
    )
    add_trust(parser, "run the TorchScript operator that the study names")
    parser.add_run_settings()


def run(
    study: Path, metrics: str, plugins: list[str], trust_file: bool, overrides: Sequence[str]
) -> int:
    """Add the metrics and print the leaderboard; 1 if a good row has no stored image.

    Parameters
    ----------
    study : Path
        The folder of the study.
    metrics : str
        The metrics, as Hydra takes them.
    plugins : list of str
        Packages and files whose code may be imported.
    trust_file : bool
        Whether TorchScript programs that the study names may run.
    overrides : sequence of str
        Settings of metrics.
    """
    for line in overrides:
        if not line.startswith("metrics."):
            raise UserError(
                f"'score' takes metrics= and their settings, plugins= and trust_file= only, not "
                f"{line}"
            )
    admitted = [f"plugins=[{','.join(plugins)}]"] if plugins else []
    lines = check([f"metrics={metrics}", *overrides, *admitted])
    # these load torch: a mistake in the settings is answered before
    from omegaconf import OmegaConf

    from posterior_bench.bench.analysis import leaderboard
    from posterior_bench.bench.config.compose import compose
    from posterior_bench.bench.config.plugins import admit

    # loads torch: a mistake in the settings is answered before
    from posterior_bench.bench.core.terminal import out
    from posterior_bench.bench.engine.score import score, usual_device

    nodes: Any = OmegaConf.to_container(compose(lines)[0]["metrics"], resolve=True)
    admit(plugins, trust_file)
    done = score(study, nodes, usual_device())
    out.print(f"{done.written} shards scored, {done.there} had these metrics")
    for row in done.unstored:
        out.print(f"no stored image, so no values: {row}", markup=False)
    if done.unchecked:
        cells = ", ".join(done.unchecked)
        out.print(
            f"scored against the originals that are there now: {cells} of a version before 0.2.0 "
            "do not record which pictures they were measured on",
            markup=False,
        )
    out.print(leaderboard.table(leaderboard.write(study), out.width, first=nodes))
    return FAILED if done.unstored else 0


VERB = Verb(
    name="score",
    does="add metrics to finished rows from their stored images, without sampling",
    example="bench score runs/default metrics=[kid]",
    add_arguments=add_arguments,
    run=run,
)
