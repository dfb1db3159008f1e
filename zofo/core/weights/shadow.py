"""A half-precision copy of the matrices that first-order steps multiply with: cast once, not in every pass.

Autocast casts every fp32 weight anew in each forward pass. Where the weights stand still for a while (T steps below
one of theta, an evaluation), the casts are kept: 2 bytes a weight, and the bits of autocast's own casts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from zofo.core.weights.leaves import Leaf, Leaves


def transposed(module: nn.Module) -> bool:
    """Whether a module is transformers' Conv1D, a linear layer whose weight is (inputs, outputs)."""
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def casts(leaf: Leaf) -> bool:
    """Whether a leaf is the fp32 matrix of one linear layer (a tied one is read as it is by its embedding)."""
    if leaf.data.dtype != torch.float32 or len(leaf.owners) != 1:
        return False
    module, attr = leaf.owners[0]
    return attr == "weight" and (type(module) is nn.Linear or transposed(module))


class Shadow:
    """Half-precision twins of the leaves that `casts` picks. Memory: 2 bytes a number of them, from the first use on.

    without: a module that is computed in fp32 (the output head). still: theta does not move, so the twins are written once; else `shown` writes them anew (one read of the weights).
    """

    def __init__(
        self, leaves: Leaves, dtype: torch.dtype, still: bool = False, without: nn.Module | None = None
    ) -> None:
        self.leaves = [leaf for leaf in leaves if casts(leaf) and leaf.owners[0][0] is not without]
        self.dtype, self.still = dtype, still
        self.twins: list[nn.Parameter] = []

    @torch.no_grad()
    def refresh(self) -> None:
        """Write the twins from theta as it is."""
        if not self.twins:
            self.twins = [nn.Parameter(leaf.data.to(self.dtype), requires_grad=False) for leaf in self.leaves]
        elif not self.still:
            for twin, leaf in zip(self.twins, self.leaves, strict=True):
                twin.data.copy_(leaf.data)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Run a block with the twins in the place of their leaves; theta must not move in it."""
        self.refresh()
        try:
            for twin, leaf in zip(self.twins, self.leaves, strict=True):
                leaf.owners[0][0]._parameters["weight"] = twin
            yield
        finally:
            for leaf in self.leaves:
                leaf.owners[0][0]._parameters["weight"] = leaf.param
