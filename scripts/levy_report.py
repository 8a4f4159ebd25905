"""Measure how far the denoisers of the Lévy signals are from the best possible.

    python -m scripts.levy_report [LAW ...] [--signals N]

The best denoiser is the posterior mean, which the Gibbs sampler estimates. Another denoiser ``D``
has the mean squared error ``E|D - mean|^2 + MMSE``, where the MMSE is the mean variance of the
posterior. So the script prints ``E|D - mean|^2 / MMSE``, in per cent, for the network and for the
best linear denoiser, less the share that is the sampler's own error. The table is part of
``docs/priors/levy.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from torch import Tensor

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.catalog import option
from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.operators.denoising import Denoising
from posterior_bench.priors.levy import LAWS, LevyPrior, levy_gauss
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.gibbs import Gibbs
from posterior_bench.solvers.shared.chains import effective_size

NOISES = (0.25, 0.5, 1.0, 4.0)
"""Noise levels, in standard deviations of an increment."""
SAMPLER = Gibbs(chains=2, burn_in=60, kept=120, thin=1)


def rows(name: str, signals: int) -> Iterator[str]:
    """Yield one line of the table per noise level."""
    prior: LevyPrior = build(option("prior", f"levy_{name}").content)
    deviation = prior.law.variance**0.5
    linear = levy_gauss(deviation)
    keys = [Key(0, "levy-report", str(i)) for i in range(signals)]
    truth = Noise(keys, "truth")
    x = prior.sample(truth.uniform(()), truth.normal(prior.image_shape))
    for noise in NOISES:
        level = prior.level(noise * deviation)
        z = x + level.sigma * Noise(keys, "noise").normal(prior.image_shape)
        mean, variance, error = posterior(prior, z, float(level.sigma), keys)
        guesses = (prior.denoise(z, level), linear.denoise(z.double(), level))
        excess = [(guess.flatten(1) - mean).square().mean().item() - error for guess in guesses]
        network, best_linear = (100 * value / variance for value in excess)
        mmse = variance / deviation**2
        yield f"| {name} | {noise:g} | {mmse:.4f} | {network:.1f} | {best_linear:.1f} |"


def posterior(
    prior: LevyPrior, z: Tensor, sigma: float, keys: list[Key]
) -> tuple[Tensor, float, float]:
    """Return posterior means ``(N, L)``, the mean variance, and that of the estimated means."""
    obs = Observation(z, Denoising(prior.image_shape, sigma))
    states = SAMPLER.fit(obs, prior, Noise(keys, "solver")).states.double()
    variance, size = states.flatten(1, 2).var(1), effective_size(states)
    return states.flatten(1, 2).mean(1), variance.mean().item(), (variance / size).mean().item()


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("laws", nargs="*", help=f"of {', '.join(LAWS)}; default: all")
    parser.add_argument("--signals", type=int, default=32, help="signals per noise level")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    """Print the table."""
    print("| law | noise | MMSE | network, % above | best linear, % above |")
    print("| --- | ---: | ---: | ---: | ---: |", flush=True)
    for name in arguments.laws or LAWS:
        for row in rows(name, arguments.signals):
            print(row, flush=True)


if __name__ == "__main__":
    main(read_arguments())
