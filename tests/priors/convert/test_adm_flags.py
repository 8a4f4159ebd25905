"""Flags of guided-diffusion that change what the same weights mean."""

from __future__ import annotations

import torch
from tests.checkpoints import FLAGS

from posterior_bench.priors.convert import adm


def test_a_network_that_predicts_the_image_is_read_as_one(golden, tmp_path) -> None:
    """``predict_xstart``: the output is x0 itself; upstream's code made the golden output."""
    path = tmp_path / "model.pt"
    torch.save(golden.weights("adm"), path)
    prior = adm.convert_adm(path, flags={**FLAGS, "predict_xstart": True}).prior
    assert prior.parameterization == "x0"
    x0 = prior.denoise(golden["adm/x"], prior.level_at_index(7))
    torch.testing.assert_close(x0[0], golden["adm/out"][0, :3], atol=5e-5, rtol=0)
