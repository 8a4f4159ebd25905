"""The preset in the YAML file of a solver: everything else stays as it is."""

from pathlib import Path

import pytest
import yaml

from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.presets import choose
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.tuning.preset import TunedPreset, _free_name

FILE = """\
# A solver
_target_: solvers.mine.Mine
preset: auto
presets:   # what differs
  # for grey images
  fast:
    for: [fashion, g2,
          modes2]
    from: tuned
    lr: 0.1   # by hand
  authors: &authors
    for: [ffhq]
    from: authors
    lr: 1.0
  authors_released:
    <<: *authors
    compat: released
space:   # where to look
  lr: {low: 0.1, high: 1.0}
lr: null
"""
SMALL = TunedPreset(
    "fast_small",
    {
        "instead_of": "fast",
        "when": "small",
        "for": ["g2", "modes2"],
        "from": "tuned",
        "tuned": {"objective": "psnr", "runner_up": {"lr": 0.3, "law": [1.0, 2.0]}},
        "lr": 0.5,
    },
)


def put(preset, text=FILE):
    return preset.put_into(text, Path("mine.yaml"))


def test_a_new_preset_comes_second_and_takes_its_priors_from_the_others():
    after = yaml.safe_load(put(SMALL))
    assert list(after["presets"]) == ["fast", "fast_small", "authors", "authors_released"]
    assert after["presets"]["fast_small"] == dict(SMALL.content)
    assert after["presets"]["fast"] == {"for": ["fashion"], "from": "tuned", "lr": 0.1}
    assert after["presets"]["authors_released"]["lr"] == 1.0


def test_a_preset_that_loses_all_its_priors_says_what_it_is_for():
    first = TunedPreset("fast_fashion", {"for": ["fashion", "g2", "modes2"], "from": "tuned"})
    text = put(first)
    note = "for priors that no other preset names"
    assert yaml.safe_load(text)["presets"]["fast"] == {"note": note, "from": "tuned", "lr": 0.1}
    second = TunedPreset("faster", {**first.content, "lr": 2.0})
    after = yaml.safe_load(put(second, text))["presets"]
    assert after["fast_fashion"] == {"note": "replaced by faster", "from": "tuned"}


def test_the_first_preset_is_not_replaced():
    known = {"fast": {"for": ["fashion"]}, "small": {"for": ["g2"]}}
    assert _free_name("fast", known, ["fashion"]) == "fast_fashion"
    assert _free_name("small", known, ["g2", "modes2"]) == "small"
    assert _free_name("small", known, ["modes2"]) == "small_modes2"


def test_comments_and_other_lines_stay():
    before, after = FILE.splitlines(), put(SMALL).splitlines()
    gone = [line for line in before if line not in after]
    assert gone == ["    for: [fashion, g2,", "          modes2]"]


def test_putting_it_in_again_changes_nothing():
    assert put(SMALL, put(SMALL)) == put(SMALL)


def test_one_of_the_same_name_is_replaced_with_its_own_comment():
    fast = TunedPreset("fast", {"for": ["fashion"], "from": "tuned", "lr": 0.2})
    text = put(fast)
    assert yaml.safe_load(text)["presets"]["fast"] == dict(fast.content)
    assert "# for grey images" not in text
    assert "# by hand" not in text
    assert "space:   # where to look" in text


def test_a_preset_of_the_authors_keeps_its_priors():
    mine = TunedPreset("fast", {"for": ["ffhq"], "from": "tuned", "lr": 0.2})
    assert yaml.safe_load(put(mine))["presets"]["authors"]["for"] == ["ffhq"]


def test_a_file_of_another_layout_is_refused():
    text = FILE.replace("\n  fast:", "\n    fast:").replace(
        "\n    for: [fashion", "\n      for: [fashion"
    )
    with pytest.raises((UserError, yaml.YAMLError)):
        put(SMALL, text)
    flow = (
        "_target_: a.B\npreset: fast\npresets: {fast: {for: [g2], from: tuned, lr: 1}}\nlr: null\n"
    )
    with pytest.raises((UserError, yaml.YAMLError)):
        put(SMALL, flow)


@pytest.mark.parametrize("name", [n for n, o in options("solver").items() if "space" in o.content])
def test_the_files_of_the_product_take_a_preset(name):
    path = options("solver")[name].path
    text = path.read_text(encoding="utf-8")
    preset = TunedPreset(
        "fast_small",
        {
            "instead_of": "default" if name == "tv" else "fast",
            "when": "small",
            "for": ["g2"],
            "from": "tuned",
            "tuned": {"seed": 1},
        },
    )
    after = yaml.safe_load(preset.put_into(text, path))
    assert after["presets"]["fast_small"] == dict(preset.content)
    g2 = {"_target_": "priors.mixtures.correlated", "shape": [1, 1, 2]}
    chosen = choose(after, g2, {"preset": "small"})
    assert chosen is not None
    assert chosen.preset == "fast_small"
