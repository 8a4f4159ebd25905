"""What every verb does and takes: the texts of ``bench --help`` and ``bench VERB --help``, in one
table.

Text only, so that help costs nothing. A new verb is a row here and a function in
:data:`bench.__main__.VERBS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from posterior_bench.bench.config.settings import PLAN_SETTINGS, SETTINGS

SETTINGS_LINE = (
    "any setting of a run: `bench --help` lists them, `bench ls` what can be chosen, "
    "`bench show` its settings"
)


@dataclass(frozen=True)
class Verb:
    """One verb: what follows it, what it does, its options with a text each, and one command that
    works.

    ``settings``: it takes the settings of a run, so values that are text keep their characters.
    ``reads``: its result is what it prints, so nothing is lost where the reader of its output has
    gone.
    """

    usage: str
    does: str
    example: str
    options: Mapping[str, str] = field(default_factory=dict)
    more: str = ""
    settings: bool = False
    reads: bool = False


HELP: dict[str, Verb] = {
    "try": Verb(
        "PHOTO MASK [--model MODEL] [--solvers a,b,c] [OPTION ...] [SETTING=VALUE ...]",
        "hide a part of one photograph, let several solvers fill it in: a table and a picture, no "
        "study",
        "bench try photo.jpg mask.png --solvers repaint,dps --draws 8",
        {
            "PHOTO": "an image file of any size; its centre square is resized to the size of the "
            "model's images",
            "MASK": "a black and white picture as large as the photograph or the model's images, "
            "or a generator: comod",
            "--white WHAT": "what white means in the picture MASK: hole (default) or observed",
            "--model MODEL": "a folder with prior.json, a folder of diffusers, or a name of `bench "
            "ls prior`",
            "--solvers a,b,c": "default: the first three of repaint, dps, vipaint2, psld, resample "
            "that fit the model",
            "--draws N": "draws of every solver (default 4)",
            "--seed N": "fixes the mask of a generator, the measurement and every draw (default 0)",
            "--out FILE.png": "the picture; default: try_PHOTO.png in the current folder",
            "SETTING=VALUE": "further settings of a run, such as solver.preset=authors or "
            "operator.sigma=0.05",
        },
        "The numbers are those of a run of this photograph alone with the same mask, seed and "
        "draws, and batch= as\n"
        "large as draws=. Exit code 1 where some draws failed.",
    ),
    "run": Verb(
        "[-m] [GROUP=NAME ...] [SETTING=VALUE ...]",
        "run a cell, or with -m and comma lists a sweep (the verb may be left out)",
        "bench run -m solver=repaint,dps mask=rotated,comod data.images=8",
        {
            "-m": "run every combination of the values between commas",
            "study=NAME": "a study that sweeps by itself; solver=dps,ddnm and the like narrow it",
            "--cfg job": "show the resolved configuration, and run nothing",
            "SETTING=VALUE": SETTINGS_LINE,
        },
        "An interrupted run continues when the same command is given again.",
        settings=True,
    ),
    "plan": Verb(
        "[-m] [GROUP=NAME ...] [SETTING=VALUE ...]",
        "what a run, sweep (-m) or study would do, in seconds: cells, rows, passes, hours, disk",
        "bench plan study=arena",
        {
            "-m": "every cell of a sweep",
            **{f"{key}=": text for key, text in PLAN_SETTINGS.items()},
            "SETTING=VALUE": SETTINGS_LINE,
        },
        "docs/studies.md says how every figure is found.",
        settings=True,
        reads=True,
    ),
    "ls": Verb(
        "[GROUP]",
        "everything that can be chosen",
        "bench ls solver",
        {
            "GROUP": "one group: solver data mask operator prior metrics executor study scale; all "
            "where it is left out"
        },
        reads=True,
    ),
    "show": Verb(
        "GROUP=NAME [GROUP=NAME ...]",
        "one choice in full: settings, presets, card",
        "bench show solver=dps prior=fashion",
        {
            "GROUP=NAME": "what to show; a solver beside a prior also names the preset that it "
            "gets there"
        },
        reads=True,
    ),
    "doctor": Verb(
        "[-m] [GROUP=NAME ...] [SETTING=VALUE ...]",
        "what a run needs, looked at before it: files, hashes, weights of metrics, data, memory, "
        "disk",
        "bench doctor study=vipaint_table6 device=h100 gpus=8",
        {
            "-m": "every job of a sweep; what they have in common is looked at once",
            "memory=SIZE gpus=N": "the machine that the run is meant for, if not this one: "
            "memory=80GiB gpus=8",
            "device=NAME": "a GPU by its name instead of memory=, such as h100",
            "SETTING=VALUE": SETTINGS_LINE,
        },
        settings=True,
        reads=True,
    ),
    "check": Verb(
        "solver=NAME [SETTING=VALUE ...]",
        "what every solver promises, checked on small priors",
        "bench check solver=dps",
        {
            "solver=NAME": "one, several between commas, all, or FILE.py:CLASS",
            "prior=NAME": "check on this prior instead of the small ones",
            "SETTING=VALUE": SETTINGS_LINE,
        },
        settings=True,
        reads=True,
    ),
    "new-solver": Verb(
        "NAME",
        "the files of a new solver, which run as they are: a place to begin",
        "bench new-solver mymethod",
        {
            "NAME": "small letters, digits and _: the file's name; MyMethod becomes the name of "
            "the class"
        },
    ),
    "export-masks": Verb(
        "out=DIR [truth=true] [SETTING=VALUE ...]",
        "masks and observed images as PNG files, for methods that run elsewhere (docs/external.md)",
        "bench export-masks out=masks data.images=8 mask=comod",
        {
            "out=DIR": "an empty or new folder for the files; it appears once all of them are "
            "written",
            "truth=true": "the whole images too",
            "SETTING=VALUE": SETTINGS_LINE,
        },
        settings=True,
    ),
    "leaderboard": Verb(
        "STUDY",
        "rebuild the tables of a study from its rows",
        "bench leaderboard runs/default",
        {"STUDY": "the folder of a study: runs/NAME, or what out= said"},
        reads=True,
    ),
    "report": Verb(
        "STUDY [images=N] [metric=NAME] [extract=DIR]",
        "report.html of a study: table, pictures, figures, cards",
        "bench report runs/default images=4",
        {
            "STUDY": "the folder of a study",
            "images=N": "how many images of every measurement are shown",
            "metric=NAME": "what costs and coverage are plotted against",
            "extract=DIR": "write whole pictures as PNG files too",
            "plugins=[NAME]": "packages or files whose code may be imported; what the study names "
            "does not count",
            "trust_file=true": "run the TorchScript operator that the study names, to show its "
            "measurements",
        },
        reads=True,
    ),
    "compare": Verb(
        "STUDY a=SOLVER b=SOLVER metric=NAME [mask=NAME ...]",
        "who is better image by image, by how much, how surely; and a plot",
        "bench compare runs/default a=dps b=repaint metric=psnr",
        {
            "STUDY": "the folder of a study",
            "a=SOLVER b=SOLVER": "the two solvers, as the tables call them",
            "metric=NAME": "a metric with a value per image",
            "data= mask= operator= prior=": "only the tables of these",
        },
        reads=True,
    ),
    "diff": Verb(
        "STUDY_A STUDY_B [metric=NAME] [out=FILE.csv]",
        "two studies: cells matched, what changed in code, versions, settings, and in the numbers",
        "bench diff runs/october runs/november",
        {
            "STUDY_A STUDY_B": "the folders of two studies, also for `bench compare A B`; "
            "differences are B minus A",
            "metric=NAME": "this metric instead of all that both studies have",
            "out=FILE.csv": "write the whole table: a line per cell and metric",
        },
        reads=True,
    ),
    "score": Verb(
        "STUDY metrics=[NAME,...]",
        "add metrics to finished rows from their stored images, without sampling",
        "bench score runs/default metrics=[kid]",
        {
            "STUDY": "the folder of a study",
            "metrics=[NAME,...]": "the metrics to add, and their settings; `bench ls metrics` "
            "lists them",
            "plugins=[NAME]": "packages or files whose code may be imported; what the study names "
            "does not count",
            "trust_file=true": "run the TorchScript operator that the study names",
        },
    ),
    "compact": Verb(
        "STUDY",
        "merge the files of finished cells into a few large ones",
        "bench compact runs/default",
        {"STUDY": "the folder of a study"},
    ),
    "status": Verb(
        "STUDY",
        "how far a study is, from its folder alone: running, stalled, failed, rows per minute",
        "bench status runs/default",
        {"STUDY": "the folder of a study"},
        reads=True,
    ),
    "convert": Verb(
        "FILE [--as LAYOUT] --to DIR [OPTION ...]",
        "published weights for a prior; `bench show prior=NAME` has the command",
        "bench convert ffhq_10m.pt --as adm --to priors/ffhq_adm",
        {
            "FILE": "the published file, or the folder of a diffusers pipeline",
            "--as LAYOUT": "edm, adm, compvis or diffusers: whose layout it has; a folder needs "
            "none",
            "--to DIR": "the folder of the prior",
            "--layout NAME": "adm, compvis: which of the known networks, where the file does not "
            "say",
            "--config FILE": "adm, compvis: the settings of the network, where they lie in a file "
            "of their own",
            "--weights ema|raw": "compvis: averaged or raw weights, where the file holds both",
            "--autoencoder PATH": "compvis: the autoencoder, where it is published apart",
            "--prompts FILE": "hub: embedded prompts, from `bench embed-prompts`",
            "--controlnet PATH": "hub: a ControlNet beside a transformer",
            "--dtype fp32|fp16": "how the weights are stored",
            "--name NAME": "what tables call the prior",
            "--licence TEXT": "the licence of the weights, recorded with them",
            "--sha256 HASH": "refuse a file with another hash",
        },
    ),
    "embed-prompts": Verb(
        "FOLDER --prompts FILE --to FILE.safetensors",
        "the prompts of a Stable Diffusion prior, one a line",
        "bench embed-prompts stable-diffusion-v1-5 --prompts prompts.txt --to prompts.safetensors",
        {
            "FOLDER": "the folder of the pipeline with its text encoders",
            "--prompts FILE": "a text file, one prompt a line",
            "--to FILE.safetensors": "where the embeddings go",
        },
    ),
    "train": Verb(
        "prior=NAME [solver=NAME] [SETTING=VALUE ...]",
        "train an embedded prior; with solver=NAME, that solver's modules for it",
        "bench train prior=fashion",
        {
            "prior=NAME": "the prior",
            "solver=NAME": "train the modules of this solver instead",
            "prior.train.KEY=VALUE": "a setting of the training; `bench show prior=NAME` lists them",
        },
        settings=True,
    ),
    "completion": Verb(
        "bash",
        "print the script that completes verbs, groups, options and settings in a shell",
        'eval "$(bench completion bash)"',
        {"bash": "the shell; put the line of the example into ~/.bashrc"},
        reads=True,
    ),
}

EXIT_CODES = {
    0: "every row is ok or accepted; the verb did what it was asked for",
    1: "some rows are not (a cell whose first rows all fail alike is stopped), or a check failed",
    2: "the input was wrong, no worker can start, or the machine refused: disk, quota, permission, "
    "memory, open files",
    3: "an error inside this program; one line says where its traceback was written",
    130: "interrupted (Ctrl-C)",
    143: "terminated (SIGTERM)",
}

HEAD = """\
bench [verb] [settings]      (or: python -m bench [verb] [settings])

