"""Bilevel-ZOFO (arXiv 2502.03604): all weights theta by zeroth order, an adapter p by backpropagation.

    min over theta, p, max over s of   G = A + lambda (B - C)
    A = F(theta, p; D_f)    B = F(theta, p; D_p)    C = F(theta, s; D_p)

An outer iteration: T first-order steps below (s descends C; p as `coupling` says), then one
zeroth-order step of theta on G, one z for all terms. theta goes down A, down lambda B, up lambda C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from zofo.config import MethodConfig
from zofo.core.estimate import Estimate
from zofo.core.probe import Objective
from zofo.methods import above, losses, theta
from zofo.methods.learner import Learner
from zofo.methods.losses import Slope
from zofo.methods.plan import Plan, every, lam_at, plan, scheduled, slots
from zofo.methods.state import Micro, Problem, Report, Source, State, tally
from zofo.methods.undo import whole, within

Lower = Sequence[tuple[Micro, Micro | None]]
"""T pairs: the batch of D_p for s (for p, with s off), and p's mixed batch (coupling `both`)."""

Step = tuple[Problem, Micro, Micro | None]
"""A step of the lower level: the problem that has its loss, and its pair of batches."""


def init(problem: Problem) -> State:
    """The state before the first iteration. Memory: the rule's (Adam: two copies of theta), the learners' moments."""
    return State(rule=theta.init(problem), learners=learners(problem))


def learners(problem: Problem, tasks: int = 1) -> dict[str, Learner]:
    """A learner a slot, whose rates go by the steps that it takes in the run (`taken`), of each of `tasks`."""
    c, made = problem.config, {}
    assert problem.slots is not None
    for slot in slots(c):
        lr, total = c.lr_s if slot == "s" else c.lr_p, taken(problem, slot, problem.steps, tasks)
        made[slot] = Learner(problem.slots.list(slot), c.optimizer, lr, c.schedule, c.warmup, total, c.clip)
    return made


def taken(problem: Problem, slot: str, k: int, tasks: int = 1) -> int:
    """The steps of a slot's learner in the first k iterations: T in each for each of `tasks`, or one above; of s, where the penalty is looked at."""
    c = problem.config
    seen = math.ceil(k / every(c)) if slot == "s" else k
    return seen * (c.T * tasks if slot in plan(c, c.lam).below else 1)


def draw(problem: Problem, state: State, source: Source) -> tuple[Lower, tuple[Micro, Micro]]:
    """Take an iteration's batches from the source; every stream is a function of (seed, its name, step)."""
    return drawn(problem, state.k, source, state.k)


