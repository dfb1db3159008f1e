"""Rules: what is done with an estimate before theta moves. Each is `init` and `step` over a small state.

    step(state, grad) -> (state, update), and then theta <- theta - lr * update

`SGD` keeps nothing, `ScalarAdaptive` two floats, `Adam` two tensors of the size of every leaf.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zofo.core import noise
from zofo.core.seedgrad import SeedGrad
from zofo.core.weights.leaves import Leaf, Leaves
from zofo.core.weights.move import LeafUpdate, Update

BETA = 0.99  # ScalarAdaptive's memory of c^2
BETA1, BETA2, ADAM_EPS = 0.9, 0.999, 1e-8  # Adam's, as in Kingma and Ba 2015


@dataclass(frozen=True)
class RuleState:
    """A rule's state: steps taken, the running mean square (ScalarAdaptive), moments by leaf name (Adam), the key of the R they go by,
    and the running length of gradients (`level`; 0: none seen)."""

    t: int = 0
    v: float = 0.0
    moments: dict[str, Tensor] = field(default_factory=dict)
    key: int = 0
    level: float = 0.0


def nothing(leaves: Leaves) -> RuleState:
    """The state of a rule that starts with nothing."""
    return RuleState()


def sgd(state: RuleState, grad: SeedGrad, leaves: Leaves) -> tuple[RuleState, Update]:
    """update = grad (Malladi et al. 2023, MeZO, eq. 2). State: none."""
    return replace(state, t=state.t + 1), grad


def scalar_adaptive(state: RuleState, grad: SeedGrad, leaves: Leaves) -> tuple[RuleState, Update]:
    """update = grad / rms, rms^2 the bias-corrected running mean of mean_i((q c_i)^2), q the number of probes.

    Gives Adam's indifference to the scale of the loss for two floats: with one probe the first
    update is exactly +z or -z. State: t and v.
    """
    square = sum(c * c for c in grad.coefficients) * len(grad.terms)
    t, v = state.t + 1, BETA * state.v + (1 - BETA) * square
    rms = math.sqrt(v / (1 - BETA**t))
    return replace(state, t=t, v=v), grad.scaled(1 / rms if rms > 0 else 0.0)


def wide(leaf: Leaf) -> torch.dtype:
    """The type that a leaf's moments are kept in: its own, fp32 at least."""
    return torch.float64 if leaf.data.dtype == torch.float64 else torch.float32


def adam_init(leaves: Leaves) -> RuleState:
    """Allocate Adam's two moments for every leaf: **two more copies of the weights**."""
    moments = {}
    for leaf in leaves:
        moments[f"m.{leaf.name}"] = torch.zeros_like(leaf.data, dtype=wide(leaf))
        moments[f"v.{leaf.name}"] = torch.zeros_like(leaf.data, dtype=wide(leaf))
    return RuleState(moments=moments)


def adam(state: RuleState, grad: SeedGrad, leaves: Leaves) -> tuple[RuleState, Update]:
    """m, v <- moments of g = sum_i c_i z_i; update = m_hat / (sqrt(v_hat) + 1e-8) (Kingma and Ba 2015, alg. 1).

    The moments are updated in place, leaf by leaf, while the update is applied. Memory: two copies
    of the weights held (see `adam_init`), and z of one leaf at a time.
    """
    t = state.t + 1
    directions = [(leaves.direction(grad.law, key), c) for key, c in grad.terms]

    def direction(leaf: Leaf) -> Tensor:
        g = torch.zeros(leaf.data.shape, dtype=wide(leaf), device=leaf.data.device)
        for z, c in directions:
            noise.perturb(g, g, z, c, leaf.tid)
        m, v = state.moments[f"m.{leaf.name}"], state.moments[f"v.{leaf.name}"]
        m.mul_(BETA1).add_(g, alpha=1 - BETA1)
        v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
        return (m / (1 - BETA1**t)) / ((v / (1 - BETA2**t)).sqrt_().add_(ADAM_EPS))

    return replace(state, t=t), LeafUpdate(grad, direction)


class Rule(NamedTuple):
    """A rule as a pair of functions: the state before the first step, and a step to a new state and an update."""

    init: Callable[[Leaves], RuleState]
    step: Callable[[RuleState, SeedGrad, Leaves], tuple[RuleState, Update]]


RULES: dict[str, Rule] = {
    "sgd": Rule(nothing, sgd),
    "scalar-adaptive": Rule(nothing, scalar_adaptive),
    "adam": Rule(adam_init, adam),
}


def to_dict(state: RuleState) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Split a state into JSON numbers and tensors, for a checkpoint."""
    return {"t": state.t, "v": state.v, "key": state.key, "level": state.level}, dict(state.moments)


def from_dict(numbers: dict[str, Any], moments: dict[str, Tensor]) -> RuleState:
    """Put together what `to_dict` split."""
    key, level = int(numbers.get("key", 0)), float(numbers.get("level", 0.0))
    return RuleState(int(numbers["t"]), float(numbers["v"]), moments, key, level)
