"""``python -m bench doctor``: what it finds, what it says is missing, and its exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.config.catalog import option
from posterior_bench.bench.estimate import doctor as module
from posterior_bench.bench.estimate.checks import memory
from posterior_bench.bench.estimate.doctor import examine
from posterior_bench.bench.estimate.finding import Finding
from posterior_bench.bench.estimate.network_memory import NetworkMemory
from posterior_bench.priors.base import Prior
from posterior_bench.priors.convert.adm import LAYOUTS, adm_layout
from posterior_bench.priors.convert.compvis import compvis_layout
from posterior_bench.priors.fingerprint import sha256
from posterior_bench.priors.latents import LATENTS
from posterior_bench.priors.load import save, verify
from posterior_bench.priors.memory import weight_bytes
from posterior_bench.priors.nets import UNet2D, UNet2DCondition
from posterior_bench.priors.process import VP

ASSETS = Path(__file__).resolve().parents[3] / "priors" / "assets"
CHEAP = "metrics=[psnr]"


def by_check(*overrides: str) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine([CHEAP, *overrides])}


def code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", *arguments])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def networks() -> dict[str, object]:
    """The memory of the networks of each prior that was asked for."""
    return {}


@pytest.fixture
def counted(networks: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that need the estimate of memory; the others do without the seconds it takes.

    The networks of a prior are called once for all tests.
    """
    whole = module.prior_networks

    def prior_networks(node, name, prior):
        key = f"{name} {node} {prior is None}"
        if key not in networks:
            networks[key] = whole(node, name, prior)
        return networks[key]

    monkeypatch.setattr(module, "prior_networks", prior_networks)


@pytest.fixture(autouse=True)
def _without_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "counted" not in request.fixturenames:
        monkeypatch.setattr(module, "prior_networks", lambda *about: None)


