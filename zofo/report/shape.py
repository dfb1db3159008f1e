"""What the shape of a series of noisy losses says: whether it is flat, turns at each step, or has risen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

FALL = 0.3  # of the loss, from the first step to the last: what is called flat has fallen by less
LOW = 0.05  # nats: a loss below that has no room to fall
JUMPY = 5.0  # standard errors of von Neumann's ratio
RISE = 5.0  # standard errors, that the mean of a block lies above that of an earlier one
PART = 0.2  # of the loss, the same
BLOCKS, LEAST = 12, 4  # blocks, and steps in each at least


def still(values: Sequence[float]) -> bool:
    """Whether noise is all that there is: no slow wandering, no beginning above the rest, no slope, and `FALL` excluded."""
    n = len(values)
    if turning(values) < 2 - 2 * 2 / math.sqrt(n):
        return False
    if any(above(values, cut) for cut in (4, 8, 16, 32, 64, 128, 256, 512) if cut < n // 2):
        return False
    fall, error = fallen(values)
    return fall < error and fall + 2 * error < FALL * abs(mean(values))


def all_along(values: Sequence[float], of: int) -> bool:
    """Whether losses that are each the last of several steps are flat from the first on, in a run that comes to `of` iterations.

    Much may have been learned between the first two of them: so the first does not lie above the rest, and a fall of
    `FALL` with these two is excluded. And where the run has just begun, that a line falls so far by its end.
    """
    (first, slip), (both, error) = dropped(values, 1), dropped(values, 2)
    fall, spread = fallen(values)
    room = FALL * abs(mean(values))
    if first > 2 * slip or both + 2 * error > room:
        return False
    return fall + 2 * spread < room * min(1.0, len(values) / of)


def dropped(values: Sequence[float], cut: int) -> tuple[float, float]:
    """By how much the mean of the first `cut` values lies above that of the rest, and its standard error by the noise of the rest."""
    one, two = values[:cut], values[cut:]
    return mean(one) - mean(two), math.sqrt(variance(two) * (1 / len(one) + 1 / len(two)))


def above(values: Sequence[float], cut: int) -> bool:
    """Whether the mean of the first `cut` values lies above that of the rest by two standard errors."""
    one, two = values[:cut], values[cut:]
    return mean(one) - mean(two) > 2 * math.sqrt(variance(one) / len(one) + variance(two) / len(two))


def fallen(values: Sequence[float]) -> tuple[float, float]:
    """By how much a straight line through the values falls from the first to the last, and its standard error."""
    n, middle = len(values), mean(values)
    square = n * (n * n - 1) / 12
    slope = sum((t - (n - 1) / 2) * value for t, value in enumerate(values)) / square
    rest = sum((value - middle - slope * (t - (n - 1) / 2)) ** 2 for t, value in enumerate(values)) / (n - 2)
    return -slope * (n - 1), math.sqrt(rest / square) * (n - 1)


def turning(values: Sequence[float]) -> float:
    """Von Neumann's ratio: the mean square step over the variance, 2 +- 2 / sqrt(n) for noise, 4 for a saw of two teeth (2 where all are equal)."""
    spread = variance(values) * (len(values) - 1)
    return sum((b - a) ** 2 for a, b in itertools.pairwise(values)) / spread if spread > 0 else 2.0


def mean(values: Sequence[float]) -> float:
    """The mean."""
    return math.fsum(values) / len(values)


def variance(values: Sequence[float]) -> float:
    """The variance, unbiased."""
    middle = mean(values)
    return math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1)


def broken(values: Sequence[float], finite: Sequence[float]) -> str | None:
    """What to say of losses that are not finite: three, and one in twenty."""
    lost = len(values) - len(finite)
    return f"was not finite in {lost} of {len(values)} steps" if lost >= 3 and 20 * lost >= len(values) else None


def saw(values: Sequence[float]) -> str | None:
    """What to say of a loss that turns at each step."""
    n = len(values)
    if n < 2 * BLOCKS or turning(values) < 2 + JUMPY * 2 / math.sqrt(n):
        return None
    middle, height = mean(values), 2 * math.sqrt(variance(values))
    told = f"goes up and down from step to step (by {height:.2g}, about {middle:.3g})"
    return told if height > PART * abs(middle) else None


def risen(values: Sequence[float]) -> str | None:
    """What to say of a loss that rises from a block of steps to a later one by more than its noise, which is that within blocks."""
    wide = max(LEAST, math.ceil(len(values) / BLOCKS))
    blocks = [values[i : i + wide] for i in range(0, len(values) - wide + 1, wide)]
    if len(blocks) < LEAST:
        return None
    means = [mean(block) for block in blocks]
    within = math.sqrt(mean([variance(block) for block in blocks]) / wide)
    low, rise = means[0], 0.0
    for value in means:
        low = min(low, value)
        rise = max(rise, value - low)
    if rise <= RISE * math.sqrt(2) * within or rise <= PART * max(abs(low), LOW) or rise <= 0.5 * (means[0] - low):
        return None
    return f"rose by {rise:.2g} after it had been at {low:.3g}"
