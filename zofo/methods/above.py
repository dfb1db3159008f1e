"""The upper level of the bilevel method: what is seen of G at theta_k, by losses at theta +- eps z or by backward passes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zofo.core.estimate import ESTIMATORS, Estimate
from zofo.core.probe import Objective
from zofo.core.seedgrad import SeedGrad
from zofo.core.sketch.grad import SketchGrad
from zofo.core.weights import move
from zofo.methods import losses, theta
from zofo.methods.losses import Slope
from zofo.methods.plan import Plan
from zofo.methods.state import Micro, Problem, State


@dataclass(frozen=True)
class Sight:
    """What the upper level saw at theta_k, before it moves: G's estimate in theta, p's gradient (None: p stands), numbers."""

    estimate: Estimate[Any]
    slope: Slope | None
    numbers: dict[str, float]
    finite: bool


def sighted(
    problem: Problem, state: State, todo: Plan, upper: tuple[Micro, Micro],
    slope: Slope | None, sketch: Estimate[SketchGrad] | None,
) -> Sight:  # fmt: skip
    """What is seen of G from theta_k: `slope` and `sketch` of backward passes (see `backwards`), else losses. Nothing moves."""
    estimate: Estimate[Any] = sketch or look(problem, state, todo, upper)
    finite = estimate.finite and move.fits(estimate.grad, theta.rate(problem, state.k))
    finite = finite and (slope is None or math.isfinite(slope.loss))
    return Sight(estimate, slope, told(problem, todo, estimate), finite)


def look(problem: Problem, state: State, todo: Plan, upper: tuple[Micro, Micro]) -> Estimate[SeedGrad]:
    """Estimate G's gradient in theta: all terms at the same points, so with one z."""
    assert problem.probe is not None
    problem.model.eval()
    objective, weights = seen(problem, todo, upper), [term.weight for term in todo.terms]
    estimator = ESTIMATORS[problem.config.estimator]
    return estimator(problem.probe, objective, problem.directions(state.k), problem.eps, weights)


def seen(problem: Problem, todo: Plan, upper: tuple[Micro, Micro]) -> Objective:
    """G's terms as an objective."""
    rows = {"f": upper[0], "p": upper[1]}
    return losses.terms(problem, [(term.slot, rows[term.rows]) for term in todo.terms])


def backwards(
    problem: Problem, k: int, todo: Plan, lam: float, upper: tuple[Micro, Micro]
) -> tuple[Slope | None, Estimate[SketchGrad] | None]:
    """What the upper level takes from backward passes at theta_k: p's gradient, and with upper `sketch` G's in theta."""
    if problem.config.upper == "sketch":
        return sketched(problem, k, todo, lam, upper)
    return (upper_slope(problem, k, todo, lam, upper) if todo.p_above else None), None


def sketched(
    problem: Problem, k: int, todo: Plan, lam: float, upper: tuple[Micro, Micro]
) -> tuple[Slope | None, Estimate[SketchGrad]]:
    """Q of G, Q_A + lambda (Q_B - Q_C) with one R a layer, and g_p from the same passes over A and B.

    Cost: a forward and a backward pass a term.
    """
    rows, share, values = {"f": upper[0], "p": upper[1]}, shares(lam), []
    parts: list[tuple[float, Slope]] = []
    with theta.capturing(problem, k) as capture:
        for term in todo.terms:
            learn = todo.p_above and term.name in share
            slope = losses.gradient(
                problem, rows[term.rows], term.slot, k,
                dropout=False, learn=learn, capture=capture, weight=term.weight,
            )  # fmt: skip
            values.append(slope.loss)
            if learn:
                parts.append((share[term.name], slope))
    return (summed(parts) if parts else None), theta.estimate(capture, values)


def shares(lam: float) -> dict[str, float]:
    """The weights of the terms' gradients in g_p."""
    return {"A": 1 / (1 + lam), "B": lam / (1 + lam)}


def summed(parts: Sequence[tuple[float, Slope]]) -> Slope:
    """The weighted sum of losses and gradients."""
    return Slope(sum(w * part.loss for w, part in parts), losses.weighted(parts))


def upper_slope(problem: Problem, k: int, todo: Plan, lam: float, upper: tuple[Micro, Micro]) -> Slope:
    """g_p = (grad_p A + lambda grad_p B) / (1 + lambda), exact (or along one z of iteration k), at theta_k.

    With lambda = 0 it is grad_p A. Dropout is off.
    """
    slope = losses.gradient if problem.config.lower == "first-order" else losses.estimated_gradient
    rows, share = {"f": upper[0], "p": upper[1]}, shares(lam)
    seen = [term for term in todo.terms if term.name in share]
    return summed([(share[term.name], slope(problem, rows[term.rows], "p", k, dropout=False)) for term in seen])


def told(problem: Problem, todo: Plan, estimate: Estimate[Any]) -> dict[str, float]:
    """Losses and projected gradients by term, the gap B - C, and c itself (of a sketch: |g|)."""
    names = [term.name for term in todo.terms]
    values = dict(zip(names, estimate.terms, strict=True))
    by_term = zip(names, estimate.by_term, strict=True) if estimate.by_term else ()
    slopes = {f"c_{name}": c for name, c in by_term}
    gap = {"gap": values["B"] - values["C"]} if "C" in values else {}
    return values | gap | slopes | theta.size(problem, estimate.grad)
