"""Probing: the value of an objective at theta + a z, for several points in one call.

A policy is anything with the signature of `Probe`. `scratch` is exact: it never writes a weight.
`inplace` walks the weights there and back as MeZO does, and drifts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from zofo.core.noise import Direction


@dataclass(frozen=True)
class Point:
    """theta + a z; with `z` None, theta itself."""

    z: Direction | None = None
    a: float = 0.0


Objective = Callable[[], Tensor]
"""A loss, or a vector of terms, of the model as it stands: called without arguments, returns shape () or (terms,)."""


@runtime_checkable
class Stackable(Protocol):
    """An objective that can be evaluated at several points in one pass, its rows repeated for each."""

    def __call__(self) -> Tensor:
        """Its value at one point."""
        ...

    def stacked(self, n: int) -> Tensor:
        """Its values at n points, (n, terms): the model is called on n copies of the rows, copy after copy."""
        ...


class Probe(Protocol):
    """Evaluate an objective at every point; the weights end as they were."""

    def __call__(self, objective: Objective, points: Sequence[Point]) -> Tensor:
        """Return the terms at every point, shape (points, terms), fp64 on CPU. Cost: one call of the objective a point."""
        ...


def as_row(value: Tensor) -> Tensor:
    """Return an objective's value as a detached fp64 vector on CPU."""
    return value.detach().reshape(-1).cpu().double()
