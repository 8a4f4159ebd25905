"""What a cell takes of memory: estimates against tensors counted while the solver really runs, and
against numbers."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from tests.benchmarks.memory import LATENT, compared
from torch import nn
from torch.utils.checkpoint import checkpoint

from posterior_bench.bench.cli.verbs import VERBS
from posterior_bench.bench.config.catalog import option
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.batches import BatchSize, rows_at_once
from posterior_bench.bench.engine.plan import slices
from posterior_bench.bench.engine.short_solver import shortened
from posterior_bench.bench.estimate.architecture import without_weights
from posterior_bench.bench.estimate.live_tensors import Ledger, Live, Unfinished
from posterior_bench.bench.estimate.machine import DEVICES, Machine, bytes_of
from posterior_bench.bench.estimate.memory import Estimate, Linear
from posterior_bench.bench.estimate.network_memory import NetworkMemory
from posterior_bench.priors.base import Prior
from posterior_bench.priors.load import verify
from posterior_bench.priors.process import VE
from posterior_bench.solvers.repaint import RePaint
from posterior_bench.solvers.resample import ReSample

MIB = 2**20


def test_live_tensors_are_counted_by_storage_until_they_are_gone() -> None:
    before = torch.zeros(100)
    with Live() as live:
        a = torch.zeros(1000)  # 4000 bytes
        view = a[10:]
        b = a.double()  # 8000
        assert (live.now, live.peak) == (12000, 12000)
        del a
        assert live.now == 12000  # the view holds it
        del view, b
        assert (live.now, live.peak) == (0, 12000)
        c = before + 1
        assert (live.outside, live.now, live.peak) == (400, 400, 12000)
        live.mark()
        del c
        assert live.peak == 400


def test_what_autograd_keeps_is_live_although_nobody_names_it() -> None:
    x = torch.zeros(1000, requires_grad=True)
    with Live() as live:
        y = (x * 2).exp().sum()  # keeps the result of exp, and gives the product back
        assert live.now == 4000 + 4 and live.peak == 8000
        y.backward()
        del y
        assert live.now == 4000  # the gradient


def test_counting_that_takes_too_long_is_ended() -> None:
    with pytest.raises(Unfinished, match="too long"), Live(seconds=-1):
        torch.zeros(1)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_lease_lasts_as_long_as_autograd_keeps_what_it_stands_for(checkpointed: bool) -> None:
    held: list[object] = []

    def call(x: torch.Tensor) -> torch.Tensor:
        one, alive = ledger.lease(10**6)
        held.append(alive)
        return x * one

    x = torch.zeros(10, requires_grad=True)
    with Ledger() as ledger:
        y = (checkpoint(call, x, use_reentrant=False) if checkpointed else call(x)).sum()
        assert (ledger.now >= 10**6) == (not checkpointed) == held[0]()  # type: ignore[operator]
        y.backward()
        assert ledger.now < 1000 and ledger.peak >= 10**6
        assert len(held) == 1 + checkpointed


class _Two(nn.Module):
    """Two layers without biases over 10 numbers, 30 in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(10, 30, bias=False), nn.Linear(30, 10, bias=False)

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, cond: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        return self.second(self.first(x).exp())


def test_what_a_call_takes_counted_by_hand() -> None:
    with torch.device("meta"):
        net = _Two()
    costs = NetworkMemory(Prior(VE(), net, (1, 1, 10)))
    z, t = torch.zeros(3, 1, 1, 10), torch.zeros(3)
    cost = costs.of("net", costs.network, z, t, {})
    # 30 numbers before exp and 30 behind it are there at once; without a gradient the first go
    # before 10 come out
    assert cost.idle == 3 * 4 * 60
    assert cost.kept == 3 * 4 * 30  # the result of exp; weights are shared and not counted
    # the slope behind exp, the result of exp, and the slope before it
    assert cost.backward == 3 * 4 * 90


