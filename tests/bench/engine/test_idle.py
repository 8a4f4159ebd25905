"""Networks that wait on the host: rows are the same, and who needs a network finds it."""

from __future__ import annotations

import pytest

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.engine import idle
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.engine.solving import solve
from posterior_bench.bench.store.schema import TIMINGS

CELL = [
    *("solver=psld", "prior=fashion_latent", "data=fashion32", "solver.steps=2", "draws=1"),
    *("data.images=2", "metrics=[psnr]", "quiet=true", "threads=1"),
]


def test_rows_are_the_same_bit_for_bit(monkeypatch) -> None:
    session = Session(job_of(compose(check(CELL))[0]), "cpu")
    measured = session.measure(list(session.images.ids)[:2])
    usual = solve(session, measured, 1, 1)
    session.idle = idle.Idle(True, session.prior)
    moves = []
    park = idle.HostCopy.park
    monkeypatch.setattr(idle.HostCopy, "park", lambda self: (moves.append(self), park(self))[1])
    rows = solve(session, measured, 1, 1)
    assert len(moves) >= 3  # autoencoder, then network and autoencoder
    for a, b in zip(usual, rows, strict=True):
        for key in set(a) - set(TIMINGS):
            same = a[key] == b[key] or (a[key] != a[key] and b[key] != b[key])
            assert same, key


def test_captured_graphs_cannot_move(capsys, tmp_path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["plan", *CELL, "offload=true", "compile=true", f"out={tmp_path}"])
    assert stop.value.code == 2 and "choose one of the two" in capsys.readouterr().err
