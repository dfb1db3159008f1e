"""First-order fine-tuning of all weights in the memory of an adapter: the gradient by its random sketch (`core.sketch`).

theta <- theta - lr_theta * rule( Q R ),   Q = G R^T from one backward pass, R fresh every nu steps
"""

from __future__ import annotations

import math
from dataclasses import replace

from zofo.config import MethodConfig
from zofo.core.weights import move
from zofo.methods import losses, theta
from zofo.methods.state import Problem, Report, Source, State, tally


def slots(config: MethodConfig) -> tuple[str, ...]:
    """None: there is no adapter."""
    return ()


def init(problem: Problem) -> State:
    """The state before the first step. Memory: nothing, or the rule's moments, of Q's size."""
    return State(rule=theta.init(problem))


def step(problem: Problem, state: State, source: Source) -> tuple[State, Report]:
    """One step on a batch of all training rows; theta moves last.

    Cost: a forward and a backward pass; r numbers a token and linear layer, and Q. Raises: NotFinite after `max_bad`
    non-finite steps in a row. Reference: the sketch is zofo's own; related, FLORA
    (arXiv 2402.03293), GaLore (2403.03507) and randomised subspaces (2502.07222).
    """
    config = problem.config
    assert problem.leaves is not None
    batch = source.batch("all", "train", state.k, config.accumulate_upper)
    with problem.standing_still(), theta.capturing(problem, state.k) as capture:
        slope = losses.gradient(problem, batch, None, state.k, dropout=False, capture=capture)
    grad, lr = capture.grad(), theta.rate(problem, state.k)
    finite = math.isfinite(slope.loss) and move.fits(grad, lr)
    state, moved = tally(problem, state, finite, "upper", "the loss or its gradient"), None
    numbers = {"A": slope.loss, **theta.size(problem, grad), "lr_theta": lr, "bad": state.bad}
    if finite:
        state, moved = theta.move_by(problem, state, grad, lr)
    passes = config.accumulate_upper
    return replace(state, k=state.k + 1), Report(numbers, moved, passes, passes)
