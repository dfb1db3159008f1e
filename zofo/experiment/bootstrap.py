"""Intervals of paired differences, over seeds and test rows.

Two rows of a table are compared on the same seeds and the same test rows: d[s, r] = value of one less value of the
other. A draw takes seeds with replacement, and test rows with replacement: the same ones for every seed where all seeds
were tested on the same rows (crossed), each seed's own where they were not (nested). The draws give the interval its shape, their
2.5 and 97.5 % quantiles. Their width is not right: resampling seeds and rows at once counts the noise of single answers up to
three times (Owen 2007), n seeds drawn from n have (n - 1) / n of their variance, and few seeds need a t law. So the quantiles
are stretched about the mean to the variance that the analysis of variance estimates without bias (seeds, rows and
their interaction), with the degrees of freedom of Welch and Satterthwaite. With one seed it is over rows alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zofo.spread import LEVEL, Variance, parted

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Draws:
    """The mean difference of one comparison, its bootstrap draws, and the variance of the mean by its sources."""

    mean: float
    values: Array  # (draws,)
    seeds: int
    variance: Variance  # by seeds, and by rows and single answers


@dataclass(frozen=True)
class Interval:
    """A paired difference, its interval, and how many seeds it is over (1: rows alone)."""

    mean: float
    low: float
    high: float
    seeds: int


def draw(differences: Sequence[Array], crossed: bool, draws: int, seed: int = 0) -> Draws:
    """Draw means of differences. Args: differences, one array of rows a seed; crossed, whether all seeds share rows."""
    rng = np.random.default_rng(seed)
    n, m = len(differences), min(map(len, differences))
    picked = rng.integers(n, size=(draws, n))
    values = np.empty(draws)
    table = np.stack(differences) if crossed else None
    for k in range(draws):
        if table is not None:
            values[k] = table[picked[k]][:, rng.integers(m, size=m)].mean()
        else:
            values[k] = np.mean(
                [d[rng.integers(len(d), size=len(d))].mean() for d in (differences[s] for s in picked[k])]
            )
    variance = two_way(table) if table is not None else parted(differences)
    return Draws(float(np.mean([d.mean() for d in differences])), values, n, variance)


def two_way(table: Array) -> Variance:
    """The variance of the mean of a two-way table, (seeds, rows): by seeds, and by rows and single answers.

    Mean squares over n m: seeds, rows, and what is left. Their variance is seeds + rows - left; none of its parts is below 0.
    """
    n, m = table.shape
    rows = float(table.mean(0).var(ddof=1) / m) if m > 1 else 0.0
    if n == 1:
        return Variance(0.0, rows, rows**2 / max(m - 1, 1))
    means = table.mean(1)
    left = table - means[:, None] - table.mean(0) + table.mean()
    single = float((left**2).sum() / max((n - 1) * (m - 1), 1) / (n * m))
    seeds, rows = float(means.var(ddof=1) / n), max(rows, single)
    uncertain = rows**2 / max(m - 1, 1) + (seeds**2 / (n - 1) if seeds > single else 0.0)
    return Variance(max(0.0, seeds - single), rows, uncertain)


def averaged(parts: Sequence[Draws]) -> Draws:
    """The mean over tasks, which are fixed: draws are averaged one by one, variances added, each with its own degrees of freedom."""
    k = len(parts)
    by_seeds, by_rows = (sum(getattr(p.variance, name) for p in parts) / k**2 for name in ("by_groups", "by_values"))
    variance = Variance(by_seeds, by_rows, sum(p.variance.uncertain for p in parts) / k**4)
    values = np.mean([part.values for part in parts], axis=0)
    return Draws(sum(part.mean for part in parts) / k, values, min(part.seeds for part in parts), variance)


def interval(found: Draws, level: float = LEVEL) -> Interval:
    """The interval of a mean difference."""
    tail, by = (1 - level) / 2, stretch(found, level)
    low, high = (found.mean + by * (float(q) - found.mean) for q in np.quantile(found.values, [tail, 1 - tail]))
    return Interval(found.mean, low, high, found.seeds)


def stretch(found: Draws, level: float = LEVEL) -> float:
    """How much wider (or narrower) than the draws' quantiles an interval is."""
    from scipy.stats import norm, t

    drawn, whole = float(found.values.var()), found.variance.whole
    if drawn == 0 or whole == 0:
        return 1.0
    tail = (1 + level) / 2
    return float(np.sqrt(whole / drawn) * t.ppf(tail, found.variance.freedom) / norm.ppf(tail))
