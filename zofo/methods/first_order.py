"""First-order fine-tuning of an adapter by backpropagation: the baseline, peft and torch.optim.

p <- p - lr_p * optimizer( clip( grad_p F(theta_0, p; batch) ) )
"""

from __future__ import annotations

import math
from dataclasses import replace

from zofo.config import MethodConfig
from zofo.methods import losses
from zofo.methods.learner import Learner
from zofo.methods.state import Problem, Report, Source, State, tally
from zofo.methods.undo import whole


def slots(config: MethodConfig) -> tuple[str, ...]:
    """p alone."""
    return ("p",)


def init(problem: Problem) -> State:
    """The state before the first step. Memory: the optimizer's moments of the adapter."""
    c = problem.config
    assert problem.slots is not None
    return State(
        learners={
            "p": Learner(problem.slots.list("p"), c.optimizer, c.lr_p, c.schedule, c.warmup, problem.steps, c.clip)
        }
    )


def step(problem: Problem, state: State, source: Source) -> tuple[State, Report]:
    """One step of p on a batch of all training rows.

    Cost: a forward and a backward pass; no gradient or state for the base. Raises: NotFinite after
    `max_bad` non-finite steps in a row. Reference: Hu et al. 2021 (LoRA), Li and Liang 2021 (prefix).
    """
    batch = source.batch("all", "train", state.k, problem.config.accumulate_lower)
    learner = state.learners["p"]
    rate = learner.rate
    with problem.standing_still():
        slope = losses.gradient(problem, batch, "p", state.k)  # moves nothing: no copy to go back to while it runs
    with whole(problem, state):
        finite = learner.step(slope.grads, math.isfinite(slope.loss))
        state = tally(problem, state, finite, "p", "the loss or its gradient")
    state = replace(state, k=state.k + 1)
    passes = problem.config.accumulate_lower
    return state, Report({"loss_p": slope.loss, "lr_p": rate, "bad": state.bad}, None, passes, passes)
