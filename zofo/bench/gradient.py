"""The exact gradient of a weighted sum of loss terms with respect to all base weights, as `zofo bench estimate` needs it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zofo.core import noise
from zofo.core.devices import wide
from zofo.core.noise import Direction
from zofo.core.weights.leaves import Leaf, Leaves
from zofo.methods.losses import mean_loss
from zofo.methods.plan import Term
from zofo.methods.state import Micro, Problem

Gradient = dict[str, Tensor]
"""By leaf name; a leaf that the loss does not depend on is not in it."""


@dataclass(frozen=True)
class Truth:
    """An exact gradient: |grad|^2, and <grad, z> for each direction."""

    square: float
    along: list[float]


@contextmanager
def differentiable(model: nn.Module, leaves: Leaves) -> Iterator[None]:
    """Let gradients into the leaves for a block, an embedding's padding row too; no `grad` and no change is left after it."""
    before = [(leaf.param, leaf.param.requires_grad) for leaf in leaves]
    padding = [(module, module.padding_idx) for module in model.modules() if isinstance(module, nn.Embedding)]
    try:
        for param, _ in before:
            param.requires_grad_(True)
        for module, _ in padding:
            module.padding_idx = None
        yield
    finally:
        for param, wanted in before:
            param.grad = None
            param.requires_grad_(wanted)
        for module, row in padding:
            module.padding_idx = row  # type: ignore[assignment]


def whole(problem: Problem, terms: Sequence[Term], weights: Sequence[float], rows: Mapping[str, Micro]) -> Gradient:
    """The gradient of sum_t weight_t term_t over all leaves, by autograd in fp32, by leaf name.

    Cost: a forward and a backward pass a term. Memory: one gradient of model size, and the activations of a term's rows.
    """
    assert problem.leaves is not None
    params = [leaf.param for leaf in problem.leaves]
    problem.model.eval()
    with differentiable(problem.model, problem.leaves), torch.enable_grad():
        for term, weight in zip(terms, weights, strict=True):
            if weight:
                loss = weight * mean_loss(problem, rows[term.rows], term.slot)
                torch.autograd.backward(loss, inputs=params)
        return {leaf.name: leaf.param.grad for leaf in problem.leaves if leaf.param.grad is not None}


@torch.no_grad()
def squares(grads: Gradient) -> dict[str, float]:
    """|grad|^2 by leaf name, summed in fp64 in pieces."""
    pieces = {name: grad.reshape(-1).split(noise.CHUNK) for name, grad in grads.items()}
    return {name: sum(float(wide(part).square().sum()) for part in parts) for name, parts in pieces.items()}


def exact(
    problem: Problem, terms: Sequence[Term], weights: Sequence[float], rows: Mapping[str, Micro], z: Sequence[Direction]
) -> Truth:
    """`whole`, and its product with each direction. Cost and memory: its own, and a noise pass a direction in pieces."""
    assert problem.leaves is not None
    grads = whole(problem, terms, weights, rows)
    found = [products(leaf, grads.get(leaf.name), z) for leaf in problem.leaves]
    along = [math.fsum(column) for column in zip(*(part.along for part in found), strict=True)]
    return Truth(math.fsum(part.square for part in found), along)


@torch.no_grad()
def products(leaf: Leaf, grad: Tensor | None, directions: Sequence[Direction]) -> Truth:
    """A leaf's own part of |grad|^2 and of <grad, z>, in fp64. Memory: some pieces of `noise.CHUNK` elements."""
    square, along, width = 0.0, [0.0] * len(directions), noise.columns(leaf.data)
    if grad is None:  # the loss does not depend on it
        return Truth(square, along)
    flat = grad.reshape(-1)
    for start in range(0, flat.numel(), noise.CHUNK):
        part = flat[start : start + noise.CHUNK].cpu()
        zero, z, part = torch.zeros_like(part), torch.empty_like(part), part.double()
        square += float(part @ part)
        for i, direction in enumerate(directions):
            drawn = noise.perturb(z, zero, direction, 1.0, leaf.tid, start, width=width)
            along[i] += float(part @ drawn.double())
    return Truth(square, along)
