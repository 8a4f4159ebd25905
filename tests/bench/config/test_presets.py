"""Every preset names the priors it was chosen for, and a cell gets the one of its prior or says
that it does not."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest
from tests.bench.harness import TINY, planned, run

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.analysis import leaderboard
from posterior_bench.bench.config.build import arguments, target, with_preset
from posterior_bench.bench.config.catalog import CONF, Option, option, options, show, show_all
from posterior_bench.bench.config.cell import cell_of, variant_of
from posterior_bench.bench.config.class_source import class_defaults, class_node, module_of
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.config.presets import (
    ORIGINS,
    choose,
    effective_settings,
    origins,
    settings,
    with_all_settings,
)
from posterior_bench.bench.conformance.reference_pages.presets import auto_solvers, presets_by_prior
from posterior_bench.bench.conformance.reference_pages.prior_kinds import PUBLISHED_PRIORS
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.prepare import prepare
from posterior_bench.priors.load import save
from posterior_bench.solvers.dps import DPS

PUBLISHED = sorted(
    name
    for name, o in options("prior").items()
    if str(o.content.get("path", ""))[:11] == "checkpoints"
)


def resolved(solver: str, prior: str, **given: Any) -> dict[str, Any]:
    node = {**option("solver", solver).content, **given}
    return arguments(with_preset(node, option("prior", prior).content, {}))


RELEASED = sorted(
    name
    for name, o in options("solver").items()
    if "authors_released" in o.content.get("presets", {})
)
"""Solvers whose presets tell the paper's algorithm from the released code."""


@pytest.mark.parametrize("solver", RELEASED)
def test_every_preset_of_authors_has_its_released_twin(solver: str) -> None:
    presets = option("solver", solver).content["presets"]
    authors = [k for k in presets if k.startswith("authors") and not k.endswith("_released")]
    for name in authors:
        twin = settings(presets[f"{name}_released"])
        assert twin.pop("compat") == "released"
        # the released weights of VIPaint are those of means, the paper's those of sums; the
        # released lam of DiffPIR is four times that of its formula, for noise in [0, 1] units
        other_units = {"diffpir": {"lam"}}.get(solver, set())
        if not solver.startswith("vipaint"):
            ours = settings(presets[name])
            assert {k for k in twin | ours if twin.get(k) != ours.get(k)} <= other_units
        for key in ("for", "from", "similar", "when"):
            assert presets[f"{name}_released"].get(key) == presets[name].get(key)


# what the paper prints (VIPaint, appendices E and F), by hand: the yamls are the code under test
PRINTED = [
    ("vipaint2", "imagenet256", {"iterations": 50, "keypoint_indices": [550, 400], "gamma": 0.98}),
    (
        "vipaint2",
        "imagenet256",
        {"perceptual": "lpips_vgg", "guidance_fit": 1.0, "guidance_sample": 3.0},
    ),
    ("vipaint4", "imagenet256", {"iterations": 250, "beta": 10.0, "guidance_sample": 3.0}),
    (
        "vipaint2",
        "lsun_church",
        {"iterations": 50, "gamma": 0.88, "monte_carlo": 10, "guidance_sample": 1.0},
    ),
    ("vipaint4", "imagenet64_edm", {"iterations": 150, "beta": 50.0, "scale": 0.05}),
    ("dps", "imagenet64_edm", {"steps": 1000, "zeta": 5.0, "guidance": 1.0}),
    ("dps", "imagenet256", {"steps": 500, "zeta": 0.5, "guidance": 3.0, "clip": False}),
    ("dps", "lsun_church", {"steps": 500, "zeta": 0.5, "guidance": 1.0, "clip": False}),
    (
        "psld",
        "imagenet256",
        {"steps": 500, "weight_data": 0.2, "weight_glue": 0.2, "guidance": 3.0},
    ),
    (
        "psld",
        "lsun_church",
        {"steps": 500, "weight_data": 0.2, "weight_glue": 0.2, "guidance": 1.0},
    ),
    ("resample", "imagenet256", {"steps": 500, "latent_iterations": 50, "guidance": 3.0}),
    ("repaint", "imagenet64_edm", {"steps": 256, "jump_length": 10, "resamples": 10}),
    ("reddiff", "imagenet64_edm", {"lam": 50.0, "steps": 1000}),
    # of the authors' own: DPS has 0.5 for inpainting with 1000 steps, DiffPIR 20 steps
    ("dps", "ffhq_adm", {"steps": 1000, "zeta": 0.5, "variance": "learned"}),
    ("diffpir", "imagenet256_adm", {"steps": 20, "zeta": 1.0}),
    ("daps", "imagenet256", {"steps": 50, "inner_steps": 15, "lr": 9.02e-6}),
    # and what is embedded has the settings that were tuned for it
    ("dps", "fashion", {"steps": 50, "zeta": 5.43}),
    ("dps", "fashion_latent", {"steps": 100, "zeta": 1.0}),
    ("dps", "g2", {"steps": 50, "zeta": 0.3}),
]


