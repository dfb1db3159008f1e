"""Intervals of paired differences, over seeds and test rows.

Two rows of a table are compared on the same seeds and the same test rows: d[s, r] = value of one less value of the
other. A draw takes seeds with replacement, and test rows with replacement: the same ones for every seed where all seeds
were tested on the same rows (crossed), each seed's own where they were not (nested). The draws give the interval its shape, their
2.5 and 97.5 % quantiles. Their width is not right: resampling seeds and rows at once counts the noise of single answers up to
three times (Owen 2007), n seeds drawn from n have (n - 1) / n of their variance, and few seeds need a t law. So the quantiles
are stretched about the mean to the variance that the analysis of variance estimates without bias (seeds, rows and
their interaction), with the degrees of freedom of Welch and Satterthwaite. Of a mean over tasks a seed is a seed on all of them. With one seed it is over rows alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zofo.spread import LEVEL, Variance, over_groups, within

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Squares:
    """What an analysis of variance of differences knows: by seed, the mean; and parts of the variance of their mean.

    rows: by rows and single answers, with its degrees of freedom; single: what of that is in the spread of the seeds' means.
    Where each seed has rows of its own (nested) all of it is.
    """

    means: Array  # (seeds,)
    rows: float
    freedom: float
    single: float
    nested: bool

    @property
    def variance(self) -> Variance:
        """The variance of the mean: seeds + rows - single, none of its parts below 0.

        The seeds' mean square keeps its part of the degrees of freedom where it is small: of few seeds that may be chance.
        """
        n = len(self.means)
        if self.nested:
            return over_groups(self.means, self.rows, self.freedom)
        seeds = float(self.means.var(ddof=1) / n) if n > 1 else 0.0
        uncertain = self.rows**2 / self.freedom + (seeds**2 / (n - 1) if n > 1 else 0.0)
        return Variance(max(0.0, seeds - self.single), self.rows, uncertain)


@dataclass(frozen=True)
class Draws:
    """The mean difference of one comparison, its bootstrap draws, and what its variance is made of."""

    mean: float
    values: Array  # (draws,)
    squares: Squares

    @property
    def seeds(self) -> int:
        """How many seeds it is over."""
        return len(self.squares.means)


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
    squares = two_way(table) if table is not None else nested(differences)
    return Draws(float(np.mean([d.mean() for d in differences])), values, squares)


def two_way(table: Array) -> Squares:
    """The mean squares of a two-way table, (seeds, rows), over n m: of seeds, of rows, and of what is left."""
    n, m = table.shape
    rows, freedom = float(table.mean(0).var(ddof=1) / m) if m > 1 else 0.0, max(m - 1, 1)
    means = table.mean(1)
    if n == 1:
        return Squares(means, rows, freedom, 0.0, False)
    left = table - means[:, None] - table.mean(0) + table.mean()
    single = float((left**2).sum() / max((n - 1) * (m - 1), 1) / (n * m))
    return Squares(means, max(rows, single), freedom, single, False)


def nested(differences: Sequence[Array]) -> Squares:
    """The same of seeds with rows of their own."""
    rows, freedom = within(differences)
    return Squares(np.array([d.mean() for d in differences]), rows, freedom, rows, True)


def averaged(parts: Sequence[Draws]) -> Draws:
    """The mean over tasks, which are fixed, on the same seeds: draws are averaged one by one, and seeds' means seed by seed.

    A seed gives all tasks the same start of the adapter and the same z, so what it does on one it may do on the others: the
    spread of seeds is that of their means over tasks, with n - 1 degrees of freedom. Rows' variances add.
    Raises: ValueError where tasks have other numbers of seeds.
    """
    k, held = len(parts), [part.squares for part in parts]
    if len({part.seeds for part in parts}) > 1:
        raise ValueError(f"tasks with {sorted({part.seeds for part in parts})} seeds have no mean difference")
    rows, single = (sum(getattr(squares, name) for squares in held) / k**2 for name in ("rows", "single"))
    uncertain = sum(squares.rows**2 / squares.freedom for squares in held) / k**4
    freedom = rows**2 / uncertain if uncertain else 1.0
    means = np.mean([squares.means for squares in held], axis=0)
    squares = Squares(means, rows, freedom, single, all(one.nested for one in held))
    return Draws(
        float(np.mean([part.mean for part in parts])), np.mean([part.values for part in parts], axis=0), squares
    )


def interval(found: Draws, level: float = LEVEL) -> Interval:
    """The interval of a mean difference."""
    tail, by = (1 - level) / 2, stretch(found, level)
    low, high = (found.mean + by * (float(q) - found.mean) for q in np.quantile(found.values, [tail, 1 - tail]))
    return Interval(found.mean, low, high, found.seeds)


def stretch(found: Draws, level: float = LEVEL) -> float:
    """How much wider (or narrower) than the draws' quantiles an interval is."""
    from scipy.stats import norm, t

    drawn, whole = float(found.values.var()), found.squares.variance.whole
    if drawn == 0 or whole == 0:
        return 1.0
    tail = (1 + level) / 2
    return float(np.sqrt(whole / drawn) * t.ppf(tail, found.squares.variance.freedom) / norm.ppf(tail))