def kept(prior: Prior) -> int:
    """What one call of the network keeps for a gradient of one row."""
    costs, number = NetworkMemory(prior), torch.float32
    return costs.count(costs.network, [((1, *prior.latent_shape), number), ((1,), number), {}]).kept


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the embedded prior, to be damaged."""
    return Path(shutil.copytree(ASSETS / "fashion_latent", tmp_path / "kept"))


def test_the_default_run_lacks_nothing_and_nothing_is_written(tmp_path, capsys) -> None:
    out = tmp_path / "study"
    assert code(CHEAP, f"out={out}") == 0
    printed = capsys.readouterr().out
    assert "ok       prior faces" in printed and "512 images of 3 x 64 x 64" in printed
    assert "missing" not in printed and not out.exists()


def test_every_missing_thing_is_said_at_once_with_what_makes_it(tmp_path, capsys) -> None:
    folder = tmp_path / "weights"
    assert code(CHEAP, "data=imagenet256", f"prior.path={folder}") == 2
    printed = capsys.readouterr().out
    assert "data.root is not set" in printed and "data.root=VALUE" in printed
    assert f"{folder}/prior.json" in printed
    assert (
        f"python -m bench convert model.ckpt --as compvis --layout cin256 --to {folder}" in printed
    )


@pytest.mark.parametrize(
    "name", ["imagenet64_edm", "imagenet256_adm", "lsun_church", "sd35", "dit256"]
)
def test_the_command_is_the_one_of_the_priors_own_file(name) -> None:
    remedy = by_check(f"prior={name}", "data.images=1", f"prior.path=elsewhere/{name}")[
        f"prior {name}"
    ].remedy
    family = option("prior", name).summary.partition("--as ")[2].split()[0]
    assert (
        f"--as {family}" in remedy
        and f"--to elsewhere/{name}" in remedy
        and f"elsewhere/{name}/prior.json" in remedy
    )


def _without_weights(folder: Path) -> None:
    (folder / "latent.safetensors").unlink()


def _other_bytes(folder: Path) -> None:
    with (folder / "net.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")


def _other_network(folder: Path) -> None:
    spec = json.loads((folder / "prior.json").read_text())
    spec["net"]["config"]["block_out_channels"] = [32, 128]
    (folder / "prior.json").write_text(json.dumps(spec))


def _other_tensors(folder: Path) -> None:
    shutil.copy(ASSETS / "fashion" / "net.safetensors", folder)
    spec = json.loads((folder / "prior.json").read_text())
    spec["sha256"]["net.safetensors"] = sha256(folder / "net.safetensors")
    (folder / "prior.json").write_text(json.dumps(spec))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_without_weights, "latent.safetensors is missing"),
        (_other_bytes, "net.safetensors is not the file prior.json was written for"),
        (_other_network, "has shape"),
        (_other_tensors, "the network wants"),
        (lambda folder: (folder / "prior.json").write_text("{"), "is not valid JSON"),
    ],
)
def test_damaged_priors_are_found_without_loading_them(harm, message, copied, monkeypatch) -> None:
    harm(copied)
    monkeypatch.setattr(
        "posterior_bench.priors.load.load_file", lambda path: pytest.fail("weights were loaded")
    )
    found = by_check("prior=fashion_latent", "data=fashion32", f"prior.path={copied}")[
        "prior fashion_latent"
    ]
    assert found.state == "missing" and message in found.found and "\n" not in found.found


def test_verified_priors_hold_no_weights() -> None:
    prior = verify(ASSETS / "fashion_latent")
    assert all(p.is_meta for module in (prior.net, prior.latent) for p in module.parameters())
    assert (prior.image_shape, prior.latent_shape) == ((1, 32, 32), (2, 16, 16))


def test_damaged_images_are_named(photos, tmp_path, command) -> None:
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    (folder / "3.png").write_bytes(b"no image")
    overrides = [o.replace(str(photos), str(folder)) for o in command()]
    found = {finding.check: finding for finding in examine(overrides)}
    assert found["damaged images"].state == "missing" and "3.png" in found["damaged images"].found


def test_too_few_images_missing_masks_and_solvers_that_do_not_fit(tmp_path, command) -> None:
    found = by_check("data.images=513")
    assert found["data"].state == "missing" and found["data"].remedy == "data.images=512 or less"
    found = by_check("mask=files", f"mask.path={tmp_path}", "mask.white=hole")
    assert found["mask"].state == "missing" and found["mask"].remedy.startswith(
        "mask.path=PATH; docs/masks.md"
    )
    found = by_check("solver=psld")
    assert found["solver"].state == "missing" and "needs latent" in found["solver"].found


def test_missing_weights_of_a_metric_name_the_file(monkeypatch, tmp_path) -> None:
    pytest.importorskip("lpips")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    found = {finding.check: finding for finding in examine(["metrics=[lpips_vgg]"])}[
        "metric lpips_vgg"
    ]
    assert found.state == "missing" and "vgg16-397923af.pth" in found.found


def test_memory_is_compared_with_what_is_free(counted, monkeypatch) -> None:
    assert by_check()["memory"].state == "ok"
    monkeypatch.setattr(memory, "free_here", lambda config: ("cuda", 2**20))
    found = by_check()["memory"]
    assert found.state == "missing" and "batch=" in found.remedy


def test_a_solver_that_enumerates_calls_no_network(counted) -> None:
    found = by_check("data=faces", "prior=faces", "solver=exact", "mask=half", "draws=1", "batch=1")
    assert "no network is called" in found["memory exact"].found
    # what remains: 18 MiB of weights, and one image with its score
    assert found["memory"].found.startswith("about 0.02")
    assert "0.018 GiB of weights" in found["memory"].found


def test_disk_is_compared_with_what_is_free(monkeypatch) -> None:
    assert by_check()["disk"].state == "ok"
    # 8 images of 4 draws, 3 x 64 x 64 bytes each and 2 KiB around them
    needed = 8 * 4 * (3 * 64 * 64 + 2048)
    for free, state in ((needed - 1, "missing"), (needed + 1, "warning"), (2 * needed, "ok")):
        monkeypatch.setattr(
            shutil, "disk_usage", lambda path, free=free: shutil._ntuple_diskusage(free, 0, free)
        )
        assert by_check()["disk"].state == state


def test_a_folder_that_cannot_be_written(monkeypatch, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    assert by_check(f"out={tmp_path / 'file' / 'study'}")["study folder"].state == "missing"


def test_a_sweep_says_everything_once(capsys) -> None:
    assert code("-m", CHEAP, "solver=dps,repaint", "mask=rotated,comod") == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("prior faces" in line for line in lines) == 1
    assert sum(line.split()[1] == "solver" for line in lines) == 2


def said(capsys: pytest.CaptureFixture[str], check: str) -> list[str]:
    """The printed lines of one check, remedies apart."""
    return [line for line in capsys.readouterr().out.splitlines() if line[9:].startswith(check)]


CELLS = [
    *(
        ("ddnm", "mask=rotated"),
        ("ddnm", "mask=comod"),
        ("blended", "mask=rotated"),
        ("blended", "mask=comod"),
    ),
    ("dps", "prior=fashion_latent", "data=fashion32", "mask=rotated"),
    ("psld", "prior=fashion_latent", "data=fashion32", "mask=rotated"),
]


def test_a_study_is_examined_once_for_what_its_cells_share(
    counted, monkeypatch, tmp_path, capsys
) -> None:
    calls: list[str] = []
    for name in ("check_prior", "check_images", "check_mask", "check_metrics", "check_fit"):
        whole = getattr(module, name)

        def counted(*about: object, whole=whole, name=name) -> object:
            calls.append(name)
            return whole(*about)

        counted.__name__ = name
        monkeypatch.setattr(module, name, counted)
    cells = [
        [CHEAP, "data=fashion", "draws=2", "data.images=4", f"solver={solver}", *rest]
        for solver, *rest in CELLS
    ]
    monkeypatch.setattr(
        "posterior_bench.bench.cli.doctor.checked_cells", lambda overrides, multirun: cells
    )
    assert code(f"out={tmp_path}", "memory=80GiB") == 0
    # 2 priors, 2 data sets, 3 pairs of masks and data, one metric, 4 pairs of solver and prior
    assert {name: calls.count(name) for name in calls} == {
        "check_prior": 2,
        "check_images": 2,
        "check_mask": 3,
        "check_metrics": 1,
        "check_fit": 4,
    }
    printed = capsys.readouterr().out
    # the most of each prior: psld takes a gradient through the encoder, beside those that dps takes
    assert printed.count("memory fashion ") == printed.count("memory fashion_latent ") == 1
    assert "(psld): " in printed.partition("memory fashion_latent ")[2].partition("\n")[0]
    assert "missing" not in printed


def test_every_cell_of_a_study_is_examined(monkeypatch, tmp_path) -> None:
    """VIPaint's Table 2: two solvers on two data sets with two masks each, and what they need is
    not here."""
    seen: list[list[str]] = []
    monkeypatch.setattr(
        module.Checks, "cell", lambda self, overrides: seen.append(list(overrides)) or []
    )
    assert code("study=vipaint_table2", f"out={tmp_path}", "device=h100", "gpus=8") == 0
    chosen = {
        tuple(line for line in cell if line.split("=")[0] in ("solver", "data", "mask"))
        for cell in seen
    }
    assert len(seen) == len(chosen) == 8


def test_a_study_names_every_setting_and_prior_that_is_missing(tmp_path, capsys) -> None:
    assert (
        code("study=vipaint_table2", "metrics=[psnr]", f"out={tmp_path}", "memory=80GiB", "gpus=8")
        == 2
    )
    printed = capsys.readouterr().out
    for name in ("imagenet64", "imagenet256"):
        assert printed.count(f"data.root is not set for data={name}") == 1
    for name in ("imagenet64_edm", "imagenet256"):
        assert printed.count(f"prior {name} ") == 1
    assert "GPU" not in "".join(line for line in printed.splitlines() if line.startswith("missing"))


def test_the_memory_of_another_machine(counted, capsys) -> None:
    run = [CHEAP, "data=fashion", "solver=dps", "draws=2", "batch=64", "data.images=64"]
    assert code(*run, "memory=80GiB", "gpus=1") == 0
    (line,) = said(capsys, "memory")
    assert (
        "on one GPU" in line and "80.0 GiB are installed" in line and "up to batch=128 fits" in line
    )
    # about 3 MiB a row: 64 rows do not fit into 100 MiB beside 11 MiB of weights, 25 do
    assert code(*run, "memory=100MiB", "gpus=1") == 2
    printed = capsys.readouterr().out
    assert "missing  memory" in printed
    largest = int(printed.partition("batch=")[2].partition(" is the largest that fits")[0])
    assert largest == pytest.approx((100 / 1.1 - 10.7) / 3.02, abs=2)
    assert code(*run, f"batch={largest}", "memory=100MiB", "gpus=1") == 0
    assert "this batch fits" in said(capsys, "memory")[0]
    assert code(*run, "memory=10MiB") == 2
    assert "not even batch=1 fits" in capsys.readouterr().out


def test_a_gpu_that_is_not_here(counted, monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run = [CHEAP, "solver=blended", "executor.device=cuda"]
    assert code(*run) == 2
    printed = capsys.readouterr().out
    assert (
        "executor.device=cuda, but this machine has no GPU" in printed
        and "memory=80GiB gpus=8" in printed
    )
    assert code(*run, "device=h100") == 0
    assert "on one h100" in said(capsys, "memory")[0]


def test_gpus_that_would_have_nothing_to_do(capsys) -> None:
    run = [CHEAP, "solver=blended", "draws=4", "data.images=20", "memory=80GiB", "gpus=8"]
    assert code(*run) == 0
    assert "executor=serial uses one of 8" in said(capsys, "GPUs")[0]
    # 4 images a chunk
    assert code(*run, "executor=ray", "batch=16") == 0
    assert "a cell of 5 chunks uses 5 of 8 GPUs" in said(capsys, "GPUs")[0]
    assert code(*run, "executor=ray", "batch=8") == 0
    assert not said(capsys, "GPUs")


@pytest.mark.slow  # calls the networks of cin256 without values, forwards and backwards
def test_memory_of_a_prior_whose_weights_are_missing(counted, capsys) -> None:
    assert (
        code(
            CHEAP,
            "prior=imagenet256",
            "prior.path=nowhere",
            "solver=psld",
            "device=h100",
            "batch=4",
        )
        == 2
    )
    (line,) = said(capsys, "memory")
    # 456 M parameters in float32
    assert line.startswith("ok") and "1.7 GiB of weights" in line


@pytest.mark.parametrize("argument", ["memory=80", "gpus=some", "device=h1000"])
def test_a_machine_that_cannot_be_read_is_one_line(argument, capsys) -> None:
    assert code(CHEAP, argument) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("bench: ") and printed.err.count("\n") == 1 and not printed.out


def test_a_wrong_command_line_is_one_line(capsys) -> None:
    assert code("solver=repant") == 2
    assert "Did you mean 'repaint'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("layout", "millions", "gib"),
    [
        ("imagenet256_uncond", 553, 4.6),
        ("ffhq", 94, 1.6),
        pytest.param("celeba256", 553, 4.6, marks=pytest.mark.slow),
    ],
)
def test_what_adm_keeps_for_a_gradient(layout, millions, gib) -> None:
    """Against saved tensors counted once in another way, which left a part of attention out."""
    with torch.device("meta"):
        net = UNet2D(adm_layout(LAYOUTS[layout]).config)
    prior = Prior(VP.scheduled("linear", 1e-4, 0.02), net, (3, 256, 256), "eps", learned_var=True)
    assert weight_bytes(prior) == pytest.approx(4e6 * millions, rel=0.005)
    assert kept(prior) / 2**30 == pytest.approx(gib, rel=0.06)


def test_what_latent_diffusion_keeps_for_a_gradient() -> None:
    known = compvis_layout("cin256", None)
    with torch.device("meta"):
        net = UNet2DCondition(known.unet.config, [1, 1, 512])
        latent = LATENTS[known.autoencoder.kind](known.autoencoder.config)
    prior = Prior(VP.scheduled("linear", 1e-4, 0.02), net, (3, 256, 256), "eps", latent=latent)
    costs = NetworkMemory(prior)
    assert kept(prior) / 2**30 == pytest.approx(0.51, rel=0.06)
    shape = (1, *prior.latent_shape)
    assert costs.count(costs.decode, [(shape, torch.float32)]).kept / 2**30 == pytest.approx(
        1.5, rel=0.1
    )


def test_a_prior_whose_network_wants_another_input_is_a_finding(counted, tmp_path, capsys) -> None:
    """As one of Stable Diffusion XL, which earlier versions converted: it wants pooled embeddings
    and sizes."""
    config = {
        "sample_size": 8,
        "cross_attention_dim": 6,
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 64,
    }
    with torch.random.fork_rng(devices=[]):
        net = UNet2DCondition(config, [1, 5, 6])
    prior = Prior(VP.scheduled("linear", 1e-4, 0.02), net, (4, 8, 8), "eps")
    save(
        tmp_path / "kept",
        prior,
        {"name": "tiny", "training": {}, "source": "test", "licence": "MIT"},
    )
    assert code(CHEAP, f"prior.path={tmp_path / 'kept'}") == 2
    printed = capsys.readouterr().out
    assert "missing  network" in printed and "it cannot be called: TypeError" in printed
    assert "Traceback" not in printed and "python -m bench convert" in printed
