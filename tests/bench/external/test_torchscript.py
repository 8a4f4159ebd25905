"""Networks from TorchScript files: what they are given, what is made of their output, and what is
refused."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
import torch
from tests.bench.harness import planned, rows, run
from torch import Tensor, nn

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.config.build import arguments
from posterior_bench.bench.config.catalog import option
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.bench.external.torchscript import TorchScript
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.mixtures import g2
from posterior_bench.solvers.base import Observation


class Image(nn.Module):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return image


class Mask(nn.Module):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return mask.expand_as(image)


class Channels(nn.Module):
    """The image plus ten times the mask, of one input."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :-1] + 10 * x[:, -1:]


class Sides(nn.Module):
    """The height and width it sees, as an image."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return torch.full_like(image, float(image.shape[2] * 100 + image.shape[3]))


class Noisy(nn.Module):
    def forward(self, image: Tensor, mask: Tensor, z: Tensor) -> Tensor:
        return image + z.sum(1).view(-1, 1, 1, 1)


class Drawing(nn.Module):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return image + torch.randn_like(image)


class Dropping(nn.Module):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return torch.nn.functional.dropout(image, 0.5, self.training)


class Grey(nn.Module):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return image[:, :1]


class Smaller(nn.Module):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return image[..., :-1]


@pytest.fixture
def saved(tmp_path: Path):
    """The path of a scripted module."""

    def save(module: nn.Module) -> str:
        path = tmp_path / f"{type(module).__name__}.pt"
        torch.jit.save(torch.jit.script(module), path)
        return str(path)

    return save


@pytest.fixture
def obs() -> Observation:
    """Three 5 x 6 colour images with different masks."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(3, 1, 5, 6, generator=generator) < 0.5
    y = torch.rand(3, 3, 5, 6, generator=generator) * 2 - 1
    return Observation(Inpainting(mask).A(y), Inpainting(mask))


def draw(solver: TorchScript, obs: Observation, seed: int = 0) -> Tensor:
    noise = Noise([Key(seed, "data", str(i)) for i in range(obs.n)], "solver")
    return solver.draw(obs, g2(), noise)


def test_the_image_is_filled_and_the_mask_marks_the_hole(saved, obs) -> None:
    mask = obs.operator.mask
    x = draw(TorchScript(saved(Image()), trust_file=True, fill=0.3), obs)
    torch.testing.assert_close(x, torch.where(mask, obs.y, 0.3), atol=0, rtol=0)
    hole = draw(TorchScript(saved(Mask()), trust_file=True), obs)
    observed = draw(TorchScript(saved(Mask()), trust_file=True, mask_one="observed"), obs)
    assert torch.equal(hole, (~mask).float().expand_as(hole)) and torch.equal(
        observed, mask.float().expand_as(hole)
    )


def test_a_unit_range_is_undone_on_the_way_out(saved, obs) -> None:
    mask, path = obs.operator.mask, saved(Image())
    seen = draw(TorchScript(path, trust_file=True, input_range="unit", fill=0.25), obs)
    torch.testing.assert_close(seen, torch.where(mask, (obs.y + 1) / 2, 0.25))
    both = draw(
        TorchScript(path, trust_file=True, input_range="unit", output_range="unit", fill=0.25), obs
    )
    torch.testing.assert_close(both, torch.where(mask, obs.y, -0.5))


def test_one_argument_holds_the_image_then_the_mask(saved, obs) -> None:
    x = draw(TorchScript(saved(Channels()), trust_file=True, call="concatenated"), obs)
    torch.testing.assert_close(x, torch.where(obs.operator.mask, obs.y, 10.0))


@pytest.mark.parametrize(("multiple", "seen"), [(1, 506), (4, 808), (5, 510), (3, 606)])
def test_sides_are_filled_up_and_cropped(saved, obs, multiple: int, seen: int) -> None:
    x = draw(TorchScript(saved(Sides()), trust_file=True, multiple=multiple), obs)
    assert x.shape == obs.y.shape and x.unique().tolist() == [seen]
    same = draw(TorchScript(saved(Image()), trust_file=True, multiple=multiple), obs)
    assert torch.equal(same, obs.y)


