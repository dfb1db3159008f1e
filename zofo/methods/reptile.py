"""Reptile (Nichol, Achiam and Schulman 2018, arXiv 1803.02999): an adapter's start from which tasks are a few steps away.

    p_i <- T optimizer steps on task i, from p            p <- p + lr_outer * mean_i ( p_i - p )

theta is frozen.
"""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from zofo.config import MethodConfig
from zofo.methods import learner, losses
from zofo.methods.learner import Learner
from zofo.methods.state import Member, Problem, Report, Source, State, tally
from zofo.methods.tasks import averaged, left_out, sampled, used
from zofo.methods.undo import whole, within


def slots(config: MethodConfig) -> tuple[str, ...]:
    """p alone."""
    return ("p",)


def init(problem: Problem) -> State:
    """The state before the first step: counts alone, for each task's optimizer begins anew."""
    return State()


def step(problem: Problem, state: State, source: Source) -> tuple[State, Report]:
    """One outer step on min(tasks, all) tasks; p moves last, and on an exception at any pass nothing has changed.

    Each task walks through all its training rows by the times that it was used; its optimizer begins anew, so that
    its steps are those that a new task takes. One with a step that is not finite is left out of the mean, and told.
    lr_outer follows `schedule` and `warmup`; lr_p is constant.
    Cost: T forward and backward passes a task. Memory: an adapter's backward pass, its moments, and four copies of p.
    Raises: NotFinite after `max_bad` non-finite steps in a row of one task, with its name; BadInput without tasks.
    Reference: arXiv 1803.02999, algorithm 2 (batched), with Adam's own first moments.
    """
    c, members, slots = problem.config, sampled(problem, state.k), problem.slots
    assert slots is not None
    rate = learner.rate(state.k, c.lr_outer, c.schedule, c.warmup, problem.steps)
    start, total, losses_p, names = slots.tensors("p"), dict[str, Tensor](), list[dict[str, float]](), list[str]()
    with whole(problem, state), problem.standing_still():
        for member in members:
            slots.load("p", start)
            state, loss, finite = adapted(problem.of(member), state, member)
            if not finite:
                names.append(member.name)
                continue
            losses_p.append({"loss_p": loss})
            for name, end in slots.params["p"].items():
                gone = end.detach() - start[name]
                total[name] = total[name] + gone if name in total else gone
        share = rate / max(1, len(members) - len(names))
        slots.load("p", {name: p + share * total[name] if total else p for name, p in start.items()})
    state = replace(state, k=state.k + 1, uses=used(state, members))
    numbers = averaged(losses_p or [{"loss_p": math.nan}]) | {"lr_p": c.lr_p, "lr_outer": rate}
    numbers |= {"tasks": len(members) - len(names), "bad": state.bad}
    passes = len(members) * c.T * c.accumulate_lower
    return state, Report(numbers, None, passes, passes, left_out(names, "a step"))


def adapted(problem: Problem, state: State, member: Member) -> tuple[State, float, bool]:
    """T steps of p on a task's rows; returns the last loss, and whether every step was finite."""
    c, slope, every = problem.config, losses.Slope(math.nan, []), True
    assert problem.slots is not None
    own = Learner(problem.slots.list("p"), c.optimizer, c.lr_p, "constant", 0, c.T, c.clip)
    for t in range(c.T):
        batch = member.source.batch("all", "train", state.uses.get(member.name, 0) * c.T + t, c.accumulate_lower)
        with within(problem):
            slope = losses.gradient(problem, batch, "p", state.k, t)
        finite = own.step(slope.grads, math.isfinite(slope.loss))
        state, every = tally(problem, state, finite, "p", "the loss or its gradient"), every and finite
    return state, slope.loss, every
