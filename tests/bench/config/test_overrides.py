"""Every mistake on the command line is one line that names what is valid."""

import pytest

from posterior_bench.bench.config.catalog import GROUPS, listing, option, options, show
from posterior_bench.bench.config.overrides import check, refuse_typos
from posterior_bench.bench.config.presets import settings
from posterior_bench.bench.core.errors import UserError

GOOD = [
    [],
    ["solver=repaint", "mask=comod", "data.images=32", "draws=4"],
    ["solver=blended,repaint,dps,vipaint2", "mask=rotated,comod,palette"],
    ["solver=dps", "solver.zeta=0.3,1,2"],
    ["solver=dps", "solver.zeta=2"],
    ["solver=dps", "solver.preset=authors"],
    ["solver=dps", "solver.preset=auto"],
    ["metrics=[psnr,ssim]"],
    ["mask=comod", "mask.low=0.2"],
    ["executor=ray", "executor.workers=3"],
    ["out=somewhere/else", "seed=range(3)"],
    ["solver=glob(*)"],
    ["hydra.verbose=true"],
    ["data=folder", "data.root=/some/where"],
]

BAD = [
    (["solver=vipiant2"], "Did you mean 'vipaint2'"),
    (["solver=repaint,dpps"], "Did you mean 'dps'"),
    (["solver=dps", "solver.zetta=1"], "Did you mean 'zeta'"),
    (["solver=dps", "+solver.bogus=1"], "Valid: clip"),
    (["+bogus=1"], "unknown key 'bogus'"),
    (["++bogus=1"], "unknown key 'bogus'"),
    (["+seed=1"], "write seed=VALUE"),
    (["~solver"], "chosen with solver=NAME"),
    (["~seed"], "nothing here can be deleted"),
    (["solver=dps", "solver.zeta=abc"], "takes a number"),
    (["solver=dps", "solver.steps=1.5"], "takes a whole number"),
    (["solver=dps", "solver.clip=3"], "takes true or false"),
    (["solver=dps", "solver.preset=fats"], "Did you mean 'fast'"),
    (["seed=x"], "whole number"),
    (["draws=0"], "at least 1"),
    (["draws=2,0"], "at least 1"),
    (["metrics=[psnr,snr]"], "Did you mean 'psnr'"),
    (["metrics.psnr=3"], "choose metrics with"),
    (["solver=[dps,repaint]"], "takes one name"),
    (["accept=nan"], "accept=[nan]"),
    (["seed=null"], "needs a value"),
    (["quiet=maybe"], "takes true or false"),
    (["solver=dps", "solver.presets.fast.steps=5"], "presets are fixed"),
    (["foo.bar=1"], "unknown group 'foo'"),
    (["solver=(dps"], "cannot read"),
]


@pytest.mark.parametrize("overrides", GOOD, ids=" ".join)
def test_accepted(overrides: list[str]) -> None:
    """Nothing given is lost or changed on the way to Hydra, which needs a ``++`` before settings of
    an option."""
    handed_on = [line.lstrip("+") for line in check(overrides, sweep=True)]
    assert handed_on[: len(overrides)] == overrides


def test_a_sweep_needs_m() -> None:
    with pytest.raises(UserError, match="add -m"):
        check(["solver=dps,repaint"])


@pytest.mark.parametrize(
    ("overrides", "message"), BAD, ids=lambda v: " ".join(v) if isinstance(v, list) else None
)
def test_refused_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check(overrides, sweep=True)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_option_is_listed_with_a_summary() -> None:
    text = listing()
    for group in GROUPS:
        for name, found in options(group).items():
            assert found.summary, f"conf/{group}/{name}.yaml needs a first comment line"
            assert name in text and found.summary in text


@pytest.mark.parametrize("name", list(options("solver")))
def test_show_prints_presets_and_card(name: str) -> None:
    text = show(f"solver={name}")
    content = option("solver", name).content
    for preset, values in content.get("presets", {}).items():
        assert preset in text
        assert set(settings(values)) <= set(content)
    assert "paper:" in text and "equations:" in text


@pytest.mark.parametrize("argument", ["solver", "solver=", "sover=dps", "solver=dsp"])
def test_show_refuses(argument: str) -> None:
    with pytest.raises(UserError):
        show(argument)


@pytest.mark.parametrize("name", list(options("solver")))
def test_yaml_lists_every_setting_of_the_class(name: str) -> None:
    import dataclasses

    from posterior_bench.bench.config.build import build, target

    content = option("solver", name).content
    fields = {f.name for f in dataclasses.fields(target(content))}
    assert set(option("solver", name).parameters) == fields
    if "???" in content.values():  # a setting that only the user can give
        return
    for preset in content["presets"]:
        try:
            build({**content, "preset": preset})
        except ImportError as error:
            pytest.skip(str(error))


@pytest.mark.parametrize(
    "words",
    [
        "solvr=dps",
        "workers=2",
        "solver=dsp",
        "-m solver=dps,dsp",
        "data=arena/g3",
        "solver=dps solver.stepz=3",
        "-m solver=dps,ddnm solver.zeta=3",
        "executor.workers=2",
        "mask.stepz=1 draws=2",
    ],
)
def test_a_mistyped_name_is_refused_without_a_parser_in_the_same_words(words: str) -> None:
    lines = [word for word in words.split() if word != "-m"]
    with pytest.raises(UserError) as slow:
        check(lines, sweep="-m" in words)
    with pytest.raises(UserError) as fast:
        refuse_typos(lines)
    assert str(fast.value) == str(slow.value)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "solver=dps solver.steps=20 draws=2 data.images=1 prompt=car label=3",
        "data=arena/g2 metrics=[psnr] executor=ray executor.workers=2",
        "solver=file.py:Mine solver.anything=1",
        "study=arena solver.anything=1",
        "plugins=[mine] solver=mine",
        "+solver.steps=2 ~solver solver=glob(*)",
        "metrics.psnr.region=hole hydra.verbose=true scale=smoke",
    ],
)
def test_words_that_need_a_parser_or_are_right_pass(words: str) -> None:
    refuse_typos(words.split())
