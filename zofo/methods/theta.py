"""What every method that moves theta shares: the rule for its kind of gradient, the rate, and the sketch of a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from zofo.core import noise, streams
from zofo.core.estimate import Estimate
from zofo.core.rules import RULES, Rule, RuleState
from zofo.core.seedgrad import SeedGrad
from zofo.core.sketch import Projection, capture, rules
from zofo.core.sketch.capture import Capture
from zofo.core.sketch.grad import SketchGrad
from zofo.core.weights import move
from zofo.core.weights.leaves import Leaf
from zofo.core.weights.move import LeafUpdate, Moved
from zofo.methods import learner, table
from zofo.methods.state import Problem, State


def rule_of(problem: Problem) -> Rule:
    """The rule, from the table for the kind of gradient that the method takes."""
    return (rules.SKETCH_RULES if table.sketches(problem.config) else RULES)[problem.config.rule]


def init(problem: Problem) -> RuleState:
    """The rule's state before the first step."""
    assert problem.leaves is not None
    return rule_of(problem).init(problem.leaves)


def rate(problem: Problem, k: int) -> float:
    """lr_theta of step k by its schedule."""
    c = problem.config
    return learner.rate(min(k, problem.steps - 1), c.lr_theta, c.schedule_theta, 0, problem.steps)


def move_by(problem: Problem, state: State, grad: SeedGrad | SketchGrad, lr: float) -> tuple[State, Moved]:
    """theta <- (1 - lr decay) theta - lr rule(clip(grad)), and the rule's new state."""
    assert problem.leaves is not None
    held, limit = state.rule, problem.config.clip_theta
    if isinstance(grad, SketchGrad) and limit:
        held, grad = rules.clipped(held, grad, problem.leaves, limit)
    if isinstance(grad, SketchGrad) and problem.config.transfer and held.moments and held.key != grad.projection.key:
        held = rules.carried(held, replace(grad.projection, key=held.key), grad.projection, problem.leaves)
    held, update = rule_of(problem).step(held, grad, problem.leaves)  # type: ignore[arg-type]
    return replace(state, rule=held), move.apply(problem.leaves, update, lr, problem.config.decay)


def mix_by(problem: Problem, grad: SeedGrad, slope: Sequence[Tensor], alpha: float, lr: float) -> Moved:
    """theta <- (1 - lr decay) theta - lr [ alpha sum_i c_i z_i + (1 - alpha) g ].

    Args: grad, sum_i c_i z_i; slope, g, a tensor a leaf, written over. Memory: none beside g.
    """
    assert problem.leaves is not None
    leaves, mixed = problem.leaves, grad.scaled(alpha)
    exact = {leaf.name: g for leaf, g in zip(leaves, slope, strict=True)}
    directions = [(leaves.direction(mixed.law, key), c) for key, c in mixed.terms]

    def direction(leaf: Leaf) -> Tensor:
        g = exact[leaf.name].mul_(1 - alpha)
        for z, c in directions:
            noise.perturb(g, g, z, c, leaf.tid)
        return g

    return move.apply(leaves, LeafUpdate(mixed, direction), lr, problem.config.decay)


def finite(slope: Sequence[Tensor]) -> bool:
    """Whether every number of a gradient is finite."""
    return bool(torch.isfinite(torch.nn.utils.get_total_norm(list(slope))))


def size(problem: Problem, grad: SeedGrad | SketchGrad) -> dict[str, float]:
    """How large a gradient is, for the metrics: c, summed over the probes, or |g| of a sketch."""
    if isinstance(grad, SeedGrad):
        return {"c": sum(grad.coefficients)}
    assert problem.leaves is not None
    return {"norm": grad.norm(problem.leaves)}


def projection(problem: Problem, k: int) -> Projection:
    """R of step k: a new one every nu steps."""
    c = problem.config
    nu = c.nu or table.REMEMBER.get(c.rule, 1)
    return Projection(c.noise, streams.key(problem.seed, "sketch", k // nu), c.rank, c.side)


@contextmanager
def capturing(problem: Problem, k: int) -> Iterator[Capture]:
    """A block whose backward passes leave the sketch of step k."""
    assert problem.leaves is not None
    with capture.capturing(problem.leaves, projection(problem, k)) as found:
        yield found


def estimate(found: Capture, values: Sequence[float]) -> Estimate[SketchGrad]:
    """A sketch as an estimate: `values`, the terms at theta."""
    grad = found.grad()
    return Estimate(grad, tuple(values), (), grad.finite, 0)
