"""Metrics of sets of features and of the draws of an image, against other implementations."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy.linalg import sqrtm
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist
from scipy.stats import gamma
from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure
from torchmetrics.image.kid import maximum_mean_discrepancy, poly_kernel

from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.scoring import check_base
from posterior_bench.datasets.fashion import Fashion
from posterior_bench.metrics.base import (
    Batch,
    DrawSet,
    MissingWeights,
    from_uint8,
    reference_draws,
    to_uint8,
)
from posterior_bench.metrics.diversity import Diversity, PerceptualDiversity
from posterior_bench.metrics.features import (
    FeatureMetric,
    STLPIPSTrunk,
    TorchScriptFeatures,
    feature_network,
    reference_features,
)
from posterior_bench.metrics.fid import FID
from posterior_bench.metrics.kid import KID
from posterior_bench.metrics.msssim import MSSSIM
from posterior_bench.metrics.over_draws import OverDraws
from posterior_bench.metrics.precision_recall import PrecisionRecall
from posterior_bench.metrics.psnr import PSNR
from posterior_bench.metrics.psnr_vipaint import PSNRVIPaint
from posterior_bench.metrics.seam import Seam
from posterior_bench.metrics.ssim import SSIM
from posterior_bench.metrics.stlpips import STLPIPS

SETS: list[FeatureMetric] = [
    *(
        KID(network, variant)
        for network in ("inception", "stlpips")
        for variant in ("mean", "vipaint")
    ),
    FID(),
    PrecisionRecall(),
    PrecisionRecall("recall"),
]


def vectors(n: int = 40, draws: int = 3, size: int = 12, seed: int = 0) -> np.ndarray:
    """``(n, 1 + draws, size)``: draws about their original, of another mean and spread."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n, 1, size))
    return np.concatenate(
        [truth, 0.6 * truth + 0.2 + 0.9 * rng.normal(size=(n, draws, size))], axis=1
    )


def value(metric: FeatureMetric, features: np.ndarray) -> float:
    return float(metric.reduce(features, np.ones((1, len(features))))[0])


def mmd(x: np.ndarray, y: np.ndarray) -> float:
    a, b = torch.from_numpy(x.copy()), torch.from_numpy(y.copy())
    return (
        1000
        * maximum_mean_discrepancy(poly_kernel(a, a), poly_kernel(a, b), poly_kernel(b, b)).item()
    )


def kernel(x: np.ndarray, y: np.ndarray, network: str) -> float:
    """One pair of vectors, by the library (cubic) or as the mixture of Gaussians that it is."""
    if network == "inception":
        return float(
            poly_kernel(torch.from_numpy(x[None].copy()), torch.from_numpy(y[None].copy()))
        )
    # Rasmussen and Williams 2006, eq. 4.20: squared exponentials whose precision has a gamma
    # distribution
    square = math.dist(x, y) ** 2 / 0.0048415
    return float(np.mean(np.exp(-square * PRECISIONS / 2)))


def by_pairs(x: np.ndarray, truth: np.ndarray, network: str) -> float:
    """KID x 1000, one pair of different images at a time."""
    pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if i != j]
    own = [kernel(x[i], x[j], network) + kernel(truth[i], truth[j], network) for i, j in pairs]
    return 1000 * float(
        np.mean(own) - 2 * np.mean([kernel(x[i], truth[j], network) for i, j in pairs])
    )


# quantiles at the middle of equal shares of the probability: an average over them is the integral
PRECISIONS = np.stack(
    [gamma.ppf((np.arange(4000) + 0.5) / 4000, a, scale=1 / a) for a in (0.2, 0.5, 1, 2, 5)]
)
SCALE = {"inception": 1.0, "stlpips": 0.0048415**0.5}


@pytest.mark.parametrize("network", ["inception", "stlpips"])
def test_kid_pairs_different_images_only(network: str) -> None:
    features = SCALE[network] * vectors(n=6, size=4)
    each = [by_pairs(features[:, j], features[:, 0], network) for j in (1, 2, 3)]
    assert value(KID(network), features) == pytest.approx(np.mean(each), rel=1e-4)
    assert value(KID(network, "std"), features) == pytest.approx(np.std(each, ddof=1), rel=1e-4)
    assert np.isnan(value(KID(network, "std"), features[:, :2]))


