"""The priors of the arena, against their formulas; the fitted one, against the images it was fitted
to."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from posterior_bench.datasets.fashion import Fashion
from posterior_bench.priors import mixtures
from posterior_bench.priors.fingerprint import ROOT
from posterior_bench.priors.mixture import MixturePrior, Spectrum
from posterior_bench.priors.process import VE

ASSET = ROOT / "priors" / "assets" / "fashion_mixture"


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 1, 8), (1, 8, 8), (2, 2, 3)])
def test_correlated_pixels_by_the_formula(shape: tuple[int, int, int]) -> None:
    covariance = mixtures.correlated(shape, "vp", correlation=0.8, deviation=0.5).covariance.numpy()
    places = [(c, i, j) for c in range(shape[0]) for i in range(shape[1]) for j in range(shape[2])]
    for a, (c, i, j) in enumerate(places):
        for b, (d, k, m) in enumerate(places):
            expected = 0.25 * 0.8 ** (abs(i - k) + abs(j - m)) if c == d else 0.0
            assert covariance[a, b] == pytest.approx(expected, abs=1e-12)
    assert np.linalg.cond(covariance) < 81**2  # ((1 + c) / (1 - c))^2 for two axes


@pytest.mark.parametrize(("shape", "pixels"), [((1, 1, 2), 2), ((1, 4, 4), 16)])
def test_modes_lie_on_the_grid(shape: tuple[int, int, int], pixels: int) -> None:
    prior = mixtures.modes25(shape)
    assert prior.means.shape == (25, pixels)
    assert {tuple(mean[:2]) for mean in (prior.means / 0.4).round().int().tolist()} == {
        (i, j) for i in range(-2, 3) for j in range(-2, 3)
    }
    assert torch.equal(prior.means[:, 0::2], prior.means[:, :1].expand(-1, pixels // 2))
    assert torch.equal(prior.means[:, 1::2], prior.means[:, 1:2].expand(-1, pixels // 2))
    assert (prior.weights.max() / prior.weights.min()).item() == pytest.approx(4.0)
    assert len(prior.weights.unique()) == 25


def test_one_observed_pixel_leaves_five_modes_open() -> None:
    posterior = mixtures.modes25((1, 4, 4)).posterior(torch.eye(16)[:1], torch.tensor([0.4]), 0.05)
    open_modes = posterior.weights > 1e-3
    assert open_modes.sum() == 5 and posterior.weights[open_modes].sum().item() == pytest.approx(
        1.0, abs=1e-3
    )


def test_repeated_eigenvalues_need_no_vectors() -> None:
    """A low-rank prior denoises as one with the same covariances in full does."""
    factors, means = normal(3, 12, 2), normal(3, 12, seed=1)
    weights, floor = torch.tensor([[0.2, 0.3, 0.5], [0.3, 0.1, 0.2]], dtype=torch.float64)
    low = MixturePrior.low_rank(VE(), weights, means, factors, floor, (1, 3, 4))
    covariances = factors @ factors.mT + floor[:, None, None] * torch.eye(12)
    full = MixturePrior(VE(), weights, means, covariances, (1, 3, 4))
    assert low.spectrum.basis.shape == full.spectrum.basis.shape == (3, 2, 12)
    torch.testing.assert_close(low.covariances, full.covariances)
    z = normal(5, 1, 3, 4, seed=2)
    for ratio in (0.01, 0.5, 20.0):
        level, inverse = (
            VE().level(ratio),
            torch.linalg.inv(full.covariances + ratio**2 * torch.eye(12)),
        )
        centred = z.flatten(1)[:, None] - means
        log_density = (
            -0.5 * torch.einsum("nki,kij,nkj->nk", centred, inverse, centred)
            + 0.5 * inverse.logdet()
        )
        shrunk = means + torch.einsum("kij,kjm,nkm->nki", full.covariances, inverse, centred)
        expected = torch.einsum("nk,nki->ni", (log_density + weights.log()).softmax(1), shrunk)
        for prior in (low, full):
            torch.testing.assert_close(
                prior.denoise(z, level).flatten(1), expected, rtol=1e-8, atol=1e-8
            )
    assert Spectrum.of(torch.eye(4)[None]).basis.shape == (1, 0, 4)


def test_masks_and_matrices_give_one_posterior() -> None:
    """Picking rows, a product and an eigendecomposition are three ways to the same numbers."""
    prior = mixtures.correlated((1, 1, 8), correlation=0.7)
    A, y = torch.eye(8, dtype=torch.float64)[[1, 4, 6]], normal(3)
    mixed = normal(3, 3, seed=3)
    picked, product = prior.posterior(A, y, 0.0), prior.posterior(mixed @ A, mixed @ y, 0.0)
    twice = prior.posterior(torch.cat([A, A]), torch.cat([y, y]), 0.0)  # singular without noise
    for other in (product, twice):
        torch.testing.assert_close(other.mean, picked.mean, rtol=0, atol=1e-9)
        torch.testing.assert_close(other.covariance, picked.covariance, rtol=0, atol=1e-9)


def test_a_draw_does_not_depend_on_its_neighbours() -> None:
    prior = mixtures.modes25((1, 4, 4))
    uniform, noise = torch.linspace(0.01, 0.99, 6), normal(6, 1, 4, 4)
    together = prior.sample(uniform, noise)
    for i in range(6):
        torch.testing.assert_close(
            prior.sample(uniform[i : i + 1], noise[i : i + 1])[0], together[i]
        )


def test_fitted_mixture_is_what_its_file_says() -> None:
    prior = mixtures.fitted(str(ASSET), "flow")
    assert (
        prior.image_shape == (1, 28, 28)
        and len(prior.weights) == 10
        and prior.process.kind == "flow"
    )
    assert sum(path.stat().st_size for path in ASSET.iterdir()) < 3e6
    spectrum = torch.linalg.eigvalsh(prior.covariances[3])
    assert spectrum[0] > 1e-3 and spectrum[-1] / spectrum[0] < 1e5


def test_fitted_mixture_looks_like_the_test_images() -> None:
    """Held-out images: classes told apart, and mean and variance near those of the mixture."""
    data = Fashion("test")
    images, labels = data.images(data.ids), data.labels(data.ids)
    prior = mixtures.fitted(str(ASSET))
    told = prior.responsibilities(images).argmax(1)
    assert (told == labels).double().mean() > 0.7
    flat = images.flatten(1).double()
    assert (flat.mean(0) - prior.mean).abs().mean() < 0.05
    assert prior.covariance.trace().item() == pytest.approx(flat.var(0).sum().item(), rel=0.1)


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    shutil.copytree(ASSET, tmp_path / "copy")
    file = tmp_path / "copy" / mixtures.MIXTURE_FILE
    file.write_bytes(file.read_bytes()[:-2] + b"\0\1")
    with pytest.raises(ValueError, match="sha256 differs"):
        mixtures.fitted(str(tmp_path / "copy"))
    with pytest.raises(FileNotFoundError, match=r"no prior\.json"):
        mixtures.fitted(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mixtures.correlated((1, 1, 8), correlation=1.0), "between -1 and 1"),
        (lambda: mixtures.correlated((1, 1, 8), deviation=0.0), "deviation must be positive"),
        (lambda: mixtures.modes25((1, 1, 1)), "two pixels or more"),
        (lambda: mixtures.modes25((1, 1, 2), spacing=-1.0), "spacing must be positive"),
        (lambda: mixtures.g2(deviation=0.0), "deviation must be positive"),
        (lambda: mixtures.fitted(str(ASSET), "cosine"), "unknown process 'cosine'"),
    ],
)
def test_impossible_priors_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_mixture_of_bipsda_has_the_stored_posteriors() -> None:
    """Closed forms of the benchmark's prior, computed apart from this code, in its own units."""
    golden = np.load(Path(__file__).parents[1] / "golden" / "bipsda_golden.npz")
    A = torch.eye(10, dtype=torch.float64)[golden["obs"]]
    for sigma in ("5.0", "0.1"):
        y = torch.from_numpy(golden[f"inp{sigma}_y"])
        for unit in (1.0, 12.0):
            posterior = mixtures.bipsda(unit=unit).posterior(A, y / unit, float(sigma) / unit)
            for found, name in (
                (posterior.weights, "w"),
                (unit * posterior.mean, "mean"),
                (unit**2 * posterior.covariance, "cov"),
            ):
                expected = torch.from_numpy(golden[f"inp{sigma}_{name}"])
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    turned = mixtures.bipsda(unit=1.0).covariances[2]
    assert turned[0, 1].item() == pytest.approx(-0.0169127, abs=5e-8)


def test_draws_of_the_scaled_mixture_lie_inside_the_range_of_images() -> None:
    prior = mixtures.bipsda()
    uniform = torch.linspace(0, 0.999, 2000)
    assert prior.sample(uniform, normal(2000, 1, 1, 10)).abs().max() < 1


def test_the_first_pixel_leaves_the_weights_of_imbalanced_modes() -> None:
    prior = mixtures.modes_imbalanced()
    first = torch.eye(4, dtype=torch.float64)[:1]
    posterior = prior.posterior(first, torch.tensor([0.4]), 0.05)
    expected = torch.tensor([0.9, 0.09, 0.01], dtype=torch.float64)
    torch.testing.assert_close(posterior.weights, expected)
    # the second pixel is positive in the first mode alone
    second = prior.posterior(torch.eye(4, dtype=torch.float64)[1:2], torch.tensor([-0.5]), 0.05)
    assert second.weights.tolist() == pytest.approx([0, 0.9, 0.1], abs=1e-6)
    with pytest.raises(ValueError, match="three weights above 0"):
        mixtures.modes_imbalanced(weights=[0.5, 0.5])
