"""Several measurements of one thing: their mean, spread, and a 95 % interval by Student's t."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True)
class Spread:
    """n values: mean, standard deviation (n - 1 below), and the ends of the interval; None of one value alone, or where one is not finite."""

    n: int
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None


def of(values: Sequence[float]) -> Spread:
    """The mean m, sd and m -+ t_{0.975, n-1} sd / sqrt(n). Values: independent, near normal. Raises: ValueError without any."""
    if not values:
        raise ValueError("no values")
    if not all(map(math.isfinite, values)):
        return Spread(len(values), sum(values) / len(values))
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Spread(1, mean)
    sd = statistics.stdev(values, mean)
    half = quantile(len(values) - 1) * sd / math.sqrt(len(values))
    return Spread(len(values), mean, sd, mean - half, mean + half)


@functools.cache
def quantile(freedom: int, level: float = LEVEL) -> float:
    """t with P(|T| <= t) = level, T of Student's law with so many degrees of freedom, by bisection to rounding."""
    low, high = 0.0, 1.0
    while inside(high, freedom) < level:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle, freedom) < level else (low, middle)
    return high


def inside(t: float, freedom: int) -> float:
    """P(|T| <= t): the finite sums for whole degrees of freedom (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for k in range(1 if odd else 0, freedom - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (k + 1) / (k + 2)
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total