@pytest.mark.parametrize(("solver", "prior", "printed"), PRINTED)
def test_a_prior_gets_the_settings_that_are_printed_for_it(
    solver: str, prior: str, printed: dict[str, Any]
) -> None:
    found = resolved(solver, prior, preset="auto")
    assert {key: found[key] for key in printed} == printed
    assert option("solver", solver).content["preset"] == "auto"


def test_every_solver_has_a_documented_choice_for_every_published_prior() -> None:
    assert sorted(name for names in PUBLISHED_PRIORS.values() for name in names) == PUBLISHED
    without = {
        (o.name, prior)
        for o in auto_solvers()
        if o.name != "tv"  # it uses no prior
        for prior, name in presets_by_prior(o).items()
        if name is None
        or origins(o.content["presets"][name])[prior] not in ("paper", "authors", "similar")
    }
    # `presets_by_prior` leaves out priors with which a solver cannot run
    assert without == set()
    none = {"folder", "torchscript", "hio", "dpir", "telea", "navier_stokes"}  # no prior
    assert {o.name for o in auto_solvers()} == options("solver").keys() - none


@pytest.mark.parametrize("found", auto_solvers(), ids=lambda o: o.name)
def test_presets_name_priors_that_exist(found) -> None:
    for name, preset in found.content["presets"].items():
        assert {*origins(preset)} <= {*options("prior")}, name
        assert preset.get("from", "tuned") in ORIGINS and preset.get("from") != "similar"
        assert origins(preset) or preset.get("note"), f"{name} says nothing of what it is for"


NODE = {
    "preset": "auto",
    "presets": {
        "fast": {"for": ["fashion"], "from": "tuned"},
        "near": {"for": [], "from": "authors", "similar": ["ffhq_adm", "celebahq"]},
        "own": {"for": ["ffhq_adm"], "from": "authors"},
        "printed": {"for": ["ffhq_adm"], "from": "paper", "note": "Table 1"},
        "tried": {"for": ["celebahq"], "from": "tuned"},
    },
    "steps": None,
}


@pytest.mark.parametrize(
    ("prior", "preset", "origin"),
    [
        ("ffhq_adm", "printed", "paper"),
        ("celebahq", "near", "similar"),
        ("fashion", "fast", "tuned"),
        ("sd2", "fast", ""),
    ],
)
def test_paper_before_authors_before_similar_before_tuned(
    prior: str, preset: str, origin: str
) -> None:
    choice = choose(NODE, option("prior", prior).content, {})
    assert choice is not None and (choice.preset, choice.origin, choice.foreign) == (
        preset,
        origin,
        not origin,
    )


def test_what_the_user_names_wins_and_is_said_to_be_anothers() -> None:
    choice = choose({**NODE, "preset": "fast"}, option("prior", "ffhq_adm").content, {})
    assert choice is not None and choice.preset == "fast" and choice.foreign
    assert choice.text == "fast, chosen for fashion, not for ffhq_adm (printed is)"


def test_a_solver_that_says_nothing_keeps_its_preset() -> None:
    node = {
        "preset": "fast",
        "presets": {"fast": {"steps": 1}, "fast_latent": {"steps": 2}},
        "steps": None,
    }
    choice = choose(node, option("prior", "ffhq_adm").content, {})
    assert (
        choice is not None
        and choice.preset == "fast"
        and not choice.foreign
        and choice.text == "fast"
    )
    assert arguments(
        with_preset({**node, "preset": "auto"}, option("prior", "ffhq_adm").content, {})
    ) == {"steps": 1}


# -- defaults stand once, in the class -------------------------------------------------------------


@pytest.mark.parametrize("found", options("solver").values(), ids=lambda o: o.name)
def test_defaults_read_from_the_source_are_those_of_the_class(found: Option) -> None:
    """The source is read where torch must not be imported; the class is the truth."""
    cls = target(found.content)
    built = {f.name: f.default_factory() for f in fields(cls) if callable(f.default_factory)}
    plain = {f.name: f.default for f in fields(cls) if f.default is not MISSING}
    defaults = class_defaults(found.content["_target_"])
    assert repr(as_lists(dict(defaults))) == repr(dict(defaults))
    assert {k: repr(v) for k, v in defaults.items()} == {
        k: repr(as_lists(v)) for k, v in {**plain, **built}.items()
    }


def as_lists(value: Any) -> Any:
    """``value`` as YAML holds it."""
    if isinstance(value, dict):
        return {k: as_lists(v) for k, v in value.items()}
    return [*map(as_lists, value)] if isinstance(value, tuple | list) else value