@pytest.mark.parametrize("network", ["inception", "stlpips"])
def test_reference_values_of_kid_are_those_of_plain_loops(network: str) -> None:
    features = SCALE[network] * reference_features()
    truth, draws = features[:, 0], features[:, 1:].swapaxes(0, 1)
    each = [by_pairs(draw, truth, network) for draw in draws]
    pool, originals = np.concatenate(draws), np.concatenate([truth] * 8)

    def mean(x: np.ndarray, y: np.ndarray, same: bool) -> float:
        distinct = [(a, b) for i, a in enumerate(x) for j, b in enumerate(y) if not same or i < j]
        return float(np.mean([kernel(a, b, network) for a, b in distinct]))

    repeated = 1000 * (
        mean(pool, pool, True) + mean(originals, originals, True) - 2 * mean(pool, truth, False)
    )
    expected = {"mean": np.mean(each), "std": np.std(each, ddof=1), "vipaint": repeated}
    found = KID.references["cubic" if network == "inception" else "rational quadratic"]
    assert found == {variant: pytest.approx(v, rel=1e-4) for variant, v in expected.items()}


def test_the_released_variant_repeats_the_originals() -> None:
    features = vectors()
    pooled, repeated = features[:, 1:].reshape(-1, 12), np.repeat(features[:, 0], 3, axis=0)
    assert value(KID("inception", "vipaint"), features) == pytest.approx(mmd(pooled, repeated))
    # equal distributions: not zero, as the card says
    rng = np.random.default_rng(0)
    equal = [value(KID("inception", "vipaint"), rng.normal(size=(20, 4, 6))) for _ in range(100)]
    assert np.mean(equal) > 5 * np.std(equal) / 10


@pytest.mark.parametrize("network", ["inception", "stlpips"])
@pytest.mark.parametrize("shared", [0.0, 0.8, 1.0])
def test_kid_of_equal_distributions_is_zero_on_average(network: str, shared: float) -> None:
    """Also where a draw shares most of its features with its own original, as an inpainted image
    does."""
    rng, values = np.random.default_rng(0), []
    for _ in range(300):
        truth, other = rng.normal(size=(2, 20, 1, 6))
        draws = shared * truth + (1 - shared**2) ** 0.5 * other
        values.append(value(KID(network), SCALE[network] * np.concatenate([truth, draws], axis=1)))
    assert abs(np.mean(values)) <= 3 * np.std(values) / 300**0.5 + 1e-9


@pytest.mark.parametrize("network", ["inception", "stlpips"])
@pytest.mark.parametrize("factor", [0.9, 1.1])
@pytest.mark.parametrize("d", [2, 64])
def test_kid_is_higher_for_narrow_and_for_wide_draws(network: str, factor: float, d: int) -> None:
    rng = np.random.default_rng(0)
    truth, draws = rng.normal(size=(2, 30, 120, 1, d))
    # pairs about one width apart
    scale = SCALE[network] / (1 if network == "inception" else d**0.5)

    def kid(factor: float) -> np.ndarray:
        sets = scale * np.concatenate([truth, factor * draws], axis=2)
        return np.array([value(KID(network), features) for features in sets])

    worse = kid(factor) - kid(1.0)
    assert worse.mean() > 3 * worse.std() / 30**0.5


def garments(first: int, last: int) -> np.ndarray:
    images = Fashion()
    return STLPIPS().trunk(images.images(images.ids[first:last])).double().numpy()


def test_kid_of_the_trunk_sees_more_than_the_mean() -> None:
    a, b = garments(0, 48), garments(48, 96)
    copies = np.repeat(garments(96, 144).mean(0, keepdims=True), 48, axis=0)
    real, mean = (value(KID(), np.stack([a, x], axis=1)) for x in (b, copies))
    assert abs(real) < 15 and mean > 50
    # the cubic kernel is linear on features of this size: it calls the copies perfect
    cubic = KID()
    cubic.width = None
    assert value(cubic, np.stack([a, copies], axis=1)) < 1e-3