verbs; bench VERB --help has the options of one
{verbs}

examples
  bench solver=repaint mask=comod data.images=32 draws=4
  bench -m solver=blended,repaint,dps,vipaint2 mask=rotated,comod,palette
  bench study=arena      # a study that sweeps by itself; solver=dps,ddnm and the like narrow it

settings
{settings}

An interrupted run continues when the same command is given again. --cfg job shows the resolved configuration.
--version prints the version. docs/command-line.md: quoting, completion in the shell, settings of the launcher.

exit codes
{codes}"""


def everything() -> str:
    """``bench --help``."""
    from posterior_bench.bench.config.catalog import defaults

    groups = "  ".join(f"{g}={value}" for g, value in defaults().items())
    return HEAD.format(
        verbs=_lines({name: verb.does for name, verb in HELP.items()}),
        settings=f"  {groups}\n{_lines({f'{key}=': text for key, text in SETTINGS.items()})}",
        codes=_lines({str(code): text for code, text in EXIT_CODES.items()}),
    )


def one(name: str) -> str:
    """``bench VERB --help``."""
    verb = HELP[name]
    parts = [f"bench {name} {verb.usage}", verb.does[0].upper() + verb.does[1:] + "."]
    parts += [f"options\n{_lines(verb.options)}"] if verb.options else []
    parts += [verb.more] if verb.more else []
    return "\n\n".join([*parts, f"example\n  {verb.example}"])


def _lines(texts: Mapping[str, str]) -> str:
    width = max(map(len, texts))
    return "\n".join(f"  {name:<{width}}  {text}" for name, text in texts.items())
