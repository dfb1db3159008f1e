"""First-order fine-tuning by backpropagation and torch.optim, the baseline: of an adapter, or (`tune full`) of all weights.

p <- p - lr_p * optimizer( clip( grad_p F(theta_0, p; batch) ) )
theta <- (1 - lr_theta decay) theta - lr_theta * optimizer( clip( grad_theta F(theta; batch) ) )
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from zofo.config import MethodConfig
from zofo.errors import NotFinite
from zofo.methods import losses, table
from zofo.methods.learner import Learner
from zofo.methods.losses import Slope
from zofo.methods.state import Problem, Report, Source, State, tally
from zofo.methods.undo import whole


def slots(config: MethodConfig) -> tuple[str, ...]:
    """p alone; none when all weights are tuned."""
    return () if table.full(config) else ("p",)


def init(problem: Problem) -> State:
    """The state before the first step. Memory: the optimizer's moments (Adam's: two copies of what is tuned)."""
    c, n = problem.config, problem.steps
    if problem.slots is not None:
        own = problem.slots.list("p")
        return State(learners={"p": Learner(own, c.optimizer, c.lr_p, c.schedule, c.warmup, n, c.clip)})
    assert problem.leaves is not None
    theta = [leaf.param for leaf in problem.leaves]
    learner = Learner(theta, c.optimizer, c.lr_theta, c.schedule_theta, c.warmup, n, c.clip, c.decay)
    return State(learners={"theta": learner})


def step(problem: Problem, state: State, source: Source) -> tuple[State, Report]:
    """One step of p, or of theta, on a batch of all training rows. What is tuned moves last.

    Cost: a forward and a backward pass. Memory: no gradient or state for a frozen base; of all weights **a gradient and
    (Adam) two moments, 12 bytes a weight**. Raises: NotFinite after `max_bad` non-finite steps in a row.
    Reference: Hu et al. 2021 (LoRA), Li and Liang 2021 (prefix), Lester et al. 2021 (prompt); Kingma and Ba 2015
    (Adam, algorithm 1), Loshchilov and Hutter 2019 (decoupled decay, algorithm 2).
    """
    batch = source.batch("all", "train", state.k, problem.config.accumulate_lower)
    if "theta" in state.learners:
        state, numbers = all_weights(problem, state, losses.gradient(problem, batch, None, state.k, whole=True))
    else:
        with problem.standing_still():
            slope = losses.gradient(problem, batch, "p", state.k)  # moves nothing: no copy to go back to while it runs
        state, numbers = adapter(problem, state, slope)
    passes = problem.config.accumulate_lower
    return replace(state, k=state.k + 1), Report({**numbers, "bad": state.bad}, None, passes, passes)


def adapter(problem: Problem, state: State, slope: Slope) -> tuple[State, dict[str, float]]:
    """p <- p - lr_p * optimizer(clip(gradient)), whole or not at all."""
    learner = state.learners["p"]
    numbers = {"loss_p": slope.loss, "lr_p": learner.rate}
    with whole(problem, state):
        finite = learner.step(slope.grads, math.isfinite(slope.loss))
        return tally(problem, state, finite, "p", "the loss or its gradient"), numbers


def all_weights(problem: Problem, state: State, slope: Slope) -> tuple[State, dict[str, float]]:
    """theta <- theta - lr_theta * optimizer(clip(gradient)); there is no copy to go back to in the midst of it."""
    learner = state.learners["theta"]
    numbers = {"A": slope.loss, "lr_theta": learner.rate}
    t, finite = learner.t, learner.step(slope.grads, math.isfinite(slope.loss), given=True)
    torch.clear_autocast_cache()  # an autocast block around the caller holds half copies of the old weights
    try:
        return tally(problem, state, finite, "upper", "the loss or its gradient"), numbers
    except NotFinite:  # the step is not done: a run that goes on from here is at this rate again
        learner.t = t
        raise