def test_the_width_of_the_kernel_is_a_typical_squared_distance_of_garments() -> None:
    width = STLPIPSTrunk.width
    assert width == pytest.approx(np.median(pdist(garments(0, 64)) ** 2), rel=0.05)
    assert (
        f"width {width}" in KID().card.preprocessing
        and "width" not in KID("inception").card.preprocessing
    )


def test_kid_on_few_images_carries_a_caution() -> None:
    versions = {
        (n, v): KID(n, v).card.version
        for n in ("inception", "stlpips")
        for v in ("mean", "std", "vipaint")
    }
    # of the cubic kernel only the released variant is what it was
    assert [key for key, version in versions.items() if version == 1] == [("inception", "vipaint")]
    assert KID().card.small == 50 and "uncertain" in KID().card.caution


@pytest.mark.parametrize(("n", "size"), [(60, 8), (9, 30)])
def test_fid_is_the_formula_with_a_matrix_root(n: int, size: int) -> None:
    features = vectors(n, 2, size)
    truth, *draws = features.swapaxes(0, 1)

    def distance(x: np.ndarray) -> float:
        a, b = np.cov(x, rowvar=False), np.cov(truth, rowvar=False)
        ridge = 0 if n > size else 1e-9 * np.eye(size)
        return float(
            ((x.mean(0) - truth.mean(0)) ** 2).sum()
            + np.trace(a + b - 2 * sqrtm((a + ridge) @ (b + ridge)).real)
        )

    assert value(FID(), features) == pytest.approx(
        np.mean([distance(x) for x in draws]), rel=1.5e-7
    )


def test_precision_and_recall_by_a_search_tree() -> None:
    features = vectors(n=50, size=3)
    truth, *draws = features.swapaxes(0, 1)

    def share(x: np.ndarray, manifold: np.ndarray) -> float:
        radius = cKDTree(manifold).query(manifold, 4)[0][:, 3]
        return float(np.mean([np.any(np.linalg.norm(manifold - p, axis=1) <= radius) for p in x]))

    precision, recall = np.mean([[share(d, truth), share(truth, d)] for d in draws], axis=0)
    assert (value(PrecisionRecall(), features), value(PrecisionRecall("recall"), features)) == (
        pytest.approx(precision),
        pytest.approx(recall),
    )
    assert 0 < recall < 1


@pytest.mark.parametrize("metric", SETS, ids=lambda m: m.card.id)
def test_the_order_of_images_does_not_matter_and_few_have_no_value(metric: FeatureMetric) -> None:
    features = vectors()
    order = np.random.default_rng(1).permutation(len(features))
    assert value(metric, features[order]) == pytest.approx(value(metric, features), abs=1e-9)
    assert np.isnan(value(metric, features[:1]))
    without = metric.reduce(features, 1 - np.eye(len(features))[:1])[0]
    if not isinstance(metric, PrecisionRecall):  # whose manifolds are held fixed
        assert without == pytest.approx(value(metric, features[1:]))


def test_resamples_of_kid_are_not_biased() -> None:
    features, rng = vectors(n=30), np.random.default_rng(2)
    counts = rng.multinomial(30, np.full(30, 1 / 30), size=4000).astype(float)
    resampled = KID("inception").reduce(features, counts)
    assert abs(resampled.mean() - value(KID("inception"), features)) < 0.25 * resampled.std()


def test_features_do_not_depend_on_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    x, truth = torch.rand(3, 2, 1, 24, 24, generator=generator) * 2 - 1, torch.zeros(3, 1, 24, 24)
    whole = KID().features(DrawSet(x, truth, None, truth))
    alone = KID().features(DrawSet(x[1:2], truth[1:2], None, truth[1:2]))
    assert whole.shape == (3, 3, 256) and torch.equal(whole[1:2], alone)
    assert torch.equal(whole, KID().features(DrawSet(from_uint8(to_uint8(x)), truth, None, truth)))


