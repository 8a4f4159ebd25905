"""The order in which resampling methods visit the levels of a grid."""

from __future__ import annotations


def walk(steps: int, jump_length: int = 1, resamples: int = 1) -> list[tuple[int, int]]:
    """List the moves of the jump schedule that was released with RePaint.

    Parameters
    ----------
    steps : int
        Number of steps down without a jump; the grid has ``steps + 1`` levels, noisiest first.
    jump_length : int, default 1
        Number of levels that a jump climbs.
    resamples : int, default 1
        How often each stretch of ``jump_length`` levels is walked in all; 1 means no jump.

    Returns
    -------
    list[tuple[int, int]]
        Pairs ``(t, s)`` of positions in the grid. If ``s = t + 1``, the move is a denoising step,
        one network call. If ``s = t - jump_length``, the state is noised again, from ``t`` up to
        ``s``.

    Raises
    ------
    ValueError
        If an argument is below 1.

    Notes
    -----
    On the way down, every ``jump_length``-th level, counted from the cleanest noisy level, is
    reached ``resamples`` times in all. The noisiest ``jump_length`` levels start no jump, and no
    jump starts from the clean end.

    The published schedule climbs one level at a time. Nothing happens on the way up, so a climb is
    one pair here: the law is the same, and a method that counts levels reads ``t - s``. There are
    ``steps + ceil((steps - jump_length) / jump_length) * (resamples - 1) * jump_length`` network
    calls.

    References
    ----------
    Lugmayr et al., RePaint, CVPR 2022, Section 4.2 and the released code.
    """
    for name, value in (("steps", steps), ("jump_length", jump_length), ("resamples", resamples)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    last = steps - 1  # the cleanest level that is still noisy
    starts = [last - j for j in range(0, steps - jump_length, jump_length)]
    jumps_left = dict.fromkeys(starts, resamples - 1)
    pairs, t = [], 0
    while t < steps:
        pairs.append((t, t + 1))
        t += 1
        if jumps_left.get(t, 0) > 0:
            jumps_left[t] -= 1
            pairs.append((t, t - jump_length))
            t -= jump_length
    return pairs
