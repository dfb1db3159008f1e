"""MeZO (Malladi et al. 2023, arXiv 2305.17333) made exact: zeroth-order SGD on all weights, or on an adapter's.

theta <- theta - lr_theta * rule( sum_i c_i z_i ),   c_i from the losses at theta +- eps z_i
"""

from __future__ import annotations

from dataclasses import replace

from zofo.config import MethodConfig
from zofo.core.estimate import ESTIMATORS
from zofo.core.probe import Objective
from zofo.core.weights import move
from zofo.methods import losses, table, theta
from zofo.methods.state import Problem, Report, Source, State, tally


def slots(config: MethodConfig) -> tuple[str, ...]:
    """p when the adapter is tuned, none when all weights are."""
    return () if table.full(config) else ("p",)


def init(problem: Problem) -> State:
    """The state before the first step. Memory: the rule's (Adam: two copies of what is tuned)."""
    assert problem.leaves is not None
    return State(rule=theta.init(problem))


def step(problem: Problem, state: State, source: Source) -> tuple[State, Report]:
    """One zeroth-order step on a batch of all training rows.

    Cost: 2 q forward passes (estimator `forward`: q + 1); memory of inference and a module's scratch.
    Raises: NotFinite after `max_bad` non-finite steps in a row. Reference: MeZO, algorithm 1.
    """
    return descend(problem, state, source, theta.rate(problem, state.k))


def descend(problem: Problem, state: State, source: Source, lr_theta: float) -> tuple[State, Report]:
    """A step at a given rate: the problem's leaves <- themselves - lr_theta * rule(sum_i c_i z_i)."""
    config = problem.config
    assert problem.leaves is not None and problem.probe is not None
    directions = problem.directions(state.k)
    estimator = ESTIMATORS[config.estimator]
    estimate = estimator(problem.probe, objective(problem, state, source), directions, problem.eps, (1.0,))
    finite = estimate.finite and move.fits(estimate.grad, lr_theta)
    state, moved = tally(problem, state, finite, "upper", "the loss"), None
    if finite:
        state, moved = theta.move_by(problem, state, estimate.grad, lr_theta)
    state = replace(state, k=state.k + 1)
    numbers = {
        "A": estimate.terms[0],
        **theta.size(problem, estimate.grad),
        "lr_theta": lr_theta,
        "bad": state.bad,
    }
    return state, Report(numbers, moved, estimate.calls * config.accumulate_upper)


def objective(problem: Problem, state: State, source: Source) -> Objective:
    """What the next step looks at: the loss of its batch."""
    batch = source.batch("all", "train", state.k, problem.config.accumulate_upper)
    problem.model.eval()
    return losses.terms(problem, [(None if problem.slots is None else "p", batch)])


def weights(problem: Problem, state: State) -> list[float]:
    """The weights of the objective's terms: one term."""
    return [1.0]
