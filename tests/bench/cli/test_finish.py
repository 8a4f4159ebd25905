"""Exit 0 means that every planned row is there: cells that never ran are counted too."""

from __future__ import annotations

from tests.bench.harness import run

from posterior_bench.bench.cli.finish import finish, finish_elsewhere
from posterior_bench.bench.config.compose import compose

SMALL = ("data.images=2", "solver.steps=2")


def test_a_sweep_in_this_process_that_lost_cells_is_no_good_end(command, capsys) -> None:
    outcome = run(command("blended", *SMALL))
    assert finish([outcome], cells=1)
    assert not finish([outcome], cells=3)
    assert "2 of 3 cells did not run" in capsys.readouterr().err


def test_a_sweep_elsewhere_that_lost_cells_is_no_good_end(command, capsys) -> None:
    asked = [command("blended", *SMALL, f"seed={seed}") for seed in (0, 1)]
    config = compose(asked[0])[0]
    assert not finish_elsewhere(config, asked)
    assert "no cell of" in capsys.readouterr().err
    run(asked[0])
    assert not finish_elsewhere(config, asked)
    assert "1 of 2 cells of" in capsys.readouterr().err
    run(asked[1])
    assert finish_elsewhere(config, asked)
    # settings that make no other cell, given twice
    assert finish_elsewhere(config, [*asked, [*asked[0], "+batch=2"]])


def test_every_folder_of_a_sweep_elsewhere_is_looked_at(command, capsys) -> None:
    """Where ``out`` is swept too, the folder of the sweep's own configuration is one of several."""
    asked = [command("blended", *SMALL, out=name) for name in ("a", "b")]
    config = compose(asked[0])[0]
    run(asked[0])
    assert not finish_elsewhere(config, asked)
    assert "/b was run" in capsys.readouterr().err
    run(asked[1])
    assert finish_elsewhere(config, asked)
