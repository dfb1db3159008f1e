"""Two stages (arXiv 2502.03604, table 9, the baseline there): an adapter by backpropagation, then everything by zeroth order.

k < stage_one:   p <- p - lr_p * optimizer( clip( grad_p F(theta_0, p; batch) ) )
k >= stage_one:  (theta, p) <- (theta, p) - lr_theta * rule( sum_i c_i z_i ),   one z over theta and p
"""

from __future__ import annotations

from dataclasses import replace

from zofo.config import MethodConfig
from zofo.core.probe import Objective
from zofo.methods import first_order, mezo, theta
from zofo.methods.state import Problem, Report, Source, State


def slots(config: MethodConfig) -> tuple[str, ...]:
    """p alone."""
    return ("p",)


def stage_one(problem: Problem) -> int:
    """First-order steps of a problem's run."""
    return first_steps(problem.config, problem.steps)


def first_steps(config: MethodConfig, steps: int) -> int:
    """First-order steps of a run: as configured, or half of all."""
    return config.stage_one or steps // 2


def init(problem: Problem) -> State:
    """The state before the first step. Memory: the moments of p; the rule's (Adam: two copies of theta and p)."""
    first = first_order.init(replace(problem, steps=max(1, stage_one(problem))))
    return replace(first, rule=theta.init(problem))


def step(problem: Problem, state: State, source: Source) -> tuple[State, Report]:
    """One step of the stage that step k belongs to, on a batch of all training rows; each stage has a rate and a schedule.

    Cost: a forward and a backward pass; from step stage_one on 2 q forward passes (estimator `forward`: q + 1).
    Memory: the larger of an adapter's backward pass and a probe. Raises: NotFinite after `max_bad` non-finite steps in
    a row. Reference: arXiv 2502.03604, section 4 and table 9.
    """
    first = stage_one(problem)
    if state.k < first:
        return first_order.step(problem, state, source)
    later = replace(problem, steps=problem.steps - first)
    return mezo.descend(problem, state, source, theta.rate(later, state.k - first))


def objective(problem: Problem, state: State, source: Source) -> Objective:
    """What a zeroth-order step looks at: the loss of its batch, with p."""
    return mezo.objective(problem, state, source)


def weights(problem: Problem, state: State) -> list[float]:
    """The weights of the objective's terms: one term."""
    return mezo.weights(problem, state)