SOURCE = """
from dataclasses import dataclass, field
from typing import ClassVar
from posterior_bench.solvers.dps import DPS

LEVELS = (1.0, 2.0)

class Base:
    steps: int = 5
    eta: float = 0.5

class Mine(Base):
    card: ClassVar[str] = "none"
    steps: int = 7
    levels: tuple[float, ...] = LEVELS
    options: dict = field(default_factory=dict)
    zeta: float = field(default=-1.0)
    path: str
    computed: float = sum([1.0])

class Other(DPS):
    zeta: float = 9.0
"""


def test_defaults_follow_base_classes_and_constants(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SOURCE)
    assert class_defaults(f"{tmp_path}/mine.py:Mine") == {
        "steps": 7,
        "eta": 0.5,
        "levels": [1.0, 2.0],
        "options": {},
        "zeta": -1.0,
    }
    of_dps = class_defaults("solvers.dps.DPS")
    assert class_defaults(f"{tmp_path}/mine.py:Other") == {**of_dps, "zeta": 9.0}
    assert class_defaults("solvers.nothing.Nothing") == {}


def test_a_comment_says_where_a_class_of_bench_lies() -> None:
    """Such a ``_target_`` names no file, because it is in the hash of cells and stays."""
    found = [
        (path.name, line.split("_target_: ")[1])
        for path in CONF.rglob("*.yaml")
        for line in path.read_text().splitlines()
        if "_target_: bench." in line
    ]
    assert found
    for name, line in found:
        target_, _, comment = line.partition("   # ")
        file = module_of(target_).replace(".", "/") + ".py"
        assert comment == f"the class lies in {file}", name
        assert class_node(*target_.rpartition(".")[::2])[0] is not None, name


def test_a_setting_is_the_users_else_the_presets_else_the_classs() -> None:
    node = {
        "_target_": "solvers.dps.DPS",
        "preset": "few",
        "presets": {"few": {"for": ["fashion"], "steps": 3, "zeta": 9.0}},
        "steps": None,
        "zeta": 2.0,
        "loss": None,
    }
    loss = class_defaults("solvers.dps.DPS")["loss"]
    assert arguments(node) == {"steps": 3, "zeta": 2.0, "loss": loss}
    assert effective_settings(node, "few") == arguments(node)
    # the file lists no other settings, as an older one would not: nothing is added
    record = with_all_settings(node, "few")
    assert record["presets"]["few"] == {**node["presets"]["few"], "loss": loss}
    assert with_all_settings(record, "few") == record and arguments(record) == arguments(node)


def test_a_cell_records_the_value_of_every_setting(command) -> None:
    plan = planned(command("dps"))
    node = plan.cell.config.solver
    recorded = settings(node["presets"][node["preset"]])
    assert {*recorded} == {f.name for f in fields(DPS)}
    # what was recorded before presets listed differences: every preset with every setting
    bare = option("solver", "dps").content
    whole = {
        name: {**said, **effective_settings(bare, name)} for name, said in bare["presets"].items()
    }
    old = plan.cell.config.with_settings("solver", {"presets": whole})
    assert variant_of(old, "dps") == plan.cell.identity["variant"]
    assert arguments(old.solver) == arguments(node)


GOLDEN = [
    ("", "fast_faces", "31bcb95213e0e8ea"),
    ("data=fashion", "fast_fashion", "8d046cd8f5dd5832"),
    ("solver=dps data=fashion", "fast_fashion", "e5a63c4a1e7e44d4"),
    ("solver=dps solver.preset=authors data=fashion", "authors", "e5e0071fdc85d290"),
    ("solver=dps prior=fashion_latent data=fashion32", "fast_latent", "0cf086a70f8d1f86"),
    ("solver=dps solver.zeta=0.5 data=fashion", "fast_fashion", "eb7c821b95a5721a"),
    ("solver=dps data=arena/g2 prior=g2 solver.steps=100", "fast_small", "4340b181c1331765"),
    (
        "solver=vipaint4 solver.preset=vipaint_paper data=fashion",
        "vipaint_paper",
        "fa8f2fd4aced9ea2",
    ),
    ("solver=latentpaint data=fashion", "fast_fashion", "691c4e3ff91d6e05"),
    ("solver=deepinv solver.preset=dps data=fashion", "dps", "820eb7a7fe8bf7e8"),
    ("solver=repaint data=fashion", "fast_fashion", "2895b77c90a3e36c"),
    ("solver=prior data=fashion", "fast", "1ddc4159b38ed61a"),
    ("solver=exact data=arena/gauss8 prior=gauss8", "fast", "06eec385034a58ec"),
]
"""Names of cells from when every preset listed every setting.

A cell's name hashes the value of every setting, so a default that moves or a preset that loses a
line changes it, and studies on disk would be computed again. A name may only change with the
``version`` of its solver, or with the files of its prior.
"""


