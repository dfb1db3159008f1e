"""Which learning rate of some that were tried: which to try next, and which to take, by losses a row on the same rows.

Losses are paired by row, so what is noise is known: the standard error of the mean difference. A rate counts as good
where it leaves the loss no worse than it was before training, by two standard errors.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FACTOR = 3.0  # between neighbouring rates
MOST = 6  # rates tried
EDGE = 2.0  # a rate whose neighbour diverges is divided by it
LEAST = 0.25  # of the tried rate, that a longer run is given at least

Losses = Sequence[float] | None
"""A loss a row after a trial; None where it ended with numbers that are not finite."""


@dataclass(frozen=True)
class Choice:
    """A rate (as tried: `tried`; as it is to be used: `lr`), and why it."""

    lr: float
    tried: float | None
    why: str


def difference(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """The mean of one - other over rows, and its standard error (0 of a single row)."""
    parts = [a - b for a, b in zip(one, other, strict=True)]
    return statistics.fmean(parts), statistics.stdev(parts) / math.sqrt(len(parts)) if len(parts) > 1 else 0.0


def worse(one: Losses, other: Sequence[float], errors: float) -> bool:
    """Whether losses are worse than others by more than so many standard errors, or not finite."""
    if one is None:
        return True
    mean, error = difference(one, other)
    return mean > errors * error


def best(tried: Mapping[float, Losses]) -> float | None:
    """The rate with the lowest mean loss; None where none ended with finite losses."""
    means = {lr: statistics.fmean(losses) for lr, losses in tried.items() if losses is not None}
    return min(means, key=lambda lr: (means[lr], lr)) if means else None


def wanted(tried: Mapping[float, Losses], first: float) -> float | None:
    """The rate to try next: from the first one up while it does not clearly hurt, then down while that helps; None when it is done."""
    if not tried:
        return first
    top, low, lead = max(tried), min(tried), best(tried)
    if lead is None:
        return low / FACTOR
    held = tried[lead]
    assert held is not None
    if not worse(tried[top], held, 1.0):
        return top * FACTOR
    return low / FACTOR if lead == low else None


def choose(tried: Mapping[float, Losses], before: Sequence[float], now: float, longer: float = 1.0) -> Choice:
    """The largest rate that is within a standard error of the best, less at an edge, and less for a longer run.

    Args: tried, losses a row by rate, neighbours `FACTOR` apart; before, the losses without training; now, the rate that is
    configured, kept where nothing can be told; longer, how many times the trial's steps the run has (a constant rate
    is best at about 1 / sqrt(steps), so it is divided by that, by 4 at most).
    """
    good = {lr: losses for lr, losses in tried.items() if losses is not None and not worse(losses, before, 2.0)}
    lead = best(good)
    if lead is None:
        low = min(tried)
        return Choice(rounded(low / FACTOR), None, "every rate tried made the loss worse: below the lowest")
    held = good[lead]
    assert held is not None
    mean, error = difference(before, held)
    if not mean > 2.0 * error:
        return unseen(good, now)
    top = max(lr for lr, losses in good.items() if lr >= lead and not worse(losses, held, 1.0))
    lr, why = top, "the lowest loss" if top == lead else "the largest within noise of the lowest loss"
    above = next((other for other in sorted(tried) if other > top), None)
    if above is not None and above not in good:
        lr, why = lr / EDGE, f"{why}, halved: {above:.2g} diverges"
    share = max(LEAST, min(1.0, longer**-0.5))
    if share < 1.0:
        lr, why = lr * share, f"{why}, times {share:.2f} for {longer:.0f} times the steps"
    return Choice(rounded(lr), top, why)


def unseen(good: Mapping[float, Losses], now: float) -> Choice:
    """The choice where no rate lowered the loss by more than its noise: the one configured, unless it hurts."""
    if now in good:
        return Choice(now, now, "kept: no rate tried lowered the loss by more than its noise")
    top = max(good)
    return Choice(rounded(top), top, "the largest that does no harm: none lowered the loss by more than its noise")


def rounded(value: float) -> float:
    """Two digits."""
    return float(f"{value:.1e}")
