"""`SketchGrad`: a gradient of all weights as r columns a matrix, exact vectors, and the rows of embeddings in use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zofo.core.sketch import Projection
from zofo.core.weights.leaves import Leaf, Leaves

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
        """|estimate| over all leaves, without forming it: |Q R|^2 = <Q^T Q, R R^T>. Cost: r^2 m operations a matrix."""
        return math.sqrt(max(0.0, sum(self.square(leaf) for leaf in leaves)))

    def square(self, leaf: Leaf) -> float:
        """|estimate|^2 of a leaf; of a tied one, |Q R + E|^2 = |Q R|^2 + 2 <Q, E R^T> + |E|^2."""
        total = 0.0
        if leaf.name in self.matrices:
            Q, R = self.matrices[leaf.name].double(), self.projection.matrix(leaf).double()
            inner = Q.t() @ Q if self.projection.right(leaf) else Q @ Q.t()
            total += float((inner * (R @ R.t())).sum())
            if leaf.name in self.rows:
                rows, E = self.rows[leaf.name]
                total += 2 * float((Q[rows] * (E.double() @ R.t())).sum())
        if leaf.name in self.rows:
            total += float(self.rows[leaf.name][1].double().square().sum())
        if leaf.name in self.vectors:
            total += float(self.vectors[leaf.name].double().square().sum())
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
        return all(bool(torch.isfinite(t).all()) for t in held)
