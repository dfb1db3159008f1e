"""`SketchGrad`: a gradient of all weights as r columns a matrix, exact vectors, and the rows of embeddings in use."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from zofo.core.devices import wide
from zofo.core.sketch import Projection
from zofo.core.weights.leaves import Leaf, Leaves

T = TypeVar("T")
Rows = tuple[Tensor, Tensor]
"""Row numbers (U,), each once, and their gradients (U, H)."""


@dataclass(frozen=True)
class SketchGrad:
    """An estimate of a gradient, by leaf name.

    matrices: Q, (m, r) or (r, m); vectors: exact; rows: exact, of embeddings. A tied matrix has a Q (of the head) and rows (of the
    embedding). Memory: r numbers a row of each matrix.
    """

    projection: Projection
    matrices: Mapping[str, Tensor]
    vectors: Mapping[str, Tensor]
    rows: Mapping[str, Rows]

    def scaled(self, factor: float) -> SketchGrad:
        """Return factor times this gradient."""
        return replace(
            self,
            matrices={name: factor * Q for name, Q in self.matrices.items()},
            vectors={name: factor * v for name, v in self.vectors.items()},
            rows={name: (rows, factor * E) for name, (rows, E) in self.rows.items()},
        )

    def plus(self, other: SketchGrad) -> SketchGrad:
        """Return the sum of this gradient and another with the same R. Raises: ValueError where that is another. Memory: a Q."""
        if other.projection != self.projection:
            raise ValueError("a sum of sketches by different R")
        return replace(
            self,
            matrices=added(self.matrices, other.matrices, torch.add),
            vectors=added(self.vectors, other.vectors, torch.add),
            rows=added(self.rows, other.rows, together),
        )

    def add_to(self, leaf: Leaf, w: Tensor, a: float) -> None:
        """w <- w + a (Q R) of a leaf, in place, and its exact parts. Cost: one pass over w, 2 r operations a weight."""
        if leaf.name in self.matrices:
            Q, R = self.matrices[leaf.name].to(w.dtype), self.projection.matrix(leaf).to(w.dtype)
            flat = w.view(-1, w.shape[-1])
            flat.addmm_(*((Q, R) if self.projection.right(leaf) else (R.t(), Q)), alpha=a)
        if leaf.name in self.rows:
            rows, E = self.rows[leaf.name]
            w.index_add_(0, rows, E.to(w.dtype), alpha=a)
        if leaf.name in self.vectors:
            w.add_(self.vectors[leaf.name].to(w.dtype), alpha=a)

    def dense(self, leaf: Leaf) -> Tensor:
        """The estimate of a leaf's gradient in full. Cost: its size."""
        out = torch.zeros(leaf.shape, dtype=torch.float64 if leaf.dtype == torch.float64 else torch.float32, device=leaf.param.device)  # fmt: skip
        self.add_to(leaf, out, 1.0)
        return out

    def norm(self, leaves: Leaves) -> float:
        """|estimate| over all leaves, without forming it: |Q R|^2 = <Q^T Q, R R^T>; NaN where a number is. Cost: r^2 m operations a matrix."""
        return math.sqrt(max(float(sum(self.square(leaf) for leaf in leaves)), 0.0))  # in this order: max(0, nan) is 0

    def square(self, leaf: Leaf) -> Tensor | float:
        """|estimate|^2 of a leaf, in fp64; of a tied one, |Q R + E|^2 = |Q R|^2 + 2 <Q, E R^T> + |E|^2."""
        total: Tensor | float = 0.0
        if leaf.name in self.matrices:
            Q, R = wide(self.matrices[leaf.name]), wide(self.projection.matrix(leaf))
            inner = Q.t() @ Q if self.projection.right(leaf) else Q @ Q.t()
            total = total + (inner * (R @ R.t())).sum()
            if leaf.name in self.rows:
                rows, E = self.rows[leaf.name]
                total = total + 2 * (Q[rows.to(Q.device)] * (wide(E) @ R.t())).sum()
        if leaf.name in self.rows:
            total = total + wide(self.rows[leaf.name][1]).square().sum()
        if leaf.name in self.vectors:
            total = total + wide(self.vectors[leaf.name]).square().sum()
        return total

    def folded(self, leaves: Leaves) -> SketchGrad:
        """The same with the rows of embeddings sketched too, so that every matrix is a Q: what a rule with a memory needs."""
        matrices = dict(self.matrices)
        for leaf in leaves:
            if leaf.name not in self.rows:
                continue
            rows, E = self.rows[leaf.name]
            R = self.projection.matrix(leaf)
            Q = matrices.get(leaf.name)
            Q = torch.zeros(leaf.shape[0], R.shape[0], dtype=R.dtype, device=R.device) if Q is None else Q.clone()
            matrices[leaf.name] = Q.index_add_(0, rows, E.to(R.dtype) @ R.t())
        return replace(self, matrices=matrices, rows={})

    @property
    def finite(self) -> bool:
        """Whether every number is finite."""
        held = [*self.matrices.values(), *self.vectors.values(), *(E for _, E in self.rows.values())]
        return not held or bool(torch.stack([torch.isfinite(t).all() for t in held]).all())


def added(one: Mapping[str, T], two: Mapping[str, T], add: Callable[[T, T], T]) -> dict[str, T]:
    """The sum by name; what one of them has not (an expert that no token went through) counts as zero."""
    return {**one, **{name: add(one[name], held) if name in one else held for name, held in two.items()}}


def together(one: Rows, two: Rows) -> Rows:
    """The rows of both, each once, those in both summed."""
    rows, at = torch.cat([one[0], two[0]]).unique(return_inverse=True)
    both = torch.cat([one[1], two[1]])
    return rows, both.new_zeros(len(rows), *both.shape[1:]).index_add_(0, at, both)
