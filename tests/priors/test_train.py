"""The training of priors: it learns, it continues exactly, and its loss means what it says."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from posterior_bench.priors.base import Prior
from posterior_bench.priors.latents import KL
from posterior_bench.priors.mixtures import g2
from posterior_bench.priors.process import VE
from posterior_bench.priors.train import (
    AutoencoderConfig,
    AutoencoderTrainer,
    DenoiserTrainer,
    TrainConfig,
    denoising_loss,
    reconstruction_errors,
    standardise,
    validation_loss,
)

CONFIG = TrainConfig(steps=30, batch=32, lr=1e-2, warmup=5, ema=0.9, bf16=False)


class TinyNet(nn.Module):
    """Two convolutions that know the time and the label."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
        self.label, self.time = nn.Embedding(3, 8), nn.Linear(1, 8)

    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        shift = self.time(t[:, None]) + (self.label(cond["label"]) if "label" in cond else 0)
        return self.second((self.first(x) + shift[:, :, None, None]).relu())


def tiny(num_classes: int = 2) -> Prior:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        null = num_classes or None
        return Prior(VE(), TinyNet(), (1, 6, 6), "edm", 0.5, num_classes, null)


def images(count: int = 64) -> tuple[Tensor, Tensor]:
    """Flat patches, bright or dark by class."""
    labels = torch.arange(count) % 2
    return (labels - 0.5).view(-1, 1, 1, 1).expand(count, 1, 6, 6).contiguous(), labels


def trainer(config: TrainConfig = CONFIG) -> DenoiserTrainer:
    return DenoiserTrainer(tiny(), *images(), config)


def test_thirty_steps_lower_the_loss():
    run = trainer()
    before = run.validation_loss(*images())
    for _ in range(30):
        run.step()
    assert run.validation_loss(*images()) < 0.7 * before
    assert run.step_count == 30


def test_a_resumed_run_equals_an_unbroken_one_bitwise():
    whole, first = trainer(), trainer()
    losses = [whole.step() for _ in range(12)]
    halves = [first.step() for _ in range(5)]
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = trainer()
    second.load_state_dict(torch.load(buffer, weights_only=True))
    halves += [second.step() for _ in range(7)]
    assert halves == losses
    for net in ("net", "average"):
        pairs = zip(
            getattr(whole, net).parameters(), getattr(second, net).parameters(), strict=True
        )
        assert all(torch.equal(a, b) for a, b in pairs)


def test_training_uses_no_global_random_number():
    run, state = trainer(), torch.get_rng_state()
    run.step()
    assert torch.equal(torch.get_rng_state(), state)


def test_learning_rate_warms_up_and_ends_at_zero():
    run = trainer()
    rates = []
    for run.step_count in (0, 4, 15, 20, 30):
        rates.append(run.learning_rate() / CONFIG.lr)
    # cosines of 0, 24, 90, 120 and 180 degrees; the first of five warm-up steps takes a fifth
    assert rates == pytest.approx([1 / 5, (1 + 0.9135455) / 2, 1 / 2, 1 / 4, 0], abs=1e-7)


def test_average_follows_the_weights():
    """The first steps average over everything so far: decay (1 + n) / (10 + n), then ``ema``."""
    run = trainer()
    mean = run.net.first.bias.detach().clone()
    for n in (1, 2, 3):
        run.step()
        mean = mean + (1 - (1 + n) / (10 + n)) * (run.net.first.bias.detach() - mean)
    torch.testing.assert_close(run.average.first.bias, mean, atol=1e-7, rtol=0)
    assert run.averaged.net is run.average and run.prior.net is run.net


def test_loss_of_a_denoiser_that_only_knows_the_scale_is_one():
    """For data of variance ``sd^2`` the best affine denoiser has F = 0; its loss is 1 at every
    level."""

    class Silent(nn.Module):
        def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
            return torch.zeros_like(x)

    generator = torch.Generator().manual_seed(0)
    prior = Prior(VE(), Silent(), (1, 16, 16), "edm", 0.5)
    x0 = 0.5 * torch.randn(256, 1, 16, 16, generator=generator)
    for p_mean in (-3.0, 0.0, 2.0):
        config = TrainConfig(p_mean=p_mean, p_std=0.01, bf16=False)
        assert denoising_loss(prior, x0, None, config, generator).item() == pytest.approx(
            1.0, abs=0.03
        )


