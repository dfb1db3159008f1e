"""Addax (Li et al. 2024, arXiv 2410.06441): a zeroth-order and a first-order gradient of all weights, mixed.

    g0 = sum_i c_i z_i on the batch B0,   c_i from the losses at theta +- eps z_i
    g1 = grad_theta F(theta; B1)
    theta <- theta - lr_theta * ( alpha g0 + (1 - alpha) g1 )

B0 comes of the rows longer than `short_tokens`, which would need the most activations, B1 of the others; with
short_tokens = 0 both come of all rows.
"""

from __future__ import annotations

import math
from dataclasses import replace

from zofo.config import MethodConfig
from zofo.core.estimate import ESTIMATORS
from zofo.core.probe import Objective
from zofo.core.weights import move
from zofo.methods import losses, theta
from zofo.methods.state import Problem, Report, Source, State, tally


def slots(config: MethodConfig) -> tuple[str, ...]:
    """None: there is no adapter."""
    return ()


def init(problem: Problem) -> State:
    """The state before the first step: counts alone."""
    return State()


def step(problem: Problem, state: State, source: Source) -> tuple[State, Report]:
    """One step of theta, which moves last: with an exception in any pass, or a loss that is not finite, nothing moves.

    Cost: 2 q forward passes (estimator `forward`: q + 1), and a forward and a backward pass. Memory: **g1, a copy of
    the weights** (the paper spends it layer by layer while the backward pass runs, and so cannot take a step back);
    activations of B1. Raises: NotFinite after `max_bad` non-finite steps in a row. Reference: Addax, algorithm 1.
    """
    config, k = problem.config, state.k
    assert problem.probe is not None and problem.leaves is not None
    first = source.batch("short" if config.short_tokens else "all", "first", k, config.accumulate_lower)
    estimator, seen = ESTIMATORS[config.estimator], objective(problem, state, source)
    estimate = estimator(problem.probe, seen, problem.directions(k), problem.eps, (1.0,))
    slope = losses.gradient(problem, first, None, k, dropout=False, whole=True)
    lr = theta.rate(problem, k)
    finite = estimate.finite and math.isfinite(slope.loss) and theta.finite(slope.grads)
    finite = finite and move.fits(estimate.grad, lr)
    state, moved = tally(problem, state, finite, "upper", "a loss or its gradient"), None
    numbers = {"A": estimate.terms[0], "loss_theta": slope.loss, **theta.size(problem, estimate.grad)}
    if finite:
        moved = theta.mix_by(problem, estimate.grad, slope.grads, config.alpha, lr)
    forwards = estimate.calls * config.accumulate_upper + config.accumulate_lower
    report = Report({**numbers, "lr_theta": lr, "bad": state.bad}, moved, forwards, config.accumulate_lower)
    return replace(state, k=k + 1), report


def objective(problem: Problem, state: State, source: Source) -> Objective:
    """What a zeroth-order estimate looks at: the loss of B0."""
    part = "long" if problem.config.short_tokens else "all"
    problem.model.eval()
    return losses.terms(problem, [(None, source.batch(part, "zeroth", state.k, problem.config.accumulate_upper))])


def weights(problem: Problem, state: State) -> list[float]:
    """The weights of the objective's terms: one term."""
    return [1.0]
