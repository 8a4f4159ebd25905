"""The order in which resampling methods visit the levels of a grid."""

from __future__ import annotations


def walk(steps: int, jump_length: int = 1, resamples: int = 1) -> list[tuple[int, int]]:
    """Pairs ``(t, s)`` of positions in a grid of ``steps + 1`` levels, noisiest first.

    The jump schedule released with RePaint (Lugmayr et al. 2022, Section 4.2).

    ``s = t + 1`` is a denoising step, one network call; ``s = t - jump_length`` renoises from ``t``
    back up to ``s``. On the way down every ``jump_length``-th level, counted from the cleanest
    noisy one, is reached ``resamples`` times in all. The noisiest ``jump_length`` levels start no
    jump, and nothing starts from the clean end.

    The published schedule climbs one level at a time. Nothing happens on the way up, so a climb is
    one pair here: the law is the same, and a method that counts levels reads ``t - s``. There are
    ``steps + ceil((steps - jump_length) / jump_length) * (resamples - 1) * jump_length`` network
    calls.

    Raises ValueError where an argument is below 1.
    """
    for name, value in (("steps", steps), ("jump_length", jump_length), ("resamples", resamples)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    last = steps - 1  # the cleanest level that is still noisy
    jumps_left = dict.fromkeys(
        (last - j for j in range(0, steps - jump_length, jump_length)), resamples - 1
    )
    pairs, t = [], 0
    while t < steps:
        pairs.append((t, t + 1))
        t += 1
        if jumps_left.get(t, 0) > 0:
            jumps_left[t] -= 1
            pairs.append((t, t - jump_length))
            t -= jump_length
    return pairs