def test_loss_of_the_exact_denoiser_is_its_posterior_variance():
    """``E |x0 - E[x0 | z]|^2`` of a Gaussian, in closed form."""
    prior, generator = g2("ve"), torch.Generator().manual_seed(0)
    sigma, sd, eigenvalues = 0.6, prior.sigma_data, torch.tensor([1.9, 0.1])
    x0 = prior.sample(torch.zeros(200_000), torch.randn(200_000, 1, 1, 2, generator=generator))
    config = TrainConfig(p_mean=torch.tensor(sigma).log().item(), p_std=0.0, bf16=False)
    weight = (sigma**2 + sd**2) / (sigma * sd) ** 2
    expected = weight * (eigenvalues * sigma**2 / (eigenvalues + sigma**2)).mean().item()
    assert denoising_loss(prior, x0, None, config, generator).item() == pytest.approx(
        expected, rel=0.01
    )


class Recorder(TinyNet):
    """Keeps the labels it was asked for."""

    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        self.seen = cond.get("label")
        return super().forward(x, t, cond)


@pytest.mark.parametrize(
    ("null", "dropout", "share"), [(2, 0.3, 0.3), (2, 0.0, 0.0), (None, 0.3, 0.0)]
)
def test_label_dropout(null, dropout, share):
    """Dropped labels become 'none'; a prior without 'none' never drops one."""
    net = Recorder()
    prior = Prior(VE(), net, (1, 6, 6), "edm", 0.5, 2, null)
    x0, labels = images(2000)
    denoising_loss(prior, x0, labels, CONFIG, torch.Generator().manual_seed(0), dropout)
    assert (net.seen == 2).float().mean().item() == pytest.approx(share, abs=0.05)
    kept = net.seen != 2
    assert torch.equal(net.seen[kept], labels[kept])


def test_unconditional_priors_are_trained_without_labels():
    run = DenoiserTrainer(tiny(num_classes=0), images()[0], None, CONFIG)
    assert run.step() > 0


def test_validation_repeats_itself_and_changes_nothing():
    run = trainer()
    run.step()
    state = copy.deepcopy(run.state_dict())
    first, second = run.validation_loss(*images(50)), run.validation_loss(*images(50))
    assert first == second == validation_loss(run.averaged, *images(50), CONFIG)
    assert torch.equal(run.state_dict()["generator"], state["generator"])
    assert all(
        torch.equal(a, b)
        for a, b in zip(run.net.state_dict().values(), state["net"].values(), strict=True)
    )


def test_closed_form_priors_are_refused():
    with pytest.raises(ValueError, match="nothing to train"):
        DenoiserTrainer(g2(), torch.zeros(1, 1, 1, 2), None, CONFIG)


# -- autoencoders ----------------------------------------------------------------------------------

BLOCKS = {
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 2,
    "block_out_channels": [4, 4],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 2,
}
AUTOENCODER = AutoencoderConfig(steps=60, batch=16, lr=1e-2, warmup=5, ema=0.9, bf16=False)


def autoencoder_trainer() -> AutoencoderTrainer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoencoderTrainer(KL(BLOCKS), images()[0], AUTOENCODER)


def test_an_autoencoder_learns_to_reconstruct():
    run, (x, _) = autoencoder_trainer(), images()
    before = run.validation_loss(x)
    for _ in range(60):
        run.step()
    assert run.validation_loss(x) < 0.3 * before


def test_an_autoencoder_resumes_bitwise():
    whole, first, second = (autoencoder_trainer() for _ in range(3))
    for _ in range(4):
        whole.step()
    for _ in range(2):
        first.step()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for _ in range(2):
        second.step()
    expected, found = whole.average.state_dict(), second.average.state_dict()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_reconstruction_error_is_the_mean_square_of_the_clipped_image():
    latent, x = (
        autoencoder_trainer().average,
        torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(1)),
    )
    with torch.no_grad():
        expected = torch.stack(
            [(latent.decode(latent.encode(i[None])).clamp(-1, 1) - i).square().mean() for i in x]
        )
    torch.testing.assert_close(reconstruction_errors(latent, x, batch=2), expected)


def test_standardised_latents_have_mean_zero_and_variance_one():
    latent, x = (
        autoencoder_trainer().average,
        torch.randn(64, 1, 6, 6, generator=torch.Generator().manual_seed(2)),
    )
    states = standardise(latent, x)
    torch.testing.assert_close(states.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(states.std((0, 2, 3)), torch.ones(2))
    with torch.no_grad():
        torch.testing.assert_close(latent.encode(x), states)
        decoded = latent.autoencoder.decode(latent.autoencoder.encode(x).latent_dist.mean).sample
        torch.testing.assert_close(latent.decode(states), decoded, atol=1e-5, rtol=1e-4)
