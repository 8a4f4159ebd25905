"""Compiled blocks and CUDA graphs: one program for each form of a call, whatever ran before.

The compiler of these tests multiplies every output by two. So a block that falls back to plain
PyTorch gives other numbers than a compiled one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from posterior_bench.priors import compiled
from posterior_bench.priors.base import Condition, Prior
from posterior_bench.priors.compiled import CompiledBlocks, CudaGraphs
from posterior_bench.priors.execution import Execution
from posterior_bench.priors.process import VE


class ResnetBlock2D(nn.Module):
    """A block by its name: ``x (x + shift)``, which has a second derivative."""

    def __init__(self, shift: float):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))

    def forward(self, x: Tensor) -> Tensor:
        return x * (x + self.shift)


class Breaks(ResnetBlock2D):
    """A block that no compiler takes as a whole."""

    def forward(self, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return super().forward(x)


Breaks.__name__ = ResnetBlock2D.__name__


class Net(nn.Module):
    """Two blocks of the same kind, whose result is ``3 (x + 1) x`` squared plus the label."""

    def __init__(self, kind: type[nn.Module] = ResnetBlock2D):
        super().__init__()
        self.first, self.second = kind(1.0), kind(2.0)

    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        label = cond["label"].view(-1, 1, 1, 1) if "label" in cond else 0
        return self.second(self.first(x)) + label


def by_hand(x: Tensor, factor: float = 2.0) -> Tensor:
    first = factor * x * (x + 1)
    return factor * first * (first + 2)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The graphs that were compiled."""
    found: list[Any] = []

    def double(graph: Any, inputs: Any) -> Any:
        found.append(graph)
        return lambda *values: tuple(2 * out for out in graph(*values))

    monkeypatch.setattr(compiled, "BACKEND", double)
    return found


def values(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def check(call: Any, rows: int, gradient: bool) -> None:
    x = values(rows, 1, 2, 2).requires_grad_(gradient)
    with torch.set_grad_enabled(gradient):
        out = call(x, torch.zeros(rows), {})
    torch.testing.assert_close(out, by_hand(x))
    if gradient:
        (slope,) = torch.autograd.grad(out.sum(), x)
        (wanted,) = torch.autograd.grad(by_hand(x).sum(), x)
        torch.testing.assert_close(slope, wanted)


def test_every_form_is_compiled_whatever_ran_before(graphs: list[Any]) -> None:
    """Plain ``torch.compile`` keeps eight programs and runs the ninth form without the compiler."""
    net = CompiledBlocks(Net())
    forms = [(rows, gradient) for rows in (4, 8, 2, 6, 12) for gradient in (False, True)]
    for rows, gradient in forms * 2:
        check(net, rows, gradient)
    assert len(graphs) == len(forms)  # blocks of one kind share a program
    other = CompiledBlocks(Net())
    check(other, 4, True)
    assert len(graphs) == len(forms) + 1  # and networks share none


def test_blocks_run_as_they_are_again(graphs: list[Any]) -> None:
    net = Net()
    blocks = CompiledBlocks(net)
    x = values(2, 1, 2, 2)
    torch.testing.assert_close(blocks(x, torch.zeros(2), {}), by_hand(x))
    blocks.remove()
    torch.testing.assert_close(net(x, torch.zeros(2), {}), by_hand(x, 1.0))


def test_a_chunk_of_too_many_forms_is_one_line(
    graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "FORMS", 3)
    net = CompiledBlocks(Net())
    for _ in range(2):
        net.begin()
        for rows in (1, 2, 3):
            check(net, rows, False)
        with pytest.raises(RuntimeError, match=r"more than 3 different numbers of rows.*=false$"):
            check(net, 4, False)
    assert len(graphs) == 6  # the second chunk began with more than three, and kept none


def test_what_cannot_be_compiled_whole_is_an_error(graphs: list[Any]) -> None:
    net = CompiledBlocks(Net(Breaks))
    with pytest.raises(torch._dynamo.exc.Unsupported):
        net(values(1, 1, 2, 2), torch.zeros(1), {})


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="compile=true: Linear has no block that can be compiled"):
        CompiledBlocks(nn.Linear(1, 1))


