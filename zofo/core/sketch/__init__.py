"""The whole gradient of theta as a random sketch, formed beside the backward pass that an adapter takes anyway.

For a matrix W of gradient G and a fresh random R (r x n, independent entries of mean 0 and variance 1/r):

    Q = G R^T,   G ~ Q R,   E[Q R] = G,   E|Q R - G|^2 = |G|^2 (n + 1) / r   (Rademacher: (n - 1) / r)

Q has r columns and R is regenerated from its key, so the picture of a gradient takes what an adapter's gradient takes.
`Projection` is R, `SketchGrad` the estimate, `capture` what rides on the backward pass, `rules` what is done with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from zofo.core import noise
from zofo.core.noise import Direction, Law
from zofo.core.weights.leaves import Leaf
from zofo.core.weights.shadow import transposed

LAWS: tuple[Law, ...] = ("rademacher", "gaussian")  # laws of R: independent entries
Side = Literal["input", "smaller"]


@dataclass(frozen=True)
class Projection:
    """R of a step for every matrix: law and key of its entries, rank r, and the side of a layer that is sketched.

    side: "input", or "smaller": the output side of the layers that have fewer outputs than inputs. What was drawn is kept
    for as long as the projection is, a step: r n numbers a matrix.
    """

    law: Law
    key: int
    rank: int
    side: Side = "input"
    drawn: dict[tuple[int, torch.dtype], Tensor] = field(default_factory=dict, init=False, compare=False, repr=False)

    def right(self, leaf: Leaf) -> bool:
        """Whether R stands to the right of the matrix as it is stored: estimate Q R (else R^T Q)."""
        if any(isinstance(module, torch.nn.Embedding) for module, _ in leaf.owners):
            return True  # a tied one has rows beside its Q
        stored_as_inputs_outputs = bool(leaf.owners) and transposed(leaf.owners[0][0])
        height, width = leaf.shape.numel() // leaf.shape[-1], leaf.shape[-1]
        inputs, outputs = (height, width) if stored_as_inputs_outputs else (width, height)
        by_output = self.side == "smaller" and outputs < inputs
        return by_output if stored_as_inputs_outputs else not by_output

    def width(self, leaf: Leaf) -> int:
        """n, the columns of R."""
        return leaf.shape[-1] if self.right(leaf) else leaf.shape.numel() // leaf.shape[-1]

    def signs(self, leaf: Leaf, dtype: torch.dtype | None = None) -> Tensor:
        """sqrt(r) R of a leaf, (r, n), entries of variance 1, exact in every type for Rademacher; fp32 (fp64 for fp64 weights) unless told.

        Cost: r n numbers drawn, the first time.
        """
        kind = torch.float64 if leaf.dtype == torch.float64 else torch.float32
        dtype = dtype or kind
        if (leaf.tid, dtype) not in self.drawn:
            out = torch.zeros(self.rank, self.width(leaf), dtype=kind, device=leaf.param.device)
            noise.perturb(out, out, Direction(self.law, self.key), 1.0, leaf.tid)
            self.drawn[leaf.tid, dtype] = out.to(dtype)
        return self.drawn[leaf.tid, dtype]

    def matrix(self, leaf: Leaf) -> Tensor:
        """R of a leaf, (r, n), entries of variance 1/r, fp32 (fp64 for fp64 weights)."""
        return self.signs(leaf) / math.sqrt(self.rank)

    def sketch(self, leaf: Leaf, gradient: Tensor) -> Tensor:
        """Q of a whole gradient G: G R^T, (m, r), or R G, (r, m)."""
        flat, R = gradient.reshape(-1, gradient.shape[-1]), self.matrix(leaf)
        return flat.to(R.dtype) @ R.t() if self.right(leaf) else R @ flat.to(R.dtype)


def variance(law: Law, n: int, rank: int) -> float:
    """E|Q R - G|^2 / |G|^2 of a matrix: (n + 1) / r for Gaussian entries, (n - 1) / r for Rademacher."""
    return (n + (1 if law == "gaussian" else -1)) / rank
