"""The probe size and the rate of a zeroth-order step, from values of the loss along a few directions.

Along z, with f(a) the loss at theta + a z:

    c(eps) = [ f(eps) - f(-eps) ] / (2 eps)      h = [ f(eps) - 2 f(0) + f(-eps) ] / eps^2, an estimate of z'Hz

**eps.** Rounding of f puts an error of variance A / eps^2 on c, the bending of f one of B eps^4 (estimator `forward`: B eps^2). Each
of two differences, c(e1) - c(e2) and c(e2) - c(e3), is A (1/x^2 + 1/y^2) + B (x^k - y^k)^2 in the mean square: two equations,
which give A and B, and so the error of each size.

**lr.** A step -lr c z, c from one batch, changes the loss of other rows by about -lr c c' + lr^2 c^2 h' / 2, c' and h' being theirs. In the mean that
is lowest at lr = E[c c'] / E[c^2 h'], and does harm from twice that on. Half of it is taken, and never more than what makes
the steps of a whole run, a random walk of independent z, end REACH times as far out as eps: farther out nothing was seen.
The steps count as the sum of (rate / lr)^2, three eighths of them with a cosine; those that do not look at the penalty go with a c of their own. With q probes a step's variance falls as 1/q, and lr is q times that.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

HALF = (
    0.5  # of the rate that lowers the loss most, for a few directions say it; of a difference, that an error explains
)
LEAST = 1 / 8  # of E[c^2] that E[c c'] is taken to be at least
REACH = 3.0
"""Of eps, how far the walk of a whole run may end. On SST-2 and trec MeZO's best swept rates end some 4 to 14 off, and three times those do harm (dev/LOG.md, 2026-11-28)."""
ENOUGH = 0.01  # of E[c^2]: an error of the configured size below that is no reason to leave it
MUCH = 0.5  # of that error: a size that is to replace the configured one has less


@dataclass(frozen=True)
class Line:
    """Values of the loss on one batch, along one direction, by how far from theta."""

    at: Mapping[float, float]

    def slope(self, eps: float, forward: bool = False) -> float:
        """c at a probe size."""
        if forward:
            return (self.at[eps] - self.at[0.0]) / eps
        return (self.at[eps] - self.at[-eps]) / (2 * eps)

    def bend(self, eps: float) -> float:
        """h at a probe size."""
        return (self.at[eps] - 2 * self.at[0.0] + self.at[-eps]) / eps**2


@dataclass(frozen=True)
class Rate:
    """A rate, and what it is from: E[c^2], E[c c'] as a part of it, E[c^2 h'], c's rms over the whole run, and whether the walk's length bounds it."""

    lr: float
    square: float
    share: float
    pull: float
    rms: float
    bounded: bool

    @property
    def bend(self) -> float:
        """The mean of h, weighted by c^2."""
        return self.pull / self.square


def sizes(eps: float) -> tuple[float, float, float]:
    """A probe size between its neighbours, half a decade off, of one digit."""
    low, high = (float(f"{eps * 10.0**step:.0e}") for step in (-0.5, 0.5))
    return low, eps, high


def errors(lines: Sequence[Line], three: Sequence[float], forward: bool = False) -> dict[float, float]:
    """The mean square error of c at each of three sizes, as a part of E[c^2] (of the middle one); all 0 where c is 0.

    Where a size gave values that are not finite, it is infinite there, and 0 elsewhere.
    """
    slopes = {eps: [line.slope(eps, forward) for line in lines] for eps in three}
    broken = {eps for eps, found in slopes.items() if not all(map(math.isfinite, found))}
    if broken:
        return {eps: math.inf if eps in broken else 0.0 for eps in three}
    low, eps, high = three
    square = statistics.fmean(c * c for c in slopes[eps])
    if not square > 0:
        return dict.fromkeys(three, 0.0)
    power = 1 if forward else 2
    rows, found = [], []
    for x, y in ((low, eps), (eps, high)):
        x_, y_ = x / eps, y / eps  # in units of eps
        rows.append((x_**-2 + y_**-2, (x_**power - y_**power) ** 2))
        found.append(statistics.fmean((a - b) ** 2 for a, b in zip(slopes[x], slopes[y], strict=True)))
    rounding, bending = solved(rows, found)
    return {x: (rounding * (x / eps) ** -2 + bending * (x / eps) ** (2 * power)) / square for x in three}


def solved(rows: Sequence[tuple[float, float]], found: Sequence[float]) -> tuple[float, float]:
    """A, B >= 0 with rows . (A, B) = found; one that explains less than half of the difference it is seen in best is taken as 0.

    Of a few directions the smaller of two parts is mostly the sampling noise of the larger one.
    """
    (a, b), (c, d) = rows
    determinant = a * d - b * c
    A, B = (found[0] * d - b * found[1]) / determinant, (a * found[1] - found[0] * c) / determinant
    if B * d < HALF * found[1]:
        return found[0] / a, 0.0
    return (A, B) if A * a >= HALF * found[0] else (0.0, found[1] / d)


def better(found: Mapping[float, float], eps: float) -> float:
    """The size to go on with: the configured one, unless its error is worth noting and another's is less than half of it."""
    lead = min(found, key=lambda x: (found[x], x))
    return lead if found[eps] > ENOUGH and found[lead] < MUCH * found[eps] else eps


def rate(
    first: Sequence[Line],
    second: Sequence[Line],
    eps: float,
    q: int = 1,
    steps: float = 1,
    others: Sequence[Line] = (),
    more: float = 0,
) -> Rate | None:
    """The rate of theta for so many full steps, from the same directions on two batches each, and `more` with the c of others; None where no loss changed."""
    pairs = [(a.slope(eps), b.slope(eps), a.bend(eps), b.bend(eps)) for a, b in zip(first, second, strict=True)]
    square = statistics.fmean((c * c + d * d) / 2 for c, d, _, _ in pairs)
    pull = statistics.fmean((c * c * k + d * d * h) / 2 for c, d, h, k in pairs)
    if not (square > 0 and math.isfinite(square) and math.isfinite(pull)):
        return None
    share = min(1.0, max(LEAST, statistics.fmean(c * d for c, d, _, _ in pairs) / square))
    walked = square * steps + (more * statistics.fmean(line.slope(eps) ** 2 for line in others) if more else 0.0)
    most = REACH * math.sqrt(q) * eps / math.sqrt(walked)  # the mean of q probes is shorter than one by sqrt(q)
    lr = HALF * q * share * square / pull if pull > 0 else math.inf
    return Rate(min(lr, most), square, share, pull, math.sqrt(walked / (steps + more)), lr > most)
