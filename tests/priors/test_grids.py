"""Grids of native indices, against sums written here, stored released loops and hand counts."""

from __future__ import annotations

import numpy as np
import pytest
from tests.solvers.replay import cases

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import CLEAN, VE, VP, Flow, Process
from posterior_bench.solvers.shared.levels import loop_grid

ADM = VP.scheduled("linear", 1e-4, 0.02)


def prior(process: Process = ADM) -> Prior:
    return Prior(process, None, (1, 1, 2))


def indices(n: int, kind: str) -> list[float]:
    return [level.t for level in prior().grid(n, kind)[:-1]]


@pytest.mark.parametrize(
    "counts",
    [range(2, 1001, 11), pytest.param(range(2, 1001), marks=pytest.mark.slow)],
    ids=["some", "every"],
)
def test_the_respaced_grid_of_guided_diffusion(counts: range) -> None:
    """Its law: round the partial sums of the stride, from 0 up. cumsum adds one after the other."""
    for n in counts:
        sums = np.cumsum([0.0] + [999 / (n - 1)] * (n - 1))
        assert indices(n, "index") == np.rint(sums)[::-1].tolist(), n


def test_round_off_decides_at_a_half() -> None:
    """21 levels: stride 49.95, so the tenth of the sums is 499.5, or a little less or more."""
    above, at, below = indices(21, "index")[9:12]
    assert (above, at, below) == (549.0, 499.0, 450.0)


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("leading", "ddrm"),
        ("leading", "ddnm"),
        ("leading", "reddiff"),
        ("leading", "pigdm"),
        ("leading_one", "psld"),
        ("leading_one", "resample"),
        ("quad", "diffpir"),
    ],
)
def test_grids_of_released_loops(kind: str, method: str) -> None:
    loops = [case.arrays["levels"].tolist() for case in cases() if case.method == method]
    assert loops
    for stored in loops:
        levels = prior().grid(len(stored) - 1, kind)
        assert [level.t for level in levels[:-1]] == stored[:-1]
        assert levels[-1] == (CLEAN if stored[-1] == -1 else ADM.level_at_index(stored[-1]))


def test_the_first_and_last_indices_by_hand() -> None:
    assert indices(4, "leading") == [750.0, 500.0, 250.0, 0.0]
    assert indices(4, "leading_one") == [751.0, 501.0, 251.0, 1.0]
    assert indices(1000, "leading") == [float(k) for k in range(999, -1, -1)]
    # 1000 sqrt(1 / 4) = 500 is left below 999, and 1000 sqrt(1 / 2) = 707
    assert indices(5, "quad") == [999.0, 499.0, 292.0, 133.0, 0.0]


def test_a_view_has_the_training_steps_of_its_prior() -> None:
    native, view = prior().grid(10, "leading"), prior().view("ve").grid(10, "leading")
    assert [level.t for level in view] == pytest.approx([level.t for level in native], nan_ok=True)


@pytest.mark.parametrize(
    ("process", "n", "kind", "message"),
    [
        (ADM, 30, "leading", "divides the 1000 training steps, got 30; take 25 or 40 steps"),
        (ADM, 1001, "leading", "got 1001; take 1000 or 1000 steps"),
        (ADM, 1000, "leading_one", "has no 1000 levels .* take 500 steps, or grid=leading"),
        (ADM, 1000, "quad", "has no 1000 different levels .* take 2 to about 500"),
        (ADM, 1, "quad", "has no 1 different levels"),
        (VE(), 10, "leading", "counts training steps, and this prior has none"),
        (Flow(), 10, "quad", "counts training steps, and this prior has none"),
        (ADM, 10, "skip", "unknown grid 'skip'; valid: native, .*, leading, leading_one, quad"),
    ],
)
def test_grids_that_do_not_exist_are_refused(
    process: Process, n: int, kind: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prior(process).grid(n, kind)


def test_no_part_of_a_released_grid_stands_alone() -> None:
    with pytest.raises(ValueError, match="goes from index 900 to the clean end"):
        prior().grid(10, "leading", start=ADM.level_at_index(500))
    with pytest.raises(ValueError, match="no part of it"):
        prior().grid(10, "leading", end=ADM.level_at_index(0))
    # a bound that is noisier than the grid cuts nothing off
    whole = prior().grid(10, "leading")
    assert prior().grid(10, "leading", start=ADM.level(ADM.ratio_max)) == whole
    assert prior().grid(1000, "leading", start=ADM.level(ADM.ratio_max))[0].t == 999


def test_compat_brings_back_the_grid_only_where_the_settings_leave_it_open() -> None:
    p = prior()
    assert loop_grid(p, 10, "native", "released", "leading") == p.grid(10, "leading")
    assert loop_grid(p, 10, "native", "none", "leading") == p.grid(10, "index")
    assert loop_grid(p, 10, "logsnr", "released", "leading") == p.grid(10, "logsnr")
    told = loop_grid(p, 1000, "native", "released", "leading_one")
    assert [level.t for level in told] == [*range(1000, 0, -1), 0]
    assert [level.sigma for level in told[:-1]] == [
        p.level_at_index(k).sigma for k in range(999, -1, -1)
    ]
    assert told[-1] == p.level_at_index(0)
    for process in (VE(), Flow(), VP.scheduled("linear", 1e-4, 0.02, 500)):
        other = prior(process)
        assert loop_grid(other, 10, "native", "released", "leading") == other.grid(10)
