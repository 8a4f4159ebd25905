"""The images that settings are tuned on are those of no table."""

import fnmatch

import pytest
import torch

from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.option_files import CONF, whole_file
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.config.tuning_data import TuningData, tuning_data
from posterior_bench.bench.engine.cache import shared
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.session import Session


def told(name: str) -> TuningData:
    found = tuning_data(name)
    assert found is not None
    return found


def images(name, more, count):
    config = job_of(compose(check([f"data={name}", *more, f"data.images={count}"]))[0])
    session = Session(config, "cpu")
    return session.images.images(session.images.ids[:count])


def test_every_line_is_for_data_that_exist():
    for pattern in whole_file(CONF / "tuning.yaml"):
        assert fnmatch.filter(options("data"), pattern), pattern


def test_data_without_a_line_have_none():
    assert tuning_data("imagenet256") is None


@pytest.mark.parametrize("name", ["arena/g2", "arena/gauss64", "fashion", "fashion32"])
def test_a_published_cell_has_another_seed_and_other_settings(name):
    settings = dict(word.split("=") for word in told(name).settings)
    assert settings["seed"] != "0"
    assert settings.keys() & {"data.split", "data.name"}


@pytest.mark.parametrize("name", ["arena/g2", "arena/modes16"])
def test_drawn_truths_differ_from_all_of_the_arena(name):
    more = [word for word in told(name).settings if "images" not in word]
    for tuned in images(name, more, 12):
        scored = images(name, [], 64)
        assert not any(torch.equal(tuned, one) for one in scored)


def test_the_objective_is_a_column_of_the_metrics():
    for name in ("arena/g2", "fashion"):
        found = told(name)
        metrics = job_of(
            compose(check([f"data={name}", f"metrics=[{','.join(found.metrics)}]"]))[0]
        ).metrics
        columns = {c for node in metrics.values() for c in shared("metric", node, "cpu").columns}
        assert found.objective in columns
