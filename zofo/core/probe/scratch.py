"""The exact policies: perturbed parameters in scratch memory (`stand`, `hooks`), points one by one or together.

Nothing is added to a weight and taken away again, so nothing drifts. An embedding perturbs only the rows that
its input names; a large linear layer is done in tiles of rows; low-rank noise stays beside the weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from zofo.core.probe import Objective, Point, Stackable, as_row
from zofo.core.probe.hooks import Hooks, borrowed, standing
from zofo.core.probe.pool import Pool
from zofo.core.probe.stand import CannotStack, Stand, check_reached
from zofo.core.probe.watch import watching
from zofo.core.weights.leaves import Leaves

AGAIN = 16
"""Calls after which the passes of an objective that may be another one are watched again."""


class Scratch:
    """The exact policy as a `Probe`. Memory: the largest module's weights, or one tile; kept between calls.

    stack: evaluate two points at a time in one pass over stacked rows, where the objective can be stacked: z is drawn
    and the weights are read once for both. Memory then: twice the activations and the scratch. Where a model's modules
    do not allow it, that call's points go one by one, and `unstacked` says why; the next call tries again, so that what a
    call gives does not hang on those before it (a resumed run has seen none of them).
    hooks: those that a model with weights outside memory has anyway (`for_life`).
    several: the objective may be another one each time (a user's closure), so that the passes of every `AGAIN`th call are watched for
    weights that are read outside their module, and not the first alone (a watched pass takes up to a quarter longer).
    """

    def __init__(
        self, model: nn.Module, leaves: Leaves, stack: bool = False, hooks: Hooks | None = None, several: bool = False
    ) -> None:
        self.model, self.leaves, self.stack, self.hooks = model, leaves, stack, hooks
        self.pool = Pool() if hooks is None else hooks.stand.pool
        self.several, self.watched, self.calls = several, False, 0
        self.unstacked: str | None = None

    @property
    def wary(self) -> bool:
        """Whether a pass is watched."""
        return not self.watched or (self.several and self.calls % AGAIN == 0)

    @torch.no_grad()
    def __call__(self, objective: Objective, points: Sequence[Point]) -> Tensor:
        """Return the terms at every point, (points, terms) in fp64. Cost: one call of the objective a point."""
        self.calls += 1
        if self.stack and isinstance(objective, Stackable) and len(points) > 1:
            try:
                return self.by_twos(objective, points)
            except CannotStack as why:
                self.unstacked = str(why)
        return self.one_by_one(objective, points)

    def standing(self, several: bool = False) -> AbstractContextManager[Stand]:
        """A stand on the model for a call of this probe."""
        if self.hooks is not None:
            return borrowed(self.hooks)
        return standing(self.model, self.leaves, self.pool, several)

    def one_by_one(self, objective: Objective, points: Sequence[Point]) -> Tensor:
        """Every point with a call of its own."""
        values = []
        with self.standing() as stand:
            for point in points:
                stand.begin((point,))
                with watching(stand, self.wary):
                    values.append(as_row(objective()))
                self.check(stand)
        return torch.stack(values)

    def by_twos(self, objective: Stackable, points: Sequence[Point]) -> Tensor:
        """Two points a call (an odd last one alone). Raises: CannotStack."""
        values = []
        with self.standing(several=True) as stand:
            for i in range(0, len(points), 2):
                stand.begin(points[i : i + 2])
                with watching(stand, self.wary):
                    together = objective.stacked(len(stand.points))
                values.append(together.detach().cpu().double().reshape(len(stand.points), -1))
                self.check(stand)
        return torch.cat(values)

    def check(self, stand: Stand) -> None:
        """After the first perturbed point: every leaf was reached. (A branch that is not taken later is no error.)"""
        if not self.watched and not stand.at_theta:
            check_reached(stand)
            self.watched = True
