"""Rules over a sketched gradient. Each is `init` and `step` over a small state, as zeroth order's are.

    step(state, grad) -> (state, update), and then theta <- theta - lr * update

`momentum` and `adam` keep moments of Q's size, in the coordinates of one R: R stays for nu steps, and with a new R they
begin anew (or, `transfer`, are carried over: M R_old R_new^T, unbiased, but longer by sqrt(1 + n / r) each time).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from zofo.core.rules import ADAM_EPS, BETA1, BETA2, Rule, RuleState, nothing
from zofo.core.sketch import Projection
from zofo.core.sketch.grad import SketchGrad
from zofo.core.weights.leaves import Leaves


def sgd(state: RuleState, grad: SketchGrad, leaves: Leaves) -> tuple[RuleState, SketchGrad]:
    """update = grad. State: none."""
    return replace(state, t=state.t + 1), grad


def normalised(state: RuleState, grad: SketchGrad, leaves: Leaves) -> tuple[RuleState, SketchGrad]:
    """update = grad / |grad|, over all leaves together: lr is the length of the step. State: none."""
    return replace(state, t=state.t + 1), unit(grad, leaves)


def momentum(state: RuleState, grad: SketchGrad, leaves: Leaves) -> tuple[RuleState, SketchGrad]:
    """m <- 0.9 m + 0.1 grad / |grad|;  update = m / |m|, so lr is the length of the step. State: Q's size."""
    state, g = begun(state, unit(grad.folded(leaves), leaves), "m")
    moments = {
        f"m.{name}": state.moments[f"m.{name}"].mul(BETA1).add_(value, alpha=1 - BETA1)
        for name, value in parts(g).items()
    }
    return replace(state, moments=moments), unit(of(g, moments, "m."), leaves)


def adam(state: RuleState, grad: SketchGrad, leaves: Leaves) -> tuple[RuleState, SketchGrad]:
    """m, v <- moments of Q (and of vectors) by element; update = m_hat / (sqrt(v_hat) + 1e-8), in R's coordinates. State: twice Q's size."""
    state, g = begun(state, grad.folded(leaves), "mv")
    moments: dict[str, Tensor] = {}
    update: dict[str, Tensor] = {}
    for name, value in parts(g).items():
        m = state.moments[f"m.{name}"].mul(BETA1).add_(value, alpha=1 - BETA1)
        v = state.moments[f"v.{name}"].mul(BETA2).addcmul_(value, value, value=1 - BETA2)
        moments |= {f"m.{name}": m, f"v.{name}": v}
        update[name] = (m / (1 - BETA1**state.t)) / ((v / (1 - BETA2**state.t)).sqrt_().add_(ADAM_EPS))
    return replace(state, moments=moments), of(g, update, "")


def clipped(state: RuleState, grad: SketchGrad, leaves: Leaves, limit: float) -> tuple[RuleState, SketchGrad]:
    """g <- g min(1, limit level / |g|), and then level <- 0.9 level + 0.1 |g|, from the first |g| on.

    Now and then a batch has a gradient fifty times as long as the others; what it leaves in Adam's moments would move theta for
    ten steps. level goes by what was kept, so such a batch lifts it by a tenth of limit at most, and it follows a lasting change.
    Args: limit > 0, in levels. Cost: that of |g|.
    """
    norm = grad.norm(leaves)
    if not norm:
        return state, grad
    level = state.level or norm
    kept = min(norm, limit * level)
    return replace(state, level=BETA1 * level + (1 - BETA1) * kept), grad if kept == norm else grad.scaled(kept / norm)


def unit(grad: SketchGrad, leaves: Leaves) -> SketchGrad:
    """grad / |grad|; a gradient of nothing stays."""
    norm = grad.norm(leaves)
    return grad.scaled(1 / norm if norm > 0 and math.isfinite(norm) else 0.0)


def parts(grad: SketchGrad) -> dict[str, Tensor]:
    """Q's and vectors by leaf name."""
    assert not grad.rows, "rules with a memory take a folded gradient"
    return {**grad.matrices, **grad.vectors}


def of(grad: SketchGrad, values: Mapping[str, Tensor], prefix: str) -> SketchGrad:
    """The gradient with other numbers."""
    matrices = {name: values[prefix + name] for name in grad.matrices}
    return replace(grad, matrices=matrices, vectors={name: values[prefix + name] for name in grad.vectors})


def begun(state: RuleState, grad: SketchGrad, which: str) -> tuple[RuleState, SketchGrad]:
    """The state of the step to come; moments at zero where they are the first or R is another than theirs."""
    state = replace(state, t=state.t + 1)
    values = parts(grad)
    if state.key == grad.projection.key and state.moments:
        held = {name: value.to(values[name[2:]].device) for name, value in state.moments.items()}  # as read from a file
        return replace(state, moments=held), grad
    moments = {f"{letter}.{name}": torch.zeros_like(value) for letter in which for name, value in values.items()}
    return replace(state, t=1, key=grad.projection.key, moments=moments), grad


def carried(state: RuleState, old: Projection, new: Projection, leaves: Leaves) -> RuleState:
    """First moments in the coordinates of a new R: M R_old R_new^T (R to the left: R_new R_old^T M). Second moments stay.

    E[M R_old R_new^T R_new | M, R_old] = M R_old, but its length grows by about sqrt(1 + n / r).
    """
    moments = dict(state.moments)
    for leaf in leaves:
        if f"m.{leaf.name}" in moments and len(leaf.shape) > 1:
            M, cross = moments[f"m.{leaf.name}"], old.matrix(leaf) @ new.matrix(leaf).t()
            moments[f"m.{leaf.name}"] = M @ cross if new.right(leaf) else cross.t() @ M
    return replace(state, key=new.key, moments=moments)


SKETCH_RULES: dict[str, Rule] = {
    "sgd": Rule(nothing, sgd),  # type: ignore[arg-type]
    "normalised": Rule(nothing, normalised),  # type: ignore[arg-type]
    "momentum": Rule(nothing, momentum),  # type: ignore[arg-type]
    "adam": Rule(nothing, adam),  # type: ignore[arg-type]
}
