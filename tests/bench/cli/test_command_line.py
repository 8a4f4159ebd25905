"""Help, version, completion, suggestions and exit codes: what somebody sees who does not know the
program yet."""

from __future__ import annotations

import argparse
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.cli.completion import SCRIPT, candidates
from posterior_bench.bench.cli.verbs import EXIT_CODES, VERBS
from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.core import errors
from posterior_bench.bench.core.errors import BAD_INPUT, UserError, mistakes, nearest

ROOT = Path(__file__).resolve().parents[3]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0), capsys.readouterr().out


# -- help ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", list(VERBS))
def test_a_verb_is_given_exactly_what_its_parser_reads(verb: str) -> None:
    parser = VERBS[verb].parser()
    read = {action.dest for action in parser._actions} - {"help", "version"}
    read -= {"overrides"} if parser.settings and not parser.takes_run_settings else set()
    read = {dest for dest in read | parser.settings.keys() if dest != argparse.SUPPRESS}
    taken = inspect.signature(VERBS[verb].run).parameters
    loose = any(each.kind is each.VAR_KEYWORD for each in taken.values())
    named = {name for name, each in taken.items() if each.kind is not each.VAR_KEYWORD}
    assert named <= read and (loose or named == read)


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_has_help_of_its_own(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(capsys, verb, "--help")
    assert code == 0
    assert text.startswith(f"usage: bench {verb} ") and "\nexample:\n  " in text
    parser = VERBS[verb].parser()
    assert VERBS[verb].does[1:] in text
    assert all(option in text for option in parser.option_names)
    assert all(f"  {key}=" in text for key in parser.settings)
    assert said(capsys, verb, "anything", "-h") == said(capsys, "help", verb) == (0, text)
    assert f"bench {verb}" in VERBS[verb].example


def test_the_help_of_all_has_a_line_per_verb_and_setting(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, text = said(capsys, "--help")
    assert code == 0 and text == said(capsys, "-h")[1] == said(capsys, "help")[1]
    for verb in VERBS:
        assert re.search(rf"^  {verb}  +\S", text, re.MULTILINE)
    assert re.search(r"^  seed=  +\S", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("compact", "'compact': the following arguments are required: STUDY; for example: bench"),
        ("compact a b", "'b' is one word too many"),
        ("convert a --to b --dype fp16", "unknown option of 'convert' '--dype'. Did you mean"),
        ("convert a --to b --dtype fp8", "invalid choice: 'fp8' (choose from"),
        ("try a b --draws x", "invalid int value: 'x'"),
        ("report a imagse=3", "unknown setting of report 'imagse'. Did you mean 'images'?"),
        ("report a images=0", "images takes a whole number of at least 1"),
        ("report a trust_file=yes", "trust_file takes true or false"),
        ("export-masks truth=1", "truth takes true or false"),
        ("pack data=arena/g2", "'pack': the following arguments are required: DIR"),
        ("pack a samples=many", "samples takes a whole number of at least 1"),
        ("pack a out=b data=arena/g2", "'pack' writes to DIR; leave out= out"),
        ("score-samples a", "'score-samples': the following arguments are required: FILE"),
        ("score-samples a b solver=dps", "unknown setting of score-samples 'solver'"),
        ("check", "'check' needs solver=; for example: bench check solver=dps"),
        ("compare a", "'compare' needs a=, b=, metric=; for example: bench compare"),
        ("compare a b a=dps", "takes metric= and out= only"),
        ("-m --cfg job", "-m and --cfg cannot be given together"),
        ("--config-dir x", "--config-dir is not taken here"),
        ("run --shell-completion", "bench completion bash"),
        ("completion fish", "knows bash"),
        ("lss", "Did you mean 'ls'?"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(words.split())
    error = capsys.readouterr().err
    assert end.value.code == BAD_INPUT and error.startswith("bench: ") and error.count("\n") == 1
    assert message in error


def test_the_configuration_of_a_study_is_that_of_its_first_cell() -> None:
    words = ["-m", "bench", "--cfg", "job", "-p", "mask", "study=faces_posterior", "solver=dps"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    shown = yaml.safe_load(done.stdout)
    first = yaml.safe_load((ROOT / "conf/study/faces_posterior.yaml").read_text())["study"]
    assert (shown["part"], shown["_target_"]) == (
        first["parts"][0]["mask.part"],
        "masks.semantic.Semantic",
    )


def test_a_setting_is_not_taken_for_a_word_that_may_be_left_out() -> None:
    read = VERBS["compare"].parser().read(["runs/x", "a=dps", "b=repaint", "metric=psnr"])
    assert (read["other"], read["a"], read["b"], read["metric"]) == (None, "dps", "repaint", "psnr")


def test_settings_of_the_verb_may_stand_anywhere() -> None:
    read = VERBS["score"].parser().read(["metrics=[kid]", "runs/x", "plugins=[a,b]", "metrics.k=1"])
    assert read == {
        "study": Path("runs/x"),
        "metrics": "[kid]",
        "plugins": ["a", "b"],
        "trust_file": False,
        "overrides": ["metrics.k=1"],
    }


def test_help_lists_and_mistyped_names_load_neither_torch_nor_hydra() -> None:
    lines = (
        "--help",
        "score --help",
        "--version",
        "ls",
        "show solver=dps",
        "rnu",
        "solvr=dps",
        "plan solver=dsp",
        "-m solver=dps,dsp",
        "solver=dps solver.stepz=3",
        "doctor mask.stepz=3 draws=2",
    )
    words = [*map(str.split, lines), ["completion", "words", "bench solver="]]
    code = (
        "import sys, contextlib\nfrom posterior_bench.bench.__main__ import main\n"
        f"for words in {words}:\n"
        "    with contextlib.suppress(SystemExit):\n        main(words)\n"
        "    assert not {'torch', 'numpy', 'hydra', 'omegaconf'} & sys.modules.keys(), words\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_version_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert said(capsys, "--version")[1].startswith(f"posterior-bench {project['version']}")


# -- exit codes ------------------------------------------------------------------------------------


def test_the_page_has_every_exit_code_with_its_meaning() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text()
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE))
    assert {int(code): text for code, text in rows.items()} == EXIT_CODES
    names = ("FAILED", "BAD_INPUT", "BUG", "INTERRUPTED", "TERMINATED")
    assert {0, *(getattr(errors, name) for name in names)} == EXIT_CODES.keys()


# -- suggestions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "count"),
    [
        ("dsp", "dps", 1),
        ("dps", "dps", 0),
        ("", "abc", 3),
        ("kitten", "sitting", 3),
        ("abcd", "badc", 2),
        ("ca", "abc", 3),
    ],
)
def test_mistakes_counted_by_hand(a: str, b: str, count: int) -> None:
    """``ca`` to ``abc`` takes three where a swapped pair is not edited again (optimal string
    alignment)."""
    assert mistakes(a, b) == mistakes(b, a) == count


@pytest.mark.parametrize(
    ("given", "group", "name"),
    [
        ("dsp", "solver", "dps"),
        ("DPS", "solver", "dps"),
        ("dpps", "solver", "dps"),
        ("vipiant2", "solver", "vipaint2"),
        ("repiant", "solver", "repaint"),
        ("comdo", "mask", "comod"),
        ("fasion", "data", "fashion"),
        ("imagenet25", "data", "imagenet256"),
        ("psrn", "metrics", "psnr"),
        ("aerna", "study", "arena"),
    ],
)
def test_the_name_that_was_meant(given: str, group: str, name: str) -> None:
    assert nearest(given, options(group)) == name


@pytest.mark.parametrize("given", ["", "x", "qqqqqq", "zzz"])
def test_nothing_is_suggested_for_what_is_like_nothing(given: str) -> None:
    assert nearest(given, options("solver")) is None


@pytest.mark.parametrize(
    ("given", "meant"), [("lss", "ls"), ("trian", "train"), ("raport", "report"), ("Plan", "plan")]
)
def test_verbs_too(given: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([given])
    assert end.value.code == BAD_INPUT
    assert f"Did you mean '{meant}'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("executor.workers=2", "'workers' is a setting of executor=ray: choose that too"),
        ("solver.zeat=1", "Did you mean 'zeta'?"),
        ("workers=2", "executor.workers=VALUE"),
        ("sede=1", "Did you mean 'seed'?"),
    ],
)
def test_a_key_says_where_it_belongs(line: str, said: str) -> None:
    with pytest.raises(UserError) as refusal:
        check(["solver=dps", line])
    assert said in str(refusal.value)


# -- completion ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "there", "not_there"),
    [
        ("bench ", {"report", "score", "solver=", "seed="}, {"--to"}),
        ("bench re", {"report", "retry="}, {"score"}),
        ("bench run solver=", {"dps", "repaint"}, {"comod"}),
        ("bench solver=dp", {"dps"}, {"repaint"}),
        ("bench -m solver=dps,re", {"dps,repaint"}, {"repaint"}),
        ("bench metrics=[psnr,ss", {"[psnr,ssim"}, {"ssim"}),
        ("bench plan solver=dps solver.z", {"solver.zeta="}, {"solver.steps="}),
        ("bench convert x --a", {"--as", "--autoencoder"}, {"--to"}),
        ("bench report ", set(), {"solver="}),
    ],
)
def test_what_may_follow(line: str, there: set[str], not_there: set[str]) -> None:
    found = {*candidates(line, VERBS)}
    assert there <= found and not not_there & found


def test_bash_completes_with_the_script() -> None:
    typed = (
        f'bench() {{ "{sys.executable}" -m bench "$@"; }}\n{SCRIPT}'
        'COMP_LINE="bench solver=vipaint"; COMP_POINT=${#COMP_LINE}; _bench; printf "%s " '
        '"${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", typed], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["vipaint1", "vipaint2", "vipaint4"], done.stderr