def drawn(problem: Problem, k: int, source: Source, use: int) -> tuple[Lower, tuple[Micro, Micro]]:
    """The batches of iteration k, from where the source's streams stand after `use` iterations on it.

    p's mixed batch has the share of D_f that its schedule's lambda gives, in iterations too that leave the penalty out (`lam_every`):
    its rows of D_p cost nothing more.
    """
    config, lam = problem.config, lam_at(problem.config, k, problem.steps)
    todo, share = plan(config, lam), 1 / (1 + scheduled(config, k, problem.steps))
    lower: list[tuple[Micro, Micro | None]] = []
    for t in range(config.T if todo.below else 0):
        at, n = use * config.T + t, config.accumulate_lower
        first = source.batch("p", "lower", at, n)
        lower.append((first, source.mixed("mixed", at, n, share) if todo.mixed else None))
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

    With `lam_every` n, lambda is n times its schedule's in iterations 0, n, 2 n, ... and 0 in others, which are then those of A alone.

    Args: lower, T pairs of batches; upper, the batches of D_f and of D_p (B and C share the latter).
    Raises: NotFinite after `max_bad` non-finite steps in a row.
    Cost: T (both: 2 T) forward and backward passes below; 6 q forward passes above (A alone: 2 q), and
    with `outer` two more forward and backward passes; upper `sketch`: three forward and backward passes above in all.
    Memory: the larger of a probe's and an adapter's backward pass. Reference: arXiv 2502.03604, algorithm 2 and equations 5 to 9.
    """
    todo = plan(problem.config, lam_at(problem.config, state.k, problem.steps))
    moved, lr_theta = None, theta.rate(problem, state.k)
    with whole(problem, state) as undo:
        state, sight = explore(problem, state, todo, [(problem, *pair) for pair in lower], upper)
        undo.possible = False
        if sight.finite:
            state, moved = theta.move_by(problem, state, sight.estimate.grad, lr_theta)
    state = replace(state, k=state.k + 1)
    numbers = sight.numbers | {"lr_theta": lr_theta, "bad": state.bad}
    return state, Report(numbers, moved, *passes(problem.config, todo, lower, upper, sight.estimate))


def explore(
    problem: Problem, state: State, todo: Plan, steps: Sequence[Step], upper: tuple[Micro, Micro]
) -> tuple[State, above.Sight]:
    """An iteration but for theta's move: learn below, look above, and take p's step there."""
    lam = lam_at(problem.config, state.k, problem.steps)
    with problem.standing_still():
        state, said = below(problem, state, todo, steps)
        parts = above.backwards(problem, state.k, todo, lam, upper)
    state, sight = stepped(problem, state, above.sighted(problem, state, todo, upper, *parts))
    numbers = {"lam": todo.lam(lam), **said.get(problem.task, {})}
    return state, replace(sight, numbers=numbers | sight.numbers)


def below(
    problem: Problem, state: State, todo: Plan, steps: Sequence[Step]
) -> tuple[State, dict[str, dict[str, float]]]:
    """The lower level: a step of each slot that learns there on every pair; then, where p follows, p is s.

    Returns the last rates and losses by task.
    """
    assert problem.slots is not None
    said: dict[str, dict[str, float]] = {own.task: {} for own, *_ in steps}
    if (
        "s" in todo.below and problem.config.s_start == "from-p" and not todo.follow
    ):  # p that follows is s, and has no moments
        problem.slots.copy("p", "s")
        state.learners["s"].begin_as(state.learners["p"])
    for t, (own, first, mixed) in enumerate(steps):
        for slot in todo.below:
            rate = state.learners[slot].rate
            state, slope = descend(own, state, slot, of(todo, slot, (first, mixed)), t)
            said[own.task] |= {f"lr_{slot}": rate, f"loss_{slot}": slope.loss}
    if todo.follow:
        problem.slots.copy("s", "p")
    return state, said


def stepped(problem: Problem, state: State, sight: above.Sight) -> tuple[State, above.Sight]:
    """p's step above, where all is finite; what is not is counted. Raises: NotFinite as `tally`."""
    finite, numbers = sight.finite, sight.numbers
    if sight.slope is not None:
        numbers = numbers | ({"loss_p": sight.slope.loss, "lr_p": state.learners["p"].rate} if finite else {})
        finite = state.learners["p"].step(sight.slope.grads, finite)
    state = tally(problem, state, finite, "upper", "a loss or gradient of the upper level")
    return state, replace(sight, numbers=numbers, finite=finite)


def descend(problem: Problem, state: State, slot: str, batch: Micro, t: int) -> tuple[State, Slope]:
    """One lower-level step of a slot: slot <- slot - rate * optimizer(grad F(theta_k, slot; batch))."""
    first_order = problem.config.lower == "first-order"
    with within(problem):
        slope = (losses.gradient if first_order else losses.estimated_gradient)(problem, batch, slot, state.k, t)
    finite = state.learners[slot].step(slope.grads, math.isfinite(slope.loss))
    return tally(problem, state, finite, slot, f"the lower level's loss or gradient of {slot}"), slope


def objective(problem: Problem, state: State, source: Source) -> Objective:
    """What theta's next step looks at."""
    todo = plan(problem.config, lam_at(problem.config, state.k, problem.steps))
    problem.model.eval()
    return above.seen(problem, todo, draw(problem, state, source)[1])


def weights(problem: Problem, state: State) -> list[float]:
    """The weights of the objective's terms in G."""
    return [term.weight for term in plan(problem.config, lam_at(problem.config, state.k, problem.steps)).terms]


def passes(
    config: MethodConfig, todo: Plan, lower: Lower, upper: tuple[Micro, Micro], estimate: Estimate[Any]
) -> tuple[int, int]:
    """Forward and backward passes of an iteration, a pass being over one micro-batch."""
    rows = dict(zip("fp", upper, strict=True))
    above = [len(rows[term.rows]) for term in todo.terms]
    each = 1 if config.lower == "first-order" else 2
    learned = sum(len(of(todo, slot, pair)) for pair in lower for slot in todo.below)
    if config.upper == "sketch":
        learned += sum(above)
    elif todo.p_above:
        learned += sum(above[:2])
    return estimate.calls * sum(above) + each * learned, learned if each == 1 else 0


def of(todo: Plan, slot: str, pair: tuple[Micro, Micro | None]) -> Micro:
    """The batch of a pair that a slot learns on."""
    batch = pair[1] if slot == "p" and todo.mixed else pair[0]
    assert batch is not None, "coupling `both` needs a mixed batch for p in every pair"
    return batch
