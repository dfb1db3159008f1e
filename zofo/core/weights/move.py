"""The only writer of theta: theta <- (1 - d) theta + sum_i a_i z_i, applied now or replayed from a journal; or a sketch, Q R."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zofo.core import noise
from zofo.core.noise import Direction, Law
from zofo.core.seedgrad import SeedGrad
from zofo.core.sketch.grad import SketchGrad
from zofo.core.weights.leaves import Leaf, Leaves
from zofo.core.weights.stored import StoredLeaf, changing


@dataclass(frozen=True)
class LeafUpdate:
    """An update that is computed leaf by leaf (Adam): `direction(leaf)` is called once for each leaf."""

    grad: SeedGrad
    direction: Callable[[Leaf], Tensor]


Update = SeedGrad | LeafUpdate | SketchGrad


@dataclass(frozen=True)
class Moved:
    """A step as it was applied, in fp32 bits: terms (key, a), decay d, and whether they alone replay it."""

    law: Law
    terms: tuple[tuple[int, float], ...]
    decay: float
    replay: bool


def fits(update: Update, lr: float) -> bool:
    """Whether every a = -lr c of an update is a finite fp32 number, so that it can be applied and journalled."""
    if isinstance(update, SketchGrad):
        return update.finite
    grad = update if isinstance(update, SeedGrad) else update.grad
    with np.errstate(over="ignore"):
        return all(math.isfinite(float(np.float32(lr * c))) for c in grad.coefficients)


def apply(leaves: Leaves, update: Update, lr: float, decay: float = 0.0) -> Moved:
    """theta <- (1 - lr decay) theta - lr update, and say what was applied.

    Args: lr >= 0; decay, decoupled weight decay a unit of lr (>= 0). Every a = -lr c is rounded to
    fp32 first, so that a journal of the returned terms replays to the same bits.
    Cost: one pass over the weights for each term; no memory for a `SeedGrad`.
    """
    shrink = float(np.float32(lr * decay))
    if isinstance(update, SeedGrad):
        terms = tuple((key, float(np.float32(-lr * c))) for key, c in update.terms)
        replay(leaves, update.law, terms, shrink)
        return Moved(update.law, terms, shrink, True)
    with torch.no_grad():
        for leaf in leaves:
            if isinstance(update, SketchGrad):
                sketched(leaf, update, lr, shrink)
            else:
                settled(leaf, update, lr, shrink)
    torch.clear_autocast_cache()
    if isinstance(update, SketchGrad):
        return Moved(update.projection.law, ((update.projection.key, float(np.float32(-lr))),), shrink, False)
    return Moved(update.grad.law, tuple((key, float(np.float32(c))) for key, c in update.grad.terms), shrink, False)


@torch.no_grad()
def replay(leaves: Leaves, law: Law, terms: Sequence[tuple[int, float]], decay: float = 0.0) -> None:
    """theta <- (1 - decay) theta + sum_i a_i z_i, terms added in order, each rounded once."""
    directions = [(leaves.direction(law, key), a) for key, a in terms]
    for leaf in leaves:
        if isinstance(leaf, StoredLeaf):
            continue
        if decay:
            shrunk(leaf, decay, directions[0][0].key if directions else 0)
        for z, a in directions:
            add(leaf, z, a, noise.rounding_key(z.key) if half(leaf) else None)
    rewrite([leaf for leaf in leaves if isinstance(leaf, StoredLeaf)], directions, decay)
    torch.clear_autocast_cache()  # an autocast block around the caller holds half copies of the old weights


def rewrite(leaves: Sequence[StoredLeaf], directions: Sequence[tuple[Direction, float]], decay: float) -> None:
    """Move fp32 leaves outside memory, piece by piece: one pass over the store, each piece read and written once."""
    for leaf, start, part in changing(leaves):
        if decay:
            part.mul_(1.0 - decay)
        for z, a in directions:
            noise.perturb(part, part, z, a, leaf.tid, start, width=noise.columns(leaf.param))


def half(leaf: Leaf) -> bool:
    """Whether a leaf is held in a half type, so that a step into it is rounded stochastically."""
    return leaf.data.dtype in (torch.bfloat16, torch.float16)


def settled(leaf: Leaf, update: LeafUpdate, lr: float, decay: float) -> None:
    """leaf <- (1 - decay) leaf - lr direction, for an update that is computed leaf by leaf."""
    direction = update.direction(leaf)
    if not half(leaf):
        shrunk(leaf, decay, 0).add_(direction.to(leaf.data.dtype), alpha=-lr)
        return
    key = noise.rounding_key(update.grad.terms[0][0])
    noise.settle(leaf.data, leaf.data.float().mul_(1.0 - decay).add_(direction.float(), alpha=-lr), leaf.tid, key)


def sketched(leaf: Leaf, update: SketchGrad, lr: float, decay: float) -> None:
    """leaf <- (1 - decay) leaf - lr Q R, in one pass; a half type is rounded once, stochastically."""
    if leaf.contiguous and not half(leaf):
        update.add_to(leaf, shrunk(leaf, decay, 0), -lr)
        return
    whole = leaf.data.float() if half(leaf) else leaf.data.contiguous()
    update.add_to(leaf, whole.mul_(1.0 - decay), -lr)
    if half(leaf):
        noise.settle(leaf.data, whole, leaf.tid, noise.rounding_key(update.projection.key))
    else:
        leaf.data.copy_(whole)


def shrunk(leaf: Leaf, decay: float, key: int) -> Tensor:
    """Multiply a leaf by 1 - decay in place (nothing at 0) and return it; a half type is rounded by bits of `key`'s own."""
    if decay and half(leaf):
        apart = noise.rounding_key(noise.rounding_key(key))
        noise.settle(leaf.data, leaf.data.float().mul_(1.0 - decay), leaf.tid, apart)
        return leaf.data
    return leaf.data.mul_(1.0 - decay) if decay else leaf.data


def add(leaf: Leaf, z: Direction, a: float, rounding: int | None = None) -> None:
    """leaf <- leaf + a z in place; a leaf that is not contiguous goes through a contiguous copy.

    rounding, a key: round into a half type stochastically by its bits, so that steps far below a unit in the last
    place move the weights in expectation (to nearest, they are lost).
    """
    if leaf.data.is_contiguous():
        noise.perturb(leaf.data, leaf.data, z, a, leaf.tid, rounding=rounding)
    else:
        whole = leaf.data.contiguous()
        leaf.data.copy_(noise.perturb(whole, whole, z, a, leaf.tid, rounding=rounding))
