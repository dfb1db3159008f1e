"""Exact probing of an adapter: alone, or together with the weights of the model that it is on, one z over both.

An adapter's modules are not always called (peft reads a prompt's weight), so its tensors, few and small, are written
to p + a z in place and come back from a copy, to the bit. The model's weights go through scratch memory (`scratch`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from zofo.core.probe import Objective, Point, as_row
from zofo.core.probe.scratch import Scratch
from zofo.core.weights import move
from zofo.core.weights.leaves import Leaves, snapshot


class Beside:
    """The exact policy for the leaves `own`, as a `Probe`; with `scratch`, for the leaves of that one too.

    Memory: a copy of own, and scratch's. Points go one by one: two of them would need two adapters in one pass.
    """

    def __init__(self, own: Leaves, scratch: Scratch | None = None) -> None:
        self.own, self.scratch = own, scratch

    @torch.no_grad()
    def __call__(self, objective: Objective, points: Sequence[Point]) -> Tensor:
        """Return the terms at every point, (points, terms) in fp64. Cost: one call of the objective a point."""
        values = []
        for point in points:
            with self.moved(point):
                values.append(as_row(objective()) if self.scratch is None else self.scratch(objective, [point])[0])
        return torch.stack(values)

    @contextmanager
    def moved(self, point: Point) -> Iterator[None]:
        """A block with the own leaves at a point; after it they have the bits that they had, whatever happened."""
        if point.z is None:
            yield
            return
        before = snapshot(self.own)
        try:
            for leaf in self.own:
                move.add(leaf, point.z, point.a)
            torch.clear_autocast_cache()  # an autocast block around the caller holds half copies
            yield
        finally:
            for leaf in self.own:
                leaf.data.copy_(before[leaf.name])
            torch.clear_autocast_cache()
