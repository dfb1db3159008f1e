"""Bilevel-ZOFO (arXiv 2502.03604): all weights theta by zeroth order, an adapter p by backpropagation.

    min over theta, p, max over s of   G = A + lambda (B - C)
    A = F(theta, p; D_f)    B = F(theta, p; D_p)    C = F(theta, s; D_p)

An outer iteration: T first-order steps below (s descends C; p as `coupling` says), then one
zeroth-order step of theta on G, one z for all terms. theta goes down A, down lambda B, up lambda C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from zofo.config import MethodConfig
from zofo.core.estimate import ESTIMATORS, Estimate
from zofo.core.probe import Objective
from zofo.core.seedgrad import SeedGrad
from zofo.core.sketch.grad import SketchGrad
from zofo.core.weights import move
from zofo.methods import losses, theta
from zofo.methods.learner import Learner
from zofo.methods.losses import Slope
from zofo.methods.plan import Plan, lam_at, plan, slots
from zofo.methods.state import Micro, Problem, Report, Source, State, tally
from zofo.methods.undo import whole

Lower = Sequence[tuple[Micro, Micro | None]]
"""T pairs: the batch of D_p for s (for p, with s off), and p's mixed batch (coupling `both`)."""

Step = tuple[Problem, Micro, Micro | None]
"""A step of the lower level: the problem that has its loss, and its pair of batches."""


@dataclass(frozen=True)
class Sight:
    """What the upper level saw at theta_k, before it moves: G's estimate in theta, p's gradient (None: p stands), numbers."""

    estimate: Estimate[Any]
    slope: Slope | None
    numbers: dict[str, float]
    finite: bool


def init(problem: Problem) -> State:
    """The state before the first iteration. Memory: the rule's (Adam: two copies of theta), the learners' moments."""
    return State(rule=theta.init(problem), learners=learners(problem))


def learners(problem: Problem, tasks: int = 1) -> dict[str, Learner]:
    """A learner a slot, whose rates go by the steps of the run: `a_step` an iteration, of each of `tasks`."""
    c, made = problem.config, {}
    assert problem.slots is not None
    for slot in slots(c):
        lr, total = c.lr_s if slot == "s" else c.lr_p, problem.steps * a_step(problem, slot, tasks)
        made[slot] = Learner(problem.slots.list(slot), c.optimizer, lr, c.schedule, c.warmup, total, c.clip)
    return made


def a_step(problem: Problem, slot: str, tasks: int = 1) -> int:
    """How many steps a slot's learner takes an iteration: T below for each of `tasks`, or one above."""
    todo = plan(problem.config, lam_at(problem.config, problem.steps, problem.steps))
    return problem.config.T * tasks if slot in todo.below else 1


def draw(problem: Problem, state: State, source: Source) -> tuple[Lower, tuple[Micro, Micro]]:
    """Take an iteration's batches from the source; every stream is a function of (seed, its name, step)."""
    return drawn(problem, state.k, source, state.k)


def drawn(problem: Problem, k: int, source: Source, use: int) -> tuple[Lower, tuple[Micro, Micro]]:
    """The batches of iteration k, from where the source's streams stand after `use` iterations on it."""
    config, lam = problem.config, lam_at(problem.config, k, problem.steps)
    todo = plan(config, lam)
    lower: list[tuple[Micro, Micro | None]] = []
    for t in range(config.T if todo.below else 0):
        at, n = use * config.T + t, config.accumulate_lower
        first = source.batch("p", "lower", at, n)
        lower.append((first, source.mixed("mixed", at, n, 1 / (1 + lam)) if todo.mixed else None))
    n = config.accumulate_upper
    return lower, (source.batch("f", "upper-f", use, n), source.batch("p", "upper-p", use, n))


def step(problem: Problem, state: State, source: Source) -> tuple[State, Report]:
    """One outer iteration on batches drawn from a source (see `iterate`)."""
    lower, upper = draw(problem, state, source)
    return iterate(problem, state, lower, upper)


def iterate(problem: Problem, state: State, lower: Lower, upper: tuple[Micro, Micro]) -> tuple[State, Report]:
    """One outer iteration; on an exception at any forward or backward pass nothing has changed. theta moves last.

        for t < T:   s <- s - lr_s grad_s C          (both: and p <- p - lr_p grad_p of its mixed batch)
        g_p = ( grad_p A + lambda grad_p B ) / (1 + lambda)                    (outer only)
        g   = c z,   c = [ G(theta + eps z) - G(theta - eps z) ] / (2 eps)     (upper `sketch`: Q R, with g_p's own passes)
        theta <- theta - lr_theta rule(g);     p <- p - lr_p g_p               (outer only)

    Args: lower, T pairs of batches; upper, the batches of D_f and of D_p (B and C share the latter).
    Raises: NotFinite after `max_bad` non-finite steps in a row.
    Cost: T (both: 2 T) forward and backward passes below; 6 q forward passes above (A alone: 2 q), and
    with `outer` two more forward and backward passes; upper `sketch`: three forward and backward passes above in all.
    Memory: the larger of a probe's and an adapter's backward pass. Reference: arXiv 2502.03604, algorithm 2 and equations 5 to 9.
    """
    todo = plan(problem.config, lam_at(problem.config, state.k, problem.steps))
    moved, lr_theta = None, theta.rate(problem, state.k)
    with whole(problem, state):
        state, sight = explore(problem, state, todo, [(problem, *pair) for pair in lower], upper)
        if sight.finite:
            state, moved = theta.move_by(problem, state, sight.estimate.grad, lr_theta)
    state = replace(state, k=state.k + 1)
    numbers = sight.numbers | {"lr_theta": lr_theta, "bad": state.bad}
    return state, Report(numbers, moved, *passes(problem.config, todo, len(lower), sight.estimate))


