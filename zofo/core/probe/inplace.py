"""MeZO's walk: add a z to the weights, evaluate, add the way to the next point, and at the end walk back.

For comparison, and for bare parameters without a module. It does not restore the weights exactly:
one probe at eps 1e-3 leaves 47 % of SmolLM2-135M's weights with other bits in fp32 and 49 % in bf16
(dev/LOG.md, 2026-11-24), and what is lost adds up. An exception inside the objective walks back the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zofo.core.noise import Direction
from zofo.core.probe import Objective, Point, as_row
from zofo.core.weights import move
from zofo.core.weights.leaves import Leaves


class Inplace:
    """The drifting policy as a `Probe`. Memory: none. Cost beside the objective: a pass over the weights a point."""

    def __init__(self, leaves: Leaves) -> None:
        self.leaves = leaves

    @torch.no_grad()
    def __call__(self, objective: Objective, points: Sequence[Point]) -> Tensor:
        """Return the terms at every point, (points, terms) in fp64."""
        values, here = [], Point()
        try:
            for point in points:
                here = self.walk(here, point)
                values.append(as_row(objective()))
        finally:
            self.walk(here, Point())
        return torch.stack(values)

    def walk(self, here: Point, there: Point) -> Point:
        """Move the weights from theta + a z to the next point: one addition where the z is the same."""
        if here.z is not None and there.z == here.z:
            self.add(here.z, there.a - here.a)
            return there
        if here.z is not None:
            self.add(here.z, -here.a)
        if there.z is not None:
            self.add(there.z, there.a)
        return there

    def add(self, z: Direction, a: float) -> None:
        """theta <- theta + a z."""
        for leaf in self.leaves:
            move.add(leaf, z, a)
        torch.clear_autocast_cache()  # an autocast block around the caller holds half copies of the old weights