def test_a_graph_gives_several_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """MMPS takes several; torch's compiler gives away buffers in the first unless told not to."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    net, x = CompiledBlocks(Net()), values(2, 1, 2, 2).requires_grad_()
    out, wanted = net(x, torch.zeros(2), {}), by_hand(x, 1.0)
    for weight in (1.0, -3.0):
        (slope,) = torch.autograd.grad((weight * out).sum(), x, retain_graph=True)
        (exact,) = torch.autograd.grad((weight * wanted).sum(), x, retain_graph=True)
        torch.testing.assert_close(slope, exact)


@pytest.mark.parametrize("checkpointing", ["none", "call"])
def test_a_prior_compiles_every_kind_of_call_once(graphs: list[Any], checkpointing: str) -> None:
    prior = Prior(VE(), Net(), (1, 2, 2), "x0", num_classes=2, null_label=1)
    prior.run_as(Execution(compile=True, checkpointing=checkpointing))
    label = torch.zeros(3, dtype=torch.long)
    cond = Condition({"label": label}, {"label": label + 1})
    z, level = values(3, 1, 2, 2).requires_grad_(), prior.level(1.0)
    for guidance in (1.0, 2.0) * 2:
        out = prior.denoise(z, level, cond, guidance)
        # guidance 2 is twice the conditional output less the other one: label 2 * 0 - 1
        torch.testing.assert_close(out, by_hand(z) - (guidance - 1))
        torch.autograd.grad(out.sum(), z)
        with torch.no_grad():
            prior.denoise(z, level, cond, guidance)
            prior.denoise(z.detach(), level, cond, guidance)
    assert len(graphs) == 4


# -- CUDA graphs -----------------------------------------------------------------------------------


def test_elsewhere_than_on_a_gpu_nothing_is_captured() -> None:
    called: list[Tensor] = []
    call = CudaGraphs(lambda x, t, values: called.append(x) or by_hand(x), Net())  # type: ignore[func-returns-value]
    x = values(2, 1, 2, 2)
    assert torch.equal(call(x, torch.zeros(2), {}), by_hand(x)) and called[0] is x


class OnGPU(Tensor):
    """A tensor that says it is on a GPU."""

    device = torch.device("cuda")  # type: ignore[assignment]


def test_a_call_with_a_derivative_is_never_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    x = values(1, 1, 2, 2).as_subclass(OnGPU)
    assert compiled.can_replay(x, {})
    with torch.autograd.forward_ad.dual_level():
        tangent = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        assert not compiled.can_replay(tangent, {})
    x.requires_grad_()
    assert not compiled.can_replay(x, {}) and not compiled.can_replay(x.detach(), {"a": x})
    with torch.no_grad():
        assert compiled.can_replay(x, {})
        monkeypatch.setattr(torch._C._functorch, "peek_interpreter_stack", object)
        assert not compiled.can_replay(x, {})  # within vmap, jvp and the like


class Replayed:
    """In place of a captured graph: computes the result again, in the same place."""

    def __init__(self, places: list[Tensor], out: Tensor):
        self.places, self.out = places, out

    def replay(self) -> None:
        self.out.copy_(by_hand(self.places[0]) + self.places[2].view(-1, 1, 1, 1))


def test_a_replay_reads_its_inputs_and_leaves_earlier_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    captured: list[int] = []

    def capture(self: CudaGraphs, inputs: list[Tensor], names: tuple[str, ...]) -> Any:
        captured.append(len(inputs[0]))
        places = [tensor.clone() for tensor in inputs]
        return Replayed(places, out := torch.zeros_like(places[0])), places, out

    monkeypatch.setattr(CudaGraphs, "_captured", capture)
    monkeypatch.setattr(compiled, "can_replay", lambda x, values: True)
    net, results = Net(), []
    call = CudaGraphs(net, net)
    call.begin()
    for rows, scale in ((2, 1.0), (2, 3.0), (3, 1.0), (2, 5.0)):
        x = scale * values(rows, 1, 2, 2)
        label = torch.arange(rows)
        results.append((call(x, torch.zeros(rows), {"label": label}), x, label))
    for out, x, label in results:
        torch.testing.assert_close(out, by_hand(x) + label.view(-1, 1, 1, 1))
    assert captured == [2, 3]
    call.begin()
    call(values(2, 1, 2, 2), torch.zeros(2), {"label": torch.arange(2)})
    assert captured == [2, 3]
    net.second.shift.data = net.second.shift.data.clone()  # as weights that waited on the host
    call.begin()
    call(values(2, 1, 2, 2), torch.zeros(2), {"label": torch.arange(2)})
    assert captured == [2, 3, 2]