def test_networks_that_are_not_there_say_what_they_want(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posterior_bench.metrics.weights.find_spec", lambda name: object())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(
        MissingWeights,
        match=r"'fid_inception' needs weights-inception-2015-12-05-6726825d\.pth.*http",
    ):
        FID("inception").check()
    with pytest.raises(
        ValueError, match="unknown feature network 'vit'; valid: stlpips, inception, torchscript"
    ):
        feature_network("vit", {})
    with pytest.raises(MissingWeights, match="needs a TorchScript file"):
        KID("torchscript").check()
    with pytest.raises(ValueError, match="cannot be read"):
        TorchScriptFeatures(path=str(tmp_path / "no.pt"))


def test_another_torchscript_file_than_recorded_is_refused(tmp_path: Path) -> None:
    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    file = tmp_path / "net.pt"
    torch.jit.script(Mean()).save(file)
    image = from_uint8(torch.full((1, 1, 4, 4), 51, dtype=torch.uint8))
    for name, mean in (("signed", -0.6), ("unit", 0.2), ("levels", 51.0)):
        found = TorchScriptFeatures(str(file), trust_file=True, input_range=name)(image)
        assert found.tolist() == [pytest.approx([mean] * 3)]
    with pytest.raises(RuntimeError, match="it has changed since"):
        TorchScriptFeatures(str(file), trust_file=True, sha256="0" * 64)(image)


@pytest.mark.parametrize("best_of", [1, 2, 3, 5])
def test_the_oracle_is_the_mean_over_all_choices_of_draws(best_of: int) -> None:
    values = np.random.default_rng(0).normal(size=(4, 5))
    for direction, best in (("up", max), ("down", min)):
        expected = [np.mean([best(c) for c in combinations(row, best_of)]) for row in values]
        found = OverDraws("m", "oracle", direction, best_of)(torch.from_numpy(values))
        assert found.tolist() == pytest.approx(expected)


def test_what_is_made_of_ssim_carries_its_version() -> None:
    nodes = yaml.safe_load(
        (Path(__file__).parents[2] / "conf/metrics/over_draws_ssim.yaml").read_text()
    )
    made = {
        k: OverDraws(**{n: v for n, v in node.items() if n != "_target_"})
        for k, node in nodes.items()
        if "_" in k
    }
    assert len(made) == 5 and {m.card.version for m in made.values()} == {SSIM().card.version} == {
        2
    }
    for one in made.values():
        check_base(one, {"ssim": SSIM()})
    with pytest.raises(
        UserError,
        match=r"version 1 of 'ssim', which is version 2 now; set metrics.ssim_mean.version",
    ):
        check_base(OverDraws("ssim", "mean", "up"), {"ssim": SSIM()})


def test_ends_and_mean_over_draws() -> None:
    values = torch.tensor([[3.0, 1.0, 2.0], [1.0, torch.nan, 2.0]])
    for how, expected in (("min", 1), ("max", 3), ("mean", 2), ("oracle", 1)):
        found = OverDraws("m", how, "down")(values)  # type: ignore[arg-type]
        assert found[0] == expected and found[1].isnan()
    assert OverDraws("m", "oracle", "up", 4)(values).isnan().all()
    assert "oracle@2" in OverDraws("m", "oracle", "up", 2).card.title


def test_diversity_is_the_mean_over_pairs() -> None:
    draws = reference_draws()
    levels = from_uint8(to_uint8(draws.x[0])).double().numpy()
    pairs = [a - b for a, b in combinations(levels, 2)]
    expected = [np.mean([np.sqrt((p[..., first:] ** 2).mean()) for p in pairs]) for first in (0, 1)]
    found = [Diversity(region)(draws)[0].item() for region in ("whole", "hole")]
    assert found == pytest.approx(expected)