@pytest.mark.parametrize(
    "overrides",
    [
        # the two below have its gradient, and more
        pytest.param(("solver=dps", "solver.steps=2", "batch=4"), marks=pytest.mark.slow),
        ("solver=psld", *LATENT, "solver.steps=2", "batch=4"),
        (
            "solver=vipaint2",
            "solver.iterations=2",
            "solver.refine_steps=2",
            "checkpointing=call",
            "batch=2",
        ),
        ("solver=latentpaint", "data=fashion", "solver.steps=2", "batch=4"),
        pytest.param(
            (
                *("solver=psld", *LATENT, "solver.steps=2", "batch=2"),
                *("checkpointing=block", "frozen_convolutions=true", "tile=8"),
            ),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["dps", "psld", "vipaint2-checkpointing", "latentpaint", "psld-blocks-tiles"],
)
def test_an_estimate_is_near_what_a_run_takes(overrides: tuple[str, ...]) -> None:
    """Against the tensors of a real run, whose weights, data and number of steps the estimate does
    not see."""
    assert compared(overrides).ratio == pytest.approx(1, abs=0.2)


def test_only_solvers_that_ask_for_more_are_said_to_take_more() -> None:
    from posterior_bench.bench.config.compose import compose
    from posterior_bench.bench.config.overrides import check
    from posterior_bench.bench.engine.job import job_of
    from posterior_bench.bench.estimate.memory import estimate

    prior = verify("priors/assets/fashion")
    costs = NetworkMemory(prior)

    def rows(*overrides: str) -> int:
        config = job_of(compose(check(["metrics=[psnr]", "draws=2", "batch=4", *overrides]))[0])
        return estimate(config, costs).activations()

    once = rows("solver=dps")
    assert rows("solver=dps", "solver.guidance=2") == pytest.approx(2 * once, rel=0.05)
    assert rows("solver=ddnm") < 0.5 * once
    # VIPaint-2: two keypoints, the prior's term and the image are three chained calls; two rows an
    # image
    one = costs.of(
        "net",
        costs.network,
        torch.zeros(1, 1, 28, 28),
        torch.zeros(1),
        {"label": torch.zeros(1).long()},
    )
    assert rows("solver=vipaint2", "batch=2") == pytest.approx(2 * 3 * one.kept, rel=0.1)


def test_rows_at_once_are_those_of_the_plan() -> None:
    for draws, batch in ((1, 16), (4, 16), (3, 16), (10, 4), (100, 16)):
        images = slices([str(i) for i in range(200)], draws, batch)[1]
        assert rows_at_once(draws, batch) == BatchSize(images, min(draws, batch))


def test_the_largest_batch_that_fits() -> None:
    line, none = Linear(0, 10 * MIB, 0), Linear(0, 0, 0)
    found = Estimate(100 * MIB, 1, 4, 0, none, line, none, none)
    assert found.total() == 140 * MIB
    assert found.largest_batch(1.1 * 140 * MIB) == 4
    assert found.largest_batch(1.1 * 140 * MIB - 1) == 3
    assert found.largest_batch(1.1 * 109 * MIB) == 0


def test_dry_runs_are_short_and_use_all_stages() -> None:
    short = shortened(ReSample())
    assert (short.steps, short.every, short.pixel_iterations, short.latent_iterations) == (
        4,
        1,
        4,
        4,
    )
    assert shortened(RePaint()).steps == 4
    assert shortened(ReSample(steps=3)).steps == 3


@pytest.mark.parametrize(
    ("prior", "millions"),
    [("imagenet256_adm", 553), ("imagenet256", 456), ("celeba128_flow", 34.5)],
)
def test_a_prior_without_weights_has_the_networks_of_its_layout(
    prior: str, millions: float
) -> None:
    """Numbers of parameters as published: 553 M (Dhariwal and Nichol 2021); 400 M and an
    autoencoder of 55 M; or as the shapes of its tensors say (PnP-Flow)."""
    found = without_weights({"path": "nowhere"}, option("prior", prior).summary)
    assert found is not None and found.net is not None
    modules = [module for module in (found.net, found.latent) if module is not None]
    assert all(p.is_meta for module in modules for p in module.parameters())
    assert sum(p.numel() for m in modules for p in m.parameters()) / 1e6 == pytest.approx(
        millions, rel=0.01
    )


def test_a_prior_that_nothing_describes() -> None:
    assert without_weights({"path": "nowhere"}, option("prior", "sd15").summary) is None


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("80GiB", 80 * 2**30),
        ("1.5 gib", 1536 * MIB),
        ("80GB", 80 * 10**9),
        ("512MiB", 512 * MIB),
        ("1TiB", 2**40),
    ],
)
def test_memory_with_its_unit(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize(
    "argument",
    [
        *(
            "memory=80",
            "memory=GiB",
            "memory=-1GiB",
            "memory=0GiB",
            "memory=80 apples",
            "memory=",
            "memory=1e3GiB",
        ),
        *("memory=8\nGiB", "memory=٨GiB", "gpus=many", "gpus=-1", "gpus=1.5", "device=h1000"),
    ],
)
def test_what_cannot_be_read_is_one_line(argument: str) -> None:
    with pytest.raises(UserError) as error:
        VERBS["doctor"].parser().read([argument])
    key = argument.partition("=")[0]
    assert "\n" not in str(error.value) and key in str(error.value)


def test_a_machine_is_told_from_the_overrides() -> None:
    words = ["-m", "memory=80GiB", "solver=dps", "gpus=8", "mask.memory=3"]
    assert VERBS["doctor"].parser().read(words) == {
        "multirun": True,
        "memory": 80 * 2**30,
        "gpus": 8,
        "device": None,
        "overrides": ["solver=dps", "mask.memory=3"],
    }


def test_a_machine_by_memory_gpus_or_name() -> None:
    assert Machine.of(80 * 2**30, 8) == Machine(80 * 2**30, 8)
    assert Machine.of(80 * 2**30) == Machine(80 * 2**30, 1)
    assert Machine.of(device="h100") == Machine(DEVICES["h100"] * 2**30, 1, "h100")
    assert Machine.of(80 * 2**30).elsewhere and not Machine.of().elsewhere


def test_counting_leaves_nothing_behind() -> None:
    prior = verify("priors/assets/fashion_latent")
    costs = NetworkMemory(prior)
    costs.check()
    mode = weakref.ref(costs.mode)
    assert "run_network" not in vars(prior) and prior.network_call is None
    del costs
    gc.collect()
    assert mode() is None and all(p.is_meta for p in prior.net.parameters())  # type: ignore[union-attr]
