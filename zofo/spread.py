"""Several measurements of one thing: their mean, spread, and a 95 % interval by Student's t."""

from __future__ import annotations

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
    from scipy.stats import t  # a tenth of a second to import

    sd, n = statistics.stdev(values, mean), len(values)
    half = float(t.ppf((1 + LEVEL) / 2, n - 1)) * sd / math.sqrt(n)
    return Spread(n, mean, sd, mean - half, mean + half)
