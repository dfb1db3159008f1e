"""Estimators: from losses at theta + eps z to a `SeedGrad`.

    central   c_i = [ f(theta + eps z_i) - f(theta - eps z_i) ] / (2 eps q)     bias O(eps^2), 2 q forward passes
    forward   c_i = [ f(theta + eps z_i) - f(theta) ] / (eps q)                 bias O(eps),   q + 1

with f = sum_t weight_t term_t for an objective of several terms: all share the same z.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from zofo.core.noise import Direction
from zofo.core.probe import Objective, Point, Probe
from zofo.core.seedgrad import SeedGrad

G = TypeVar("G")  # a gradient: SeedGrad, or SketchGrad


@dataclass(frozen=True)
class Estimate(Generic[G]):
    """An estimate of the gradient.

    grad: sum_i c_i z_i, or a sketch; terms: each term's value, averaged over the points used (central: theta +- eps z;
    forward: theta itself); by_term: each term's own projected gradient, before its weight, averaged over
    the probes (a sketch has none); finite: whether every loss was; calls: how often the objective was evaluated.
    """

    grad: G
    terms: tuple[float, ...]
    by_term: tuple[float, ...]
    finite: bool
    calls: int


Estimator = Callable[[Probe, Objective, Sequence[Direction], float, Sequence[float]], Estimate[SeedGrad]]


def central(
    probe: Probe, objective: Objective, directions: Sequence[Direction], eps: float, weights: Sequence[float] = (1.0,)
) -> Estimate[SeedGrad]:
    """Two-point estimate along each direction (Spall 1992, SPSA; MeZO definition 1): bias O(eps^2).

    Args: directions, q of them; eps > 0, the probe size; weights, one a term.
    Cost: 2 q evaluations of the objective.
    """
    points = [Point(z, a) for z in directions for a in (eps, -eps)]
    values = probe(objective, points).tolist()
    slopes = [
        [(plus - minus) / (2 * eps) for plus, minus in zip(*pair, strict=True)]
        for pair in zip(values[::2], values[1::2], strict=True)
    ]
    return gather(directions, slopes, values, weights, calls=len(points))


def forward(
    probe: Probe, objective: Objective, directions: Sequence[Direction], eps: float, weights: Sequence[float] = (1.0,)
) -> Estimate[SeedGrad]:
    """One-sided estimate along each direction, all against one value at theta: bias O(eps).

    Args as for `central`. Cost: q + 1 evaluations of the objective.
    """
    points = [Point(), *(Point(z, eps) for z in directions)]
    base, *values = probe(objective, points).tolist()
    slopes = [[(there - here) / eps for there, here in zip(row, base, strict=True)] for row in values]
    estimate = gather(directions, slopes, [base], weights, calls=len(points))
    finite = estimate.finite and all(math.isfinite(v) for row in values for v in row)
    return Estimate(estimate.grad, estimate.terms, estimate.by_term, finite, estimate.calls)


def gather(
    directions: Sequence[Direction],
    slopes: list[list[float]],
    values: list[list[float]],
    weights: Sequence[float],
    calls: int,
) -> Estimate[SeedGrad]:
    """Weigh each direction's slopes into its coefficient, divide by q, and average what is logged."""
    q = len(directions)
    coefficients = [sum(w * c for w, c in zip(weights, row, strict=True)) / q for row in slopes]
    grad = SeedGrad(directions[0].law, tuple((z.key, c) for z, c in zip(directions, coefficients, strict=True)))
    finite = all(math.isfinite(v) for row in [*values, coefficients] for v in row)
    return Estimate(grad, mean(values), mean(slopes), finite, calls)


def mean(rows: list[list[float]]) -> tuple[float, ...]:
    """Return the mean of each column."""
    return tuple(sum(column) / len(rows) for column in zip(*rows, strict=True))


ESTIMATORS: dict[str, Estimator] = {"central": central, "forward": forward}
