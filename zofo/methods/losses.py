"""Mean losses over micro-batches: as a value for probes, and with their exact gradient for an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zofo.adapters.slots import learning
from zofo.core import noise, streams
from zofo.core.estimate import central
from zofo.core.noise import Direction
from zofo.core.probe.inplace import Inplace
from zofo.core.weights import leaves as tree
from zofo.methods.state import Micro, Problem


class Slope(NamedTuple):
    """A mean loss and its gradient with respect to an adapter's parameters."""

    loss: float
    grads: list[Tensor]


def mean_loss(problem: Problem, batch: Micro, slot: str | None, upper: bool = True) -> Tensor:
    """F(theta, slot; batch): the mean over all rows of all micro-batches, fp64. Cost: a forward pass a micro-batch.

    `upper`: of what the zeroth-order level minimises, which may be a metric instead of the loss.
    """
    if slot is not None and problem.slots is not None:
        problem.slots.use(slot)
    loss = problem.upper if upper and problem.upper is not None else problem.loss
    rows = [loss(problem.model, micro).reshape(-1) for micro in batch]
    return torch.stack([r.cpu().double().sum() for r in rows]).sum() / sum(r.numel() for r in rows)


def gradient(problem: Problem, batch: Micro, slot: str, *step: int, dropout: bool = True) -> Slope:
    """The exact gradient of F with respect to a slot, accumulated over micro-batches.

    Cost: a forward and a backward pass a micro-batch; activations of one micro-batch. The adapter's own
    dropout is on unless `dropout` is false, its random numbers a function of the seed and `step`; the base's is off.
    """
    assert problem.slots is not None
    problem.slots.use(slot)
    params = problem.slots.list(slot)
    total, count, grads = 0.0, 0, [torch.zeros_like(p) for p in params]
    with learning(problem.model, dropout):
        for i, micro in enumerate(batch):
            with torch.enable_grad(), streams.seeded(problem.seed, "dropout", *step, i):
                rows = problem.loss(problem.model, micro).reshape(-1)
                parts = torch.autograd.grad(rows.sum(), params)
            total, count = total + float(rows.detach().cpu().double().sum()), count + rows.numel()
            for grad, part in zip(grads, parts, strict=True):
                grad.add_(part)
    return Slope(total / count, [grad.div_(count) for grad in grads])


def estimated_gradient(problem: Problem, batch: Micro, slot: str, *step: int, dropout: bool = False) -> Slope:
    """The gradient of F for a slot by a central difference along the z of `step` (`lower="zeroth-order"`), without dropout.

    Cost: two forward passes a micro-batch. The adapter is walked in place and put back from a copy, exactly.
    """
    assert problem.slots is not None
    own = problem.slots.params[slot]
    leaves = tree.collect((name, param, ()) for name, param in own.items())
    z = leaves.direction(problem.config.noise, streams.key(problem.seed, f"noise-{slot}", *step))
    before = problem.slots.tensors(slot)
    try:
        estimate = central(
            Inplace(leaves), lambda: mean_loss(problem, batch, slot, False), [z], problem.config.lower_eps
        )
    finally:
        problem.slots.load(slot, before)
    ((_, c),) = estimate.grad.terms
    return Slope(estimate.terms[0], [expand(z, leaf, c) for leaf in leaves])


def expand(z: Direction, leaf: tree.Leaf, c: float) -> Tensor:
    """c z of one small leaf, as a tensor."""
    zero = torch.zeros(leaf.data.shape, dtype=leaf.data.dtype, device=leaf.data.device)
    return noise.perturb(zero, zero, z, c, leaf.tid)


def weighted(parts: Sequence[tuple[float, Slope]]) -> list[Tensor]:
    """sum_i w_i g_i."""
    (w0, first), *rest = parts
    grads = [g * w0 for g in first.grads]
    for w, slope in rest:
        for grad, part in zip(grads, slope.grads, strict=True):
            grad.add_(part, alpha=w)
    return grads
