"""Measure how often printed intervals hold the truth and how often tests are wrong.

    python tests/benchmarks/coverage.py [REPEATS]

It simulates studies of 2 to 100 images whose truth is known, and calls the functions that the
tables use. It prints the Markdown tables of docs/statistics.md and asserts nothing. It takes a few
minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.stats import t as student
from scipy.stats import wilcoxon

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # for a script that is run in a checkout, before its imports

from posterior_bench.bench.analysis import families, paired, sign_flips  # noqa: E402
from posterior_bench.bench.analysis.statistics import FEWEST, Array, bootstrap_interval  # noqa: E402

SEED, REPEATS = 11, 2000
IMAGES = (2, 3, 4, 5, 6, 8, 10, 16, 32, 64, 100)
SOLVERS, OF_TABLE = 5, (6, 8, 12, 20, 50)
STUDIES = 50
"""Studies that share their resamples, which bounds memory."""

Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.normal(size=shape)


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Exponential, skewness 2."""
    return rng.exponential(size=shape) - 1


def contaminated(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Normal, and one value in ten ten times as far off."""
    return rng.normal(size=shape) * np.where(rng.random(shape) < 0.1, 10.0, 1.0)


def symmetric(draw: Draw) -> Draw:
    """The difference of two equal solvers with such values."""
    return lambda rng, shape: draw(rng, shape) - draw(rng, shape)


VALUES: dict[str, Draw] = {"normal": normal, "skewed": skewed, "contaminated": contaminated}
DIFFERENCES: dict[str, Draw] = {
    "normal": normal,
    "skewed values": symmetric(skewed),
    "contaminated values": symmetric(contaminated),
    "one-sided": skewed,
}


def interval_coverage(
    draw: Draw, n: int, repeats: int, rng: np.random.Generator
) -> tuple[float, float]:
    """How often the bootstrap interval of the tables and Student's interval hold the true mean,
    0."""
    bootstrap = student_holds = 0
    for _ in range(repeats // STUDIES):
        sample = draw(rng, (n, STUDIES))
        lo, hi = bootstrap_interval(sample, rng)
        bootstrap += int(((lo <= 0) & (hi >= 0)).sum())
        half = student.ppf(0.975, n - 1) * sample.std(axis=0, ddof=1) / np.sqrt(n)
        student_holds += int((np.abs(sample.mean(axis=0)) <= half).sum())
    studies = repeats // STUDIES * STUDIES
    return bootstrap / studies, student_holds / studies


def rejections(differences: Array) -> list[float]:
    """The share of studies ``(studies, n)`` in which sign-flip, t and Wilcoxon test say p <=
    0.05."""
    parts = np.array_split(differences, len(differences) // 100)
    flip = np.concatenate([sign_flips.sign_flip(part, "coverage") for part in parts])
    return [
        float(np.mean(p <= 0.05))
        for p in (flip, paired.paired_t(differences), wilcoxon(differences, axis=1).pvalue)
    ]


def of_tables(
    draw: Draw, n: int, repeats: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Of tables of five solvers: any false verdict; all intervals right; any false verdict without
    adjustment."""
    wrong = right = unadjusted = 0
    truth = np.linspace(0, 2, SOLVERS)
    pairs = list(combinations(range(SOLVERS), 2))
    for _ in range(repeats // STUDIES):
        equal = [draw(rng, (SOLVERS, n)) for _ in range(STUDIES)]
        tested = families.families(
            [*equal, *(values + truth[:, None] for values in equal)], "coverage"
        )
        wrong += sum(bool(family.differ.any()) for family in tested[:STUDIES])
        for family in tested[STUDIES:]:
            ends = [family.interval(i, j) for i, j in pairs]
            right += all(
                lo <= truth[i] - truth[j] <= hi
                for (i, j), (lo, hi) in zip(pairs, ends, strict=True)
            )
        alone = np.stack([[values[i] - values[j] for i, j in pairs] for values in equal])
        unadjusted += int((paired.paired_t(alone) <= 0.05).any(axis=1).sum())
    studies = repeats // STUDIES * STUDIES
    return wrong / studies, right / studies, unadjusted / studies


def table(head: list[str], body: list[list[object]]) -> None:
    lines = [head, ["---:"] * len(head), *body]
    print(
        "\n".join(
            f"| {' | '.join(f'{c:.3f}' if isinstance(c, float) else str(c) for c in line)} |"
            for line in lines
        )
    )
    print(flush=True)


def main(repeats: int) -> None:
    rng = np.random.default_rng(SEED)
    print(f"Seed {SEED}, {repeats} studies a number: a share of .95 or .05 has a standard error of "
          f"{np.sqrt(0.05 * 0.95 / repeats):.3f}.\n")  # fmt: skip
    print("Share of 95 % intervals of a mean that hold the true mean\n")
    heads = [f"{name}, {kind}" for name in VALUES for kind in ("bootstrap", "t")]
    lines = [
        [n, *(p for draw in VALUES.values() for p in interval_coverage(draw, n, repeats, rng))]
        for n in IMAGES
    ]
    table(["images", *heads], lines)
    for power in (False, True):
        there = (
            "a difference that the t-test finds in 80 % of normal studies"
            if power
            else "no difference"
        )
        print(f"Share of studies with p <= 0.05 where there is {there}\n")
        heads = [f"{name}, {test}" for name in DIFFERENCES for test in ("flip", "t", "Wilcoxon")]
        body: list[list[object]] = []
        for n in (n for n in IMAGES if not power or n >= FEWEST):
            line: list[object] = [n]
            for draw in DIFFERENCES.values():
                differences = draw(rng, (repeats, n))
                shift = paired.detectable_effect(n) * draw(rng, (100_000,)).std() if power else 0.0
                line += rejections(differences + shift)
            body.append(line)
        table(["images", *heads], body)
    rng = np.random.default_rng([SEED, 1])
    print(f"Share of tables of {SOLVERS} solvers, 10 pairs\n")
    heads = [
        f"{name}, {what}"
        for name in VALUES
        for what in ("false verdict", "all intervals", "10 t-tests")
    ]
    lines = [
        [n, *(p for draw in VALUES.values() for p in of_tables(draw, n, repeats, rng))]
        for n in OF_TABLE
    ]
    table(["images", *heads], lines)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else REPEATS)