def explore(
    problem: Problem, state: State, todo: Plan, steps: Sequence[Step], upper: tuple[Micro, Micro]
) -> tuple[State, Sight]:
    """An iteration but for theta's move: learn below, look above, and take p's step there."""
    lam = lam_at(problem.config, state.k, problem.steps)
    with problem.standing_still():
        state, said = below(problem, state, todo, steps)
        parts = backwards(problem, state.k, todo, lam, upper)
    state, sight = stepped(problem, state, sighted(problem, state, todo, upper, *parts))
    numbers = {"lam": lam, **said.get(problem.task, {})}
    return state, replace(sight, numbers=numbers | sight.numbers)


def below(
    problem: Problem, state: State, todo: Plan, steps: Sequence[Step]
) -> tuple[State, dict[str, dict[str, float]]]:
    """The lower level: a step of each slot that learns there on every pair; then, where p follows, p is s.

    Returns the last rates and losses by task.
    """
    assert problem.slots is not None
    said: dict[str, dict[str, float]] = {own.task: {} for own, *_ in steps}
    if "s" in todo.below and problem.config.s_start == "from-p":
        problem.slots.copy("p", "s")
        state.learners["s"].restart()
    for t, (own, batch_s, batch_p) in enumerate(steps):
        for slot in todo.below:
            batch = batch_p if slot == "p" and todo.mixed else batch_s
            assert batch is not None, "coupling `both` needs a mixed batch for p in every pair"
            rate = state.learners[slot].rate
            state, slope = descend(own, state, slot, batch, t)
            said[own.task] |= {f"lr_{slot}": rate, f"loss_{slot}": slope.loss}
    if todo.follow:
        problem.slots.copy("s", "p")
    return state, said


def sighted(
    problem: Problem, state: State, todo: Plan, upper: tuple[Micro, Micro],
    slope: Slope | None, sketch: Estimate[SketchGrad] | None,
) -> Sight:  # fmt: skip
    """What is seen of G from theta_k: `slope` and `sketch` of backward passes (see `backwards`), else losses. Nothing moves."""
    estimate: Estimate[Any] = sketch or look(problem, state, todo, upper)
    finite = estimate.finite and move.fits(estimate.grad, theta.rate(problem, state.k))
    finite = finite and (slope is None or math.isfinite(slope.loss))
    return Sight(estimate, slope, told(problem, todo, estimate), finite)


def stepped(problem: Problem, state: State, sight: Sight) -> tuple[State, Sight]:
    """p's step above, where all is finite; what is not is counted. Raises: NotFinite as `tally`."""
    finite, numbers = sight.finite, sight.numbers
    if finite and sight.slope is not None:
        numbers = numbers | {"loss_p": sight.slope.loss, "lr_p": state.learners["p"].rate}
        finite = state.learners["p"].step(sight.slope.grads)
    state = tally(problem, state, finite, "upper", "a loss or gradient of the upper level")
    return state, replace(sight, numbers=numbers, finite=finite)


def descend(problem: Problem, state: State, slot: str, batch: Micro, t: int) -> tuple[State, Slope]:
    """One lower-level step of a slot: slot <- slot - rate * optimizer(grad F(theta_k, slot; batch))."""
    first_order = problem.config.lower == "first-order"
    slope = (losses.gradient if first_order else losses.estimated_gradient)(problem, batch, slot, state.k, t)
    finite = state.learners[slot].step(slope.grads, math.isfinite(slope.loss))
    return tally(problem, state, finite, slot, f"the lower level's loss or gradient of {slot}"), slope


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


def objective(problem: Problem, state: State, source: Source) -> Objective:
    """What theta's next step looks at."""
    todo = plan(problem.config, lam_at(problem.config, state.k, problem.steps))
    problem.model.eval()
    return seen(problem, todo, draw(problem, state, source)[1])


def weights(problem: Problem, state: State) -> list[float]:
    """The weights of the objective's terms in G."""
    return [term.weight for term in plan(problem.config, lam_at(problem.config, state.k, problem.steps)).terms]


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


def passes(config: MethodConfig, todo: Plan, T: int, estimate: Estimate[Any]) -> tuple[int, int]:
    """Forward and backward passes of an iteration, a pass being over one micro-batch."""
    forwards = estimate.calls * len(todo.terms) * config.accumulate_upper
    each = 1 if config.lower == "first-order" else 2
    learned = T * len(todo.below) * config.accumulate_lower
    if config.upper == "sketch":
        learned += len(todo.terms) * config.accumulate_upper
    elif todo.p_above:
        learned += len(todo.terms[:2]) * config.accumulate_upper
    return forwards + each * learned, learned if each == 1 else 0