def test_noise_is_that_of_the_row(saved, obs) -> None:
    solver = TorchScript(saved(Noisy()), trust_file=True, noise=4)
    z = Noise([Key(0, "data", str(i)) for i in range(3)], "solver").normal((4,))
    torch.testing.assert_close(draw(solver, obs), obs.y + z.sum(1).view(-1, 1, 1, 1))
    assert not torch.equal(draw(solver, obs, seed=1), draw(solver, obs))


def test_networks_are_in_evaluation_mode(saved, obs) -> None:
    assert torch.equal(draw(TorchScript(saved(Dropping().train()), trust_file=True), obs), obs.y)


def test_a_file_is_not_opened_before_it_is_trusted(saved, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(Image())
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("the file was loaded"))
    for trust in (False, "yes", 1):
        with pytest.raises(ValueError, match="can run any code"):
            TorchScript(path, trust_file=trust)


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        (Drawing(), {}, "draws random numbers of its own"),
        (Smaller(), {}, r"returned \(1, 3, 5, 5\), not \(1, 3, 5, 6\)"),
        (Grey(), {}, r"returned \(1, 1, 5, 6\), not \(1, 3, 5, 6\)"),
        (Image(), {"call": "concatenated"}, "missing value for argument 'mask'"),
        (Image(), {"noise": 3}, "at most 3 argument"),
        (Image(), {"sha256": "0" * 64}, "it has changed since"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_before_any_work(
    saved, module, settings, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        TorchScript(saved(module), trust_file=True, **settings).checked((3, 5, 6))


@pytest.mark.parametrize("name", ["call", "mask_one", "input_range", "output_range"])
def test_an_unknown_name_is_refused_with_the_valid_ones(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown {name} 'odd'; valid: "):
        TorchScript("net.pt", trust_file=True, **{name: "odd"})


def test_other_files_are_refused(tmp_path) -> None:
    (tmp_path / "net.pt").write_bytes(b"no network")
    with pytest.raises(UserError, match="cannot be loaded as TorchScript"):
        TorchScript(str(tmp_path / "net.pt"), trust_file=True).checked((1, 8, 8))
    with pytest.raises(UserError, match="cannot be read: No such file"):
        TorchScript(str(tmp_path / "none.pt"), trust_file=True).checked((1, 8, 8))


def test_a_run_scores_the_network_and_records_its_content(command, saved) -> None:
    path = saved(Image())
    kept = [o for o in command() if not o.startswith("solver")]
    chosen = [
        *kept,
        "solver=torchscript",
        f"solver.path={path}",
        "solver.trust_file=true",
        "solver.label=copy",
    ]
    outcome = run(chosen)
    table = rows(outcome.plan)
    assert outcome.good and (table["nfe"] == 0).all() and (table["consistency"] == 0).all()
    assert outcome.plan.cell.config.solver["sha256"] == sha256(Path(path).read_bytes()).hexdigest()
    assert outcome.plan.cell.identity["solver"] == "copy"
    other = [
        o if not o.startswith("solver.path") else f"solver.path={saved(Mask())}" for o in chosen
    ]
    assert planned(other).cell.name != outcome.plan.cell.name


def test_an_untrusted_file_ends_with_exit_code_2(command, saved, capsys) -> None:
    kept = [o for o in command() if not o.startswith("solver")]
    with pytest.raises(SystemExit) as stopped:
        main(["plan", *kept, "solver=torchscript", f"solver.path={saved(Image())}"])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "set solver.trust_file=true" in line


@pytest.mark.parametrize("preset", option("solver", "torchscript").content["presets"])
def test_every_preset_builds(preset: str) -> None:
    settings = arguments({**option("solver", "torchscript").content, "preset": preset})
    solver = TorchScript(**{**settings, "path": "net.pt", "trust_file": True})
    assert solver.input_range == ("unit" if preset == "lama" else "signed")