@pytest.mark.parametrize(("typed", "preset", "name"), GOLDEN)
def test_cells_keep_their_names(typed: str, preset: str, name: str) -> None:
    cfg, chosen = compose(check(typed.split()))
    config = job_of(cfg)
    config = replace(config, solver=with_preset(config.solver, config.prior, config.data))
    assert config.solver["preset"] == preset
    assert cell_of(config, chosen, "data", ("1", "2")).name == name


# -- a run -----------------------------------------------------------------------------------------


def named(latent_prior: Path, tmp_path: Path, name: str) -> str:
    """The tiny latent prior under another name in its ``prior.json``."""
    from posterior_bench.priors.load import load

    return f"prior.path={save(tmp_path / 'folder', load(latent_prior), {**TINY, 'name': name})}"


def test_a_folder_goes_by_the_name_in_its_prior_json(
    latent_command,
    latent_prior,
    tmp_path,
    capsys,
) -> None:
    of_churches = latent_command("dps", named(latent_prior, tmp_path, "lsun_church"))
    _, plan = prepare(*compose(check(of_churches)), write=False)
    assert plan.cell.config.solver["preset"] == "vipaint_paper_latent"
    assert (
        plan.cell.identity["variant"] == "steps=4"
    )  # the preset is the one for this prior, so it is no variant
    assert (
        plan.cell.identity["preset_for"] == "lsun_church"
        and plan.cell.identity["preset_from"] == "paper"
    )
    _, same = prepare(
        *compose(check([*of_churches, "solver.preset=vipaint_paper_latent"])), write=False
    )
    assert same.cell.name == plan.cell.name and same.cell.identity == plan.cell.identity
    run(of_churches)
    assert capsys.readouterr().err == ""


def test_a_preset_for_another_prior_is_said_in_terminal_and_table(latent_command, capsys) -> None:
    loud = [o for o in latent_command("dps") if not o.startswith("quiet")]
    plan = run([*loud, "quiet=false"]).plan
    said = "dps runs preset fast_latent, chosen for fashion_latent, not for tiny (no preset is)"
    assert capsys.readouterr().err.splitlines() == [f"bench: {said}"]
    (note,) = [
        n for n in leaderboard.build(plan.folder.parents[1]).attrs["notes"] if "another prior" in n
    ]
    assert "dps with fast_latent (for fashion_latent) on " in note
    run([*loud, "quiet=true"])
    assert capsys.readouterr().err == ""


def test_the_name_of_a_preset_is_in_no_hash(command) -> None:
    cfg, chosen = compose(check(command()))
    config = job_of(cfg)
    solver = config.solver
    renamed = {f"{name}_": {**values, "for": ["sd2"]} for name, values in solver["presets"].items()}
    other = config.with_settings("solver", {"preset": f"{solver['preset']}_", "presets": renamed})
    assert cell_of(other, chosen, "data", None).name == cell_of(config, chosen, "data", None).name


# -- metrics of data sets, and what is missing -----------------------------------------------------


@pytest.mark.parametrize("data", ["imagenet64", "imagenet256", "lsun_church"])
def test_data_bring_the_metrics_of_their_paper(data: str) -> None:
    given = [f"data={data}", "data.root=/nowhere"]
    assert {"lpips_vgg", "psnr", "kid_inception"} <= {*compose(check(given))[0].metrics}
    assert "ssim" in compose(check([*given, "metrics=[ssim]"]))[0].metrics
    assert "lpips_vgg" not in compose(check([*given, "metrics=[ssim]"]))[0].metrics
    assert "lpips_vgg" not in compose(check([]))[0].metrics


def test_all_that_is_missing_is_named_at_once_and_each_thing_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as stop:
        main(["plan", "solver=vipaint2", "data=imagenet256", "mask=rotated"])
    assert stop.value.code == 2
    text = capsys.readouterr().err
    parts = [
        "checkpoints/imagenet256 holds no prior.json",
        "data.root is not set",
        "'lpips_vgg' needs",
        "'kid_inception'",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert (
        text.count("vgg16-397923af.pth, looked for") <= 1
    )  # two columns and the solver ask for it
    assert all(text.count(part) == 1 for part in parts) and text.startswith(
        f"bench: {len(text.splitlines()) - 2} pro"
    )


def test_show_says_what_a_preset_is_for_and_which_one_a_prior_gets() -> None:
    text = show("solver=dps")
    assert "authors: for ffhq_adm, imagenet256_adm (authors); nearest published for" in text
    assert "preset = auto" in text
    both = show_all(["solver=dps", "prior=imagenet256"])
    assert (
        "solver=dps with prior=imagenet256: preset vipaint_paper_imagenet256, chosen for "
        "imagenet256 (paper" in both
    )