def test_perceptual_diversity_in_the_hole_ignores_what_was_known() -> None:
    x = torch.rand(1, 3, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    truth, mask = x[:, 0], (torch.arange(24) < 12).expand(1, 1, 24, 24)
    pairs = [
        STLPIPS().between(a[None], b[None]).item()
        for a, b in combinations(from_uint8(to_uint8(x[0])), 2)
    ]
    draws = DrawSet(x, truth, mask, truth)
    assert PerceptualDiversity()(draws).item() == pytest.approx(np.mean(pairs), abs=1e-6)
    hole = PerceptualDiversity(region="hole")
    same_hole = torch.where(mask, x, truth[:, None])
    assert hole(DrawSet(same_hole, truth, mask, truth)).item() == 0 < hole(draws).item()
    assert hole(DrawSet(x, truth, torch.ones_like(mask), truth)).isnan().all()


def test_seam_counts_pixels_by_hand() -> None:
    mask = torch.ones(1, 1, 16, 16, dtype=torch.bool)
    mask[..., 6:10, 6:10] = False
    truth, x = torch.zeros(1, 1, 16, 16), torch.where(mask, 0.5, 0.25)
    x[..., :3, :] = 1  # beyond three pixels of the hole
    batch = Batch(x, x, truth, mask, x, x)
    assert Seam("hole")(batch).item() == 0.25 and Seam("known")(batch).item() == 0.5
    # 16 pixels of the hole, and the square of 10 pixels about it
    assert Seam()(batch).item() == pytest.approx(((16 * 0.25**2 + 84 * 0.5**2) / 100) ** 0.5)
    assert Seam()(Batch(x, x, truth, torch.ones_like(mask), x, x)).isnan().all()


def test_a_pasted_seam_sees_the_pasted_image() -> None:
    """Raw errors of 0.5 outside of the hole are gone there, and 0.25 inside of it stay: by hand as
    above."""
    mask = torch.ones(1, 1, 16, 16, dtype=torch.bool)
    mask[..., 6:10, 6:10] = False
    truth, raw = torch.zeros(1, 1, 16, 16), torch.where(mask, 0.5, 0.25)
    batch = Batch(raw, torch.where(mask, truth, raw), truth, mask, raw, raw)
    assert Seam("known", pasted=True)(batch).item() == 0 and Seam("known")(batch).item() == 0.5
    assert Seam("hole", pasted=True)(batch).item() == 0.25
    assert Seam(pasted=True)(batch).item() == pytest.approx((16 * 0.25**2 / 100) ** 0.5)


def test_msssim_is_that_of_torchmetrics_and_refuses_small_images(make_batch) -> None:
    batch = make_batch(count=2, size=176)
    library = MultiScaleStructuralSimilarityIndexMeasure(data_range=1.0, reduction="none")
    expected = library((batch.raw + 1) / 2, (batch.truth + 1) / 2)
    assert MSSSIM()(batch).tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert MSSSIM().card.version == 2
    with pytest.raises(
        ValueError, match=r"^metric 'msssim' needs images of at least 176.*32 x 32; choose ssim$"
    ):
        MSSSIM().admit((3, 32, 32))


def test_vipaints_psnr_lies_six_decibels_lower(make_batch) -> None:
    batch = make_batch()
    lower = PSNR()(batch) - PSNRVIPaint()(batch)
    assert lower.tolist() == pytest.approx([20 * np.log10(2)] * 3, abs=1e-5)


def test_perceptual_regions_hold_the_truth_elsewhere(make_batch) -> None:
    batch = make_batch(count=1)
    hole = torch.where(batch.mask, batch.truth, batch.raw)
    assert STLPIPS(region="hole")(batch).item() == pytest.approx(
        STLPIPS().between(hole, batch.truth).item()
    )
    assert STLPIPS(region="hole", pasted=True).card.id == "stlpips_hole_pasted"
    empty = Batch(batch.raw, batch.raw, batch.truth, torch.ones_like(batch.mask), batch.y, batch.Ax)
    assert STLPIPS(region="hole")(empty).isnan().all()


def test_every_offline_option_passes_its_own_check() -> None:
    root = Path(__file__).parents[2] / "conf" / "metrics"
    names = (
        "kid",
        "fid",
        "precision_recall",
        "seam",
        "msssim",
        "psnr_vipaint",
        "diversity",
        "diversity_stlpips",
    )
    for option in (*names, "stlpips_regions", "over_draws_psnr", "over_draws_stlpips"):
        for name, node in yaml.safe_load((root / f"{option}.yaml").read_text()).items():
            if name == "defaults":
                continue
            module, _, cls = node.pop("_target_").rpartition(".")
            metric = getattr(__import__(module, fromlist=[cls]), cls)(**node)
            assert metric.card.id == name
            metric.check()
