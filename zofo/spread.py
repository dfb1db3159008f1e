"""Several measurements of one thing: their mean, spread, and a 95 % interval by Student's t."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

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


def nested(groups: Sequence[Sequence[float]]) -> Spread:
    """The same of measurements in groups (draws of several training seeds), where those of one group have something in common.

    m -+ t sqrt(V): V by groups and by single values (`parted`), the degrees of freedom of Welch and Satterthwaite; with
    one group, or groups that do not differ beyond their values, as `of`.
    """
    values = [value for group in groups for value in group]
    whole = of(values)
    if len(groups) < 2 or not all(map(math.isfinite, values)):
        return whole
    import numpy as np
    from scipy.stats import t

    held = parted([np.asarray(group, dtype=np.float64) for group in groups])
    if held.uncertain == 0:
        return whole
    half = float(t.ppf((1 + LEVEL) / 2, held.freedom)) * math.sqrt(held.whole)
    mean = statistics.fmean(map(statistics.fmean, groups))
    return Spread(whole.n, mean, whole.sd, mean - half, mean + half)


@dataclass(frozen=True)
class Variance:
    """The variance of a mean, by its sources: what groups add beyond their values (none is below 0), and values.

    uncertain: the sum over the mean squares that `whole` is made of, each squared over its degrees of freedom.
    """

    by_groups: float
    by_values: float
    uncertain: float

    @property
    def whole(self) -> float:
        """The variance."""
        return self.by_groups + self.by_values

    @property
    def freedom(self) -> float:
        """Its degrees of freedom, by Welch and Satterthwaite; one at least."""
        return max(self.whole**2 / self.uncertain, 1.0) if self.uncertain else math.inf


def parted(groups: Sequence[NDArray[Any]]) -> Variance:
    """The variance of the mean of groups' means, each group of values of its own (`over_groups`)."""
    import numpy as np

    return over_groups(np.array([d.mean() for d in groups]), *within(groups))


def within(groups: Sequence[NDArray[Any]]) -> tuple[float, int]:
    """What single values add to the variance of the mean of groups' means, and its degrees of freedom (1 at least)."""
    found = sum(float(d.var(ddof=1) / len(d)) for d in groups if len(d) > 1) / len(groups) ** 2
    return found, max(sum(len(d) - 1 for d in groups), 1)


def over_groups(means: NDArray[Any], single: float, freedom: float) -> Variance:
    """The variance of the mean of n groups' means, whose own values account for `single` of it.

    That is V = s^2 / n, s^2 the variance of the means (n - 1 degrees of freedom), or `single` where that is larger. There V
    keeps its part of the uncertainty: a small one of few groups may be chance.
    """
    n = len(means)
    by = float(means.var(ddof=1) / n) if n > 1 else 0.0
    more = max(0.0, single - by)
    return Variance(max(0.0, by - single), single, (by**2 / (n - 1) if n > 1 else 0.0) + more**2 / freedom)
